//! The receiving side of a snapshot: rows go into a folder of their own.
//!
//! Invariants: chunks come in order and checked; nothing of a staging is seen before
//! [`Staging::finish`] found the whole stream sound and made it durable; a staging that
//! is dropped leaves nothing behind (one cut off by a crash is removed at open).

use std::io;
use std::sync::Arc;

use super::database::Database;
use crate::engine::{Volume, Write};
use crate::snapshot::{Chunk, RowHasher, SnapshotData};
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
    sequence: u32,
    hasher: RowHasher,
    last_key: Option<Vec<u8>>,
    ended: bool,
}

impl Staging {
    pub(crate) fn create(volume: &Arc<dyn Volume>, name: String) -> io::Result<Self> {
        let db = Database::create(volume, name)?;
        db.set_discarded(true);
        Ok(Self {
            db,
            sequence: 0,
            hasher: RowHasher::default(),
            last_key: None,
            ended: false,
        })
    }

    /// Takes the next chunk; a damaged or misplaced one is refused and changes nothing.
    pub fn push_chunk(&mut self, chunk: &[u8]) -> io::Result<()> {
        if self.ended {
            return Err(refused("a chunk after the last one"));
        }
        match Chunk::check(chunk, self.sequence)? {
            Chunk::Rows(mut rows) => {
                let mut batch = Vec::new();
                while let Some((key, value)) = rows.next(&mut self.hasher)? {
                    if self.last_key.as_deref().is_some_and(|last| last >= key) {
                        return Err(refused("rows out of order"));
                    }
                    self.last_key = Some(key.to_vec());
                    batch.push(Write::Put {
                        key: key.to_vec(),
                        value: value.to_vec(),
                    });
                }
                self.db.engine().write(batch, false)?;
            }
            Chunk::End { trailer } => {
                if trailer != self.hasher.trailer() {
                    return Err(refused("count or hash of the rows is wrong"));
                }
                self.ended = true;
            }
        }
        self.sequence = self
            .sequence
            .checked_add(1)
            .ok_or_else(|| refused("too many chunks"))?;
        Ok(())
    }

    /// Checks that the stream is whole and stands at `meta`, and makes it durable.
    pub fn finish(self, meta: SnapshotMeta) -> io::Result<SnapshotData> {
        if !self.ended {
            return Err(refused("the stream ended before its last chunk"));
        }
        if self.db.applied()?.meta() != meta {
            return Err(refused("its rows stand elsewhere than announced"));
        }
        self.db.engine().flush()?;
        Ok(SnapshotData::new(self.db, meta))
    }
}
