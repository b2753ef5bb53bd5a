//! Segments and the indexes over them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::State;
use crate::id::{CollectionId, SegmentId};
use crate::model::{Level, Segment, SegmentState};
use crate::pb;

impl State {
    pub(super) fn put_segment(&mut self, mut segment: Segment) {
        segment.channel = self.intern(&segment.channel);
        if let Some(old) = self.segments.remove(&segment.id) {
            self.list(&old, false);
        }
        self.list(&segment, true);
        let id = segment.id;
        self.segments.insert(id, Box::new(segment));
        self.list_unindexed(id);
    }

    pub(super) fn forget_segment(&mut self, id: SegmentId) {
        if let Some(old) = self.segments.remove(&id) {
            self.list(&old, false);
        }
        self.unindexed.remove(&id);
    }

    /// An index that comes or is dropped changes what its collection's segments lack.
    pub(super) fn put_index(&mut self, row: Arc<pb::IndexRow>) {
        let collection = row.index.as_ref().map(|index| index.collection_id);
        self.indexes.put(row);
        let ids = collection.and_then(|id| self.by_collection.get(&CollectionId(id)));
        for id in ids.cloned().into_iter().flatten() {
            self.list_unindexed(id);
        }
    }

    pub(super) fn put_build(&mut self, row: Arc<pb::BuildRow>) {
        let segment = SegmentId(row.segment_id);
        self.indexes.put_build(row);
        self.list_unindexed(segment);
    }

    pub(super) fn forget_build(&mut self, id: i64) {
        let segment = self.build(id).map(|row| SegmentId(row.segment_id));
        self.indexes.forget_build(id);
        if let Some(segment) = segment {
            self.list_unindexed(segment);
        }
    }

    fn list_unindexed(&mut self, id: SegmentId) {
        let lacks = |segment: &Segment| {
            segment.state == SegmentState::Flushed
                && segment.level != Level::L0
                && self.unbuilt(segment).next().is_some()
        };
        if self.segment(id).is_some_and(lacks) {
            self.unindexed.insert(id);
        } else {
            self.unindexed.remove(&id);
        }
    }

    /// Live indexes of a segment's collection that it has no build of.
    pub(crate) fn unbuilt(&self, segment: &Segment) -> impl Iterator<Item = i64> {
        self.indexes_of(segment.collection)
            .filter_map(|row| row.index.as_ref())
            .map(|index| index.index_id)
            .filter(|index_id| self.build_of(segment.id, *index_id).is_none())
    }

    /// Puts a segment into the indexes it belongs to, or takes it out of them.
    fn list(&mut self, segment: &Segment, member: bool) {
        use SegmentState::*;
        let id = segment.id;
        set_member(&mut self.by_collection, segment.collection, id, member);
        if segment.state == Dropped {
            let set = if segment.condemned_at.is_zero() {
                &mut self.dropped
            } else {
                &mut self.condemned
            };
            if member {
                set.insert(id);
            } else {
                set.remove(&id);
            }
            return;
        }
        set_member(&mut self.by_channel, segment.channel.clone(), id, member);
        if matches!(segment.state, Growing | Sealed | Flushing) {
            set_member(&mut self.unflushed, segment.channel.clone(), id, member);
        }
        if segment.level == Level::L0 {
            set_member(&mut self.level0, segment.channel.clone(), id, member);
        } else if segment.state == Flushed {
            let group = (
                segment.collection,
                segment.partition,
                segment.channel.clone(),
            );
            set_member(&mut self.flushed, group, id, member);
        }
    }
}

/// Puts `id` into the set of `key`, or takes it out; empty sets go.
fn set_member<K: Ord>(
    sets: &mut BTreeMap<K, BTreeSet<SegmentId>>,
    key: K,
    id: SegmentId,
    member: bool,
) {
    if member {
        sets.entry(key).or_default().insert(id);
    } else if let Some(set) = sets.get_mut(&key) {
        set.remove(&id);
        if set.is_empty() {
            sets.remove(&key);
        }
    }
}
