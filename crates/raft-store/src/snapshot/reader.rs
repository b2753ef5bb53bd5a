//! The writing side of a snapshot: its rows as frames, one at a time.
//!
//! Invariants: the same rows give the same frames, whichever replica reads them, so that a broken
//! transfer goes on where it stopped; the database is read on a thread of its own, never on an async
//! one, and no further ahead than [`AHEAD`] frames.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use prost::Message;
use tokio::sync::mpsc;

use super::frame::{self, seal, seal_rows};
use super::hash::StateHasher;
use super::verify::{SnapshotManifest, SnapshotOrigin, end_of};
use super::{CHUNK_BYTES, SnapshotData};
use crate::engine::View;
use crate::state::tables::MachineView;

/// Frames read before they are asked for.
const AHEAD: usize = 4;

/// Frames of a snapshot, as they are read.
pub type SnapshotFrames = BoxStream<'static, io::Result<Bytes>>;

/// Reads a snapshot frame by frame.
pub struct SnapshotReader {
    data: SnapshotData,
    chunk_bytes: usize,
    manifest: Option<SnapshotManifest>,
    encoded: Vec<u8>,
    /// The first key not yet read; `None` once all were.
    next_key: Option<Vec<u8>>,
    sequence: u32,
    /// Frames before this one are read and hashed, but not made.
    from: u32,
    hasher: Option<StateHasher>,
}

impl SnapshotReader {
    pub(super) fn new(data: SnapshotData, chunk_bytes: usize, origin: SnapshotOrigin) -> Self {
        Self {
            data,
            chunk_bytes: chunk_bytes.max(1),
            manifest: None,
            encoded: Vec::new(),
            next_key: Some(Vec::new()),
            sequence: 0,
            from: 0,
            hasher: Some(StateHasher::default()),
        }
        .with_origin(origin)
    }

    fn with_origin(mut self, origin: SnapshotOrigin) -> Self {
        let manifest = SnapshotManifest::new(self.data.applied().clone(), origin);
        self.encoded = manifest.encode();
        self.manifest = Some(manifest);
        self
    }

    /// Leaves out the frames before number `from`: the other side has them.
    pub fn starting_at(mut self, from: u32) -> Self {
        self.from = from;
        self
    }

    /// The next frame; `None` after the last.
    pub fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if self.hasher.is_none() {
                return Ok(None);
            }
            let sequence = self.sequence;
            self.sequence = sequence
                .checked_add(1)
                .ok_or_else(|| io::Error::other("the snapshot needs too many frames"))?;
            let wanted = sequence >= self.from;
            if let Some(manifest) = self.manifest.take() {
                if wanted {
                    return seal(frame::MANIFEST, sequence, &manifest.encode()).map(Some);
                }
                continue;
            }
            let rows = self.rows()?;
            if !rows.is_empty() {
                if wanted {
                    return seal_rows(sequence, &rows).map(Some);
                }
                continue;
            }
            let Some(hasher) = self.hasher.take() else {
                return Ok(None);
            };
            let end = end_of(frame::SNAPSHOT_FORMAT, &self.encoded, hasher);
            return seal(frame::END, sequence, &end.encode_to_vec()).map(Some);
        }
    }

    /// The next rows, encoded; none at the end.
    fn rows(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::with_capacity(self.chunk_bytes + (4 << 10));
        let (Some(from), Some(hasher)) = (self.next_key.take(), &mut self.hasher) else {
            return Ok(body);
        };
        let chunk_bytes = self.chunk_bytes;
        let mut next_key = None;
        self.data.database().view(|view| {
            MachineView(view).scan(&from, &[], &mut |key, value| {
                if body.len() >= chunk_bytes {
                    next_key = Some(key.to_vec());
                    return ControlFlow::Break(());
                }
                // RocksDB holds no longer ones.
                for part in [key, value] {
                    let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
                    body.extend_from_slice(&length.to_be_bytes());
                    body.extend_from_slice(part);
                }
                hasher.row(key, value);
                ControlFlow::Continue(())
            })
        })?;
        self.next_key = next_key;
        Ok(body)
    }

    /// The frames as a stream. Dropping it ends the reading.
    ///
    /// Must be called inside a tokio runtime.
    pub fn into_frames(mut self) -> SnapshotFrames {
        if !self.data.database().volume().threads() {
            return stream::unfold(Some(self), |reader| async move {
                let mut reader = reader?;
                match reader.next_chunk() {
                    Ok(Some(frame)) => Some((Ok(frame), Some(reader))),
                    Ok(None) => None,
                    Err(error) => Some((Err(error), None)),
                }
            })
            .boxed();
        }
        let (sender, receiver) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            while let Some(frame) = self.next_chunk().transpose() {
                let failed = frame.is_err();
                // Nobody listens any more, or nothing more can come.
                if sender.blocking_send(frame).is_err() || failed {
                    break;
                }
            }
        });
        stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|frame| (frame, receiver))
        })
        .boxed()
    }
}

impl SnapshotData {
    /// Reads the snapshot as frames of about `chunk_bytes` of rows each.
    pub fn reader(&self, chunk_bytes: usize) -> SnapshotReader {
        SnapshotReader::new(self.clone(), chunk_bytes, SnapshotOrigin::default())
    }

    /// The same with the usual size of frames, saying where the snapshot comes from.
    pub fn reader_from(&self, origin: SnapshotOrigin) -> SnapshotReader {
        SnapshotReader::new(self.clone(), CHUNK_BYTES, origin)
    }

    /// Names this snapshot between replicas: equal for equal rows at an equal position.
    pub fn id(&self) -> [u8; 32] {
        SnapshotManifest::new(self.applied().clone(), SnapshotOrigin::default()).id()
    }
}
