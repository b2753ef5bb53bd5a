//! What a reader must load of a collection (`semantics.md` §6): GetRecoveryInfoV2.

use crate::id::{CollectionId, PartitionId, SegmentId};
use crate::model::{Level, Segment, SegmentState};
use crate::state::State;
use crate::time::Ts;

/// One channel of the view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelView {
    /// Channel name.
    pub channel: String,
    /// Flushed segments, by id.
    pub flushed: Vec<SegmentId>,
    /// Segments with rows that are not flushed, by id.
    pub unflushed: Vec<SegmentId>,
    /// Level-zero segments (deletes), by id.
    pub level_zero: Vec<SegmentId>,
    /// Dropped segments, by id.
    pub dropped: Vec<SegmentId>,
}

/// The segments of a collection for a query coordinator, by channel in shard order. `partitions`
/// empty = all; deletes for any partition (-1) always pass.
pub fn view(
    state: &State,
    collection: CollectionId,
    partitions: &[PartitionId],
) -> Vec<ChannelView> {
    let mut views: Vec<ChannelView> = state
        .channels_of(collection)
        .into_iter()
        .map(|channel| ChannelView {
            channel: channel.name.clone(),
            ..Default::default()
        })
        .collect();
    for segment in state.segments_of(collection) {
        let wanted = partitions.is_empty()
            || segment.partition.0 < 0
            || partitions.contains(&segment.partition);
        if !wanted || !has_position(segment) || segment.state == SegmentState::Importing {
            continue;
        }
        let Some(view) = views
            .iter_mut()
            .find(|view| *view.channel == *segment.channel)
        else {
            continue;
        };
        match state.effective_state(segment) {
            SegmentState::Dropped => view.dropped.push(segment.id),
            state if !state.is_flush_state() => view.unflushed.push(segment.id),
            _ if segment.level == Level::L0 => view.level_zero.push(segment.id),
            _ => view.flushed.push(segment.id),
        }
    }
    views
}

fn has_position(segment: &Segment) -> bool {
    !segment.start.is_zero() || !segment.dml.is_zero()
}

/// Where a reader of the channel starts: its checkpoint, else the earliest position of its
/// segments, else nothing.
pub fn seek_ts(state: &State, channel: &str) -> Option<Ts> {
    let row = state.channel(channel)?;
    if let Some(checkpoint) = &row.checkpoint {
        return Some(Ts(checkpoint.ts));
    }
    state
        .segments_on(channel)
        .filter_map(|segment| {
            [segment.dml, segment.start]
                .into_iter()
                .find(|ts| !ts.is_zero())
        })
        .min()
}
