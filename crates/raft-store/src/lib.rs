//! openraft storage on RocksDB, generic over the state machine.
//!
//! The crate owns what a member keeps on disk: log and vote, the machine's rows, snapshots
//! and the folder's identity. It carries opaque bytes and knows nothing of what they mean.
#![doc = ""]
#![doc = include_str!("../README.md")]

pub mod codec;
mod engine;
mod identity;
mod log;
mod machine;
pub mod runtime;
mod seal;
mod snapshot;
mod state;
pub mod testing;
pub mod types;
mod witness;

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use codec::CodecError;
pub use engine::{EachRow, Engine, MemDisk, View, ViewTask, Write};
pub use identity::{DataDir, DataDirError, FORMAT_VERSION, Identity};
pub use log::{LogMonitor, LogStats, LogStore, WriterMode};
pub use machine::{AppliedEntry, Commit, Machine, Row};
pub use runtime::Runtime;
pub use snapshot::{
    Restore, RestoreError, Restored, SNAPSHOT_FORMAT, SnapshotCutter, SnapshotData, SnapshotFrames,
    SnapshotManifest, SnapshotOrigin, SnapshotReader, SnapshotSummary, SnapshotVerifier, StateHash,
    StateHasher, TableHash, snapshot_file_head, snapshot_frame_number,
};
pub use state::{Applied, SnapshotBuilder, Staging, StateStore};
pub use types::{
    Entry, EntryPayload, LeaderId, LogId, Member, Membership, NodeId, Payload, Raft, Reply,
    SnapshotMeta, StoredMembership, TypeConfig, Vote, log_id, term_of,
};

use engine::Volume;
use engine::rocks::RocksVolume;

/// What an operator does with a member whose folder cannot be trusted.
pub(crate) const REJOIN: &str = "this member must not vote or serve any more: take it out with \
    `quorate member remove`, empty its folder, and add it as a new member with `quorate member add`";

/// How much memory the store may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Recent log entries kept in memory.
    pub log_cache_bytes: usize,
    /// Entries that wait for the log's writer.
    pub log_queue_bytes: usize,
    /// Entries read from the log at once for a follower.
    pub log_read_bytes: usize,
    /// One write buffer of the log database; it has two.
    pub log_write_buffer_bytes: usize,
    /// One write buffer of the state database; it has two.
    pub state_write_buffer_bytes: usize,
    /// Cache of blocks read, shared by all databases.
    pub block_cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            log_cache_bytes: 64 << 20,
            log_queue_bytes: 64 << 20,
            log_read_bytes: 4 << 20,
            log_write_buffer_bytes: 32 << 20,
            state_write_buffer_bytes: 64 << 20,
            block_cache_bytes: 256 << 20,
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A database cannot be opened or is damaged.
    #[error("cannot open the {what}")]
    Io {
        /// The log or the state.
        what: &'static str,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// A file is damaged, or lost what this member had promised.
    #[error("{file} cannot be trusted: {what}; {REJOIN}")]
    Untrusted {
        /// The file or folder.
        file: String,
        /// What is wrong with it, with the index of the entry.
        what: io::Error,
    },
    /// The state lost entries that the log no longer holds.
    #[error("the state ends at {applied:?} but the log was purged up to {purged}; {REJOIN}")]
    StateLost {
        /// The last entry of the state.
        applied: Option<LogId>,
        /// The last entry the log gave up.
        purged: LogId,
    },
}

impl OpenError {
    fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| OpenError::Io { what, source }
    }
}

/// Opens log and state of a folder that has an identity, and loads `machine`.
pub fn open<M: Machine>(
    dir: &DataDir,
    machine: Arc<M>,
    options: &Options,
) -> Result<(LogStore, StateStore<M>), OpenError> {
    let volume = rocks_volume(dir, options)?;
    open_volume(volume, machine, options, WriterMode::Thread)
}

/// The volume of a folder that has an identity and all its parts.
fn rocks_volume(dir: &DataDir, options: &Options) -> Result<Arc<dyn Volume>, OpenError> {
    if dir.identity().is_none() {
        return Err(DataDirError::NotInitialised(dir.path().to_owned()).into());
    }
    // A member that forgets its vote must never vote again.
    for (name, expected) in [
        // It is made with the identity.
        (witness::NAME, true),
        (log::NAME, dir.path().join("state/CURRENT").exists()),
    ] {
        let path = dir.path().join(name);
        if expected && !path.exists() {
            return Err(OpenError::Untrusted {
                file: path.display().to_string(),
                what: io::Error::new(io::ErrorKind::NotFound, "it is missing"),
            });
        }
    }
    let volume =
        RocksVolume::new(dir.path(), options, dir.lock()).map_err(OpenError::io("data folder"))?;
    Ok(Arc::new(volume))
}

/// Opens log and state on a simulated disk whose syncs take `sync_latency`.
///
/// Must be called inside a tokio runtime; starts no thread.
pub fn open_mem<M: Machine>(
    disk: &Arc<MemDisk>,
    machine: Arc<M>,
    sync_latency: Duration,
) -> Result<(LogStore, StateStore<M>), OpenError> {
    open_volume(
        Arc::new(disk.volume()),
        machine,
        &Options::default(),
        WriterMode::Task { sync_latency },
    )
}

fn open_volume<M: Machine>(
    volume: Arc<dyn Volume>,
    machine: Arc<M>,
    options: &Options,
    mode: WriterMode,
) -> Result<(LogStore, StateStore<M>), OpenError> {
    let place = volume.clone();
    let untrusted = |refused: log::Refused| match refused.source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::NotFound => OpenError::Untrusted {
            file: place.locate(refused.name),
            what: refused.source,
        },
        _ => OpenError::io(refused.name)(refused.source),
    };
    let opened = log::Opened::open(&*volume, options).map_err(&untrusted)?;
    let state = StateStore::open(volume, machine).map_err(OpenError::io("state"))?;
    if let Some(purged) = opened.purged() {
        recover(&state, purged)?;
    }
    let log = LogStore::start(opened, mode, options, state.applied().log_id).map_err(|source| {
        untrusted(log::Refused {
            name: log::NAME,
            source,
        })
    })?;
    // A log that goes on after the state lacks entries a follower may need.
    if let Some(purged) = log.state().last_purged_log_id {
        recover(&state, purged)?;
    }
    Ok((log, state))
}

/// Makes sure that state and snapshot reach at least to where the log begins.
fn recover<M: Machine>(state: &StateStore<M>, purged: LogId) -> Result<(), OpenError> {
    let io = OpenError::io("state");
    let reaches = |id: Option<LogId>| id.is_some_and(|id| id.index >= purged.index);
    let newest = state.newest_snapshot();
    if !reaches(state.applied().log_id) {
        match newest {
            Some(data) if reaches(data.meta().last_log_id) => {
                tracing::warn!(%purged, "the state is older than the log; installing the local snapshot");
                let meta = data.meta().clone();
                return state.install(&meta, data).map_err(io);
            }
            _ => {
                return Err(OpenError::StateLost {
                    applied: state.applied().log_id,
                    purged,
                });
            }
        }
    }
    if !newest.is_some_and(|data| reaches(data.meta().last_log_id)) {
        // A follower that lacks purged entries needs one.
        state.build().map_err(io)?;
    }
    Ok(())
}
