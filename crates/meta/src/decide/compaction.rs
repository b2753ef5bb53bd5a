//! Compaction tasks: started, assigned, failed, forgotten (`semantics.md` §7, `architecture.md` §6).
//! Their results are in `compaction_result`.

use std::collections::BTreeSet;

use super::collection::no_collection;
use super::segment::no_segment;
use super::{Ctx, Reason, changed, reject};
use crate::command::Outcome;
use crate::id::{CollectionId, SegmentId};
use crate::model::compaction::is_live;
use crate::model::{Level, Segment, SegmentState};
use crate::pb::{self, CompactionKind, CompactionState};
use crate::state::{Change, Delta, Event, State};

/// Most segments a task may read or add to.
pub const COMPACTION_SEGMENTS_MAX: usize = 100_000;

pub(super) fn no_task(plan_id: i64) -> Outcome {
    reject(
        Reason::IllegalState,
        format!("there is no compaction task {plan_id}; discard its result"),
    )
}

/// A new task. The proposer thinks, this decides: every input is checked again.
pub(super) fn start(
    state: &State,
    ctx: Ctx,
    cmd: &pb::StartCompaction,
    out: &mut Delta,
) -> Outcome {
    if let Some(existing) = state.compaction(cmd.plan_id) {
        return if existing.plan.as_ref() == Some(cmd) {
            Outcome::already()
        } else {
            reject(
                Reason::Exists,
                format!("compaction plan id {} is taken", cmd.plan_id),
            )
        };
    }
    if let Some(refusal) = refuse_senseless(state, cmd)
        .or_else(|| refuse_dropped(state, cmd))
        .or_else(|| refuse_excluded(state, cmd))
    {
        return refusal;
    }
    for input in &cmd.inputs {
        if let Err(refusal) = check_input(state, cmd, input) {
            return refusal;
        }
    }
    for &target in &cmd.targets {
        if let Err(refusal) = check_target(state, cmd, target) {
            return refusal;
        }
    }
    out.put_compaction(pb::CompactionRow {
        plan: Some(cmd.clone()),
        state: CompactionState::Pending.into(),
        started_at: ctx.now.0,
        ..Default::default()
    });
    Outcome::Done(pb::Reply {
        id: cmd.plan_id,
        ..Default::default()
    })
}

fn refuse_senseless(state: &State, cmd: &pb::StartCompaction) -> Option<Outcome> {
    let inputs = cmd.inputs.iter().map(|input| input.segment_id);
    let named: BTreeSet<i64> = inputs.chain(cmd.targets.iter().copied()).collect();
    let count = cmd.inputs.len() + cmd.targets.len();
    let problem = match cmd.kind() {
        _ if cmd.plan_id <= 0 || cmd.plan_id >= state.id_bound() => "its id was never handed out",
        _ if named.len() != count => "it names a segment twice",
        _ if cmd.inputs.is_empty() => "it has no inputs",
        _ if count > COMPACTION_SEGMENTS_MAX => "it names too many segments",
        CompactionKind::Unspecified => "its kind is unknown",
        CompactionKind::Merge | CompactionKind::Mix if !cmd.targets.is_empty() => {
            "only level-zero deletes have targets"
        }
        CompactionKind::Merge | CompactionKind::Mix if cmd.max_rows <= 0 => {
            "its outputs have no capacity"
        }
        CompactionKind::Mix if cmd.inputs.len() > 1 => "a mix rewrites one segment",
        _ => return None,
    };
    Some(reject(
        Reason::Invalid,
        format!("compaction plan {}: {problem}", cmd.plan_id),
    ))
}

/// Whether what the task works on is dropped.
pub(super) fn refuse_dropped(state: &State, plan: &pb::StartCompaction) -> Option<Outcome> {
    let Some(collection) = state.live_collection(CollectionId(plan.collection_id)) else {
        return Some(no_collection(plan.collection_id));
    };
    let partition = collection
        .partitions
        .iter()
        .find(|partition| partition.id == plan.partition_id);
    if partition.is_some_and(|partition| partition.dropped_at != 0) {
        return Some(reject(
            Reason::PartitionNotFound,
            format!("partition not found[partition={}]", plan.partition_id),
        ));
    }
    let dropped = |row: &&std::sync::Arc<pb::ChannelRow>| row.dropped_at != 0;
    state.channel(&plan.channel).filter(dropped).map(|_| {
        reject(
            Reason::ChannelNotFound,
            format!("channel not found[channel={}]", plan.channel),
        )
    })
}

/// Deletes and rewriting exclude each other on a channel: a segment born of a merge would miss
/// deletes whose targets were chosen before (Milvus #49706).
fn refuse_excluded(state: &State, cmd: &pb::StartCompaction) -> Option<Outcome> {
    let is_level0 = cmd.kind() == CompactionKind::Level0;
    let other = state
        .live_compactions()
        .filter_map(|row| row.plan.as_ref())
        .find(|plan| {
            plan.channel == cmd.channel && (plan.kind() == CompactionKind::Level0) != is_level0
        })?;
    Some(reject(
        Reason::IllegalState,
        format!(
            "compaction plan {} has to wait for plan {} on channel {}",
            cmd.plan_id, other.plan_id, cmd.channel
        ),
    ))
}

fn check_member<'a>(
    state: &'a State,
    cmd: &pb::StartCompaction,
    id: i64,
) -> Result<&'a Segment, Outcome> {
    let Some(segment) = state.healthy_segment(SegmentId(id)) else {
        return Err(no_segment(id));
    };
    let problem = if segment.state != SegmentState::Flushed {
        format!("is {}, not Flushed", segment.state.name())
    } else if segment.collection.0 != cmd.collection_id || *segment.channel != *cmd.channel {
        "is of another collection or channel".into()
    } else if let Some(holder) = state.held_by(segment.id) {
        format!("is held by plan {holder}")
    } else {
        return Ok(segment);
    };
    Err(reject(
        Reason::IllegalState,
        format!("compaction plan {}: segment {id} {problem}", cmd.plan_id),
    ))
}

fn check_input(
    state: &State,
    cmd: &pb::StartCompaction,
    input: &pb::SegmentRev,
) -> Result<(), Outcome> {
    let segment = check_member(state, cmd, input.segment_id)?;
    let wants_level0 = cmd.kind() == CompactionKind::Level0;
    if segment.partition.0 != cmd.partition_id || (segment.level == Level::L0) != wants_level0 {
        return Err(reject(
            Reason::Invalid,
            format!(
                "compaction plan {}: segment {} is of another partition or level",
                cmd.plan_id, segment.id
            ),
        ));
    }
    if segment.files_rev != input.files_rev {
        return Err(files_changed(segment, input.files_rev));
    }
    Ok(())
}

fn check_target(state: &State, cmd: &pb::StartCompaction, id: i64) -> Result<(), Outcome> {
    let segment = check_member(state, cmd, id)?;
    let in_reach = cmd.partition_id < 0 || segment.partition.0 == cmd.partition_id;
    if segment.level == Level::L0 || !in_reach {
        return Err(reject(
            Reason::Invalid,
            format!(
                "compaction plan {}: segment {id} cannot take its deletes",
                cmd.plan_id
            ),
        ));
    }
    Ok(())
}

pub(super) fn files_changed(segment: &Segment, seen: u64) -> Outcome {
    reject(
        Reason::FilesChanged,
        format!(
            "segment {}: files are at revision {}, not {seen}",
            segment.id, segment.files_rev
        ),
    )
}

/// Gives a task to a node with fresh ids, or takes it back. What an earlier try writes late lies
/// elsewhere and counts for nothing.
pub(super) fn assign(
    state: &State,
    ctx: Ctx,
    cmd: &pb::AssignCompaction,
    out: &mut Delta,
) -> Outcome {
    let Some(row) = state.compaction(cmd.plan_id) else {
        return no_task(cmd.plan_id);
    };
    let same_place = row.node_id == cmd.node_id && is_live(row);
    let same_ids = row.segment_ids == cmd.segment_ids && row.log_ids == cmd.log_ids;
    let repeated = if cmd.node_id == 0 {
        same_place && row.attempt == cmd.attempt
    } else {
        same_place && same_ids && row.attempt == cmd.attempt.saturating_add(1)
    };
    if repeated {
        return Outcome::already();
    }
    if !is_live(row) || row.attempt != cmd.attempt {
        return reject(
            Reason::IllegalState,
            format!(
                "compaction plan {} is {} at try {}, not live at try {}",
                cmd.plan_id,
                crate::model::compaction::state_name(row.state()),
                row.attempt,
                cmd.attempt
            ),
        );
    }
    let mut row = pb::CompactionRow::clone(row);
    row.node_id = cmd.node_id;
    if cmd.node_id == 0 {
        row.set_state(CompactionState::Pending);
        row.segment_ids = None;
        row.log_ids = None;
        row.assigned_at = 0;
    } else {
        if state.node(cmd.node_id).is_none() {
            return reject(
                Reason::NodeNotFound,
                format!("data node {} is not registered", cmd.node_id),
            );
        }
        let handed_out = |range: &Option<pb::IdRange>| {
            range.is_some_and(|range| {
                0 < range.begin && range.begin <= range.end && range.end <= state.id_bound()
            })
        };
        if !handed_out(&cmd.segment_ids) || !handed_out(&cmd.log_ids) {
            return reject(
                Reason::Invalid,
                format!(
                    "compaction plan {}: its ids were never handed out",
                    cmd.plan_id
                ),
            );
        }
        row.set_state(CompactionState::Executing);
        row.attempt = row.attempt.saturating_add(1);
        row.segment_ids = cmd.segment_ids;
        row.log_ids = cmd.log_ids;
        row.assigned_at = ctx.now.0;
    }
    out.put_compaction(row);
    Outcome::done()
}

/// Gives a task up and lets go of its segments.
pub(super) fn fail(state: &State, ctx: Ctx, cmd: &pb::FailCompaction, out: &mut Delta) -> Outcome {
    let Some(row) = state.compaction(cmd.plan_id) else {
        return Outcome::already();
    };
    if !is_live(row) {
        return Outcome::already();
    }
    out.put_compaction(failed(row, ctx, &cmd.reason));
    Outcome::done()
}

fn failed(row: &pb::CompactionRow, ctx: Ctx, reason: &str) -> pb::CompactionRow {
    let mut row = row.clone();
    row.set_state(CompactionState::Failed);
    row.ended_at = ctx.now.0;
    row.fail_reason = reason.to_owned();
    row.segment_ids = None;
    row.log_ids = None;
    row
}

/// Fails every live task that `doomed` picks, in the entry that dooms it.
pub(super) fn cancel(
    state: &State,
    ctx: Ctx,
    out: &mut Delta,
    reason: &str,
    doomed: impl Fn(&pb::StartCompaction) -> bool,
) {
    for row in state.live_compactions() {
        if row.plan.as_ref().is_some_and(&doomed) {
            out.put_compaction(failed(row, ctx, reason));
        }
    }
}

/// Fails the tasks that have one of these segments as an input: it was dropped under them.
pub(super) fn cancel_holders(state: &State, ctx: Ctx, out: &mut Delta, dropped: &[SegmentId]) {
    let holders: BTreeSet<i64> = dropped.iter().filter_map(|id| state.held_by(*id)).collect();
    if holders.is_empty() {
        return;
    }
    cancel(state, ctx, out, "an input was dropped", |plan| {
        holders.contains(&plan.plan_id)
            && plan
                .inputs
                .iter()
                .any(|input| dropped.contains(&SegmentId(input.segment_id)))
    });
}

/// Forgets ended tasks; live ones are passed over.
pub(super) fn forget(state: &State, cmd: &pb::ForgetCompactions, out: &mut Delta) -> Outcome {
    for &id in &cmd.plan_ids {
        if state.compaction(id).is_some_and(|row| !is_live(row)) {
            out.changes.push(Change::ForgetCompaction(id));
            out.events.push(Event::Compaction(id));
        }
    }
    changed(out)
}
