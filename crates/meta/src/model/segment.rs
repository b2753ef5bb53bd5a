//! A segment's hot row.

use std::sync::Arc;

use crate::id::{CollectionId, PartitionId, SegmentId};
use crate::pb;
use crate::time::Ts;

/// State of a segment; the numbers are those of `milvus.proto.common.SegmentState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum SegmentState {
    /// Takes rows.
    Growing = 2,
    /// Takes no more rows; waits to be flushed.
    Sealed = 3,
    /// All its rows are in the object store and known here.
    Flushed = 4,
    /// The final save has come; post-flush work is left. Counts as flushed (Milvus #15529).
    Flushing = 5,
    /// Dead; waits for garbage collection. Terminal.
    Dropped = 6,
    /// Being filled by an import job.
    Importing = 7,
}

impl SegmentState {
    /// From the stored number.
    pub fn from_u32(number: u32) -> Option<Self> {
        Some(match number {
            2 => Self::Growing,
            3 => Self::Sealed,
            4 => Self::Flushed,
            5 => Self::Flushing,
            6 => Self::Dropped,
            7 => Self::Importing,
            _ => return None,
        })
    }

    /// Whether a segment may go from this state to `to` in one step.
    ///
    /// `semantics.md` §1: Growing→Sealed→Flushing→Flushed→Dropped, Importing→Flushed, and to
    /// Dropped from anywhere. The final save may come for a Growing segment, too: a data node that
    /// releases a channel flushes what it holds.
    pub fn may_become(self, to: SegmentState) -> bool {
        use SegmentState::*;
        matches!(
            (self, to),
            (Growing, Sealed | Flushing)
                | (Sealed, Flushing)
                | (Flushing, Flushed)
                | (Importing, Flushed)
        ) || (to == Dropped && self != Dropped)
    }

    /// Flushing or Flushed: what a waiting flush asks for.
    pub fn is_flush_state(self) -> bool {
        matches!(self, Self::Flushing | Self::Flushed)
    }

    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Growing => "Growing",
            Self::Sealed => "Sealed",
            Self::Flushed => "Flushed",
            Self::Flushing => "Flushing",
            Self::Dropped => "Dropped",
            Self::Importing => "Importing",
        }
    }
}

/// Level of a segment; the numbers are those of `milvus.proto.data.SegmentLevel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// From before levels.
    Legacy = 0,
    /// Deletes only; created by SaveBinlogPaths, flushed from the start.
    L0 = 1,
    /// Rows.
    L1 = 2,
    /// Output of a clustering compaction.
    L2 = 3,
}

impl Level {
    /// From the stored number.
    pub fn from_u32(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Legacy,
            1 => Self::L0,
            2 => Self::L1,
            3 => Self::L2,
            _ => return None,
        })
    }
}

/// What memory holds of a segment. Files and positions are cold rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its id.
    pub id: SegmentId,
    /// Its collection.
    pub collection: CollectionId,
    /// Its partition; -1 on level-zero segments whose deletes hold for all.
    pub partition: PartitionId,
    /// Virtual channel its rows come through.
    pub channel: Arc<str>,
    /// State as stored. A tombstone above it wins: see [`crate::State::effective_state`].
    pub state: SegmentState,
    /// Level.
    pub level: Level,
    /// Rows in saved insert logs.
    pub rows: i64,
    /// Capacity in rows.
    pub max_rows: i64,
    /// Rows at which it is sealed; proportion and jitter applied when it was opened.
    pub seal_rows: i64,
    /// Capacity in bytes.
    pub max_size_bytes: u64,
    /// Latest expiry of a grant on it, as recorded when it was sealed.
    pub last_expire: Ts,
    /// When it was opened.
    pub opened_at: Ts,
    /// When it was sealed.
    pub sealed_at: Ts,
    /// When it was dropped.
    pub dropped_at: Ts,
    /// Why it was sealed (`pb::SealReason`).
    pub seal_reason: u8,
    /// Grows with every change of its file list.
    pub files_rev: u64,
    /// Bytes of all its log files in memory form.
    pub size_bytes: u64,
    /// Insert log files of one field: saves that brought rows.
    pub insert_files: u32,
    /// All log files.
    pub files: u32,
    /// Rows in its delete logs.
    pub delta_rows: i64,
    /// Bytes of its delete logs.
    pub delta_bytes: u64,
    /// Its delete logs.
    pub delta_files: u32,
    /// Timestamp of its first position; zero = none yet.
    pub start: Ts,
    /// Timestamp of its last saved position.
    pub dml: Ts,
    /// When garbage collection condemned it; zero = not. No reader's view contains it from then on.
    pub condemned_at: Ts,
    /// Output of a compaction.
    pub compacted_from: bool,
    /// Dropped because the outputs of a compaction took its place.
    pub compacted: bool,
}

impl Segment {
    /// Bytes a log file counts for.
    pub(crate) fn file_bytes(file: &pb::BinlogRef) -> u64 {
        u64::try_from(file.memory_size_bytes.max(file.log_size_bytes)).unwrap_or(0)
    }

    /// Counts a new log file: files, bytes, deletes; not rows.
    pub(crate) fn count_file(&mut self, file: &pb::BinlogRef) {
        self.files = self.files.saturating_add(1);
        self.size_bytes = self.size_bytes.saturating_add(Self::file_bytes(file));
        if file.kind() == pb::LogKind::Delta {
            self.delta_rows = self.delta_rows.saturating_add(file.rows.max(0));
            self.delta_bytes = self.delta_bytes.saturating_add(Self::file_bytes(file));
            self.delta_files = self.delta_files.saturating_add(1);
        }
    }

    /// Takes a delete log out of the counts.
    pub(crate) fn uncount_delta(&mut self, file: &pb::BinlogRef) {
        let bytes = Self::file_bytes(file);
        self.files = self.files.saturating_sub(1);
        self.size_bytes = self.size_bytes.saturating_sub(bytes);
        self.delta_rows = self.delta_rows.saturating_sub(file.rows).max(0);
        self.delta_bytes = self.delta_bytes.saturating_sub(bytes);
        self.delta_files = self.delta_files.saturating_sub(1);
    }

    /// The row as stored.
    pub fn to_row(&self) -> pb::SegmentRow {
        pb::SegmentRow {
            id: self.id.0,
            collection_id: self.collection.0,
            partition_id: self.partition.0,
            channel: self.channel.to_string(),
            state: self.state as u32,
            level: self.level as u32,
            rows: self.rows,
            max_rows: self.max_rows,
            seal_rows: self.seal_rows,
            max_size_bytes: self.max_size_bytes,
            last_expire_ts: self.last_expire.0,
            opened_at: self.opened_at.0,
            sealed_at: self.sealed_at.0,
            dropped_at: self.dropped_at.0,
            seal_reason: u32::from(self.seal_reason),
            files_rev: self.files_rev,
            size_bytes: self.size_bytes,
            insert_files: self.insert_files,
            files: self.files,
            delta_rows: self.delta_rows,
            start_ts: self.start.0,
            dml_ts: self.dml.0,
            compacted_from: self.compacted_from,
            compacted: self.compacted,
            condemned_at: self.condemned_at.0,
            delta_bytes: self.delta_bytes,
            delta_files: self.delta_files,
        }
    }

    /// From a stored row; `intern` gives the shared name of a channel. `None`: a state or level
    /// this release does not know.
    pub fn from_row(row: &pb::SegmentRow, intern: impl FnOnce(&str) -> Arc<str>) -> Option<Self> {
        Some(Self {
            id: SegmentId(row.id),
            collection: CollectionId(row.collection_id),
            partition: PartitionId(row.partition_id),
            channel: intern(&row.channel),
            state: SegmentState::from_u32(row.state)?,
            level: Level::from_u32(row.level)?,
            rows: row.rows,
            max_rows: row.max_rows,
            seal_rows: row.seal_rows,
            max_size_bytes: row.max_size_bytes,
            last_expire: Ts(row.last_expire_ts),
            opened_at: Ts(row.opened_at),
            sealed_at: Ts(row.sealed_at),
            dropped_at: Ts(row.dropped_at),
            seal_reason: u8::try_from(row.seal_reason).ok()?,
            files_rev: row.files_rev,
            size_bytes: row.size_bytes,
            insert_files: row.insert_files,
            files: row.files,
            delta_rows: row.delta_rows,
            delta_bytes: row.delta_bytes,
            delta_files: row.delta_files,
            start: Ts(row.start_ts),
            dml: Ts(row.dml_ts),
            condemned_at: Ts(row.condemned_at),
            compacted_from: row.compacted_from,
            compacted: row.compacted,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::SegmentState::{self, *};

    const ALL: [SegmentState; 6] = [Growing, Sealed, Flushed, Flushing, Dropped, Importing];

    #[test]
    fn dropped_is_terminal_and_reachable_from_everywhere() {
        for state in ALL {
            assert!(!Dropped.may_become(state));
            assert_eq!(state.may_become(Dropped), state != Dropped);
        }
    }

    #[test]
    fn nothing_goes_back() {
        for (from, to) in [
            (Sealed, Growing),
            (Flushing, Sealed),
            (Flushed, Flushing),
            (Flushed, Growing),
        ] {
            assert!(!from.may_become(to), "{from:?} -> {to:?}");
        }
    }
}
