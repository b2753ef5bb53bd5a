//! Snapshots: a database at rest, and the portable form of its rows.
//!
//! Invariant: a snapshot's position is the one its own rows hold.

mod frame;
mod hash;
mod reader;
mod restore;
mod verify;

use std::fmt;
use std::sync::Arc;

pub use frame::{SNAPSHOT_FORMAT, SnapshotCutter, snapshot_file_head, snapshot_frame_number};
pub use hash::{StateHash, StateHasher, TableHash};
pub use reader::{SnapshotFrames, SnapshotReader};
pub use restore::{Restore, RestoreError, Restored};
pub use verify::{SnapshotManifest, SnapshotOrigin, SnapshotSummary, SnapshotVerifier};

use crate::engine::Volume;
use crate::state::Applied;
use crate::state::database::Database;
use crate::types::SnapshotMeta;

/// Rows in one frame, in bytes before they are packed: enough for the disk and the network to be
/// used well, little enough to be held a few times on both sides.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// A checkpoint of this member, or a snapshot received and not yet installed.
///
/// Its files stay as long as a handle does.
#[derive(Clone)]
pub struct SnapshotData {
    db: Arc<Database>,
    applied: Applied,
    meta: SnapshotMeta,
}

impl SnapshotData {
    pub(crate) fn new(db: Arc<Database>, applied: Applied) -> Self {
        let meta = applied.meta();
        Self { db, applied, meta }
    }

    /// Where the snapshot stands.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// The same with the digest there.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// About how many rows it has.
    pub fn rows_estimate(&self) -> u64 {
        self.db.engine().rows_estimate()
    }

    pub(crate) fn database(&self) -> &Arc<Database> {
        &self.db
    }

    /// Whether this can become the live state of `volume` as it is.
    pub(crate) fn is_staged_in(&self, volume: &Arc<dyn Volume>) -> bool {
        Arc::ptr_eq(self.db.volume(), volume) && self.db.name().starts_with("state/")
    }
}

impl fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotData")
            .field("name", &self.db.name())
            .field("meta", &self.meta)
            .finish()
    }
}
