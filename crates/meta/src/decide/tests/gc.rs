//! Condemned first, forgotten last.

use super::*;
use crate::plan::gc::{GcPolicy, Known, Object, Wait, known, may_condemn, may_delete};

const A: i64 = FIRST_ID + 5;
const B: i64 = FIRST_ID + 6;
const PLAN: i64 = FIRST_ID + 100;
const OUT: i64 = PLAN + 1;
const INDEX: i64 = FIRST_ID + 50;

const POLICY: GcPolicy = GcPolicy {
    drop_tolerance_ms: HOUR_MS,
    condemn_grace_ms: HOUR_MS,
};

/// A and B compacted into OUT, which is not indexed yet.
fn compacted() -> Store {
    let mut store = Store::with_watched_channel();
    store.flushed(A, 10, 1);
    store.flushed(B, 20, 2);
    store.done(Command::CreateIndex(create_index(INDEX, 100, "v")));
    store.compact(PLAN, &[A, B], &[(OUT, 30)]);
    store.checkpoint(5000);
    store
}

impl Store {
    fn may_condemn(&self, id: i64, after_ms: u64) -> Result<(), Wait> {
        let segment = self.state.segment(SegmentId(id)).unwrap();
        let now = self.state.now().plus_ms(after_ms);
        may_condemn(&self.state, segment, now, &POLICY)
    }
}

#[test]
fn a_parent_waits_for_its_time_and_for_its_child() {
    let mut store = compacted();
    assert_eq!(store.may_condemn(OUT, 0), Err(Wait::Alive));
    assert!(matches!(
        store.may_condemn(A, 0),
        Err(Wait::Tolerance { .. })
    ));
    let child = Err(Wait::ChildNotReady(SegmentId(OUT)));
    assert_eq!(store.may_condemn(A, 2 * HOUR_MS), child);
    assert_eq!(store.refused(condemn(&[A, B])), Reason::IllegalState);
    // A second generation: the grandparents wait for it, too.
    store.build(FIRST_ID + 60, OUT, INDEX);
    assert_eq!(store.may_condemn(A, 2 * HOUR_MS), Ok(()));
    store.delete(OUT, 900, 5, 2, 9);
    store.compact(PLAN + 60, &[OUT], &[(PLAN + 61, 25)]);
    let grandchild = Err(Wait::ChildNotReady(SegmentId(PLAN + 61)));
    assert_eq!(store.may_condemn(A, 2 * HOUR_MS), grandchild);
    store.build(FIRST_ID + 61, PLAN + 61, INDEX);
    assert_eq!(store.may_condemn(A, 2 * HOUR_MS), Ok(()));
    assert_eq!(store.may_condemn(OUT, 2 * HOUR_MS), Ok(()));
}

#[test]
fn a_segment_above_the_checkpoint_waits_for_it() {
    let mut store = Store::with_watched_channel();
    store.flushed(A, 10, 5000);
    store.delete(A, 900, 10, 2, 9);
    store.executing(store.plan(PLAN, pb::CompactionKind::Mix, &[A]));
    let empty = store.result(PLAN, &[A], &[]);
    store.done(Command::FinishCompaction(empty));
    assert_eq!(
        store.may_condemn(A, 2 * HOUR_MS),
        Err(Wait::CheckpointBehind)
    );
    store.checkpoint(6000);
    assert_eq!(store.may_condemn(A, 2 * HOUR_MS), Ok(()));
}

#[test]
fn condemned_then_forgotten_with_all_that_belongs_to_it() {
    let mut store = compacted();
    store.build(FIRST_ID + 60, OUT, INDEX);
    assert!(matches!(store.run(forget(&[A])), Outcome::Already(_)));
    store.later(2 * HOUR_MS, condemn(&[A]));
    let segment = store.state.segment(SegmentId(A)).unwrap();
    let delete = |store: &Store, ms: u64| {
        let now = store.state.now().plus_ms(ms);
        may_delete(&store.state, segment, now, &POLICY)
    };
    assert!(matches!(delete(&store, 0), Err(Wait::Tolerance { .. })));
    assert_eq!(delete(&store, HOUR_MS + 1), Ok(()));
    assert_eq!(store.state.condemned().count(), 1);
    assert_eq!(store.state.dropped_segments().count(), 1);
    store.done(forget(&[A]));
    assert!(store.state.segment(SegmentId(A)).is_none());
    let file = insert(A, 10);
    let key = crate::state::key::binlog(SegmentId(A), &file);
    assert!(!store.rows.contains_key(&key));
    assert!(
        store.state.parents_of(SegmentId(OUT)).is_empty(),
        "a child without one of its parents can never go back"
    );
    assert_eq!(violations(&store.state), Vec::<String>::new());
    assert_eq!(store.reloaded(), store.state);
}

#[test]
fn a_carried_log_outlives_the_segment_in_whose_folder_it_lies() {
    let mut store = Store::with_watched_channel();
    store.flushed(A, 10, 1);
    store.executing(store.plan(PLAN, pb::CompactionKind::Mix, &[A]));
    store.delete(A, 900, 3, 2, 9);
    let mut result = store.result(PLAN, &[A], &[(OUT, 10)]);
    let mut file = delta(900, 3);
    file.path = "delta_log/1/2/3/900".into();
    result.carried = vec![pb::CompactionDeltas {
        segment_id: A,
        refs: vec![file],
    }];
    store.done(Command::FinishCompaction(result));
    store.checkpoint(5000);
    let object = Object::Log {
        segment: SegmentId(A),
        log_id: 900,
    };
    store.later(2 * HOUR_MS, condemn(&[A]));
    store.done(forget(&[A]));
    assert_eq!(known(&store.state, &object), Known::Yes);
    store.compact(PLAN + 60, &[OUT], &[(PLAN + 61, 7)]);
    store.later(2 * HOUR_MS, condemn(&[OUT]));
    assert_eq!(known(&store.state, &object), Known::Yes);
    store.done(forget(&[OUT]));
    assert_eq!(known(&store.state, &object), Known::SegmentUnknown);
    assert_eq!(store.reloaded(), store.state);
}

#[test]
fn objects_of_live_tries_are_known_and_those_of_earlier_ones_are_not() {
    let mut store = Store::with_watched_channel();
    store.flushed(A, 10, 1);
    let log = |segment: i64, log_id: i64| Object::Log {
        segment: SegmentId(segment),
        log_id,
    };
    assert_eq!(known(&store.state, &log(A, A)), Known::AskSegment);
    assert_eq!(known(&store.state, &log(OUT, OUT)), Known::SegmentUnknown);
    store.executing(store.plan(PLAN, pb::CompactionKind::Mix, &[A]));
    assert_eq!(known(&store.state, &log(OUT, 1)), Known::Yes);
    assert_eq!(known(&store.state, &log(A, PLAN + 3)), Known::Yes);
    store.done(assign_compaction(PLAN, 0, 1));
    assert_eq!(known(&store.state, &log(OUT, OUT)), Known::SegmentUnknown);

    let index = |version: u32| Object::Index {
        build_id: FIRST_ID + 60,
        version,
    };
    assert_eq!(known(&store.state, &index(1)), Known::SegmentUnknown);
    store.done(Command::CreateIndex(create_index(INDEX, 100, "v")));
    store.build(FIRST_ID + 60, A, INDEX);
    assert_eq!(known(&store.state, &index(1)), Known::Yes);
    assert_eq!(known(&store.state, &index(0)), Known::SegmentUnknown);
}

#[test]
fn collections_and_partitions_are_forgotten_when_nothing_of_them_is_left() {
    let mut store = compacted();
    store.done(Command::CreatePartition(pb::CreatePartition {
        collection_id: FIRST_ID,
        id: FIRST_ID + 40,
        name: "p".into(),
    }));
    store.done(Command::DropPartition(pb::DropPartition {
        collection_id: FIRST_ID,
        name: "p".into(),
    }));
    let forget_collection = Command::ForgetCollections(pb::ForgetCollections {
        collection_ids: vec![FIRST_ID],
    });
    store.done(forget_collection.clone());
    let row = store.state.collection(CollectionId(FIRST_ID)).unwrap();
    assert_eq!(row.partitions.len(), 1);
    let late_writer = Command::OpenSegment(pb::OpenSegment {
        id: FIRST_ID + 41,
        collection_id: FIRST_ID,
        partition_id: FIRST_ID + 40,
        channel: "ch".into(),
        max_rows: 10,
        ..Default::default()
    });
    assert!(
        matches!(
            store.run(late_writer),
            Outcome::Rejected(Reason::PartitionNotFound, _)
        ),
        "a forgotten partition takes no rows"
    );
    store.done(Command::DropCollection(pb::DropCollection { id: FIRST_ID }));
    assert!(matches!(
        store.run(forget_collection.clone()),
        Outcome::Already(_)
    ));
    // Condemning rewrites what only a tombstone says.
    store.done(condemn(&[A, B, OUT]));
    store.done(forget(&[A, B, OUT]));
    store.run(Command::ReleaseChannel(pb::ReleaseChannel {
        channel: "ch".into(),
        op_id: 30,
    }));
    store.run(step("ch", 30, true));
    store.run(step("ch", 30, true));
    store.done(Command::RemoveChannel(pb::RemoveChannel {
        channel: "ch".into(),
    }));
    assert!(matches!(
        store.run(forget_collection.clone()),
        Outcome::Already(_)
    ));
    store.done(Command::ForgetIndexes(pb::ForgetIndexes {
        build_ids: vec![],
        index_ids: vec![INDEX],
    }));
    store.done(forget_collection);
    assert!(store.state.collection(CollectionId(FIRST_ID)).is_none());
    assert_eq!(store.reloaded(), store.state);
}

#[test]
fn the_longest_pause_holds_until_it_is_resumed_or_over() {
    let mut store = compacted();
    store.build(FIRST_ID + 60, OUT, INDEX);
    store.later(2 * HOUR_MS, Command::ExpireTokens(pb::ExpireTokens {}));
    let now = store.state.now();
    let pause = |ticket: &str, collection_id: i64, ms: u64| {
        Command::PauseGc(pb::PauseGc {
            ticket: ticket.into(),
            collection_id,
            until: now.plus_ms(ms).0,
        })
    };
    store.done(pause("a", 0, 1000));
    store.done(pause("b", FIRST_ID, 9000));
    store.done(pause("c", FIRST_ID + 1, 99_000));
    assert!(matches!(
        store.run(pause("b", FIRST_ID, 9000)),
        Outcome::Already(_)
    ));
    let until = now.plus_ms(9000);
    assert_eq!(store.may_condemn(A, 0), Err(Wait::Paused { until }));
    assert_eq!(store.may_condemn(A, 20_000), Ok(()));
    store.done(Command::ResumeGc(pb::ResumeGc {
        ticket: "b".into(),
        collection_id: 0,
    }));
    let until = now.plus_ms(1000);
    assert_eq!(store.may_condemn(A, 0), Err(Wait::Paused { until }));
    store.done(Command::ResumeGc(pb::ResumeGc::default()));
    assert_eq!(store.may_condemn(A, 0), Ok(()));
    assert_eq!(store.reloaded(), store.state);
}
