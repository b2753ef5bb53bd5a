//! What must hold in every reachable state. Used by property tests, the simulation and
//! `quorate check`.

mod lifecycle;

use crate::id::SegmentId;
use crate::model::{Level, SegmentState};
use crate::pb::ChannelState;
use crate::state::State;

/// Every broken invariant of a state, one line each; empty = all hold.
pub fn violations(state: &State) -> Vec<String> {
    let mut found = Vec::new();
    ids_were_handed_out(state, &mut found);
    segments_are_sound(state, &mut found);
    indexes_agree(state, &mut found);
    channels_have_one_live_owner(state, &mut found);
    coverage_is_disjoint(state, &mut found);
    lifecycle::check(state, &mut found);
    found
}

/// Nothing bears an id that was never reserved on the log.
fn ids_were_handed_out(state: &State, found: &mut Vec<String>) {
    let bound = state.id_bound();
    for id in state.segments.keys().filter(|id| id.0 >= bound) {
        found.push(format!(
            "segment {id} has an id at or above the bound {bound}"
        ));
    }
}

/// Rows and times of segments fit their state.
fn segments_are_sound(state: &State, found: &mut Vec<String>) {
    for segment in state.segments.values() {
        let id = segment.id;
        if segment.rows < 0 || segment.delta_rows < 0 {
            found.push(format!("segment {id} counts less than no rows"));
        }
        if segment.level == Level::L1 && segment.rows > segment.max_rows {
            found.push(format!(
                "segment {id} holds {} rows, over its capacity of {}",
                segment.rows, segment.max_rows
            ));
        }
        if segment.state == SegmentState::Dropped && segment.dropped_at.is_zero() {
            found.push(format!("segment {id} is dropped at no time"));
        }
        if segment.rows > 0 && segment.files == 0 {
            found.push(format!("segment {id} has rows but no files"));
        }
        if !segment.dml.is_zero() && segment.start > segment.dml {
            found.push(format!("segment {id} ends before it starts"));
        }
    }
}

/// The secondary indexes say what the rows say.
fn indexes_agree(state: &State, found: &mut Vec<String>) {
    let in_sets = |sets: &std::collections::BTreeMap<_, std::collections::BTreeSet<SegmentId>>| {
        sets.values().map(|set| set.len()).sum::<usize>()
    };
    let stored = state
        .segments
        .values()
        .filter(|segment| segment.state != SegmentState::Dropped)
        .count();
    if in_sets(&state.by_channel) != stored {
        found.push("the index of segments by channel disagrees with the segments".into());
    }
    let unflushed = state
        .segments
        .values()
        .filter(|segment| {
            matches!(
                segment.state,
                SegmentState::Growing | SegmentState::Sealed | SegmentState::Flushing
            )
        })
        .count();
    let dropped = state.segments.len() - stored;
    if state.dropped.len() + state.condemned.len() != dropped {
        found.push("the index of dropped segments disagrees with the segments".into());
    }
    let level0 = state
        .segments
        .values()
        .filter(|segment| segment.state != SegmentState::Dropped && segment.level == Level::L0)
        .count();
    if in_sets(&state.level0) != level0 {
        found.push("the index of level-zero segments disagrees with the segments".into());
    }
    let flushed = state
        .segments
        .values()
        .filter(|segment| segment.state == SegmentState::Flushed && segment.level != Level::L0)
        .count();
    let in_groups: usize = state.flushed.values().map(|set| set.len()).sum();
    if in_groups != flushed {
        found.push("the index of flushed segments disagrees with the segments".into());
    }
    if in_sets(&state.unflushed) != unflushed {
        found.push("the index of unflushed segments disagrees with the segments".into());
    }
    let by_collection: usize = state.by_collection.values().map(|set| set.len()).sum();
    if by_collection != state.segments.len() {
        found.push("the index of segments by collection disagrees with the segments".into());
    }
}

/// A channel is in the buffer, or a registered node has it.
fn channels_have_one_live_owner(state: &State, found: &mut Vec<String>) {
    for channel in state.channels.values() {
        let buffered = channel.state() == ChannelState::Standby;
        if buffered != (channel.node_id == 0) {
            found.push(format!(
                "channel {} is {} with node {}",
                channel.name,
                crate::model::channel::state_name(channel.state()),
                channel.node_id
            ));
        }
        if channel.node_id != 0 && state.node(channel.node_id).is_none() {
            found.push(format!(
                "channel {} belongs to node {}, which is not registered",
                channel.name, channel.node_id
            ));
        }
    }
}

/// No row of a stream is counted twice, and rows saved are covered.
fn coverage_is_disjoint(state: &State, found: &mut Vec<String>) {
    for (channel, streams) in &state.coverage {
        for stored in streams.values() {
            if stored
                .ranges()
                .windows(2)
                .any(|pair| pair[0].1 >= pair[1].0)
            {
                found.push(format!(
                    "coverage of channel {channel} has overlapping ranges"
                ));
            }
        }
    }
}
