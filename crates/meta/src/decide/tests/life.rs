//! Whole lives of segments by random steps that mostly make sense, so that the random log gets far:
//! whatever a reader is given, it is every living row once.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::plan::compact::{CompactPolicy, groups, plan_group};
use crate::plan::{index_build, recovery};

#[derive(Clone, Debug)]
enum Step {
    Flush(u64),
    Delete(usize, i64),
    Compact {
        forced: bool,
        fail: bool,
        split: bool,
    },
    CreateIndex,
    DropIndex,
    Build(usize),
    Condemn(usize),
    Forget(usize),
    Later(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u64..20).prop_map(Step::Flush),
        3 => (0usize..9, 1i64..20).prop_map(|(at, rows)| Step::Delete(at, rows)),
        4 => any::<(bool, bool, bool)>().prop_map(|(forced, fail, split)| Step::Compact {
            forced,
            fail,
            split
        }),
        1 => Just(Step::CreateIndex),
        1 => Just(Step::DropIndex),
        5 => (0usize..9).prop_map(Step::Build),
        3 => (0usize..9).prop_map(Step::Condemn),
        2 => (0usize..9).prop_map(Step::Forget),
        1 => (0u64..HOUR_MS).prop_map(Step::Later),
    ];
    prop::collection::vec(step, 1..60)
}

/// A store, and what ids and times come next.
struct Life {
    store: Store,
    next_id: i64,
    at_ms: u64,
}

impl Life {
    fn new() -> Self {
        let mut store = Store::with_watched_channel();
        store.run(Command::ReserveIds(pb::ReserveIds { count: 1_000_000 }));
        Self {
            store,
            next_id: FIRST_ID + 100,
            at_ms: 10,
        }
    }

    fn ids(&mut self, count: i64) -> i64 {
        self.next_id += count;
        self.next_id - count
    }

    fn living(&self) -> Vec<&crate::model::Segment> {
        let all = self.store.state.segments_of(CollectionId(FIRST_ID));
        all.filter(|segment| {
            segment.state == SegmentState::Flushed && segment.level != crate::model::Level::L0
        })
        .collect()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Flush(rows) => {
                let id = self.ids(1);
                self.at_ms += 10;
                self.store.flushed(id, rows, self.at_ms);
            }
            Step::Delete(at, rows) => {
                let log = self.ids(1);
                self.at_ms += 10;
                // Level zero now and then, else straight to a segment.
                match self.living().get(at).map(|segment| segment.id.0) {
                    Some(id) => self.store.delete(id, log, rows, 2, self.at_ms),
                    None => self.store.delete(log, log, rows, 1, self.at_ms),
                }
                self.store.checkpoint(self.at_ms + 5);
            }
            Step::Compact {
                forced,
                fail,
                split,
            } => self.compact(forced, fail, split),
            Step::CreateIndex => {
                let id = self.ids(1);
                self.store
                    .run(Command::CreateIndex(create_index(id, 100, "v")));
            }
            Step::DropIndex => {
                self.store.run(Command::DropIndex(pb::DropIndex {
                    collection_id: FIRST_ID,
                    name: "v".into(),
                    all: false,
                }));
            }
            Step::Build(at) => {
                let missing = index_build::missing(&self.store.state, 100);
                if let Some(&(segment, index)) = missing.get(at) {
                    let id = self.ids(1);
                    self.store.done(open_build(id, segment.0, index));
                    self.store
                        .done(Command::AssignIndexBuild(pb::AssignIndexBuild {
                            build_id: id,
                            node_id: 1,
                            version: 1,
                        }));
                    self.store
                        .done(Command::FinishIndexBuild(finish_build(id, 1)));
                }
            }
            Step::Condemn(at) => {
                let id = self.store.state.dropped_segments().nth(at).map(|s| s.id.0);
                if let Some(id) = id {
                    self.store.run(condemn(&[id]));
                }
            }
            Step::Forget(at) => {
                let id = self.store.state.condemned().nth(at).map(|s| s.id.0);
                if let Some(id) = id {
                    self.store.done(forget(&[id]));
                }
            }
            Step::Later(ms) => {
                self.store
                    .later(ms, Command::ExpireTokens(pb::ExpireTokens {}));
            }
        }
    }

    /// Plans every group and carries each task out, or fails it.
    fn compact(&mut self, forced: bool, fail: bool, split: bool) {
        let policy = CompactPolicy {
            max_rows: 60,
            max_size_bytes: 1 << 20,
            ..Default::default()
        };
        let now = self.store.state.now();
        for group in groups(&self.store.state) {
            let plan = plan_group(&self.store.state, &group, now, &policy, forced);
            for task in plan.tasks {
                let base = self.ids(50);
                let started = self
                    .store
                    .run(Command::StartCompaction(pb::StartCompaction {
                        plan_id: base,
                        kind: task.kind.into(),
                        collection_id: group.collection.0,
                        partition_id: group.partition.0,
                        channel: group.channel.to_string(),
                        inputs: task.inputs.clone(),
                        targets: task.targets.iter().map(|id| id.0).collect(),
                        max_rows: policy.max_rows,
                        max_size_bytes: policy.max_size_bytes,
                        ..Default::default()
                    }));
                assert!(matches!(started, Outcome::Done(_)), "{started:?}");
                self.store.done(assign_compaction(base, 1, 0));
                if fail {
                    self.store.done(Command::FailCompaction(pb::FailCompaction {
                        plan_id: base,
                        reason: "r".into(),
                    }));
                } else {
                    self.finish(base, &task, split);
                }
            }
        }
    }

    fn finish(&mut self, base: i64, task: &crate::plan::compact::Planned, split: bool) {
        let inputs: Vec<i64> = task.inputs.iter().map(|input| input.segment_id).collect();
        if task.kind == pb::CompactionKind::Level0 {
            let mut result = self.store.result(base, &inputs, &[]);
            let targets = task.targets.iter().enumerate();
            result.deltas = targets
                .map(|(at, id)| pb::CompactionDeltas {
                    segment_id: id.0,
                    refs: vec![delta(base + 1 + (at as i64 % 49), 1)],
                })
                .take(49)
                .collect();
            self.store.done(Command::FinishCompaction(result));
            return;
        }
        let (mut rows, mut deleted) = (0, 0);
        for id in &inputs {
            let segment = self.store.state.segment(SegmentId(*id)).unwrap();
            rows += segment.rows;
            deleted += segment.delta_rows;
        }
        let left = (rows - deleted).max(0);
        let outputs = match left {
            0 => vec![],
            1 => vec![(base + 1, 1)],
            _ if split => vec![(base + 1, 1), (base + 2, left - 1)],
            _ => vec![(base + 1, left)],
        };
        let result = self.store.result(base, &inputs, &outputs);
        self.store.done(Command::FinishCompaction(result));
    }

    /// Each living segment is given to readers itself, or all that it was made of is; that nothing is
    /// given twice is an invariant.
    fn check(&self) {
        assert_eq!(violations(&self.store.state), Vec::<String>::new());
        let given: BTreeSet<SegmentId> =
            recovery::view(&self.store.state, CollectionId(FIRST_ID), &[])
                .into_iter()
                .flat_map(|view| view.flushed)
                .collect();
        for segment in self.living() {
            assert!(
                self.is_given(segment.id, &given),
                "rows of {} are missing in {given:?}",
                segment.id
            );
        }
    }

    fn is_given(&self, id: SegmentId, given: &BTreeSet<SegmentId>) -> bool {
        if given.contains(&id) {
            return true;
        }
        let parents = self.store.state.parents_of(id);
        !parents.is_empty() && parents.iter().all(|parent| self.is_given(*parent, given))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn readers_are_given_every_living_row_once(steps in steps()) {
        let mut life = Life::new();
        for step in steps {
            life.step(step);
            life.check();
        }
        prop_assert_eq!(&life.store.reloaded(), &life.store.state);
    }
}
