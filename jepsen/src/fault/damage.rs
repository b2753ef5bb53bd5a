//! Damage to a file of a stopped replica.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rand::RngExt;
use rand::rngs::StdRng;

/// What a torn tail looks like.
const CUT_BYTES: u64 = 30;
/// A block of a disk.
const BLOCK_BYTES: u64 = 4096;

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One bit in the middle half is flipped.
    FlipMiddle,
    /// One bit of the last bytes is flipped.
    FlipLast,
    /// The last bytes are missing.
    Cut,
    /// Half of it is missing.
    CutHalf,
    /// The file is gone.
    Gone,
    /// A block of it is zero.
    Zeroed,
    /// It holds something else.
    Garbage,
    /// It holds nothing.
    Empty,
}

impl Damage {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Damage::FlipMiddle => "bit flipped in the middle",
            Damage::FlipLast => "last record flipped",
            Damage::Cut => "cut by 30 bytes",
            Damage::CutHalf => "cut in half",
            Damage::Gone => "gone",
            Damage::Zeroed => "4 KiB zeroed",
            Damage::Garbage => "garbage",
            Damage::Empty => "empty",
        }
    }

    /// Does it. What exactly, in words.
    ///
    /// # Errors
    /// The file cannot be changed, or is too small to be damaged like that.
    pub fn apply(self, path: &Path, rng: &mut StdRng) -> Result<String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let failed = || format!("cannot damage {}", path.display());
        if self == Damage::Gone {
            fs::remove_file(path).with_context(failed)?;
            return Ok(format!("{name} deleted"));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .with_context(failed)?;
        let length = file.metadata().with_context(failed)?.len();
        let least = match self {
            Damage::Garbage | Damage::Empty => 1,
            _ => 8,
        };
        if length < least {
            bail!("{} has only {length} bytes", path.display());
        }
        let flip = |at: u64, bit: u32| -> Result<String> {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).with_context(failed)?;
            byte[0] ^= 1 << bit;
            file.write_all_at(&byte, at).with_context(failed)?;
            Ok(format!("{name} bit {bit} of byte {at} of {length} flipped"))
        };
        let cut = |to: u64| -> Result<String> {
            file.set_len(to).with_context(failed)?;
            Ok(format!("{name} cut from {length} to {to} bytes"))
        };
        let did = match self {
            Damage::FlipMiddle => {
                let at = rng.random_range(length / 4..length * 3 / 4);
                flip(at, rng.random_range(0..8))?
            }
            Damage::FlipLast => flip(length - 8, rng.random_range(0..8))?,
            Damage::Cut => cut(length.saturating_sub(CUT_BYTES))?,
            Damage::CutHalf => cut(length / 2)?,
            Damage::Empty => cut(0)?,
            Damage::Zeroed => {
                let at = length / 2;
                let bytes = BLOCK_BYTES.min(length - at);
                let zeros = vec![0; usize::try_from(bytes).unwrap_or(0)];
                file.write_all_at(&zeros, at).with_context(failed)?;
                format!("{name} {bytes} bytes at {at} of {length} zeroed")
            }
            Damage::Garbage => {
                let mut bytes = vec![0_u8; usize::try_from(length.min(64)).unwrap_or(0)];
                for byte in &mut bytes {
                    *byte = rng.random();
                }
                file.write_all_at(&bytes, 0).with_context(failed)?;
                format!("{name} first {} bytes of {length} random", bytes.len())
            }
            Damage::Gone => String::new(),
        };
        file.sync_all().with_context(failed)?;
        Ok(did)
    }
}

/// The files of a folder whose names begin and end like this, the oldest number first.
///
/// # Errors
/// The folder cannot be read.
pub fn files(folder: &Path, begin: &str, end: &str) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut found = Vec::new();
    for item in list {
        let item = item.with_context(|| format!("cannot list {}", folder.display()))?;
        let name = item.file_name().to_string_lossy().into_owned();
        if name.starts_with(begin) && name.ends_with(end) {
            found.push(item.path());
        }
    }
    found.sort();
    Ok(found)
}
