//! The reading side of a snapshot: frames are taken in order, and every promise they make is checked.

use std::io;

use prost::Message;

use super::frame::{self, Frame, Rows, damaged};
use super::hash::{StateHasher, TableHash};
use crate::codec::{CodecError, proto};
use crate::state::{Applied, tables};

/// Where a snapshot stands and comes from: its first frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotManifest {
    /// The format it is written in.
    pub format: u32,
    /// Position, membership and digest of its rows.
    pub applied: Applied,
    /// The cluster it was taken of; empty between replicas.
    pub cluster_id: String,
    /// When it was taken, in milliseconds since the Unix epoch; 0 between replicas.
    pub created_ms: u64,
    /// The release that took it.
    pub release: String,
}

/// Where a snapshot is said to come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotOrigin {
    /// The cluster.
    pub cluster_id: String,
    /// The time, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The release.
    pub release: String,
}

impl SnapshotManifest {
    pub(super) fn new(applied: Applied, origin: SnapshotOrigin) -> Self {
        Self {
            format: frame::SNAPSHOT_FORMAT,
            applied,
            cluster_id: origin.cluster_id,
            created_ms: origin.created_ms,
            release: origin.release,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        proto::SnapshotManifest {
            format: self.format,
            state: Some(tables::put_applied(&self.applied)),
            cluster_id: self.cluster_id.clone(),
            created_ms: self.created_ms,
            release: self.release.clone(),
        }
        .encode_to_vec()
    }

    fn decode(body: &[u8]) -> io::Result<Self> {
        let manifest = proto::SnapshotManifest::decode(body).map_err(CodecError::from)?;
        frame::check_format(manifest.format)?;
        let state = manifest
            .state
            .ok_or(CodecError::Missing("the snapshot's position"))?;
        Ok(Self {
            format: manifest.format,
            applied: tables::get_applied(state)?,
            cluster_id: manifest.cluster_id,
            created_ms: manifest.created_ms,
            release: manifest.release,
        })
    }

    /// Names the snapshot before its end is known: a hash of the manifest.
    pub fn id(&self) -> [u8; 32] {
        *blake3::hash(&self.encode()).as_bytes()
    }
}

/// A whole snapshot, every checksum of it verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// Where it stands and comes from.
    pub manifest: SnapshotManifest,
    /// Its rows.
    pub rows: u64,
    /// Keys, values and their lengths before they were packed, in bytes.
    pub row_bytes: u64,
    /// Hash over every row; equal to what `check --full` finds in a replica at this position.
    pub state_hash: [u8; 32],
    /// The same table by table.
    pub tables: Vec<TableHash>,
    /// Hash over all of this: names the snapshot.
    pub root: [u8; 32],
}

/// `manifest` as it is encoded, of a snapshot in this format.
pub(super) fn end_of(format: u32, manifest: &[u8], hasher: StateHasher) -> proto::SnapshotEnd {
    let hash = hasher.finish();
    let mut end = proto::SnapshotEnd {
        rows: hash.rows,
        row_bytes: hash.bytes,
        state_hash: hash.hash.to_vec().into(),
        tables: hash
            .tables
            .iter()
            .map(|table| proto::SnapshotTable {
                table: table.table.into(),
                rows: table.rows,
                hash: table.hash.to_vec().into(),
            })
            .collect(),
        root: Vec::new().into(),
    };
    let mut root = blake3::Hasher::new();
    root.update(&frame::head_of(format));
    root.update(manifest);
    root.update(&end.encode_to_vec());
    end.root = root.finalize().as_bytes().to_vec().into();
    end
}

fn hash_of(bytes: &[u8]) -> io::Result<[u8; 32]> {
    bytes.try_into().map_err(|_| damaged("no hash at its end"))
}

fn summary(manifest: SnapshotManifest, end: &proto::SnapshotEnd) -> io::Result<SnapshotSummary> {
    let tables = end.tables.iter().map(|table| {
        Ok(TableHash {
            table: u8::try_from(table.table).map_err(|_| damaged("no such table"))?,
            rows: table.rows,
            hash: hash_of(&table.hash)?,
        })
    });
    Ok(SnapshotSummary {
        manifest,
        rows: end.rows,
        row_bytes: end.row_bytes,
        state_hash: hash_of(&end.state_hash)?,
        tables: tables.collect::<io::Result<_>>()?,
        root: hash_of(&end.root)?,
    })
}

/// Called with each row's key and value.
pub(crate) type EachKeyValue<'a> = &'a mut dyn FnMut(&[u8], &[u8]);

/// Takes a snapshot's frames in order and checks each of them.
#[derive(Default)]
pub struct SnapshotVerifier {
    next: u32,
    manifest: Option<(SnapshotManifest, Vec<u8>)>,
    hasher: StateHasher,
    rows: u64,
    last_key: Option<Vec<u8>>,
    summary: Option<SnapshotSummary>,
}

impl SnapshotVerifier {
    /// Takes the next frame; a damaged or misplaced one is refused.
    pub fn push(&mut self, frame: &[u8]) -> io::Result<()> {
        self.push_with(frame, &mut |_, _| {})
    }

    /// The manifest, once its frame was taken.
    pub fn manifest(&self) -> Option<&SnapshotManifest> {
        self.manifest.as_ref().map(|(manifest, _)| manifest)
    }

    /// The number of the frame that comes next.
    pub fn next_frame(&self) -> u32 {
        self.next
    }

    /// Rows taken so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether the last frame was taken.
    pub fn is_complete(&self) -> bool {
        self.summary.is_some()
    }

    /// What was verified.
    ///
    /// # Errors
    /// The last frame is missing.
    pub fn finish(self) -> io::Result<SnapshotSummary> {
        self.summary
            .ok_or_else(|| damaged("it ends before its last frame"))
    }

    pub(crate) fn push_with(&mut self, frame: &[u8], each: EachKeyValue<'_>) -> io::Result<()> {
        if self.summary.is_some() {
            return Err(damaged("something stands behind its last frame"));
        }
        let frame = Frame::check(frame, self.next)?;
        match (frame.kind, &self.manifest) {
            (frame::MANIFEST, None) => {
                let manifest = SnapshotManifest::decode(frame.body)?;
                self.manifest = Some((manifest, frame.body.to_vec()));
            }
            (frame::ROWS, Some(_)) => self.take_rows(frame.body, each)?,
            (frame::END, Some(_)) => self.take_end(frame.body)?,
            _ => return Err(damaged("a frame where it does not belong")),
        }
        self.next = self
            .next
            .checked_add(1)
            .ok_or_else(|| damaged("too many frames"))?;
        Ok(())
    }

    fn take_rows(&mut self, body: &[u8], each: EachKeyValue<'_>) -> io::Result<()> {
        let rows = frame::open_rows(body)?;
        let mut rows = Rows(&rows);
        let mut last: Option<&[u8]> = None;
        while let Some((key, value)) = rows.next()? {
            if last
                .or(self.last_key.as_deref())
                .is_some_and(|last| last >= key)
            {
                return Err(damaged("rows out of order"));
            }
            last = Some(key);
            self.hasher.row(key, value);
            self.rows += 1;
            each(key, value);
        }
        if let Some(last) = last {
            self.last_key = Some(last.to_vec());
        }
        Ok(())
    }

    fn take_end(&mut self, body: &[u8]) -> io::Result<()> {
        let Some((manifest, encoded)) = &self.manifest else {
            return Err(damaged("a frame where it does not belong"));
        };
        let end = proto::SnapshotEnd::decode(body).map_err(CodecError::from)?;
        let hasher = std::mem::take(&mut self.hasher);
        if end != end_of(manifest.format, encoded, hasher) {
            return Err(damaged("count or hash of the rows is wrong"));
        }
        self.summary = Some(summary(manifest.clone(), &end)?);
        Ok(())
    }
}
