//! Which segments are compacted together (`semantics.md` §7): deletes first, then rewriting by
//! score.

mod level0;
mod pack;
mod score;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::id::{CollectionId, PartitionId, SegmentId};
use crate::model::{Level, Segment};
use crate::pb::{self, CompactionKind};
use crate::state::State;
use crate::time::Ts;

pub use score::score;

/// Most tasks one look at a group gives: the next look gives the rest.
pub const TASKS_MAX: usize = 64;

/// When to compact, and how much at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactPolicy {
    /// Share of deleted rows from which a segment is rewritten, per mille.
    pub delete_ratio_permille: u32,
    /// Bytes of delete logs above which a segment is rewritten.
    pub delta_bytes_max: u64,
    /// Delete logs above which a segment is rewritten.
    pub delta_files_max: u32,
    /// A segment less full than this is small, per mille of `max_size_bytes` and of `max_rows`.
    pub small_permille: u32,
    /// Fewest segments of a merge.
    pub merge_inputs_min: usize,
    /// Most segments of a merge.
    pub merge_inputs_max: usize,
    /// With more small segments in a group than this they are merged even into one that is not
    /// full.
    pub small_files_trigger: usize,
    /// How much room a merge may leave, per mille.
    pub leftover_permille: u32,
    /// How full a merge may become when leftovers are squeezed into it, per mille.
    pub expansion_permille: u32,
    /// Capacity of a segment, bytes.
    pub max_size_bytes: u64,
    /// Capacity of a segment, rows.
    pub max_rows: i64,
    /// Deletes of level zero are handed out from so many bytes on,
    pub level0_bytes_min: u64,
    /// or so many files.
    pub level0_files_min: usize,
    /// Most bytes of level zero in a task.
    pub level0_bytes_max: u64,
    /// Most files of level zero in a task.
    pub level0_files_max: usize,
    /// Time a task may take, ms; the planners do not use it.
    pub timeout_ms: u64,
}

impl Default for CompactPolicy {
    fn default() -> Self {
        Self {
            delete_ratio_permille: 200,
            delta_bytes_max: 16 << 20,
            delta_files_max: 200,
            small_permille: 500,
            merge_inputs_min: 4,
            merge_inputs_max: 30,
            small_files_trigger: 10,
            leftover_permille: 150,
            expansion_permille: 1250,
            max_size_bytes: 512 << 20,
            max_rows: 1_000_000,
            level0_bytes_min: 8 << 20,
            level0_files_min: 10,
            level0_bytes_max: 64 << 20,
            level0_files_max: 1000,
            timeout_ms: 900_000,
        }
    }
}

/// Segments that may be compacted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// Their collection.
    pub collection: CollectionId,
    /// Their partition; -1: level-zero segments that hold for all.
    pub partition: PartitionId,
    /// Their channel.
    pub channel: Arc<str>,
}

impl Group {
    /// The group of a segment.
    pub fn of(segment: &Segment) -> Self {
        Self {
            collection: segment.collection,
            partition: segment.partition,
            channel: segment.channel.clone(),
        }
    }
}

/// A task to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What to do.
    pub kind: CompactionKind,
    /// Where.
    pub group: Group,
    /// What is replaced, or, of level zero, handed out.
    pub inputs: Vec<pb::SegmentRev>,
    /// Level zero: who gets the deletes.
    pub targets: Vec<SegmentId>,
    /// The score, per mille.
    pub priority: u32,
    /// Rows of the inputs.
    pub rows: i64,
}

/// Why a segment is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// This live task has it.
    Held(i64),
    /// This live task on the channel excludes it.
    Excluded(i64),
    /// Deletes of level zero on the channel go first.
    DeletesFirst,
    /// Neither small nor with many deletes.
    WithinLimits,
    /// Small, but there are too few to fill a segment.
    TooFew,
    /// Level zero: too little of it yet.
    NotEnough,
    /// Level zero: it has no position.
    NoPosition,
    /// Level zero: the channel's checkpoint has not passed it, so rows it may hit may be unsaved.
    CheckpointBehind,
    /// Level zero: this Growing or Sealed segment may hold rows it hits.
    Growing(SegmentId),
    /// Level zero: this target is not Flushed yet.
    TargetFlushing(SegmentId),
    /// Level zero: this target is held by another task.
    TargetHeld(SegmentId),
    /// Level zero: more targets than a task may name.
    TooManyTargets,
    /// There are as many tasks as one look gives.
    NextLook,
}

/// What to start in a group, the most useful first, and why the rest is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Tasks to start.
    pub tasks: Vec<Planned>,
    /// Segments left alone.
    pub skipped: Vec<(SegmentId, Skip)>,
}

/// All groups with Flushed or level-zero segments.
pub fn groups(state: &State) -> Vec<Group> {
    let flushed = state
        .flushed
        .keys()
        .map(|(collection, partition, channel)| Group {
            collection: *collection,
            partition: *partition,
            channel: channel.clone(),
        });
    let level0 = state.level0.values().flatten();
    let level0 = level0.filter_map(|id| state.segment(*id)).map(Group::of);
    let groups: BTreeSet<Group> = flushed.chain(level0).collect();
    groups.into_iter().collect()
}

/// Plans one group. Deletes of level zero go first, and nothing else on their channel with them.
/// `forced` (by hand) ignores the lower limits: any deletes of level zero, any deleted row, any two
/// small segments.
pub fn plan_group(
    state: &State,
    group: &Group,
    now: Ts,
    policy: &CompactPolicy,
    forced: bool,
) -> Plan {
    let mut plan = Plan::default();
    let own = level0::assess(state, group, now, policy, forced, &mut plan.skipped);
    let is_due = |own: &level0::Assessed| !matches!(own, level0::Assessed::Nothing);
    let due = is_due(&own)
        || level0::groups_on(state, &group.channel)
            .filter(|other| other != group)
            .any(|other| {
                is_due(&level0::assess(
                    state,
                    &other,
                    now,
                    policy,
                    false,
                    &mut Vec::new(),
                ))
            });
    if let level0::Assessed::Ready(task) = own {
        plan.tasks.push(task);
    }
    let candidates = candidates(state, group, &mut plan.skipped);
    if due {
        let skipped = candidates.iter().map(|s| (s.id, Skip::DeletesFirst));
        plan.skipped.extend(skipped);
    } else if let Some(level0) = live_on(state, &group.channel, true) {
        let skipped = candidates.iter().map(|s| (s.id, Skip::Excluded(level0)));
        plan.skipped.extend(skipped);
    } else {
        rewrite(group, candidates, now, policy, forced, &mut plan);
    }
    plan
}

/// A live task on a channel that hands out deletes, or one that rewrites.
fn live_on(state: &State, channel: &str, level0: bool) -> Option<i64> {
    state
        .live_compactions()
        .filter_map(|row| row.plan.as_ref())
        .find(|plan| *plan.channel == *channel && (plan.kind() == CompactionKind::Level0) == level0)
        .map(|plan| plan.plan_id)
}

/// Flushed segments of the group that may be rewritten, by id.
fn candidates<'a>(
    state: &'a State,
    group: &Group,
    skipped: &mut Vec<(SegmentId, Skip)>,
) -> Vec<&'a Segment> {
    let key = (group.collection, group.partition, group.channel.clone());
    let mut found = Vec::new();
    for &id in state.flushed.get(&key).into_iter().flatten() {
        let Some(segment) = state.healthy_segment(id) else {
            continue;
        };
        if segment.level == Level::L2 {
            continue;
        }
        match state.held_by(id) {
            Some(plan) => skipped.push((id, Skip::Held(plan))),
            None => found.push(segment),
        }
    }
    found
}

/// Whether a segment has so many deletes that it is worth rewriting by itself.
fn has_many_deletes(segment: &Segment, policy: &CompactPolicy, forced: bool) -> bool {
    if segment.delta_rows <= 0 {
        return false;
    }
    let limit = i128::from(segment.rows) * i128::from(policy.delete_ratio_permille);
    forced
        || i128::from(segment.delta_rows) * 1000 >= limit
        || segment.delta_bytes > policy.delta_bytes_max
        || segment.delta_files > policy.delta_files_max
}

/// Merges and mixes of a group's candidates.
fn rewrite(
    group: &Group,
    candidates: Vec<&Segment>,
    now: Ts,
    policy: &CompactPolicy,
    forced: bool,
    plan: &mut Plan,
) {
    let (priority, rest): (Vec<_>, Vec<_>) = candidates
        .into_iter()
        .partition(|segment| has_many_deletes(segment, policy, forced));
    let (small, rest): (Vec<_>, Vec<_>) = rest
        .into_iter()
        .partition(|segment| pack::is_small(segment, policy));
    let within = rest.iter().map(|segment| (segment.id, Skip::WithinLimits));
    plan.skipped.extend(within);
    let packed = pack::pack(priority, small, policy, forced);
    let left = packed.left.iter().map(|segment| (segment.id, Skip::TooFew));
    plan.skipped.extend(left);
    let mut tasks: Vec<Planned> = packed
        .buckets
        .iter()
        .map(|inputs| planned(group, inputs, now, policy))
        .collect();
    tasks.sort_by_key(|task| {
        let first = task.inputs.first().map(|input| input.segment_id);
        (std::cmp::Reverse(task.priority), first)
    });
    for late in tasks.iter().skip(TASKS_MAX) {
        let inputs = late.inputs.iter();
        let skipped = inputs.map(|input| (SegmentId(input.segment_id), Skip::NextLook));
        plan.skipped.extend(skipped);
    }
    tasks.truncate(TASKS_MAX);
    plan.tasks.extend(tasks);
}

fn planned(group: &Group, inputs: &[&Segment], now: Ts, policy: &CompactPolicy) -> Planned {
    let mut revs: Vec<pb::SegmentRev> = inputs.iter().map(|segment| rev_of(segment)).collect();
    revs.sort_by_key(|rev| rev.segment_id);
    Planned {
        kind: if inputs.len() == 1 {
            CompactionKind::Mix
        } else {
            CompactionKind::Merge
        },
        group: group.clone(),
        inputs: revs,
        targets: Vec::new(),
        priority: score(inputs, now, policy),
        rows: inputs.iter().map(|segment| segment.rows).sum(),
    }
}

fn rev_of(segment: &Segment) -> pb::SegmentRev {
    pb::SegmentRev {
        segment_id: segment.id.0,
        files_rev: segment.files_rev,
    }
}
