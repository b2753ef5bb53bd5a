//! What a reader must load of a collection (`semantics.md` §6): GetRecoveryInfoV2.

use std::collections::{BTreeMap, BTreeSet};

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
///
/// Of a compaction's inputs and outputs only one side is given: the outputs once all of them are
/// ready (see [`State::is_ready`]), else the inputs, which are then among the flushed ones though
/// they are dropped. An input that is condemned or forgotten never comes back.
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
    let at: BTreeMap<String, usize> = views
        .iter()
        .enumerate()
        .map(|(at, view)| (view.channel.clone(), at))
        .collect();
    let mut flushed = BTreeSet::new();
    let mut dropped = BTreeSet::new();
    for segment in state.segments_of(collection) {
        let wanted = partitions.is_empty()
            || segment.partition.0 < 0
            || partitions.contains(&segment.partition);
        if !wanted || !has_position(segment) || segment.state == SegmentState::Importing {
            continue;
        }
        let Some(&at) = at.get(&*segment.channel) else {
            continue;
        };
        match state.effective_state(segment) {
            SegmentState::Dropped => {
                dropped.insert(segment.id);
            }
            state if !state.is_flush_state() => views[at].unflushed.push(segment.id),
            _ if segment.level == Level::L0 => views[at].level_zero.push(segment.id),
            _ => {
                flushed.insert(segment.id);
            }
        }
    }
    walk_back(state, &mut flushed);
    for id in dropped.difference(&flushed) {
        place(state, &at, *id, |at| views[at].dropped.push(*id));
    }
    for id in &flushed {
        place(state, &at, *id, |at| views[at].flushed.push(*id));
    }
    views
}

fn place(state: &State, at: &BTreeMap<String, usize>, id: SegmentId, put: impl FnOnce(usize)) {
    let channel = state.segment(id).map(|segment| &*segment.channel);
    if let Some(&at) = channel.and_then(|name| at.get(name)) {
        put(at);
    }
}

/// Puts parents in the place of their children until every child that is left is ready, or cannot
/// be undone.
fn walk_back(state: &State, selected: &mut BTreeSet<SegmentId>) {
    let mut open: Vec<SegmentId> = selected
        .iter()
        .copied()
        .filter(|id| !state.parents_of(*id).is_empty())
        .collect();
    while let Some(id) = open.pop() {
        let Some(segment) = state.segment(id).filter(|_| selected.contains(&id)) else {
            continue;
        };
        if state.has_vector_indexes(segment) {
            continue;
        }
        if let Some(undone) = undo(state, selected, id) {
            selected.retain(|id| !undone.children.contains(id));
            selected.extend(&undone.parents);
            open.extend(undone.parents);
        }
    }
}

/// Segments that take the place of others.
#[derive(Default)]
struct Undone {
    children: BTreeSet<SegmentId>,
    parents: BTreeSet<SegmentId>,
}

/// What goes and what comes back when `child` goes. With a parent everything that was made of it
/// has to go, a ready sibling too, or rows would be given twice (Milvus #38511); and whatever else
/// went into that comes back, or rows would be missing. `None`: one of them is gone or condemned.
fn undo(state: &State, selected: &BTreeSet<SegmentId>, child: SegmentId) -> Option<Undone> {
    let usable = |parent: &SegmentId| {
        state
            .segment(*parent)
            .is_some_and(|parent| parent.compacted && parent.condemned_at.is_zero())
    };
    let mut undone = Undone::default();
    let mut open = vec![child];
    while let Some(id) = open.pop() {
        if !undone.children.insert(id) {
            continue;
        }
        undone.parents.remove(&id);
        let parents = state.parents_of(id);
        if parents.is_empty() || !parents.iter().all(usable) {
            return None;
        }
        for parent in parents {
            if !undone.children.contains(parent) {
                undone.parents.insert(*parent);
            }
        }
        let given_twice = undone
            .parents
            .iter()
            .flat_map(|parent| descendants(state, *parent))
            .filter(|id| selected.contains(id) || undone.parents.contains(id));
        open.extend(given_twice);
    }
    Some(undone)
}

/// All segments made of one, over any number of generations, by id. A reader that is given a
/// dropped parent needs their delete logs, too: deletes that came after the compaction went to them.
pub fn descendants(state: &State, segment: SegmentId) -> BTreeSet<SegmentId> {
    let mut found = BTreeSet::new();
    let mut open = state.children_of(segment).to_vec();
    while let Some(id) = open.pop() {
        if found.insert(id) {
            open.extend(state.children_of(id));
        }
    }
    found
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

#[cfg(test)]
mod tests;
