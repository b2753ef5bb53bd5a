//! Which segments lack a build of an index (`semantics.md` §8).

use crate::id::SegmentId;
use crate::state::State;

/// Flushed segments and the live indexes they have no build for, at most `limit`, by segment and
/// index.
pub fn missing(state: &State, limit: usize) -> Vec<(SegmentId, i64)> {
    state
        .unindexed
        .iter()
        .filter_map(|id| state.healthy_segment(*id))
        .flat_map(|segment| state.unbuilt(segment).map(|index| (segment.id, index)))
        .take(limit)
        .collect()
}
