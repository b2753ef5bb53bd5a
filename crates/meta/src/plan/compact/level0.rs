//! Which deletes of level zero may be handed out, and to whom.
//!
//! A delete must reach every row it hits. Rows below the channel's checkpoint are saved; rows of
//! Growing and Sealed segments are not older than those segments' start. So deletes up to the lower
//! of the two hit rows of Flushed segments only, and those are the targets.

use std::collections::BTreeSet;

use super::{CompactPolicy, Group, Planned, Skip, live_on, rev_of};
use crate::decide::limits::COMPACTION_SEGMENTS_MAX;
use crate::id::SegmentId;
use crate::model::{Level, Segment, SegmentState};
use crate::pb::CompactionKind;
use crate::state::State;
use crate::time::Ts;

/// Deletes are handed out however few they are when none has come for so long.
const IDLE_MS: u64 = 600_000;

/// What can be done with the deletes of a group.
pub(super) enum Assessed {
    /// Too few of them, or their time has not come.
    Nothing,
    /// It is time, but something is in the way. Nothing else is to get in the way meanwhile.
    Blocked,
    /// A task.
    Ready(Planned),
}

/// Groups of level-zero segments on a channel.
pub(super) fn groups_on(state: &State, channel: &str) -> impl Iterator<Item = Group> {
    let groups: BTreeSet<Group> = segments_on(state, channel).map(Group::of).collect();
    groups.into_iter()
}

fn segments_on<'a>(state: &'a State, channel: &str) -> impl Iterator<Item = &'a Segment> {
    state
        .level0
        .get(channel)
        .into_iter()
        .flatten()
        .filter_map(|id| state.healthy_segment(*id))
}

/// Up to where a segment's deletes go.
fn position(segment: &Segment) -> Ts {
    segment.dml.max(segment.start)
}

/// Looks at the level-zero segments of a group; says why those are left alone that are.
pub(super) fn assess(
    state: &State,
    group: &Group,
    now: Ts,
    policy: &CompactPolicy,
    forced: bool,
    skipped: &mut Vec<(SegmentId, Skip)>,
) -> Assessed {
    let eligible = eligible(state, group, skipped);
    let inputs = take(&eligible, policy);
    let Some(last) = inputs.last().map(|segment| position(segment)) else {
        return Assessed::Nothing;
    };
    let bytes: u64 = inputs.iter().fold(0, |sum: u64, segment| {
        sum.saturating_add(segment.size_bytes)
    });
    let files: usize = inputs.iter().map(|segment| segment.files as usize).sum();
    let newest = eligible.iter().map(|segment| segment.opened_at).max();
    let idle = newest.is_some_and(|newest| now.ms_since(newest) >= IDLE_MS);
    let due = forced
        || idle
        || bytes >= policy.level0_bytes_min
        || files >= policy.level0_files_min
        || inputs.len() < eligible.len();
    let skip_all = |skip: Skip, skipped: &mut Vec<_>| {
        skipped.extend(eligible.iter().map(|segment| (segment.id, skip)));
    };
    if !due {
        skip_all(Skip::NotEnough, skipped);
        return Assessed::Nothing;
    }
    if let Some(plan) = live_on(state, &group.channel, false) {
        skip_all(Skip::Excluded(plan), skipped);
        return Assessed::Blocked;
    }
    match targets(state, group, last) {
        Ok(targets) => Assessed::Ready(Planned {
            kind: CompactionKind::Level0,
            group: group.clone(),
            inputs: inputs.iter().map(|segment| rev_of(segment)).collect(),
            targets,
            priority: 1000,
            rows: inputs.iter().map(|segment| segment.delta_rows).sum(),
        }),
        Err(skip) => {
            skip_all(skip, skipped);
            // Merges make targets fewer: they are what is waited for.
            if skip == Skip::TooManyTargets {
                Assessed::Nothing
            } else {
                Assessed::Blocked
            }
        }
    }
}

/// The group's level-zero segments that hit rows of Flushed segments only, by position.
fn eligible<'a>(
    state: &'a State,
    group: &Group,
    skipped: &mut Vec<(SegmentId, Skip)>,
) -> Vec<&'a Segment> {
    let checkpoint = state
        .channel(&group.channel)
        .and_then(|row| row.checkpoint.as_ref())
        .map_or(Ts::ZERO, |checkpoint| Ts(checkpoint.ts));
    let growing = state
        .unflushed_on(&group.channel)
        .filter(|segment| segment.state != SegmentState::Flushing && in_reach(group, segment))
        .filter(|segment| state.effective_state(segment) != SegmentState::Dropped)
        .filter(|segment| !segment.start.is_zero())
        .min_by_key(|segment| (segment.start, segment.id));
    let mut found = Vec::new();
    for segment in segments_on(state, &group.channel) {
        if Group::of(segment) != *group {
            continue;
        }
        let at = position(segment);
        let skip = match growing {
            _ if at.is_zero() => Skip::NoPosition,
            _ if at > checkpoint => Skip::CheckpointBehind,
            Some(growing) if at >= growing.start => Skip::Growing(growing.id),
            _ => match state.held_by(segment.id) {
                Some(plan) => Skip::Held(plan),
                None => {
                    found.push(segment);
                    continue;
                }
            },
        };
        skipped.push((segment.id, skip));
    }
    found.sort_by_key(|segment| (position(segment), segment.id));
    found
}

/// As many as fit into a task, at least one.
fn take<'a>(eligible: &[&'a Segment], policy: &CompactPolicy) -> Vec<&'a Segment> {
    let (mut bytes, mut files) = (0u64, 0usize);
    eligible
        .iter()
        .copied()
        .enumerate()
        .take_while(|(at, segment)| {
            bytes = bytes.saturating_add(segment.size_bytes);
            files = files.saturating_add(segment.files as usize);
            *at == 0 || (bytes <= policy.level0_bytes_max && files <= policy.level0_files_max)
        })
        .map(|(_, segment)| segment)
        .collect()
}

fn in_reach(group: &Group, segment: &Segment) -> bool {
    segment.collection == group.collection
        && (group.partition.0 < 0 || segment.partition == group.partition)
}

/// Every flushed segment with a row that deletes up to `last` may hit.
fn targets(state: &State, group: &Group, last: Ts) -> Result<Vec<SegmentId>, Skip> {
    let mut targets = Vec::new();
    for segment in state.segments_on(&group.channel) {
        let may_hit = segment.level != Level::L0
            && segment.state.is_flush_state()
            && in_reach(group, segment)
            && segment.start < last
            && state.effective_state(segment) != SegmentState::Dropped;
        if !may_hit {
            continue;
        }
        if segment.state == SegmentState::Flushing {
            return Err(Skip::TargetFlushing(segment.id));
        }
        if state.held_by(segment.id).is_some() {
            return Err(Skip::TargetHeld(segment.id));
        }
        targets.push(segment.id);
    }
    if targets.len() + 1000 > COMPACTION_SEGMENTS_MAX {
        return Err(Skip::TooManyTargets);
    }
    Ok(targets)
}
