//! In which order compaction tasks are dispatched, and to which node (`semantics.md` §7).

use crate::pb::{CompactionKind, CompactionState};
use crate::state::State;
use crate::state::change::plan_id;
use crate::time::Ts;

/// Priority a waiting task gains in a minute, so that none starves (Milvus #37621).
const AGE_BOOST_PER_MINUTE: u64 = 20;

/// What a data node can still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Its id.
    pub node: i64,
    /// Free slots.
    pub free: u32,
}

/// Plan ids of the pending tasks, in the order of their dispatch: deletes first, then by priority,
/// which grows while a task waits; then first come, first served.
pub fn order(state: &State, now: Ts) -> Vec<i64> {
    let mut tasks: Vec<_> = state
        .live_compactions()
        .filter(|row| row.state() == CompactionState::Pending)
        .filter_map(|row| {
            let plan = row.plan.as_ref()?;
            let waited_minutes = now.ms_since(Ts(row.started_at)) / 60_000;
            let priority = u64::from(plan.priority) + waited_minutes * AGE_BOOST_PER_MINUTE;
            let not_level0 = plan.kind() != CompactionKind::Level0;
            let key = (not_level0, std::cmp::Reverse(priority), row.started_at);
            Some((key, plan_id(row)))
        })
        .collect();
    tasks.sort_unstable();
    tasks.into_iter().map(|(_, id)| id).collect()
}

/// The node with the most free slots that has `need` of them, the smallest id among equals.
pub fn pick(slots: &[Slots], need: u32) -> Option<i64> {
    slots
        .iter()
        .filter(|slots| slots.free >= need)
        .min_by_key(|slots| (std::cmp::Reverse(slots.free), slots.node))
        .map(|slots| slots.node)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pb;
    use crate::state::{Change, Delta};

    #[test]
    fn deletes_first_then_by_priority_and_age() {
        let task = |id: i64, kind: CompactionKind, priority: u32, started_ms: u64| {
            let plan = pb::StartCompaction {
                plan_id: id,
                kind: kind.into(),
                priority,
                ..Default::default()
            };
            Change::Compaction(Arc::new(pb::CompactionRow {
                plan: Some(plan),
                state: CompactionState::Pending.into(),
                started_at: Ts::from_ms(started_ms).0,
                ..Default::default()
            }))
        };
        let mut state = State::new();
        state.merge(&Delta {
            changes: vec![
                task(1, CompactionKind::Mix, 300, 60_000),
                task(2, CompactionKind::Merge, 320, 60_000),
                task(3, CompactionKind::Level0, 0, 60_000),
                task(4, CompactionKind::Mix, 300, 60_000),
                task(5, CompactionKind::Mix, 290, 0),
            ],
            events: vec![],
        });
        assert_eq!(order(&state, Ts::from_ms(60_000)), [3, 2, 5, 1, 4]);
    }

    #[test]
    fn the_freest_node_is_picked() {
        let slots = |node, free| Slots { node, free };
        assert_eq!(pick(&[slots(1, 2), slots(3, 4), slots(2, 4)], 2), Some(2));
        assert_eq!(pick(&[slots(1, 2)], 3), None);
    }
}
