//! File systems to lose, to fill and to fail: each is mounted at a folder of the run and unmounted
//! when dropped.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{Process, must};

/// How long mounting and unmounting may take.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

fn unmount(at: &Path) {
    let started = Instant::now();
    while must("umount", &[at.as_os_str()]).is_err() {
        if started.elapsed() > Duration::from_secs(2) {
            // Something still holds it: it goes with the last file that is closed.
            let _ = must("umount", &[OsStr::new("-l"), at.as_os_str()]);
            return;
        }
        std::thread::sleep(POLL);
    }
}

/// A folder that forgets what was not synced, on demand.
#[derive(Debug)]
pub struct LossyDisk {
    mount: PathBuf,
    daemon: Option<Box<Process>>,
}

/// What a [`LossyDisk`] has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Power losses.
    pub losses: u64,
    /// Changes that were undone by them.
    pub undone: u64,
    /// Syncs that did nothing and said they had.
    pub lies: u64,
    /// Syncs that were slowed down.
    pub slowed: u64,
}

impl LossyDisk {
    /// Mounts one at `folder`, with its bytes in `folder.store`.
    ///
    /// # Errors
    /// `lossfs` cannot be started, or does not mount.
    pub async fn mount(lossfs: &Path, folder: &Path) -> Result<Self> {
        let store = folder.with_extension("store");
        for path in [folder, &store] {
            fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let args = [
            store.display().to_string(),
            folder.display().to_string(),
            "-f".to_owned(),
        ];
        let mut daemon = Process::start(lossfs, &args, &[], &folder.with_extension("lossfs.log"))?;
        let started = Instant::now();
        while !folder.join(".fault").exists() {
            if let Some(status) = daemon.ended() {
                let said = fs::read_to_string(daemon.log()).unwrap_or_default();
                bail!("lossfs ended ({status}): {}", said.trim());
            }
            if started.elapsed() > MOUNT_TIMEOUT {
                bail!("lossfs does not mount {}", folder.display());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(Self {
            mount: folder.to_owned(),
            daemon: Some(Box::new(daemon)),
        })
    }

    /// Gives it a word of its control file.
    ///
    /// # Errors
    /// It is gone, or does not know the word.
    pub fn control(&self, word: &str) -> Result<()> {
        fs::write(self.mount.join(".fault"), word)
            .with_context(|| format!("lossfs at {} refuses {word}", self.mount.display()))
    }

    /// What it has counted.
    ///
    /// # Errors
    /// It is gone.
    pub fn counters(&self) -> Result<Counters> {
        let path = self.mount.join(".fault");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let of = |name: &str| {
            text.split_whitespace()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
                .unwrap_or(0)
        };
        Ok(Counters {
            losses: of("losses"),
            undone: of("undone"),
            lies: of("lies"),
            slowed: of("slowed"),
        })
    }

    /// The power goes: what was not synced is gone, but for a random part of each file's writes
    /// when a seed says so. Every process on it must have been killed. How many changes were undone.
    ///
    /// # Errors
    /// It is gone.
    pub fn lose_power(&self, seed: Option<u32>) -> Result<u64> {
        let before = self.counters()?;
        // The file system takes 0 as "everything", and reads a signed number.
        let word = match seed {
            Some(seed) => format!("powerloss={}", (seed & 0x7fff_ffff).max(1)),
            None => "powerloss".to_owned(),
        };
        self.control(&word)?;
        let after = self.counters()?;
        if after.losses != before.losses + 1 {
            bail!("no power was lost at {}", self.mount.display());
        }
        Ok(after.undone - before.undone)
    }
}

impl Drop for LossyDisk {
    fn drop(&mut self) {
        unmount(&self.mount);
        drop(self.daemon.take());
    }
}

/// A small ext4 file system in a file.
#[derive(Debug)]
pub struct SmallDisk {
    mount: PathBuf,
    script: PathBuf,
}

impl SmallDisk {
    /// Makes and mounts one of `mib` MiB.
    ///
    /// # Errors
    /// The system has no loop devices, or no `mkfs.ext4`.
    pub fn mount(kit: &Path, folder: &Path, mib: u32) -> Result<Self> {
        let disk = Self {
            mount: folder.to_owned(),
            script: kit.join("diskfull.sh"),
        };
        let size = mib.to_string();
        must(
            &disk.script,
            &[
                OsStr::new("mount"),
                OsStr::new("ext4"),
                folder.as_os_str(),
                OsStr::new(&size),
            ],
        )?;
        Ok(disk)
    }

    /// Fills it up to `leave_kib`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn fill(&self, leave_kib: u64) -> Result<()> {
        let leave = leave_kib.to_string();
        must(
            &self.script,
            &[
                OsStr::new("fill"),
                self.mount.as_os_str(),
                OsStr::new(&leave),
            ],
        )
    }

    /// Takes away what [`fill`](Self::fill) has put there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn free(&self) -> Result<()> {
        must(&self.script, &[OsStr::new("free"), self.mount.as_os_str()])
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.mount);
        let _ = fs::remove_file(self.mount.with_extension("img"));
    }
}

/// Unmounts what earlier runs left behind that were killed: everything below `root` in a folder
/// named `PREFIX.PID.…` of a process that is gone.
///
/// # Errors
/// The list of mounts cannot be read.
pub fn sweep(root: &Path, prefix: &str) -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    for line in mounts.lines() {
        let Some(at) = line.split_whitespace().nth(1) else {
            continue;
        };
        let owner = Path::new(at)
            .strip_prefix(root)
            .ok()
            .and_then(|below| below.components().next())
            .and_then(|folder| folder.as_os_str().to_str())
            .and_then(|name| name.strip_prefix(prefix)?.strip_prefix('.'))
            .and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
        if let Some(pid) = owner
            && !Path::new(&format!("/proc/{pid}")).exists()
        {
            let _ = must("umount", &[OsStr::new("-l"), OsStr::new(at)]);
        }
    }
    Ok(())
}
