//! The receiving side of a snapshot: rows go into a folder of their own.
//!
//! Invariants: frames come in order and checked; nothing of a staging is seen before
//! [`Staging::finish`] found the whole snapshot sound and made it durable; a staging that
//! is dropped leaves nothing behind (one cut off by a crash is removed at open).

use std::io;
use std::sync::Arc;

use super::database::Database;
use super::{Applied, tables};
use crate::engine::{Volume, Write};
use crate::snapshot::{SnapshotData, SnapshotManifest, SnapshotVerifier};
use crate::types::SnapshotMeta;

fn refused(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("snapshot refused: {what}"),
    )
}

/// A snapshot on its way in.
pub struct Staging {
    db: Arc<Database>,
    verifier: SnapshotVerifier,
}

impl Staging {
    pub(crate) fn create(volume: &Arc<dyn Volume>, name: String) -> io::Result<Self> {
        let db = Database::create(volume, name)?;
        db.set_discarded(true);
        Ok(Self {
            db,
            verifier: SnapshotVerifier::default(),
        })
    }

    /// Takes the next frame. A damaged or misplaced one is refused; if its checksum was wrong or it
    /// was not its turn, it may be sent again.
    pub fn push_chunk(&mut self, frame: &[u8]) -> io::Result<()> {
        let mut batch = Vec::new();
        self.verifier.push_with(frame, &mut |key, value| {
            batch.push(Write::Put {
                key: tables::machine_key(key),
                value: value.to_vec(),
            });
        })?;
        if batch.is_empty() {
            return Ok(());
        }
        self.db.engine().write(batch, false)
    }

    /// The manifest, once its frame was taken.
    pub fn manifest(&self) -> Option<&SnapshotManifest> {
        self.verifier.manifest()
    }

    /// The number of the frame that comes next: where a broken transfer goes on.
    pub fn next_frame(&self) -> u32 {
        self.verifier.next_frame()
    }

    /// Rows taken so far.
    pub fn rows(&self) -> u64 {
        self.verifier.rows()
    }

    /// Checks that the snapshot is whole and stands at `meta`, and makes it durable.
    pub fn finish(self, meta: SnapshotMeta) -> io::Result<SnapshotData> {
        let Some(applied) = self.manifest().map(|manifest| manifest.applied.clone()) else {
            return Err(refused("it ended before its first frame"));
        };
        if applied.meta() != meta {
            return Err(refused("its rows stand elsewhere than announced"));
        }
        self.finish_at(applied)
    }

    /// The same, with the rows standing at `applied` from now on.
    pub(crate) fn finish_at(self, applied: Applied) -> io::Result<SnapshotData> {
        self.verifier.finish()?;
        let engine = self.db.engine();
        engine.write(vec![tables::write_applied(&applied)], false)?;
        engine.flush()?;
        Ok(SnapshotData::new(self.db, applied))
    }
}
