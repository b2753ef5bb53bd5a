#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::model::SegmentState;
use crate::pb::{ChannelRow, CollectionRow, Position};
use crate::state::{Change, Delta};

const POLICY: CompactPolicy = CompactPolicy {
    delete_ratio_permille: 200,
    delta_bytes_max: 1000,
    delta_files_max: 20,
    small_permille: 500,
    merge_inputs_min: 4,
    merge_inputs_max: 30,
    small_files_trigger: 10,
    leftover_permille: 150,
    expansion_permille: 1250,
    max_size_bytes: 1000,
    max_rows: 1_000_000,
    level0_bytes_min: 100,
    level0_files_min: 3,
    level0_bytes_max: 500,
    level0_files_max: 10,
    timeout_ms: 900_000,
};
const DAY_MS: u64 = 86_400_000;

fn segment(id: i64, size_bytes: u64) -> Segment {
    let row = pb::SegmentRow {
        id,
        collection_id: 1,
        partition_id: 2,
        channel: "c".into(),
        state: SegmentState::Flushed as u32,
        level: Level::L1 as u32,
        rows: 100,
        max_rows: 1000,
        size_bytes,
        files: 1,
        start_ts: 10,
        dml_ts: 20,
        opened_at: 1,
        ..Default::default()
    };
    Segment::from_row(&row, |name| Arc::from(name)).unwrap()
}

fn level0(id: i64, size_bytes: u64, at: u64) -> Segment {
    Segment {
        level: Level::L0,
        rows: 0,
        delta_rows: 5,
        start: Ts(at),
        dml: Ts(at),
        ..segment(id, size_bytes)
    }
}

/// A collection with a channel whose checkpoint is at 1000.
fn state(segments: Vec<Segment>) -> State {
    let mut changes = vec![
        Change::Collection(CollectionRow {
            id: 1,
            channels: vec!["c".into()],
            ..Default::default()
        }),
        Change::Channel(ChannelRow {
            name: "c".into(),
            collection_id: 1,
            checkpoint: Some(Position {
                ts: 1000,
                ..Default::default()
            }),
            ..Default::default()
        }),
    ];
    changes.extend(segments.into_iter().map(Change::Segment));
    let mut state = State::new();
    merge(&mut state, changes);
    state
}

fn merge(state: &mut State, changes: Vec<Change>) {
    state.merge(&Delta {
        changes,
        events: vec![],
    });
}

fn task(id: i64, kind: CompactionKind, inputs: &[i64], targets: &[i64]) -> Change {
    let inputs = inputs.iter().map(|&segment_id| pb::SegmentRev {
        segment_id,
        files_rev: 0,
    });
    let plan = pb::StartCompaction {
        plan_id: id,
        kind: kind.into(),
        channel: "c".into(),
        inputs: inputs.collect(),
        targets: targets.to_vec(),
        ..Default::default()
    };
    Change::Compaction(Arc::new(pb::CompactionRow {
        plan: Some(plan),
        state: pb::CompactionState::Pending.into(),
        ..Default::default()
    }))
}

fn group() -> Group {
    Group {
        collection: CollectionId(1),
        partition: PartitionId(2),
        channel: Arc::from("c"),
    }
}

fn plan(state: &State, forced: bool) -> Plan {
    plan_group(state, &group(), Ts(2), &POLICY, forced)
}

fn inputs(task: &Planned) -> Vec<i64> {
    task.inputs.iter().map(|input| input.segment_id).collect()
}

fn skip_of(plan: &Plan, id: i64) -> Option<Skip> {
    let id = SegmentId(id);
    plan.skipped.iter().find(|(of, _)| *of == id).map(|s| s.1)
}

#[test]
fn small_segments_that_fill_one_are_merged() {
    let sizes = [300, 250, 200, 150, 40];
    let segments = sizes.iter().zip(1..).map(|(&size, id)| segment(id, size));
    let plan = plan(&state(segments.collect()), false);
    assert_eq!(plan.tasks.len(), 1);
    assert_eq!(plan.tasks[0].kind, CompactionKind::Merge);
    assert_eq!(inputs(&plan.tasks[0]), [1, 2, 3, 4, 5]);
    assert_eq!(plan.tasks[0].rows, 500);
}

#[test]
fn few_small_segments_wait_until_they_are_many_or_somebody_asks() {
    let few: Vec<_> = (1..=10).map(|id| segment(id, 10)).collect();
    let waiting = state(few.clone());
    assert_eq!(plan(&waiting, false).tasks, []);
    assert_eq!(skip_of(&plan(&waiting, false), 1), Some(Skip::TooFew));
    assert_eq!(plan(&waiting, true).tasks.len(), 1);
    let mut many = few;
    many.push(segment(11, 10));
    assert_eq!(inputs(&plan(&state(many), false).tasks[0]).len(), 11);
    let alone = state(vec![segment(1, 10), segment(2, 900)]);
    assert_eq!(plan(&alone, true).tasks, []);
    assert_eq!(skip_of(&plan(&alone, true), 2), Some(Skip::WithinLimits));
}

#[test]
fn capacity_counts_in_rows_too() {
    let full = |id| Segment {
        rows: 900_000,
        ..segment(id, 10)
    };
    let state = state((1..=20).map(full).collect());
    assert_eq!(plan(&state, true).tasks, []);
}

#[test]
fn many_deletes_are_rewritten_and_take_small_ones_along() {
    let deleted = |id, size, delta_rows| Segment {
        delta_rows,
        ..segment(id, size)
    };
    let one = state(vec![deleted(1, 2000, 20), deleted(2, 900, 19)]);
    let alone = plan(&one, false);
    assert_eq!(alone.tasks.len(), 1, "an over-full one goes alone");
    assert_eq!(alone.tasks[0].kind, CompactionKind::Mix);
    assert_eq!(inputs(&alone.tasks[0]), [1]);
    assert_eq!(skip_of(&alone, 2), Some(Skip::WithinLimits));
    assert_eq!(plan(&one, true).tasks.len(), 2);

    let with = state(vec![deleted(1, 700, 50), segment(2, 200), segment(3, 300)]);
    let task = &plan(&with, false).tasks[0];
    assert_eq!(task.kind, CompactionKind::Merge);
    assert_eq!(inputs(task), [1, 2, 3], "the last one squeezed in: 1200");

    let bytes = Segment {
        delta_rows: 1,
        delta_bytes: 1001,
        ..segment(1, 900)
    };
    let files = Segment {
        delta_rows: 1,
        delta_files: 21,
        ..segment(2, 900)
    };
    assert_eq!(plan(&state(vec![bytes, files]), false).tasks.len(), 2);
}

#[test]
fn the_score_weighs_deletes_fragments_age_and_size() {
    let old = Segment {
        delta_rows: 50,
        opened_at: Ts::from_ms(DAY_MS),
        ..segment(1, 900)
    };
    let now = Ts::from_ms(16 * DAY_MS);
    // 0.4 · 0.5 + 0.3 · 0 + 0.2 · 15/30
    assert_eq!(score(&[&old], now, &POLICY), 300);
    let all = Segment {
        delta_rows: 1000,
        size_bytes: 499,
        ..old
    };
    // Each factor is clamped: 0.4 + 0.3 + 0.2 + nothing for 499 bytes.
    assert_eq!(score(&[&all], Ts::from_ms(90 * DAY_MS), &POLICY), 900);
}

#[test]
fn tasks_come_by_score() {
    let deleted = |id, delta_rows| Segment {
        delta_rows,
        ..segment(id, 900)
    };
    let state = state(vec![deleted(1, 30), deleted(2, 90), deleted(3, 60)]);
    let order: Vec<_> = plan(&state, false).tasks.iter().map(inputs).collect();
    assert_eq!(order, [[2], [3], [1]]);
}

#[test]
fn deletes_of_level_zero_go_first_and_to_every_older_flushed_segment() {
    let mut segments: Vec<_> = (1..=11).map(|id| segment(id, 10)).collect();
    segments.push(Segment {
        start: Ts(500),
        ..segment(12, 10)
    });
    segments.push(level0(20, 60, 400));
    segments.push(level0(21, 60, 300));
    let plan = plan(&state(segments), false);
    assert_eq!(plan.tasks.len(), 1);
    assert_eq!(plan.tasks[0].kind, CompactionKind::Level0);
    assert_eq!(inputs(&plan.tasks[0]), [21, 20], "by position");
    let targets: Vec<_> = plan.tasks[0].targets.iter().map(|id| id.0).collect();
    assert_eq!(targets, (1..=11).collect::<Vec<_>>());
    assert_eq!(skip_of(&plan, 1), Some(Skip::DeletesFirst));
}

#[test]
fn deletes_wait_for_rows_that_are_not_saved_or_not_flushed() {
    let growing = |start| Segment {
        state: SegmentState::Growing,
        start: Ts(start),
        ..segment(5, 0)
    };
    let ask = |segments: Vec<Segment>| {
        let plan = plan(&state(segments), true);
        (plan.tasks.len(), skip_of(&plan, 20))
    };
    assert_eq!(ask(vec![level0(20, 10, 1000)]), (1, None));
    assert_eq!(
        ask(vec![level0(20, 10, 1001)]),
        (0, Some(Skip::CheckpointBehind))
    );
    assert_eq!(ask(vec![level0(20, 10, 0)]), (0, Some(Skip::NoPosition)));
    assert_eq!(
        ask(vec![level0(20, 10, 300), growing(300)]),
        (0, Some(Skip::Growing(SegmentId(5))))
    );
    assert_eq!(ask(vec![level0(20, 10, 299), growing(300)]), (1, None));
    // No rows of its own are saved: what it will get is above the checkpoint.
    assert_eq!(ask(vec![level0(20, 10, 300), growing(0)]), (1, None));
    let flushing = |start| Segment {
        state: SegmentState::Flushing,
        start: Ts(start),
        ..segment(6, 10)
    };
    assert_eq!(
        ask(vec![level0(20, 10, 300), flushing(100)]),
        (0, Some(Skip::TargetFlushing(SegmentId(6))))
    );
    assert_eq!(ask(vec![level0(20, 10, 300), flushing(300)]), (1, None));
}

#[test]
fn deletes_wait_to_be_worth_it_but_not_for_ever() {
    let two = state(vec![level0(20, 10, 300), level0(21, 10, 301)]);
    let early = plan(&two, false);
    assert_eq!(early.tasks, []);
    assert_eq!(skip_of(&early, 20), Some(Skip::NotEnough));
    let late = plan_group(&two, &group(), Ts::from_ms(700_000), &POLICY, false);
    assert_eq!(late.tasks.len(), 1, "none came for ten minutes");
    assert_eq!(late.tasks[0].targets, [], "nothing to delete from: dropped");
    let much = (0..9).map(|at| level0(20 + at, 100, 300)).collect();
    let plan = plan(&state(much), false);
    assert_eq!(inputs(&plan.tasks[0]).len(), 5, "no more than 500 bytes");
}

#[test]
fn deletes_and_rewriting_wait_for_each_other() {
    let mut segments: Vec<_> = (1..=11).map(|id| segment(id, 10)).collect();
    segments.push(level0(20, 200, 400));
    let mut state = state(segments);
    merge(
        &mut state,
        vec![task(90, CompactionKind::Merge, &[1, 2], &[])],
    );
    let blocked = plan(&state, false);
    assert_eq!(blocked.tasks, [], "no new merge gets in the way of deletes");
    assert_eq!(skip_of(&blocked, 20), Some(Skip::Excluded(90)));
    assert_eq!(skip_of(&blocked, 1), Some(Skip::Held(90)));
    let all: Vec<_> = (3..=11).collect();
    merge(
        &mut state,
        vec![
            Change::ForgetCompaction(90),
            task(91, CompactionKind::Level0, &[20], &all),
        ],
    );
    let busy = plan(&state, true);
    assert_eq!(busy.tasks, []);
    assert_eq!(skip_of(&busy, 1), Some(Skip::Excluded(91)));
    assert_eq!(skip_of(&busy, 3), Some(Skip::Held(91)));
}

#[test]
fn deletes_for_all_partitions_reach_all_and_hold_up_each() {
    let other = Segment {
        partition: PartitionId(3),
        ..segment(2, 10)
    };
    let everywhere = Segment {
        partition: PartitionId(-1),
        ..level0(20, 200, 400)
    };
    let state = state(vec![segment(1, 10), other, everywhere]);
    let all = Group {
        partition: PartitionId(-1),
        ..group()
    };
    assert_eq!(groups(&state).len(), 3);
    let task = &plan_group(&state, &all, Ts(2), &POLICY, false).tasks[0];
    assert_eq!(task.targets, [SegmentId(1), SegmentId(2)]);
    let held_up = plan(&state, true);
    assert_eq!(skip_of(&held_up, 1), Some(Skip::DeletesFirst));
}

proptest! {
    /// Nothing is packed twice or lost, no task is over its limits, and the same state plans the
    /// same.
    #[test]
    fn plans_are_sound(
        sizes in prop::collection::vec((1u64..1500, 0i64..60), 0..80),
        forced: bool,
    ) {
        let segments: Vec<_> = sizes.iter().zip(1..).map(|(&(size, delta_rows), id)| Segment {
            delta_rows,
            ..segment(id, size)
        }).collect();
        let all = state(segments.clone());
        let plan = plan(&all, forced);
        prop_assert_eq!(&plan, &super::plan_group(&all, &group(), Ts(2), &POLICY, forced));
        let mut seen: Vec<i64> = plan.tasks.iter().flat_map(inputs).collect();
        seen.extend(plan.skipped.iter().map(|(id, _)| id.0));
        seen.sort_unstable();
        prop_assert_eq!(seen, (1..=segments.len() as i64).collect::<Vec<_>>());
        for task in &plan.tasks {
            let ids = inputs(task);
            let size: u64 = ids.iter().map(|&id| segments[id as usize - 1].size_bytes).sum();
            prop_assert!(ids.len() <= POLICY.merge_inputs_max);
            prop_assert!(ids.len() == 1 || size <= 1250, "{:?}", task);
            prop_assert_eq!(ids.len() == 1, task.kind == CompactionKind::Mix);
        }
    }
}
