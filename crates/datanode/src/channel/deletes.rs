//! Buffered deletes of one partition (or of all), and their way into a sync.

use std::time::Instant;

use quorate_binlog::{ColumnData, DeltaRows};

use super::Held;
use crate::memory::Reservation;

#[derive(Debug)]
struct Batch {
    keys: ColumnData,
    timestamp: u64,
    memory: Reservation,
}

/// What a sync of deletes writes and saves.
#[derive(Debug)]
pub(crate) struct DeleteJob {
    pub partition_id: i64,
    pub rows: DeltaRows,
    pub timestamp_from: u64,
    pub timestamp_to: u64,
    /// Held until the job is done.
    _memory: Vec<Reservation>,
}

/// Deletes of one partition.
#[derive(Debug, Default)]
pub(crate) struct Deletes {
    /// When the oldest buffered delete came.
    pub buffered_since: Option<Instant>,
    buffer: Vec<Batch>,
    /// Sums over the buffer; none when it is empty.
    buffered: Option<Held>,
    /// Deletes taken out of the buffer whose save is not answered yet.
    open: Option<Held>,
    syncing: bool,
}

impl Deletes {
    pub fn add(
        &mut self,
        keys: ColumnData,
        timestamp: u64,
        memory: Reservation,
        seq: u64,
        now: Instant,
    ) {
        self.buffered_since.get_or_insert(now);
        let rows = keys.len() as u64;
        Held::add(&mut self.buffered, rows, memory.bytes(), timestamp, seq);
        self.buffer.push(Batch {
            keys,
            timestamp,
            memory,
        });
    }

    pub fn syncing(&self) -> bool {
        self.syncing
    }

    pub fn buffered(&self) -> Option<Held> {
        self.buffered
    }

    /// What is held, buffered or in the open sync.
    pub fn held(&self) -> Option<Held> {
        Held::both(self.open, self.buffered)
    }

    pub fn begin_sync(&mut self) -> bool {
        let begin = !self.syncing && !self.buffer.is_empty();
        self.syncing |= begin;
        begin
    }

    pub fn take(&mut self, partition_id: i64) -> DeleteJob {
        let batches = std::mem::take(&mut self.buffer);
        self.buffered_since = None;
        self.open = self.buffered.take();
        let taken = self.open.unwrap_or_default();
        let mut keys = batches
            .first()
            .map_or(ColumnData::Int64(Vec::new()), |first| {
                ColumnData::new(first.keys.kind())
            });
        let mut timestamps = Vec::new();
        for batch in &batches {
            let same_type = keys.extend(&batch.keys);
            debug_assert!(
                same_type,
                "keys were checked to be of the primary key's type"
            );
            timestamps.resize(keys.len(), batch.timestamp);
        }
        DeleteJob {
            partition_id,
            rows: DeltaRows { keys, timestamps },
            timestamp_from: taken.first_ts,
            timestamp_to: taken.last_ts,
            _memory: batches.into_iter().map(|batch| batch.memory).collect(),
        }
    }

    /// The open save is answered. True when nothing is left.
    pub fn done(&mut self) -> bool {
        self.open = None;
        self.syncing = false;
        self.buffer.is_empty()
    }
}
