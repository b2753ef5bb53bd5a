//! A channel we own: what has been accepted, what is being saved, what is stored, and how far the
//! time tick is. Pure state under the channel's lock: no waiting, no calls, the time is given.
//!
//! Invariants:
//! - `known` = stored rows and rows held here; a row is accepted only when it is not in it.
//! - Rows of a segment are held in its buffer or in its one open sync, never in both.
//! - The tick floor only rises, and no row at or below it is accepted.

mod deletes;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_binlog::{ColumnData, RowSet, Schema, position};
use quorate_rpc::proto::milvus::common::SegmentStats;
use quorate_rpc::proto::milvus::data::VchannelInfo;
use quorate_rpc::proto::milvus::msg::MsgPosition;

use crate::batch::Batch;
use crate::memory::Reservation;
pub(crate) use deletes::{DeleteJob, Deletes};
pub(crate) use segment::{CHUNK_OVERHEAD_BYTES, Segment, SegmentJob};

/// Segments remembered as flushed, to refuse late rows and repeat flushes cheaply.
const FLUSHED_MAX: usize = 4096;
/// Segments of a channel known at a time.
const SEGMENTS_MAX: usize = 4096;
/// Partitions of a channel with deletes at a time.
const DELETE_BUFFERS_MAX: usize = 1024;
/// Streams named in a channel's position.
const POSITION_STREAMS_MAX: usize = 256;

/// Why rows are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    NotOwner(String),
    #[error("{0}; take a new timestamp and new segments")]
    Late(String),
    #[error("{0}")]
    Full(String),
}

/// What a sync is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// Rows of a segment.
    Segment(i64),
    /// Deletes of a partition (-1: all).
    Deletes(i64),
}

/// Work taken out of a channel.
pub(crate) enum Job {
    Segment(SegmentJob),
    Deletes(DeleteJob),
}

/// When buffers are due by themselves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub segment_sync_bytes: u64,
    pub sync_interval: Duration,
}

/// State of one owned channel.
pub(crate) struct Channel {
    pub name: String,
    pub collection_id: i64,
    pub schema: Arc<Schema>,
    /// No more rows: it is being released, or the node stops.
    pub draining: bool,
    floor: u64,
    stored: RowSet,
    known: RowSet,
    /// Streams seen under this ownership, for the channel's position.
    streams: BTreeSet<Vec<u8>>,
    segments: BTreeMap<i64, Segment>,
    deletes: BTreeMap<i64, Deletes>,
    flushed: VecDeque<i64>,
    flush_ts: Option<u64>,
    /// Everything accepted before this number is to be synced now.
    sync_upto: u64,
    next_seq: u64,
    losses: u64,
    checkpoint: u64,
    checkpoint_wanted: bool,
}

/// Sums over rows or deletes held in memory; at least one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Held {
    pub rows: u64,
    pub bytes: u64,
    pub first_ts: u64,
    pub last_ts: u64,
    /// Number of the one accepted first.
    pub first_seq: u64,
}

impl Held {
    fn add(sums: &mut Option<Held>, rows: u64, bytes: u64, timestamp: u64, seq: u64) {
        let new = Held {
            rows,
            bytes,
            first_ts: timestamp,
            last_ts: timestamp,
            first_seq: seq,
        };
        *sums = Held::both(*sums, Some(new));
    }

    fn both(a: Option<Held>, b: Option<Held>) -> Option<Held> {
        match (a, b) {
            (Some(a), Some(b)) => Some(Held {
                rows: a.rows + b.rows,
                bytes: a.bytes + b.bytes,
                first_ts: a.first_ts.min(b.first_ts),
                last_ts: a.last_ts.max(b.last_ts),
                first_seq: a.first_seq.min(b.first_seq),
            }),
            (one, none) => one.or(none),
        }
    }
}

/// Accepted and skipped rows of an insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Accepted {
    pub accepted: u64,
    pub skipped: u64,
}

impl Channel {
    /// A channel that is to be watched; it takes no rows before [`Channel::begin`].
    pub fn new(name: String, collection_id: i64, schema: Arc<Schema>, info: &VchannelInfo) -> Self {
        let segments = info
            .unflushed_segments
            .iter()
            .map(|segment| (segment.id, Segment::inherited(segment)))
            .collect();
        let flushed = info
            .flushed_segments
            .iter()
            .map(|segment| segment.id)
            .chain(info.flushed_segment_ids.iter().copied())
            .rev()
            .take(FLUSHED_MAX)
            .collect();
        Channel {
            name,
            collection_id,
            schema,
            draining: false,
            floor: info.seek_position.as_ref().map_or(0, |at| at.timestamp),
            stored: RowSet::new(),
            known: RowSet::new(),
            streams: BTreeSet::new(),
            segments,
            deletes: BTreeMap::new(),
            flushed,
            flush_ts: None,
            sync_upto: 0,
            next_seq: 0,
            losses: 0,
            checkpoint: 0,
            checkpoint_wanted: false,
        }
    }

    /// Begins to own the channel: `stored` is what the coordinator has, `floor` a timestamp not
    /// below anything an earlier owner reported.
    pub fn begin(&mut self, stored: RowSet, floor: u64) {
        self.known = stored.clone();
        self.stored = stored;
        self.advance(floor);
        self.checkpoint_wanted = true;
    }

    /// Rows the coordinator has by now.
    pub fn learn_stored(&mut self, stored: &RowSet) {
        self.stored.union(stored);
        self.known.union(stored);
    }

    /// Raises the tick floor; it never falls.
    pub fn advance(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
    }

    /// The time tick: no row at or below it will be accepted.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Whether rows with this timestamp can be accepted at all.
    pub fn check_time(&self, timestamp: u64) -> Result<(), Refusal> {
        if self.draining {
            return Err(Refusal::NotOwner(format!(
                "channel {} is being released",
                self.name
            )));
        }
        if timestamp <= self.floor {
            return Err(Refusal::Late(format!(
                "timestamp {timestamp} is not above the time tick {} of channel {}",
                self.floor, self.name
            )));
        }
        Ok(())
    }

    /// Whether all batches can be accepted as they are.
    pub fn check_insert(&self, timestamp: u64, batches: &[Batch]) -> Result<(), Refusal> {
        self.check_time(timestamp)?;
        let mut new = BTreeSet::new();
        for (batch, grant) in batches
            .iter()
            .flat_map(|batch| batch.grants.iter().map(move |grant| (batch, grant)))
        {
            let id = grant.segment_id;
            if grant.expire_ts <= timestamp {
                return Err(Refusal::Late(format!(
                    "the grant of segment {id} ended at {}, not after timestamp {timestamp}",
                    grant.expire_ts
                )));
            }
            if self.flushed.contains(&id) {
                return Err(Refusal::Late(format!("segment {id} is flushed")));
            }
            match self.segments.get(&id) {
                Some(segment) if segment.flush => {
                    return Err(Refusal::Late(format!("segment {id} is being flushed")));
                }
                Some(segment) if !segment.is_of(batch.partition_id) => {
                    return Err(Refusal::Late(format!(
                        "segment {id} belongs to partition {}, not to {}",
                        segment.partition_id.unwrap_or_default(),
                        batch.partition_id
                    )));
                }
                Some(_) => {}
                None => {
                    new.insert(id);
                }
            }
        }
        let idle = self.segments.values().filter(|s| s.is_idle()).count();
        if self.segments.len() + new.len() > SEGMENTS_MAX + idle {
            return Err(Refusal::Full(format!(
                "channel {} has {SEGMENTS_MAX} segments with unsaved rows",
                self.name
            )));
        }
        Ok(())
    }

    /// Accepts batches that [`Channel::check_insert`] has let pass under the same lock.
    /// `memory` covers all their columns.
    pub fn insert(
        &mut self,
        timestamp: u64,
        batches: Vec<Batch>,
        mut memory: Reservation,
        now: Instant,
    ) -> Accepted {
        let mut total = Accepted::default();
        for batch in batches {
            let runs = self.new_rows(&batch);
            let accepted: u64 = runs.iter().map(|run| run.rows.end - run.rows.start).sum();
            total.accepted += accepted;
            total.skipped += batch.rows - accepted;
            for (segment_id, chunk) in
                segment::chunks(batch.columns, batch.rows, runs, timestamp, &mut memory)
            {
                let seq = self.next_seq_after();
                self.segment(segment_id, batch.partition_id)
                    .add(chunk, seq, now);
            }
        }
        total
    }

    /// Runs of rows of a batch that are not known yet, cut at the ends of grants; they are known
    /// afterwards.
    fn new_rows(&mut self, batch: &Batch) -> Vec<segment::Run> {
        let mut runs = Vec::new();
        let mut row = 0;
        for range in &batch.ordinals {
            for (from, to) in self.known.missing(&range.stream, range.from, range.to) {
                let first = row + (from - range.from);
                runs.push((first..first + (to - from), range.stream.clone(), from));
            }
            self.known.insert(&range.stream, range.from, range.to);
            if self.streams.len() < POSITION_STREAMS_MAX && !self.streams.contains(&range.stream) {
                self.streams.insert(range.stream.clone());
            }
            row += range.to - range.from;
        }
        segment::cut_at_grants(runs, &batch.grants)
    }

    /// Accepts deletes whose keys have been checked.
    pub fn delete(
        &mut self,
        partition_id: i64,
        keys: ColumnData,
        timestamp: u64,
        memory: Reservation,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.check_time(timestamp)?;
        if self.deletes.len() >= DELETE_BUFFERS_MAX && !self.deletes.contains_key(&partition_id) {
            return Err(Refusal::Full(format!(
                "channel {} has unsaved deletes of {DELETE_BUFFERS_MAX} partitions",
                self.name
            )));
        }
        let seq = self.next_seq_after();
        self.deletes
            .entry(partition_id)
            .or_default()
            .add(keys, timestamp, memory, seq, now);
        Ok(())
    }

    fn next_seq_after(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq - 1
    }

    fn segment(&mut self, id: i64, partition_id: i64) -> &mut Segment {
        if !self.segments.contains_key(&id) && self.segments.len() >= SEGMENTS_MAX {
            let idle = self.segments.iter().find(|(_, segment)| segment.is_idle());
            if let Some(id) = idle.map(|(id, _)| *id) {
                self.segments.remove(&id);
            }
        }
        let segment = self.segments.entry(id).or_default();
        segment.partition_id.get_or_insert(partition_id);
        segment
    }

    /// Notes that segments are to be flushed; those flushed already are left alone.
    pub fn flush_segments(&mut self, ids: &[i64]) {
        for id in ids {
            if !self.flushed.contains(id) {
                self.segments.entry(*id).or_default().flush = true;
            }
        }
    }

    /// Notes that everything up to `flush_ts` is wanted saved, and the checkpoint beyond it.
    pub fn flush_upto(&mut self, flush_ts: u64) {
        self.flush_ts = self.flush_ts.max(Some(flush_ts));
    }

    /// Asks for all that is accepted so far to be synced now; answers the number to wait for with
    /// [`Channel::is_saved_upto`].
    pub fn sync_all(&mut self) -> u64 {
        self.sync_upto = self.next_seq;
        self.sync_upto
    }

    /// What each segment and each buffer of deletes holds.
    fn all_held(&self) -> impl Iterator<Item = Held> {
        let rows = self.segments.values().filter_map(Segment::held);
        rows.chain(self.deletes.values().filter_map(Deletes::held))
    }

    /// Whether nothing accepted before `seq` is held any more.
    pub fn is_saved_upto(&self, seq: u64) -> bool {
        self.all_held().all(|held| held.first_seq >= seq)
    }

    /// Whether nothing is held and no sync is open.
    pub fn is_drained(&self) -> bool {
        self.segments
            .values()
            .all(|s| !s.syncing && s.held().is_none() && !s.flush)
            && self.deletes.is_empty()
    }

    /// How often rows or deletes were given up because the coordinator refused them.
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// Rows and bytes held in memory.
    pub fn held(&self) -> (u64, u64) {
        self.all_held()
            .fold((0, 0), |sum, held| (sum.0 + held.rows, sum.1 + held.bytes))
    }

    /// Buffers that could be synced now, with their sizes: for memory pressure.
    pub fn buffers(&self) -> Vec<(Target, u64)> {
        self.segments
            .iter()
            .filter(|(_, segment)| !segment.syncing)
            .filter_map(|(id, segment)| Some((Target::Segment(*id), segment.buffered()?.bytes)))
            .collect()
    }

    /// What is to be synced now and is not being synced yet.
    pub fn due(&self, now: Instant, limits: &Limits) -> Vec<Target> {
        let due = |buffered: Option<Held>, since: Option<Instant>| {
            let (Some(buffered), Some(since)) = (buffered, since) else {
                return false;
            };
            self.draining
                || buffered.first_seq < self.sync_upto
                || self.flush_ts.is_some_and(|ts| buffered.first_ts <= ts)
                || buffered.bytes >= limits.segment_sync_bytes
                || now.saturating_duration_since(since) >= limits.sync_interval
        };
        let segments = self.segments.iter().filter_map(|(id, segment)| {
            let wanted = segment.flush || due(segment.buffered(), segment.buffered_since);
            (!segment.syncing && wanted).then_some(Target::Segment(*id))
        });
        let deletes = self.deletes.iter().filter_map(|(partition, deletes)| {
            let wanted = due(deletes.buffered(), deletes.buffered_since);
            (!deletes.syncing() && wanted).then_some(Target::Deletes(*partition))
        });
        segments.chain(deletes).collect()
    }

    /// Reserves a sync of the target: true when none is under way and there is something to do.
    pub fn begin_sync(&mut self, target: Target) -> bool {
        match target {
            Target::Segment(id) => self.segments.get_mut(&id).is_some_and(Segment::begin_sync),
            Target::Deletes(partition) => self
                .deletes
                .get_mut(&partition)
                .is_some_and(Deletes::begin_sync),
        }
    }

    /// Takes everything buffered for a target whose sync has begun.
    pub fn take(&mut self, target: Target) -> Option<Job> {
        match target {
            Target::Segment(id) => {
                let segment = self.segments.get_mut(&id)?;
                Some(Job::Segment(segment.take(id)))
            }
            Target::Deletes(partition) => {
                let deletes = self.deletes.get_mut(&partition)?;
                Some(Job::Deletes(deletes.take(partition)))
            }
        }
    }

    /// A segment's save has been taken by the coordinator.
    pub fn segment_saved(&mut self, job: &SegmentJob) {
        for range in job.ranges() {
            self.stored.insert(&range.stream, range.from, range.to);
        }
        self.checkpoint_wanted |= job.rows > 0;
        if job.flush {
            self.forget_flushed(job.segment_id);
        } else if let Some(segment) = self.segments.get_mut(&job.segment_id) {
            segment.saved(job);
        }
    }

    /// A segment's save has been refused for good: its rows are forgotten here, so that they are
    /// accepted when they come again. With `gone` the segment itself is not there any more.
    pub fn segment_refused(&mut self, job: &SegmentJob, gone: bool) {
        for range in job.ranges() {
            self.known.remove(&range.stream, range.from, range.to);
        }
        // A part may have been stored by somebody else: that stays known.
        self.known.union(&self.stored);
        self.losses += u64::from(job.rows > 0);
        if gone || (job.flush && job.rows == 0) {
            self.drop_segment(job.segment_id);
        } else if let Some(segment) = self.segments.get_mut(&job.segment_id) {
            segment.refused();
        }
    }

    /// Deletes have been saved, or refused for good.
    pub fn deletes_done(&mut self, job: &DeleteJob, saved: bool) {
        self.losses += u64::from(!saved);
        self.checkpoint_wanted |= saved;
        if let Some(deletes) = self.deletes.get_mut(&job.partition_id)
            && deletes.done()
        {
            self.deletes.remove(&job.partition_id);
        }
    }

    /// Forgets a segment that is flushed now; rows still buffered for it cannot be there, since
    /// none is accepted once a flush is asked for.
    fn forget_flushed(&mut self, id: i64) {
        self.drop_segment(id);
        if self.flushed.len() == FLUSHED_MAX {
            self.flushed.pop_front();
        }
        self.flushed.push_back(id);
    }

    fn drop_segment(&mut self, id: i64) {
        let Some(segment) = self.segments.remove(&id) else {
            return;
        };
        // Rows that arrived while the refused save was open: they go the same way.
        let rest = segment.buffered_ranges();
        self.losses += u64::from(!rest.is_empty());
        for range in rest {
            self.known.remove(&range.stream, range.from, range.to);
        }
        self.known.union(&self.stored);
    }

    /// Rows of each segment, saved and held, for the time tick's statistics.
    pub fn statistics(&self) -> Vec<SegmentStats> {
        self.segments
            .iter()
            .filter(|(_, segment)| segment.partition_id.is_some())
            .map(|(id, segment)| SegmentStats {
                segment_id: *id,
                num_rows: segment.rows() as i64,
            })
            .collect()
    }

    /// Up to where everything is saved: nothing at or below it is held or will be accepted.
    pub fn current_checkpoint(&self) -> u64 {
        self.all_held()
            .map(|held| held.first_ts)
            .min()
            .map_or(self.floor, |first| self.floor.min(first.saturating_sub(1)))
    }

    /// The checkpoint to report now, if it is worth it: it moved by at least `step` of timestamp,
    /// something was saved since, or a flush waits for it.
    pub fn checkpoint_to_report(&self, step: u64) -> Option<u64> {
        let now = self.current_checkpoint();
        let moved = now.saturating_sub(self.checkpoint);
        let flush_waits = self.flush_ts.is_some_and(|flush_ts| now >= flush_ts);
        (moved > 0 && (moved >= step || self.checkpoint_wanted || flush_waits)).then_some(now)
    }

    /// The coordinator has taken a checkpoint.
    pub fn checkpoint_reported(&mut self, checkpoint: u64) {
        self.checkpoint = self.checkpoint.max(checkpoint);
        self.checkpoint_wanted = false;
        if self.flush_ts.is_some_and(|flush_ts| flush_ts <= checkpoint) {
            self.flush_ts = None;
        }
    }

    /// A position of the channel at `timestamp`: for each stream the first row not stored.
    pub fn position(&self, timestamp: u64) -> MsgPosition {
        let next = self
            .streams
            .iter()
            .map(|stream| (stream.clone(), self.stored.next(stream)))
            .collect();
        self.position_of(&next, timestamp)
    }

    /// A position of the channel that says how far some streams are.
    pub fn position_of(&self, next: &position::Next, timestamp: u64) -> MsgPosition {
        MsgPosition {
            channel_name: self.name.clone(),
            msg_id: position::encode(next),
            msg_group: String::new(),
            timestamp,
        }
    }

    /// How far the streams of a job are once it is saved.
    pub fn next_after(&self, job: &SegmentJob) -> position::Next {
        let mut with_job = RowSet::new();
        for range in job.ranges() {
            with_job.insert(&range.stream, range.from, range.to);
        }
        let mut next = position::Next::new();
        for (stream, from, to) in with_job.iter() {
            let stored = self.stored.next(stream);
            let after = if from <= stored {
                to.max(stored)
            } else {
                stored
            };
            let entry = next.entry(stream.to_vec()).or_insert(after);
            *entry = after.max(*entry);
        }
        next
    }
}
