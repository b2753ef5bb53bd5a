//! When a dropped segment may be condemned, when its objects may go, and which objects are known
//! (`semantics.md` §10).

use std::fmt;

use crate::id::SegmentId;
use crate::model::compaction::in_range;
use crate::model::{Segment, SegmentState};
use crate::pb::BuildState;
use crate::state::State;
use crate::time::Ts;

/// How long garbage waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcPolicy {
    /// From the drop of a segment to its condemnation (`gc.dropTolerance`), ms.
    pub drop_tolerance_ms: u64,
    /// From its condemnation to the deletion of its objects, for readers that are at it, ms.
    pub condemn_grace_ms: u64,
}

/// What garbage waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It is no garbage.
    Alive,
    /// Its time has not come.
    Tolerance {
        /// When it comes.
        until: Ts,
    },
    /// This compaction task names it.
    Held(i64),
    /// Readers use it in the place of this segment, which is not indexed yet.
    ChildNotReady(SegmentId),
    /// The channel's checkpoint has not passed its rows.
    CheckpointBehind,
    /// An operator paused garbage collection.
    Paused {
        /// When the pause ends.
        until: Ts,
    },
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alive => f.write_str("it is not dropped"),
            Self::Tolerance { until } => write!(f, "its tolerance ends at {until}"),
            Self::Held(plan) => write!(f, "compaction plan {plan} holds it"),
            Self::ChildNotReady(child) => write!(f, "it stands in for segment {child}"),
            Self::CheckpointBehind => f.write_str("its channel's checkpoint is behind it"),
            Self::Paused { until } => write!(f, "garbage collection is paused until {until}"),
        }
    }
}

/// Whether a segment may be condemned. For one that is, the answer is the same.
///
/// # Errors
/// Not an error: what it waits for.
pub fn may_condemn(
    state: &State,
    segment: &Segment,
    now: Ts,
    policy: &GcPolicy,
) -> Result<(), Wait> {
    if state.effective_state(segment) != SegmentState::Dropped {
        return Err(Wait::Alive);
    }
    paused(state, segment, now)?;
    over(state.dropped_at(segment), policy.drop_tolerance_ms, now)?;
    needed(state, segment)
}

/// Whether the objects of a segment may be deleted: it is condemned and its grace is over.
///
/// # Errors
/// Not an error: what it waits for; one that is not condemned waits for a grace from now on, at
/// least.
pub fn may_delete(
    state: &State,
    segment: &Segment,
    now: Ts,
    policy: &GcPolicy,
) -> Result<(), Wait> {
    if segment.condemned_at.is_zero() {
        may_condemn(state, segment, now, policy)?;
        return Err(Wait::Tolerance {
            until: now.plus_ms(policy.condemn_grace_ms),
        });
    }
    paused(state, segment, now)?;
    over(segment.condemned_at, policy.condemn_grace_ms, now)
}

fn paused(state: &State, segment: &Segment, now: Ts) -> Result<(), Wait> {
    match state.gc_pause(segment.collection, now) {
        Some(until) => Err(Wait::Paused { until }),
        None => Ok(()),
    }
}

fn over(since: Ts, wait_ms: u64, now: Ts) -> Result<(), Wait> {
    let until = since.plus_ms(wait_ms);
    if now > until {
        Ok(())
    } else {
        Err(Wait::Tolerance { until })
    }
}

/// What still needs a segment, whatever the time: apply checks this when it is condemned.
pub(crate) fn needed(state: &State, segment: &Segment) -> Result<(), Wait> {
    if state.effective_state(segment) != SegmentState::Dropped {
        return Err(Wait::Alive);
    }
    if let Some(plan) = state.held_by(segment.id) {
        return Err(Wait::Held(plan));
    }
    if let Some(child) = unready_descendant(state, segment.id) {
        return Err(Wait::ChildNotReady(child));
    }
    let passed = state.channel(&segment.channel).is_none_or(|row| {
        row.dropped_at != 0
            || row
                .checkpoint
                .as_ref()
                .is_some_and(|checkpoint| Ts(checkpoint.ts) >= segment.dml)
    });
    if passed {
        Ok(())
    } else {
        Err(Wait::CheckpointBehind)
    }
}

/// The first living segment made of this one, over any number of generations, that is not ready.
/// One that is gone, condemned, or dropped with what it belonged to needs nobody to stand in.
fn unready_descendant(state: &State, segment: SegmentId) -> Option<SegmentId> {
    let mut open: Vec<SegmentId> = state.children_of(segment).to_vec();
    let mut seen = std::collections::BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let Some(child) = state.segment(id) else {
            continue;
        };
        if state.effective_state(child) != SegmentState::Dropped {
            if !state.is_ready(child) {
                return Some(id);
            }
        } else if child.condemned_at.is_zero() {
            open.extend(state.children_of(id));
        }
    }
    None
}

/// What an object's path says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// A log file.
    Log {
        /// The segment in whose folder it lies.
        segment: SegmentId,
        /// Its log id.
        log_id: i64,
    },
    /// A file of an index.
    Index {
        /// Its build.
        build_id: i64,
        /// The build's version.
        version: u32,
    },
}

/// Whether the metadata knows an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is in use, or a live task may be writing it.
    Yes,
    /// Nothing knows it: an orphan once it is old enough.
    SegmentUnknown,
    /// Its segment is there; the segment's file list says whether the object belongs to it.
    AskSegment,
}

/// Whether an object is known. The answer counts only for objects listed before the state was
/// read (Milvus #27202).
pub fn known(state: &State, object: &Object) -> Known {
    match *object {
        Object::Log { segment, log_id } => {
            let in_live_task = state.live_compactions().any(|row| {
                in_range(row.segment_ids.as_ref(), segment.0)
                    || in_range(row.log_ids.as_ref(), log_id)
            });
            if in_live_task || state.carried(log_id).is_some() {
                Known::Yes
            } else if state.segment(segment).is_some() {
                Known::AskSegment
            } else {
                Known::SegmentUnknown
            }
        }
        Object::Index { build_id, version } => match state.build(build_id) {
            Some(build)
                if build.version == version
                    && matches!(build.state(), BuildState::InProgress | BuildState::Finished) =>
            {
                Known::Yes
            }
            _ => Known::SegmentUnknown,
        },
    }
}
