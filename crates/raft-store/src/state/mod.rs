//! The state machine's side: rows, applied position and snapshots.

pub(crate) mod database;
mod install;
mod store;
pub(crate) mod tables;

pub use install::Staging;
pub(crate) use store::Shared;
pub use store::{SnapshotBuilder, StateStore};

use crate::types::{LogId, SnapshotMeta, StoredMembership};

/// How far a state has been brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry applied.
    pub log_id: Option<LogId>,
    /// The last membership applied.
    pub membership: StoredMembership,
    /// Follows from every entry applied; equal on replicas at the same position.
    pub digest: [u8; 32],
}

impl Applied {
    /// The index of the last entry applied.
    pub fn index(&self) -> Option<u64> {
        self.log_id.map(|id| id.index)
    }

    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.log_id,
            last_membership: self.membership.clone(),
        }
    }
}
