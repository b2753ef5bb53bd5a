//! What must hold of compaction, indexes, lineage and garbage collection.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::SegmentId;
use crate::model::{Level, SegmentState, compaction, index};
use crate::pb::{CompactionKind, CompactionState};
use crate::plan::recovery;
use crate::state::State;

pub(super) fn check(state: &State, found: &mut Vec<String>) {
    tasks_hold_living_segments_once(state, found);
    results_lose_no_rows(state, found);
    lineage_is_a_forest_of_the_dead(state, found);
    carried_logs_have_holders(state, found);
    builds_belong_to_segments_and_indexes(state, found);
    condemned_segments_are_dropped(state, found);
    readers_are_given_each_row_once(state, found);
}

/// Inputs of live tasks are healthy, and no segment is in two tasks; deletes and rewriting exclude
/// each other on a channel.
fn tasks_hold_living_segments_once(state: &State, found: &mut Vec<String>) {
    let mut holders: BTreeMap<i64, i64> = BTreeMap::new();
    let mut level0_on: BTreeMap<&str, bool> = BTreeMap::new();
    let live = |row: &&std::sync::Arc<crate::pb::CompactionRow>| compaction::is_live(row);
    for row in state.compactions().filter(live) {
        let Some(plan) = &row.plan else {
            found.push("a compaction task has no plan".into());
            continue;
        };
        let id = plan.plan_id;
        let inputs = plan.inputs.iter().map(|input| input.segment_id);
        for input in inputs.clone() {
            if state.healthy_segment(SegmentId(input)).is_none() {
                found.push(format!("compaction plan {id} reads dead segment {input}"));
            }
        }
        for segment in inputs.chain(plan.targets.iter().copied()) {
            if let Some(other) = holders.insert(segment, id) {
                found.push(format!(
                    "segment {segment} is held by compaction plans {other} and {id}"
                ));
            }
            if state.held_by(SegmentId(segment)) != Some(id) {
                found.push(format!(
                    "segment {segment} of compaction plan {id} is not held"
                ));
            }
        }
        let is_level0 = plan.kind() == CompactionKind::Level0;
        let other = level0_on.insert(&plan.channel, is_level0);
        if other.is_some_and(|other| other != is_level0) {
            found.push(format!(
                "compaction plan {id} runs beside one it excludes on channel {}",
                plan.channel
            ));
        }
        let assigned = row.node_id != 0 && row.segment_ids.is_some() && row.log_ids.is_some();
        if (row.state() == CompactionState::Executing) != assigned {
            found.push(format!("compaction plan {id} is executing nowhere"));
        }
    }
    if holders.len() != state.compactions.held.len() {
        found.push("segments are held by no live compaction plan".into());
    }
}

/// What came out of a compaction has no more rows than what went in.
fn results_lose_no_rows(state: &State, found: &mut Vec<String>) {
    let rows_of = |ids: &mut dyn Iterator<Item = SegmentId>| {
        ids.map(|id| state.segment(id).map(|segment| i128::from(segment.rows)))
            .sum::<Option<i128>>()
    };
    for row in state.compactions() {
        let Some(plan) = &row.plan else { continue };
        let outputs = rows_of(&mut row.outputs.iter().map(|&id| SegmentId(id)));
        let mut inputs = plan.inputs.iter().map(|input| SegmentId(input.segment_id));
        if let (Some(outputs), Some(inputs)) = (outputs, rows_of(&mut inputs))
            && outputs > inputs
        {
            found.push(format!(
                "compaction plan {} made {outputs} rows of {inputs}",
                plan.plan_id
            ));
        }
    }
}

/// A child's parents are dropped because of it and still there; nobody is its own ancestor.
fn lineage_is_a_forest_of_the_dead(state: &State, found: &mut Vec<String>) {
    for (child, parents) in &state.lineage.parents {
        if !state
            .segment(*child)
            .is_some_and(|segment| segment.compacted_from)
        {
            found.push(format!("segment {child} has parents but is no output"));
        }
        for parent in parents {
            let is_input = state
                .segment(*parent)
                .is_some_and(|segment| segment.compacted && segment.state == SegmentState::Dropped);
            if !is_input {
                found.push(format!(
                    "segment {parent} is alive beside its child {child}, or gone"
                ));
            }
            if !state.children_of(*parent).contains(child) {
                found.push(format!("segment {parent} does not know its child {child}"));
            }
        }
        if recovery::descendants(state, *child).contains(child) {
            found.push(format!("segment {child} is its own ancestor"));
        }
    }
    let edges =
        |sets: &BTreeMap<SegmentId, Vec<SegmentId>>| sets.values().map(Vec::len).sum::<usize>();
    if edges(&state.lineage.parents) != edges(&state.lineage.children) {
        found.push("children and parents disagree".into());
    }
}

/// Every carried delete log has holders, all of which are there.
fn carried_logs_have_holders(state: &State, found: &mut Vec<String>) {
    for (log_id, row) in &state.lineage.carried {
        if row.holders.is_empty() || row.file.as_ref().is_none_or(|file| file.path.is_empty()) {
            found.push(format!("carried log {log_id} has no holder or no path"));
        }
        for holder in &row.holders {
            if state.segment(SegmentId(*holder)).is_none() {
                found.push(format!(
                    "carried log {log_id} is held by no segment {holder}"
                ));
            }
        }
    }
}

/// A build is of a segment and an index that are there, and the only one.
fn builds_belong_to_segments_and_indexes(state: &State, found: &mut Vec<String>) {
    let indexes = &state.indexes;
    for row in state.builds() {
        let id = row.build_id;
        if state.segment(SegmentId(row.segment_id)).is_none() {
            found.push(format!(
                "index build {id} is of unknown segment {}",
                row.segment_id
            ));
        }
        if state.index(row.index_id).is_none() {
            found.push(format!(
                "index build {id} is of unknown index {}",
                row.index_id
            ));
        }
        if indexes.open.contains(&id) != index::is_open(row) {
            found.push(format!("index build {id} is open and ended"));
        }
    }
    let counted: usize = indexes.build_counts.values().sum();
    if indexes.by_segment.len() != indexes.builds.len() || counted != indexes.builds.len() {
        found.push("a segment has two builds of an index".into());
    }
    for segment in state.segments.values() {
        let lacks = segment.state == SegmentState::Flushed
            && segment.level != Level::L0
            && state.unbuilt(segment).next().is_some();
        if lacks != state.unindexed.contains(&segment.id) {
            found.push(format!(
                "the index of segments without builds disagrees about {}",
                segment.id
            ));
        }
    }
    for row in state.collections() {
        let names: BTreeSet<_> = state
            .indexes_of(row.id.into())
            .filter_map(|row| row.index.as_ref().map(|index| &index.name))
            .collect();
        if names.len() != state.indexes_of(row.id.into()).count() {
            found.push(format!("collection {} has two indexes of a name", row.id));
        }
    }
}

fn condemned_segments_are_dropped(state: &State, found: &mut Vec<String>) {
    for segment in state.segments.values() {
        let condemned = !segment.condemned_at.is_zero();
        if condemned && segment.state != SegmentState::Dropped {
            found.push(format!("segment {} is condemned alive", segment.id));
        }
        if condemned != state.condemned.contains(&segment.id) {
            found.push(format!(
                "the index of condemned segments disagrees about {}",
                segment.id
            ));
        }
    }
}

/// No reader is given a segment together with one it was made of, or a condemned one.
fn readers_are_given_each_row_once(state: &State, found: &mut Vec<String>) {
    for row in state.collections() {
        for view in recovery::view(state, row.id.into(), &[]) {
            let given: BTreeSet<SegmentId> = view.flushed.iter().copied().collect();
            for id in &given {
                if let Some(child) = recovery::descendants(state, *id)
                    .into_iter()
                    .find(|child| given.contains(child))
                {
                    found.push(format!(
                        "readers are given segment {id} and its child {child}"
                    ));
                }
                let condemned = state
                    .segment(*id)
                    .is_none_or(|segment| !segment.condemned_at.is_zero());
                if condemned {
                    found.push(format!("readers are given condemned segment {id}"));
                }
            }
        }
    }
}
