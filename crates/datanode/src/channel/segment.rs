//! Buffered rows of one segment, and their way into a sync.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use quorate_binlog::ColumnData;
use quorate_rpc::proto::milvus::data::SegmentInfo;
use quorate_rpc::proto::quorate::node::Grant;
use quorate_rpc::proto::quorate::row::RowRange;

use super::Held;
use crate::memory::Reservation;

/// New rows of a batch that lie together and go to one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub segment_id: i64,
    /// Rows within the batch.
    pub rows: Range<u64>,
    pub stream: Vec<u8>,
    /// Ordinal of the first row.
    pub ordinal: u64,
}

/// Accepted rows as they came in.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub timestamp: u64,
    pub rows: u64,
    /// In the order of the schema's fields.
    pub columns: Vec<ColumnData>,
    /// Ordinals in row order.
    pub ordinals: Vec<RowRange>,
    memory: Reservation,
}

/// What a sync of a segment writes and saves.
#[derive(Debug)]
pub(crate) struct SegmentJob {
    pub segment_id: i64,
    /// Not known for a segment we never got a row of.
    pub partition_id: Option<i64>,
    pub chunks: Arc<Vec<Chunk>>,
    pub rows: u64,
    pub bytes: u64,
    /// Rows of the segment once this is saved; not known for a segment we never got a row of.
    pub rows_saved_then: Option<u64>,
    /// The segment has no start position yet.
    pub first: bool,
    /// No more rows will follow.
    pub flush: bool,
    pub timestamp_from: u64,
    pub timestamp_to: u64,
}

impl SegmentJob {
    /// Ordinals of all rows, in row order.
    pub fn ranges(&self) -> impl Iterator<Item = &RowRange> {
        self.chunks.iter().flat_map(|chunk| &chunk.ordinals)
    }
}

/// Memory a chunk takes besides its values.
pub(crate) const CHUNK_OVERHEAD_BYTES: u64 = 512;

/// A growing segment.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    /// None: only its id is known, from a request to flush it.
    pub partition_id: Option<i64>,
    /// Its flush was asked for: it takes no more rows.
    pub flush: bool,
    /// A sync is queued or under way.
    pub syncing: bool,
    /// When the oldest buffered row came.
    pub buffered_since: Option<Instant>,
    buffer: Vec<Chunk>,
    /// Sums over the buffer; none when it is empty.
    buffered: Option<Held>,
    /// Rows taken out of the buffer whose save is not answered yet.
    open: Option<Held>,
    rows_saved: u64,
    started: bool,
}

impl Segment {
    /// A segment an earlier owner has begun.
    pub fn inherited(info: &SegmentInfo) -> Segment {
        Segment {
            partition_id: Some(info.partition_id),
            rows_saved: u64::try_from(info.num_of_rows).unwrap_or(0),
            started: info
                .start_position
                .as_ref()
                .is_some_and(|position| !position.msg_id.is_empty()),
            ..Segment::default()
        }
    }

    pub fn is_of(&self, partition_id: i64) -> bool {
        self.partition_id.is_none_or(|own| own == partition_id)
    }

    pub fn add(&mut self, chunk: Chunk, seq: u64, now: Instant) {
        self.buffered_since.get_or_insert(now);
        Held::add(
            &mut self.buffered,
            chunk.rows,
            chunk.memory.bytes(),
            chunk.timestamp,
            seq,
        );
        self.buffer.push(chunk);
    }

    /// Nothing of it is held and nothing is to be done.
    pub fn is_idle(&self) -> bool {
        !self.syncing && !self.flush && self.buffer.is_empty()
    }

    pub fn buffered(&self) -> Option<Held> {
        self.buffered
    }

    pub fn buffered_ranges(&self) -> Vec<RowRange> {
        self.buffer
            .iter()
            .flat_map(|chunk| chunk.ordinals.clone())
            .collect()
    }

    /// What is held, buffered or in the open sync.
    pub fn held(&self) -> Option<Held> {
        Held::both(self.open, self.buffered)
    }

    /// Rows saved and held.
    pub fn rows(&self) -> u64 {
        self.rows_saved + self.held().map_or(0, |held| held.rows)
    }

    pub fn begin_sync(&mut self) -> bool {
        let begin = !self.syncing && (self.flush || !self.buffer.is_empty());
        self.syncing |= begin;
        begin
    }

    pub fn take(&mut self, segment_id: i64) -> SegmentJob {
        let chunks = std::mem::take(&mut self.buffer);
        self.buffered_since = None;
        self.open = self.buffered.take();
        let taken = self.open.unwrap_or_default();
        SegmentJob {
            segment_id,
            partition_id: self.partition_id,
            chunks: Arc::new(chunks),
            rows: taken.rows,
            bytes: taken.bytes,
            rows_saved_then: self.partition_id.map(|_| self.rows_saved + taken.rows),
            first: !self.started,
            flush: self.flush,
            timestamp_from: taken.first_ts,
            timestamp_to: taken.last_ts,
        }
    }

    /// The open save has been taken.
    pub fn saved(&mut self, job: &SegmentJob) {
        self.rows_saved += job.rows;
        self.started |= job.rows > 0;
        self.refused();
    }

    /// The open save has been refused; its rows are gone.
    pub fn refused(&mut self) {
        self.open = None;
        self.syncing = false;
    }
}

/// Cuts runs (rows, stream, first ordinal) where the grants of a batch end.
pub(super) fn cut_at_grants(runs: Vec<(Range<u64>, Vec<u8>, u64)>, grants: &[Grant]) -> Vec<Run> {
    let mut out = Vec::with_capacity(runs.len());
    let mut ends = grants.iter().scan(0, |end, grant| {
        *end += u64::from(grant.rows);
        Some((grant.segment_id, *end))
    });
    let mut grant = ends.next();
    for (rows, stream, ordinal) in runs {
        let mut start = rows.start;
        while start < rows.end {
            let Some((segment_id, end)) = grant else {
                // Counts were checked to agree, so grants never run out before the rows do.
                break;
            };
            if end <= start {
                grant = ends.next();
                continue;
            }
            let stop = rows.end.min(end);
            out.push(Run {
                segment_id,
                rows: start..stop,
                stream: stream.clone(),
                ordinal: ordinal + (start - rows.start),
            });
            start = stop;
        }
    }
    out
}

/// Puts the rows of the runs together to one chunk for each segment.
pub(super) fn chunks(
    columns: Vec<ColumnData>,
    rows: u64,
    runs: Vec<Run>,
    timestamp: u64,
    memory: &mut Reservation,
) -> Vec<(i64, Chunk)> {
    let mut by_segment: Vec<(i64, Vec<Run>)> = Vec::new();
    for run in runs {
        match by_segment.iter_mut().find(|(id, _)| *id == run.segment_id) {
            Some((_, runs)) => runs.push(run),
            None => by_segment.push((run.segment_id, vec![run])),
        }
    }
    let mut whole = Some(columns);
    let last = by_segment.len();
    let mut out = Vec::with_capacity(last);
    for (segment_id, runs) in by_segment {
        let taken: u64 = runs.iter().map(|run| run.rows.end - run.rows.start).sum();
        let columns = if taken == rows {
            // All rows go to one segment, in order: nothing to copy.
            whole.take().unwrap_or_default()
        } else {
            let source = whole.as_deref().unwrap_or_default();
            source.iter().map(|column| gather(column, &runs)).collect()
        };
        let bytes: usize = columns.iter().map(ColumnData::memory_size).sum();
        out.push((
            segment_id,
            Chunk {
                timestamp,
                rows: taken,
                columns,
                ordinals: ordinals(runs),
                memory: memory.split(bytes as u64 + CHUNK_OVERHEAD_BYTES),
            },
        ));
    }
    out
}

fn gather(column: &ColumnData, runs: &[Run]) -> ColumnData {
    let mut out = ColumnData::new(column.kind());
    for run in runs {
        let same_type = out.extend_from(column, run.rows.start as usize..run.rows.end as usize);
        debug_assert!(same_type, "a new column of the same kind takes the rows");
    }
    out
}

/// Ordinals of the runs, neighbours merged.
fn ordinals(runs: Vec<Run>) -> Vec<RowRange> {
    let mut out: Vec<RowRange> = Vec::new();
    for run in runs {
        let (from, to) = (run.ordinal, run.ordinal + (run.rows.end - run.rows.start));
        match out.last_mut() {
            Some(last) if last.stream == run.stream && last.to == from => last.to = to,
            _ => out.push(RowRange {
                stream: run.stream,
                from,
                to,
            }),
        }
    }
    out
}
