//! Faults of one process's system calls on its folder, by a preloaded library that reads a control
//! file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The faults of one process.
#[derive(Debug)]
pub struct Syscalls {
    library: PathBuf,
    prefix: PathBuf,
    control: PathBuf,
    log: PathBuf,
}

impl Syscalls {
    /// For files under `prefix`; no fault yet.
    ///
    /// # Errors
    /// The control file cannot be written.
    pub fn new(library: &Path, prefix: &Path) -> Result<Self> {
        let faults = Self {
            library: library.to_owned(),
            prefix: prefix.to_owned(),
            control: prefix.with_extension("fsfault"),
            log: prefix.with_extension("fsfault.log"),
        };
        faults.set("")?;
        Ok(faults)
    }

    /// The environment of the process.
    pub fn variables(&self) -> Vec<(String, String)> {
        [
            ("LD_PRELOAD", &self.library),
            ("FSFAULT_PREFIX", &self.prefix),
            ("FSFAULT_CTL", &self.control),
            ("FSFAULT_LOG", &self.log),
        ]
        .map(|(name, path)| (name.to_owned(), path.display().to_string()))
        .to_vec()
    }

    /// Sets the faults, such as `sync_eio=100 match=MANIFEST`; nothing means none.
    ///
    /// # Errors
    /// The control file cannot be written.
    pub fn set(&self, words: &str) -> Result<()> {
        fs::write(&self.control, words)
            .with_context(|| format!("cannot write {}", self.control.display()))
    }

    /// The files that met a fault since the last [`forget`](Self::forget), one for each time.
    pub fn thrown(&self, fault: &str) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(name, _)| *name == fault)
            .map(|(_, path)| path.to_owned())
            .collect()
    }

    /// Forgets the faults thrown so far.
    ///
    /// # Errors
    /// The log cannot be written.
    pub fn forget(&self) -> Result<()> {
        match fs::OpenOptions::new().write(true).open(&self.log) {
            Ok(file) => file.set_len(0).context("cannot empty the log of faults"),
            Err(_) => Ok(()),
        }
    }
}
