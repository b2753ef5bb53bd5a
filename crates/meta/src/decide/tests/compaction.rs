//! Compaction tasks and their results.

use pb::CompactionKind::{Level0, Merge, Mix};
use pb::CompactionState;

use super::*;

const A: i64 = FIRST_ID + 5;
const B: i64 = FIRST_ID + 6;
const PLAN: i64 = FIRST_ID + 100;
const OUT: i64 = PLAN + 1;

fn two_flushed() -> Store {
    let mut store = Store::with_watched_channel();
    store.flushed(A, 10, 1);
    store.flushed(B, 20, 2);
    store
}

impl Store {
    fn task(&self, plan_id: i64) -> &pb::CompactionRow {
        self.state.compaction(plan_id).unwrap()
    }
}

#[test]
fn outputs_take_the_place_of_inputs_in_one_command() {
    let mut store = two_flushed();
    store.compact(PLAN, &[A, B], &[(OUT, 30)]);
    assert_eq!(store.state_of(A), SegmentState::Dropped);
    let out = store.state.segment(SegmentId(OUT)).unwrap();
    let (a, b) = (
        store.state.segment(SegmentId(A)).unwrap(),
        store.state.segment(SegmentId(B)).unwrap(),
    );
    assert_eq!((out.start, out.dml), (a.start, b.dml));
    assert_eq!((out.state, out.rows), (SegmentState::Flushed, 30));
    assert!(out.compacted_from && a.compacted && !a.dropped_at.is_zero());
    assert_eq!(store.state.parents_of(out.id), [SegmentId(A), SegmentId(B)]);
    assert_eq!(store.state.children_of(SegmentId(B)), [out.id]);
    assert_eq!(store.state.held_by(SegmentId(A)), None);
    assert_eq!(store.task(PLAN).state(), CompactionState::Completed);
    let again = store.result(PLAN, &[A, B], &[(OUT, 30)]);
    assert!(matches!(
        store.run(Command::FinishCompaction(again)),
        Outcome::Already(_)
    ));
    assert_eq!(violations(&store.state), Vec::<String>::new());
    assert_eq!(store.reloaded(), store.state);
}

#[test]
fn a_segment_is_held_by_one_task_until_it_ends() {
    let mut store = two_flushed();
    let plan = store.plan(PLAN, Merge, &[A, B]);
    store.done(Command::StartCompaction(plan.clone()));
    assert!(matches!(
        store.run(Command::StartCompaction(plan.clone())),
        Outcome::Already(_)
    ));
    let mut other = plan.clone();
    other.max_rows = 7;
    assert_eq!(
        store.refused(Command::StartCompaction(other)),
        Reason::Exists
    );
    let second = store.plan(PLAN + 1, Mix, &[A]);
    assert_eq!(
        store.refused(Command::StartCompaction(second.clone())),
        Reason::IllegalState
    );
    let fail = Command::FailCompaction(pb::FailCompaction {
        plan_id: PLAN,
        reason: "no".into(),
    });
    store.done(fail.clone());
    assert!(matches!(store.run(fail), Outcome::Already(_)));
    store.done(Command::StartCompaction(second));
    let forget = |plan_ids: &[i64]| {
        Command::ForgetCompactions(pb::ForgetCompactions {
            plan_ids: plan_ids.to_vec(),
        })
    };
    store.done(forget(&[PLAN, PLAN + 1]));
    assert!(store.state.compaction(PLAN).is_none());
    assert!(store.state.compaction(PLAN + 1).is_some());
}

#[test]
fn an_input_is_checked_again_when_the_task_starts() {
    let mut store = two_flushed();
    let stale = store.plan(PLAN, Mix, &[A]);
    store.delete(A, 900, 1, 2, 9);
    assert_eq!(
        store.refused(Command::StartCompaction(stale)),
        Reason::FilesChanged
    );
    store.done(open(FIRST_ID + 7));
    let growing = store.plan(PLAN, Mix, &[FIRST_ID + 7]);
    assert_eq!(
        store.refused(Command::StartCompaction(growing)),
        Reason::IllegalState
    );
    let mut elsewhere = store.plan(PLAN, Mix, &[A]);
    elsewhere.partition_id += 1;
    assert_eq!(
        store.refused(Command::StartCompaction(elsewhere)),
        Reason::Invalid
    );
    let twice = store.plan(PLAN, Merge, &[A, A]);
    assert_eq!(
        store.refused(Command::StartCompaction(twice)),
        Reason::Invalid
    );
}

#[test]
fn a_result_counts_only_from_the_try_under_way() {
    let mut store = two_flushed();
    store.executing(store.plan(PLAN, Merge, &[A, B]));
    let result = store.result(PLAN, &[A, B], &[(OUT, 30)]);
    let unknown = pb::FinishCompaction {
        plan_id: PLAN + 9,
        ..result.clone()
    };
    assert_eq!(
        store.refused(Command::FinishCompaction(unknown)),
        Reason::IllegalState
    );
    store.done(assign_compaction(PLAN, 0, 1));
    assert!(matches!(
        store.run(assign_compaction(PLAN, 0, 1)),
        Outcome::Already(_)
    ));
    assert_eq!(
        store.refused(Command::FinishCompaction(result.clone())),
        Reason::IllegalState
    );
    store.done(assign_compaction(PLAN, 1, 1));
    assert_eq!(
        store.refused(Command::FinishCompaction(result.clone())),
        Reason::IllegalState
    );
    let current = pb::FinishCompaction {
        attempt: 2,
        ..result
    };
    store.done(Command::FinishCompaction(current));
}

#[test]
fn a_task_goes_to_registered_nodes_and_with_ids_that_were_handed_out() {
    let mut store = two_flushed();
    let plan = store.plan(PLAN, Mix, &[A]);
    store.done(Command::StartCompaction(plan));
    assert_eq!(
        store.refused(assign_compaction(PLAN, 77, 0)),
        Reason::NodeNotFound
    );
    let ids = pb::IdRange {
        begin: 1 << 40,
        end: (1 << 40) + 1,
    };
    let foreign = Command::AssignCompaction(pb::AssignCompaction {
        plan_id: PLAN,
        node_id: 1,
        attempt: 0,
        segment_ids: Some(ids),
        log_ids: Some(ids),
    });
    assert_eq!(store.refused(foreign), Reason::Invalid);
    store.done(assign_compaction(PLAN, 1, 0));
    assert!(matches!(
        store.run(assign_compaction(PLAN, 1, 0)),
        Outcome::Already(_)
    ));
    assert_eq!(store.task(PLAN).attempt, 1);
}

#[test]
fn a_node_that_lies_about_rows_is_refused() {
    let mut store = two_flushed();
    store.executing(store.plan(PLAN, Merge, &[A, B]));
    let good = store.result(PLAN, &[A, B], &[(OUT, 30)]);
    type Lie = fn(&mut pb::FinishCompaction);
    let lies: [(&str, Lie); 8] = [
        ("more rows than there were", |r| {
            r.outputs[0].rows = 31;
            r.outputs[0].refs[0].rows = 31;
        }),
        ("fewer rows, and nothing deleted", |r| {
            r.outputs[0].rows = 29;
            r.outputs[0].refs[0].rows = 29;
        }),
        ("no rows", |r| r.outputs.clear()),
        ("files that hold fewer rows", |r| {
            r.outputs[0].refs[0].rows = 20
        }),
        ("an output id never handed out", |r| {
            r.outputs[0].segment_id = PLAN + 60
        }),
        ("a log id never handed out", |r| {
            r.outputs[0].refs[0].log_id = PLAN + 60
        }),
        ("another plan's inputs", |r| {
            r.inputs.pop();
        }),
        ("a field with other rows", |r| {
            let mut other = insert(PLAN + 3, 29);
            other.field_id = 101;
            r.outputs[0].refs.push(other);
        }),
    ];
    for (what, lie) in lies {
        let mut result = good.clone();
        lie(&mut result);
        let outcome = store.run(Command::FinishCompaction(result));
        assert!(
            matches!(outcome, Outcome::Rejected(Reason::Invalid, _)),
            "{what}: {outcome:?}"
        );
    }
    store.done(Command::FinishCompaction(good));
}

#[test]
fn an_empty_result_drops_inputs_only_when_every_row_is_deleted() {
    let mut store = two_flushed();
    store.delete(A, 900, 9, 2, 9);
    store.executing(store.plan(PLAN, Mix, &[A]));
    let empty = store.result(PLAN, &[A], &[]);
    assert_eq!(
        store.refused(Command::FinishCompaction(empty)),
        Reason::Invalid
    );
    store.delete(A, 901, 1, 2, 9);
    let empty = store.result(PLAN, &[A], &[]);
    store.done(Command::FinishCompaction(empty));
    assert_eq!(store.state_of(A), SegmentState::Dropped);
    assert!(store.state.children_of(SegmentId(A)).is_empty());
}

#[test]
fn deletes_that_came_meanwhile_pass_to_the_outputs() {
    let mut store = two_flushed();
    store.executing(store.plan(PLAN, Merge, &[A, B]));
    let early = store.result(PLAN, &[A, B], &[(OUT, 30)]);
    store.delete(A, 900, 3, 2, 9);
    assert_eq!(
        store.refused(Command::FinishCompaction(early)),
        Reason::FilesChanged
    );
    let mut result = store.result(PLAN, &[A, B], &[(OUT, 10), (OUT + 1, 20)]);
    let mut file = delta(900, 3);
    file.path = "delta_log/1/2/3/900".into();
    result.carried = vec![pb::CompactionDeltas {
        segment_id: A,
        refs: vec![file.clone()],
    }];
    let mut pathless = result.clone();
    pathless.carried[0].refs[0].path.clear();
    assert_eq!(
        store.refused(Command::FinishCompaction(pathless)),
        Reason::Invalid
    );
    store.done(Command::FinishCompaction(result));
    let row = store.state.carried(900).unwrap();
    assert_eq!(row.holders, [OUT, OUT + 1]);
    let key = |id: i64| crate::state::key::binlog(SegmentId(id), &file);
    assert!(!store.rows.contains_key(&key(A)));
    assert!(store.rows.contains_key(&key(OUT)) && store.rows.contains_key(&key(OUT + 1)));
    for id in [OUT, OUT + 1] {
        assert_eq!(store.state.segment(SegmentId(id)).unwrap().delta_rows, 3);
    }
    assert_eq!(store.state.segment(SegmentId(A)).unwrap().delta_rows, 0);
    assert_eq!(violations(&store.state), Vec::<String>::new());
}

fn level0_plan(store: &Store, input: i64, targets: &[i64]) -> pb::StartCompaction {
    let mut plan = store.plan(PLAN, Level0, &[input]);
    plan.targets = targets.to_vec();
    plan
}

#[test]
fn deletes_of_level_zero_reach_their_targets_and_exclude_rewriting() {
    let mut store = two_flushed();
    let l0 = FIRST_ID + 8;
    store.delete(l0, 900, 4, 1, 50);
    let plan = level0_plan(&store, l0, &[A, B]);
    store.executing(plan);
    let merge = store.plan(PLAN + 60, Mix, &[A]);
    assert_eq!(
        store.refused(Command::StartCompaction(merge)),
        Reason::IllegalState
    );
    let mut result = store.result(PLAN, &[l0], &[]);
    let to = |segment_id: i64, log_id: i64| pb::CompactionDeltas {
        segment_id,
        refs: vec![delta(log_id, 2)],
    };
    result.deltas = vec![to(A, PLAN + 1), to(l0, PLAN + 2)];
    assert_eq!(
        store.refused(Command::FinishCompaction(result.clone())),
        Reason::Invalid
    );
    result.deltas = vec![to(A, PLAN + 1), to(B, PLAN + 2)];
    store.done(Command::FinishCompaction(result));
    assert_eq!(store.state_of(l0), SegmentState::Dropped);
    let a = store.state.segment(SegmentId(A)).unwrap();
    assert_eq!((a.delta_rows, a.delta_files, a.files_rev), (2, 1, 2));
    assert_eq!(violations(&store.state), Vec::<String>::new());
}

#[test]
fn a_drop_cancels_tasks_in_its_own_entry() {
    let drops = [
        Command::DropCollection(pb::DropCollection { id: FIRST_ID }),
        Command::DropVirtualChannel(pb::DropVirtualChannel {
            channel: "ch".into(),
            node_id: 1,
        }),
    ];
    for drop in drops {
        let mut store = two_flushed();
        store.executing(store.plan(PLAN, Merge, &[A, B]));
        let result = store.result(PLAN, &[A, B], &[(OUT, 30)]);
        store.done(drop);
        assert_eq!(store.task(PLAN).state(), CompactionState::Failed);
        assert!(store.state.held_by(SegmentId(A)).is_none());
        assert_eq!(
            store.refused(Command::FinishCompaction(result)),
            Reason::IllegalState
        );
        assert!(store.state.segment(SegmentId(OUT)).is_none());
    }
}

#[test]
fn a_task_fails_when_an_input_is_dropped_under_it() {
    let mut store = two_flushed();
    store.executing(store.plan(PLAN, Merge, &[A, B]));
    let mut drop = save(A, 1, 0, 0, 0..0);
    drop.refs.clear();
    drop.row_ranges.clear();
    drop.dropped = true;
    store.done(Command::SaveBinlogs(drop));
    assert_eq!(store.task(PLAN).state(), CompactionState::Failed);
    assert_eq!(store.task(PLAN).fail_reason, "an input was dropped");
    assert_eq!(store.state_of(B), SegmentState::Flushed);
}
