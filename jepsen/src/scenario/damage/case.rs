//! The table of damages.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::fault::{Damage, files};

/// A file of a replica's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    LogWal,
    LogTable,
    LogManifest,
    LogCurrent,
    StateWal,
    StateTable,
    StateManifest,
    StateCurrent,
    StatePointer,
    SnapshotTable,
    Witness,
    Identity,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) file: File,
    pub(super) damage: Damage,
}

const fn case(file: File, damage: Damage) -> Case {
    Case { file, damage }
}

pub(super) const CASES: &[Case] = &[
    case(File::LogWal, Damage::FlipMiddle),
    case(File::LogWal, Damage::FlipLast),
    case(File::LogWal, Damage::Cut),
    case(File::LogWal, Damage::Zeroed),
    case(File::LogWal, Damage::Gone),
    case(File::LogTable, Damage::FlipMiddle),
    case(File::LogTable, Damage::CutHalf),
    case(File::LogTable, Damage::Gone),
    case(File::LogManifest, Damage::FlipMiddle),
    case(File::LogManifest, Damage::Gone),
    case(File::LogCurrent, Damage::Garbage),
    case(File::LogCurrent, Damage::Empty),
    case(File::Witness, Damage::FlipMiddle),
    case(File::Witness, Damage::Empty),
    case(File::Witness, Damage::Gone),
    case(File::StateWal, Damage::Cut),
    case(File::StateWal, Damage::Gone),
    case(File::StateTable, Damage::FlipMiddle),
    case(File::StateTable, Damage::CutHalf),
    case(File::StateTable, Damage::Gone),
    case(File::StateManifest, Damage::FlipMiddle),
    case(File::StateManifest, Damage::Gone),
    case(File::StateCurrent, Damage::Garbage),
    case(File::StatePointer, Damage::Garbage),
    case(File::SnapshotTable, Damage::FlipMiddle),
    case(File::SnapshotTable, Damage::Gone),
    case(File::Identity, Damage::Garbage),
];

impl File {
    /// In words.
    pub(super) fn name(self) -> &'static str {
        match self {
            File::LogWal => "log WAL",
            File::LogTable => "log SST",
            File::LogManifest => "log MANIFEST",
            File::LogCurrent => "log CURRENT",
            File::StateWal => "state WAL",
            File::StateTable => "state SST",
            File::StateManifest => "state MANIFEST",
            File::StateCurrent => "state CURRENT",
            File::StatePointer => "pointer to the state",
            File::SnapshotTable => "snapshot SST",
            File::Witness => "witness",
            File::Identity => "identity",
        }
    }

    /// Deletes the write-ahead log of the state, where the log's own tail is damaged: after a power
    /// loss the state lags behind the log, and must not stand in for what the log lost.
    pub(super) fn set_back_state(self, data: &Path) -> Result<bool> {
        if self != File::LogWal {
            return Ok(false);
        }
        for path in files(&state(data)?, "0", ".log")? {
            fs::remove_file(&path).with_context(|| format!("cannot delete {}", path.display()))?;
        }
        Ok(true)
    }

    /// Where it is: of several the newest write-ahead log, the largest table.
    pub(super) fn locate(self, data: &Path) -> Result<PathBuf> {
        let log = data.join("log");
        let found = match self {
            File::LogWal => newest(&log)?,
            File::LogTable => largest(&log)?,
            File::LogManifest => files(&log, "MANIFEST-", "")?.pop(),
            File::LogCurrent => Some(log.join("CURRENT")),
            File::StateWal => newest(&state(data)?)?,
            File::StateTable => largest(&state(data)?)?,
            File::StateManifest => files(&state(data)?, "MANIFEST-", "")?.pop(),
            File::StateCurrent => Some(state(data)?.join("CURRENT")),
            File::StatePointer => Some(data.join("state/CURRENT")),
            File::SnapshotTable => {
                let table = largest(&snapshot(data)?)?;
                if let Some(table) = &table {
                    unshare(table)?;
                }
                table
            }
            File::Witness => Some(data.join("witness")),
            File::Identity => Some(data.join("identity.json")),
        };
        found
            .filter(|path| path.exists())
            .with_context(|| format!("there is no {} in {}", self.name(), data.display()))
    }
}

/// The folder of the state that is in use.
fn state(data: &Path) -> Result<PathBuf> {
    let pointer = data.join("state/CURRENT");
    let name = fs::read_to_string(&pointer)
        .with_context(|| format!("cannot read {}", pointer.display()))?;
    Ok(data.join("state").join(name.trim()))
}

/// The folder of the newest snapshot; its name is a log index.
fn snapshot(data: &Path) -> Result<PathBuf> {
    let index = |path: &PathBuf| -> Option<u64> { path.file_name()?.to_str()?.parse().ok() };
    files(&data.join("snapshots"), "", "")?
        .into_iter()
        .filter(|path| index(path).is_some())
        .max_by_key(index)
        .with_context(|| format!("there is no snapshot in {}", data.display()))
}

/// Gives a file that others are hard links to bytes of its own.
fn unshare(path: &Path) -> Result<()> {
    let own = path.with_extension("own");
    fs::copy(path, &own).with_context(|| format!("cannot copy {}", path.display()))?;
    fs::rename(&own, path).with_context(|| format!("cannot replace {}", path.display()))
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// The newest write-ahead log that holds something.
fn newest(folder: &Path) -> Result<Option<PathBuf>> {
    let logs = files(folder, "0", ".log")?;
    Ok(logs.into_iter().rev().find(|path| length(path) > 100))
}

fn largest(folder: &Path) -> Result<Option<PathBuf>> {
    let tables = files(folder, "", ".sst")?;
    Ok(tables.into_iter().max_by_key(|path| length(path)))
}
