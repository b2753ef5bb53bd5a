//! Snapshots: a database at rest, and the portable stream of its rows.
//!
//! Invariant: a snapshot's position is the one its own rows hold.

mod stream;

use std::fmt;
use std::sync::Arc;

pub use stream::SnapshotReader;
pub(crate) use stream::{Chunk, RowHasher};

use crate::engine::Volume;
use crate::state::database::Database;
use crate::types::SnapshotMeta;

/// A checkpoint of this member, or a snapshot received and not yet installed.
///
/// Its files stay as long as a handle does.
#[derive(Clone)]
pub struct SnapshotData {
    db: Arc<Database>,
    meta: SnapshotMeta,
}

impl SnapshotData {
    pub(crate) fn new(db: Arc<Database>, meta: SnapshotMeta) -> Self {
        Self { db, meta }
    }

    /// Where the snapshot stands.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Reads the snapshot as a stream of checked chunks of about `chunk_bytes`.
    pub fn reader(&self, chunk_bytes: usize) -> SnapshotReader {
        SnapshotReader::new(self.clone(), chunk_bytes)
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
