//! What a run has: programs, a seed, a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::mount;

/// Run folders are named with this, the process id and some letters.
const PREFIX: &str = "quorate-faults";

/// Where things are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The `quorate` binary.
    pub quorate: PathBuf,
    /// Folder of the fault kit's scripts.
    pub kit: PathBuf,
    /// Folder of its compiled programs.
    pub built: PathBuf,
}

impl Programs {
    /// Says what is missing.
    ///
    /// # Errors
    /// A program is not there.
    pub fn check(&self) -> Result<()> {
        for path in [&self.quorate, &self.lossfs(), &self.fsfault()] {
            if !path.exists() {
                bail!(
                    "{} is not there; `make test-faults` builds everything",
                    path.display()
                );
            }
        }
        Ok(())
    }

    /// The file system that forgets.
    pub fn lossfs(&self) -> PathBuf {
        self.built.join("lossfs")
    }

    /// The library that makes system calls fail.
    pub fn fsfault(&self) -> PathBuf {
        self.built.join("libfsfault.so")
    }
}

/// A run's folder, gone at its end unless it is kept.
#[derive(Debug)]
pub struct Lab {
    /// Where things are.
    pub programs: Programs,
    /// Where everything random comes from.
    pub seed: u64,
    folder: tempfile::TempDir,
}

impl Lab {
    /// Makes the folder, and clears away what earlier runs left that were killed.
    ///
    /// # Errors
    /// A program is missing, this is not root, or the temporary folder cannot be written.
    pub fn new(programs: Programs, seed: u64) -> Result<Self> {
        if !is_root()? {
            bail!("this mounts file systems, which only root may do; run it as root");
        }
        programs.check()?;
        let root = std::env::temp_dir();
        mount::sweep(&root, PREFIX)?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}.{}.", std::process::id()))
            .tempdir_in(&root)
            .with_context(|| format!("cannot make a folder in {}", root.display()))?;
        Ok(Self {
            programs,
            seed,
            folder,
        })
    }

    /// Random numbers for a part of the run, the same in every run with the same seed.
    pub fn rng(&self, part: &str) -> StdRng {
        let mixed = part.bytes().fold(self.seed, |mixed, byte| {
            (mixed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        StdRng::seed_from_u64(mixed)
    }

    /// A new folder for a part of the run.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn part(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name.replace([' ', ',', '/'], "-"));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Deletes the folder of a part that passed.
    pub fn forget(&self, folder: &Path) {
        // What is left of it goes with the run's folder.
        let _ = fs::remove_dir_all(folder);
    }

    /// Keeps the run's folder; where it is.
    pub fn keep(self) -> PathBuf {
        self.folder.keep()
    }
}

fn is_root() -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let own = fs::metadata("/proc/self").context("cannot read /proc/self")?;
    Ok(own.uid() == 0)
}
