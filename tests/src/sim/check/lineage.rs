//! Compaction is all or nothing, and its lineage exact, by the tasks a state remembers.

use quorate_meta::model::SegmentState;
use quorate_meta::pb::{CompactionKind, CompactionRow, CompactionState};
use quorate_meta::{SegmentId, State};

/// Tasks whose inputs and outputs are not what their state says.
pub fn violations(state: &State) -> Vec<String> {
    let mut found = Vec::new();
    for task in state.compactions() {
        let id = task.plan.as_ref().map_or(0, |plan| plan.plan_id);
        let problems = match task.state() {
            CompactionState::Completed => completed(state, task),
            _ => not_completed(state, task),
        };
        found.extend(
            problems
                .into_iter()
                .map(|what| format!("compaction {id}: {what}")),
        );
    }
    found
}

fn inputs(task: &CompactionRow) -> impl Iterator<Item = SegmentId> {
    let inputs = task.plan.iter().flat_map(|plan| &plan.inputs);
    inputs.map(|input| SegmentId(input.segment_id))
}

fn completed(state: &State, task: &CompactionRow) -> Vec<String> {
    let mut found = Vec::new();
    let kind = task.plan.as_ref().map(|plan| plan.kind());
    let mut rows_in = Some(0);
    for input in inputs(task) {
        let segment = state.segment(input);
        rows_in = segment.and_then(|segment| Some(rows_in? + segment.rows));
        if segment.is_some_and(|s| state.effective_state(s) != SegmentState::Dropped) {
            found.push(format!("input {input} is still there"));
        }
    }
    let mut rows_out = 0;
    for output in task.outputs.iter().map(|id| SegmentId(*id)) {
        let Some(segment) = state.segment(output) else {
            continue;
        };
        rows_out += segment.rows;
        let parents = state.parents_of(output);
        // One that has lost a parent can never be undone and forgets the others, too.
        let all_there = inputs(task).all(|input| state.segment(input).is_some());
        for input in inputs(task).filter(|_| all_there) {
            if !parents.contains(&input) {
                found.push(format!("output {output} does not know its parent {input}"));
            }
        }
        if let Some(other) = parents
            .iter()
            .find(|id| !inputs(task).any(|input| input == **id))
        {
            found.push(format!("output {output} has {other} for a parent"));
        }
    }
    if kind != Some(CompactionKind::Level0)
        && let Some(rows_in) = rows_in
        && rows_out > rows_in
    {
        found.push(format!("{rows_in} rows became {rows_out}"));
    }
    found
}

fn not_completed(state: &State, task: &CompactionRow) -> Vec<String> {
    let Some(range) = &task.segment_ids else {
        return Vec::new();
    };
    (range.begin..range.end)
        .map(SegmentId)
        .filter(|id| state.segment(*id).is_some())
        .map(|id| format!("it is not completed, and its output {id} is there"))
        .collect()
}
