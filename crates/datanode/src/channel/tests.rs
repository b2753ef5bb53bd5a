#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_binlog::{ColumnData, RowSet, position};
use quorate_rpc::proto::milvus::data::{SegmentInfo, VchannelInfo};

use super::{Accepted, Channel, Job, Limits, Refusal, SegmentJob, Target};
use crate::batch;
use crate::batch::tests::{batch as rows, schema};
use crate::memory::Memory;

const STREAM: &[u8] = &[1];
const IDLE: Limits = Limits {
    segment_sync_bytes: u64::MAX,
    sync_interval: Duration::from_secs(3600),
};

struct Fixture {
    channel: Channel,
    memory: Arc<Memory>,
    now: Instant,
}

impl Fixture {
    fn new() -> Fixture {
        Self::with(&VchannelInfo::default(), RowSet::new())
    }

    fn with(info: &VchannelInfo, stored: RowSet) -> Fixture {
        let mut channel = Channel::new("c".into(), 1, Arc::new(schema()), info);
        channel.begin(stored, 100);
        Fixture {
            channel,
            memory: Memory::new(1 << 20),
            now: Instant::now(),
        }
    }

    fn insert(
        &mut self,
        ts: u64,
        from: u64,
        to: u64,
        grants: &[(i64, u32)],
    ) -> Result<Accepted, Refusal> {
        let batches = batch::check(vec![rows(from, to, grants)], &schema()).unwrap();
        let bytes = batches.iter().map(batch::Batch::memory_size).sum();
        let memory = self.memory.reserve(bytes).unwrap();
        self.channel.check_insert(ts, &batches)?;
        Ok(self.channel.insert(ts, batches, memory, self.now))
    }

    fn accepted(&mut self, ts: u64, from: u64, to: u64, segment: i64) -> (u64, u64) {
        let grants = [(segment, (to - from) as u32)];
        let answer = self.insert(ts, from, to, &grants).unwrap();
        (answer.accepted, answer.skipped)
    }

    fn take(&mut self, segment: i64) -> SegmentJob {
        let target = Target::Segment(segment);
        assert!(self.channel.begin_sync(target));
        match self.channel.take(target) {
            Some(Job::Segment(job)) => job,
            _ => panic!("a segment's job was expected"),
        }
    }

    fn save(&mut self, segment: i64) -> SegmentJob {
        let job = self.take(segment);
        self.channel.segment_saved(&job);
        job
    }
}

fn stored(from: u64, to: u64) -> RowSet {
    let mut set = RowSet::new();
    set.insert(STREAM, from, to);
    set
}

#[test]
fn rows_stored_or_buffered_are_skipped() {
    let mut f = Fixture::with(&VchannelInfo::default(), stored(0, 4));
    assert_eq!(f.accepted(101, 0, 10, 7), (6, 4));
    assert_eq!(f.accepted(102, 0, 10, 7), (0, 10));
    let job = f.take(7);
    assert_eq!(job.rows, 6);
    assert_eq!(
        job.chunks[0].columns[0],
        ColumnData::Int64((4..10).collect())
    );
    // Still open: a repeat is skipped all the same, and so it is afterwards.
    assert_eq!(f.accepted(103, 5, 12, 7), (2, 5));
    f.channel.segment_saved(&job);
    assert_eq!(f.accepted(104, 5, 12, 7), (0, 7));
    assert_eq!(f.channel.statistics()[0].num_rows, 8);
}

#[test]
fn a_batch_is_split_over_its_grants_in_row_order() {
    let mut f = Fixture::with(&VchannelInfo::default(), stored(3, 5));
    let answer = f.insert(101, 0, 10, &[(7, 4), (8, 6)]).unwrap();
    assert_eq!((answer.accepted, answer.skipped), (8, 2));
    let (first, second) = (f.take(7), f.take(8));
    assert_eq!(first.chunks[0].columns[0], ColumnData::Int64(vec![0, 1, 2]));
    assert_eq!(
        second.chunks[0].columns[0],
        ColumnData::Int64((5..10).collect())
    );
    let range = second.ranges().next().unwrap();
    assert_eq!((range.from, range.to), (5, 10));
}

#[test]
fn a_row_named_twice_in_one_request_is_taken_once() {
    let mut f = Fixture::new();
    let mut twice = rows(0, 4, &[(7, 4)]);
    let range = &mut twice.ordinals[0];
    range.to = 2;
    let range = range.clone();
    twice.ordinals.push(range);
    let batches = batch::check(vec![twice], &schema()).unwrap();
    let memory = f.memory.reserve(1000).unwrap();
    let answer = f.channel.insert(101, batches, memory, f.now);
    assert_eq!((answer.accepted, answer.skipped), (2, 2));
}

#[test]
fn no_row_at_or_below_the_tick_is_accepted() {
    let mut f = Fixture::new();
    assert!(matches!(
        f.insert(100, 0, 1, &[(7, 1)]),
        Err(Refusal::Late(_))
    ));
    f.channel.advance(150);
    assert!(matches!(
        f.insert(150, 0, 1, &[(7, 1)]),
        Err(Refusal::Late(_))
    ));
    f.channel.advance(120);
    assert_eq!(f.channel.floor(), 150);
    assert_eq!(f.accepted(151, 0, 1, 7), (1, 0));
}

#[test]
fn a_grant_must_outlive_the_timestamp() {
    let mut f = Fixture::new();
    assert!(matches!(
        f.insert(1000, 0, 1, &[(7, 1)]),
        Err(Refusal::Late(_))
    ));
    assert_eq!(f.accepted(999, 0, 1, 7), (1, 0));
}

#[test]
fn a_segment_takes_no_rows_once_its_flush_is_asked_for() {
    let mut f = Fixture::new();
    f.accepted(101, 0, 5, 7);
    f.channel.flush_segments(&[7]);
    assert!(matches!(
        f.insert(102, 5, 6, &[(7, 1)]),
        Err(Refusal::Late(_))
    ));
    assert_eq!(f.channel.due(f.now, &IDLE), [Target::Segment(7)]);
    let job = f.save(7);
    assert!(job.flush && job.first);
    assert_eq!((job.rows, job.rows_saved_then), (5, Some(5)));
    // A repeat finds it flushed already.
    f.channel.flush_segments(&[7]);
    assert!(f.channel.due(f.now, &IDLE).is_empty());
    assert!(matches!(
        f.insert(103, 5, 6, &[(7, 1)]),
        Err(Refusal::Late(_))
    ));
    assert!(f.memory.used_bytes() > 0);
    drop(job);
    assert_eq!(f.memory.used_bytes(), 0);
}

#[test]
fn a_flush_while_a_sync_is_open_ends_with_a_save_of_its_own() {
    let mut f = Fixture::new();
    f.accepted(101, 0, 5, 7);
    let open = f.take(7);
    f.channel.flush_segments(&[7]);
    assert!(f.channel.due(f.now, &IDLE).is_empty());
    f.channel.segment_saved(&open);
    assert_eq!(f.channel.due(f.now, &IDLE), [Target::Segment(7)]);
    let last = f.save(7);
    assert!(last.flush && !last.first);
    assert_eq!((last.rows, last.rows_saved_then), (0, Some(5)));
}

#[test]
fn a_segment_never_seen_is_flushed_without_claiming_its_rows() {
    let mut f = Fixture::new();
    f.channel.flush_segments(&[9]);
    let job = f.save(9);
    assert_eq!((job.rows, job.rows_saved_then), (0, None));
}

#[test]
fn an_inherited_segment_goes_on_counting() {
    let info = VchannelInfo {
        unflushed_segments: vec![SegmentInfo {
            id: 7,
            partition_id: 5,
            num_of_rows: 40,
            ..Default::default()
        }],
        flushed_segment_ids: vec![6],
        ..Default::default()
    };
    let mut f = Fixture::with(&info, RowSet::new());
    f.accepted(101, 0, 5, 7);
    assert_eq!(f.save(7).rows_saved_then, Some(45));
    assert!(matches!(
        f.insert(102, 5, 6, &[(6, 1)]),
        Err(Refusal::Late(_))
    ));
}

#[test]
fn the_checkpoint_stays_below_everything_that_is_not_saved() {
    let mut f = Fixture::new();
    f.accepted(110, 0, 5, 7);
    f.accepted(120, 5, 9, 8);
    f.channel.advance(115);
    assert_eq!(f.channel.current_checkpoint(), 109);
    let job = f.take(7);
    assert_eq!(f.channel.current_checkpoint(), 109);
    f.channel.segment_saved(&job);
    assert_eq!(f.channel.current_checkpoint(), 115);
    f.channel.advance(130);
    assert_eq!(f.channel.current_checkpoint(), 119);
    let memory = f.memory.reserve(8).unwrap();
    let keys = ColumnData::Int64(vec![1]);
    f.channel.delete(-1, keys, 140, memory, f.now).unwrap();
    f.save(8);
    f.channel.advance(150);
    assert_eq!(f.channel.current_checkpoint(), 139);
}

#[test]
fn a_checkpoint_is_reported_when_it_moved_enough_or_somebody_waits() {
    let mut f = Fixture::new();
    assert_eq!(f.channel.checkpoint_to_report(1000), Some(100));
    f.channel.checkpoint_reported(100);
    f.channel.advance(200);
    assert_eq!(f.channel.checkpoint_to_report(1000), None);
    f.channel.flush_upto(250);
    assert_eq!(f.channel.checkpoint_to_report(1000), None);
    f.channel.advance(260);
    assert_eq!(f.channel.checkpoint_to_report(1000), Some(260));
    f.channel.checkpoint_reported(260);
    f.channel.advance(1259);
    assert_eq!(f.channel.checkpoint_to_report(1000), None);
    f.channel.advance(1260);
    assert_eq!(f.channel.checkpoint_to_report(1000), Some(1260));
}

#[test]
fn what_a_flush_of_the_channel_covers_is_due() {
    let mut f = Fixture::new();
    f.accepted(110, 0, 5, 7);
    f.accepted(120, 5, 9, 8);
    f.channel.flush_upto(115);
    assert_eq!(f.channel.due(f.now, &IDLE), [Target::Segment(7)]);
}

#[test]
fn buffers_are_due_by_size_by_age_and_on_demand() {
    let mut f = Fixture::new();
    f.accepted(110, 0, 5, 7);
    assert!(f.channel.due(f.now, &IDLE).is_empty());
    let small = Limits {
        segment_sync_bytes: 10,
        ..IDLE
    };
    assert_eq!(f.channel.due(f.now, &small), [Target::Segment(7)]);
    let later = f.now + IDLE.sync_interval;
    assert_eq!(f.channel.due(later, &IDLE), [Target::Segment(7)]);
    let upto = f.channel.sync_all();
    assert_eq!(f.channel.due(f.now, &IDLE), [Target::Segment(7)]);
    assert!(!f.channel.is_saved_upto(upto));
    f.save(7);
    assert!(f.channel.is_saved_upto(upto));
    // What comes after the demand is not covered by it.
    f.accepted(111, 5, 9, 7);
    assert!(f.channel.is_saved_upto(upto));
    assert!(f.channel.due(f.now, &IDLE).is_empty());
}

#[test]
fn refused_rows_are_taken_again_but_never_those_stored_elsewhere() {
    let mut f = Fixture::new();
    f.accepted(101, 0, 10, 7);
    let job = f.take(7);
    f.channel.segment_refused(&job, false);
    assert_eq!(f.channel.losses(), 1);
    assert_eq!(f.channel.current_checkpoint(), 100);
    f.channel.learn_stored(&stored(0, 4));
    assert_eq!(f.accepted(102, 0, 10, 7), (6, 4));
}

#[test]
fn a_segment_that_is_gone_takes_its_buffered_rows_with_it() {
    let mut f = Fixture::new();
    f.accepted(101, 0, 5, 7);
    let job = f.take(7);
    f.accepted(102, 5, 9, 7);
    f.channel.segment_refused(&job, true);
    assert_eq!(f.channel.held(), (0, 0));
    assert!(f.channel.statistics().is_empty());
    assert_eq!(f.accepted(103, 0, 9, 8), (9, 0));
    drop(job);
    let held = f.channel.held().1;
    assert_eq!(f.memory.used_bytes(), held);
}

#[test]
fn deletes_are_gathered_by_partition_and_drained_with_the_rows() {
    let mut f = Fixture::new();
    for (partition, key, ts) in [(5, 1, 101), (5, 2, 103), (-1, 3, 102)] {
        let memory = f.memory.reserve(16).unwrap();
        let keys = ColumnData::Int64(vec![key]);
        f.channel
            .delete(partition, keys, ts, memory, f.now)
            .unwrap();
    }
    f.channel.draining = true;
    let due = f.channel.due(f.now, &IDLE);
    assert_eq!(due, [Target::Deletes(-1), Target::Deletes(5)]);
    assert!(f.channel.begin_sync(due[1]));
    let Some(Job::Deletes(job)) = f.channel.take(due[1]) else {
        panic!("a delete job was expected");
    };
    assert_eq!(job.rows.keys, ColumnData::Int64(vec![1, 2]));
    assert_eq!(job.rows.timestamps, [101, 103]);
    assert_eq!((job.timestamp_from, job.timestamp_to), (101, 103));
    f.channel.deletes_done(&job, true);
    assert_eq!(f.channel.due(f.now, &IDLE), [Target::Deletes(-1)]);
    assert!(!f.channel.is_drained());
    assert!(f.channel.begin_sync(due[0]));
    let Some(Job::Deletes(job)) = f.channel.take(due[0]) else {
        panic!("a delete job was expected");
    };
    f.channel.deletes_done(&job, true);
    assert!(f.channel.is_drained());
}

#[test]
fn positions_say_how_far_each_stream_is_stored() {
    let mut f = Fixture::with(&VchannelInfo::default(), stored(0, 4));
    f.accepted(101, 4, 10, 7);
    let next = |f: &Fixture| {
        let position = f.channel.position(1);
        position::decode(&position.msg_id).unwrap()[STREAM]
    };
    assert_eq!(next(&f), 4);
    let job = f.take(7);
    assert_eq!(f.channel.next_after(&job)[STREAM], 10);
    f.channel.segment_saved(&job);
    assert_eq!(next(&f), 10);
}
