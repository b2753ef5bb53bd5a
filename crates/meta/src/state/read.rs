//! Questions the services, planners and decisions ask of the state.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::State;
use crate::id::{CollectionId, PartitionId, SegmentId};
use crate::model::{Segment, SegmentState};
use crate::pb;
use crate::ranges::RangeSet;
use crate::time::Ts;

impl State {
    /// The latest time any command carried.
    pub fn now(&self) -> Ts {
        Ts(self.singleton.now)
    }

    /// Timestamps below this may have been handed out.
    pub fn clock_bound(&self) -> Ts {
        Ts(self.singleton.clock_bound)
    }

    /// Ids below this may have been handed out.
    pub fn id_bound(&self) -> i64 {
        self.singleton.id_bound.max(super::FIRST_ID)
    }

    /// Term of the last leader that began its work.
    pub fn epoch(&self) -> u64 {
        self.singleton.epoch
    }

    /// A collection that is not dropped.
    pub fn live_collection(&self, id: CollectionId) -> Option<&Arc<pb::CollectionRow>> {
        self.collections.get(&id).filter(|row| row.dropped_at == 0)
    }

    /// A collection, dropped or not.
    pub fn collection(&self, id: CollectionId) -> Option<&Arc<pb::CollectionRow>> {
        self.collections.get(&id)
    }

    /// A live collection by name.
    pub fn collection_named(&self, name: &str) -> Option<&Arc<pb::CollectionRow>> {
        self.live_collection(*self.names.get(name)?)
    }

    /// Live collections, by id.
    pub fn collections(&self) -> impl Iterator<Item = &Arc<pb::CollectionRow>> {
        self.collections.values().filter(|row| row.dropped_at == 0)
    }

    /// Collections that are dropped, or a partition of which is.
    pub fn tombstoned_collections(&self) -> impl Iterator<Item = &Arc<pb::CollectionRow>> {
        self.collections
            .values()
            .filter(|row| row.dropped_at != 0 || row.partitions.iter().any(|p| p.dropped_at != 0))
    }

    /// A segment, whatever its state.
    pub fn segment(&self, id: SegmentId) -> Option<&Segment> {
        self.segments.get(&id).map(Box::as_ref)
    }

    /// All segments behind `after`, by id.
    pub fn segments_after(&self, after: SegmentId) -> impl Iterator<Item = &Segment> {
        self.segments
            .range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
            .map(|(_, segment)| segment.as_ref())
    }

    /// Segments of a collection, by id, dropped ones included.
    pub fn segments_of(&self, collection: CollectionId) -> impl Iterator<Item = &Segment> {
        self.by_collection
            .get(&collection)
            .into_iter()
            .flatten()
            .filter_map(|id| self.segment(*id))
    }

    /// Segments of a channel that are not stored as dropped, by id.
    pub fn segments_on(&self, channel: &str) -> impl Iterator<Item = &Segment> {
        self.by_channel
            .get(channel)
            .into_iter()
            .flatten()
            .filter_map(|id| self.segment(*id))
    }

    /// Growing, Sealed and Flushing segments of a channel, by id.
    pub fn unflushed_on(&self, channel: &str) -> impl Iterator<Item = &Segment> {
        self.unflushed
            .get(channel)
            .into_iter()
            .flatten()
            .filter_map(|id| self.segment(*id))
    }

    /// Channels that have Growing, Sealed or Flushing segments.
    pub fn channels_with_unflushed(&self) -> impl Iterator<Item = &Arc<str>> {
        self.unflushed.keys()
    }

    /// The state readers see: a segment of a dropped collection, partition or channel *is* Dropped
    /// from the entry of the drop on, whatever its own row still says.
    pub fn effective_state(&self, segment: &Segment) -> SegmentState {
        if segment.state == SegmentState::Dropped || self.is_entombed(segment) {
            SegmentState::Dropped
        } else {
            segment.state
        }
    }

    fn is_entombed(&self, segment: &Segment) -> bool {
        let Some(collection) = self.collections.get(&segment.collection) else {
            return true;
        };
        collection.dropped_at != 0
            || self.partition_dropped(collection, segment.partition)
            || self
                .channels
                .get(&segment.channel)
                .is_some_and(|channel| channel.dropped_at != 0)
    }

    /// Whether a collection had this partition and it was dropped, however long ago.
    pub(crate) fn partition_dropped(
        &self,
        collection: &pb::CollectionRow,
        id: PartitionId,
    ) -> bool {
        collection.past_partition_ids.contains(&id.0)
            || collection
                .partitions
                .iter()
                .any(|partition| partition.id == id.0 && partition.dropped_at != 0)
    }

    /// When a segment was dropped: by itself, or by the drop of what it belongs to.
    pub fn dropped_at(&self, segment: &Segment) -> Ts {
        if !segment.dropped_at.is_zero() {
            return segment.dropped_at;
        }
        let collection = self.collections.get(&segment.collection);
        let partition = collection.and_then(|row| {
            row.partitions
                .iter()
                .find(|partition| partition.id == segment.partition.0)
        });
        let channel = self.channels.get(&segment.channel);
        [
            collection.map_or(0, |row| row.dropped_at),
            partition.map_or(0, |row| row.dropped_at),
            channel.map_or(0, |row| row.dropped_at),
        ]
        .into_iter()
        .filter(|&at| at != 0)
        .min()
        .map_or(Ts::ZERO, Ts)
    }

    /// A segment that is not dropped.
    pub fn healthy_segment(&self, id: SegmentId) -> Option<&Segment> {
        self.segment(id)
            .filter(|segment| self.effective_state(segment) != SegmentState::Dropped)
    }

    /// A channel, tombstones included.
    pub fn channel(&self, name: &str) -> Option<&Arc<pb::ChannelRow>> {
        self.channels.get(name)
    }

    /// All channels, by name.
    pub fn channels(&self) -> impl Iterator<Item = &Arc<pb::ChannelRow>> {
        self.channels.values()
    }

    /// Channels of a collection, in shard order where the collection names them.
    pub fn channels_of(&self, collection: CollectionId) -> Vec<&Arc<pb::ChannelRow>> {
        self.collections
            .get(&collection)
            .into_iter()
            .flat_map(|row| &row.channels)
            .filter_map(|name| self.channels.get(name.as_str()))
            .collect()
    }

    /// Stored rows of every stream on a channel.
    pub fn coverage_of(&self, channel: &str) -> Option<&BTreeMap<Bytes, RangeSet>> {
        self.coverage.get(channel)
    }

    /// A data node.
    pub fn node(&self, id: i64) -> Option<&Arc<pb::NodeRow>> {
        self.nodes.get(&id)
    }

    /// All data nodes, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<pb::NodeRow>> {
        self.nodes.values()
    }

    /// An annotation.
    pub fn annotation(&self, key: &str) -> Option<&Arc<pb::Annotation>> {
        self.annotations.get(key)
    }

    /// Annotations with a prefix, behind `after`, by key.
    pub fn annotations<'a>(
        &'a self,
        prefix: &'a str,
        after: &str,
    ) -> impl Iterator<Item = &'a Arc<pb::Annotation>> {
        let from = if after >= prefix {
            std::ops::Bound::Excluded(after.to_owned())
        } else {
            std::ops::Bound::Included(prefix.to_owned())
        };
        self.annotations
            .range((from, std::ops::Bound::Unbounded))
            .map(|(_, row)| row)
            .take_while(move |row| row.key.starts_with(prefix))
    }

    /// The answer given to a request token.
    pub fn token(&self, token: &[u8]) -> Option<&pb::TokenRow> {
        self.tokens.get(token)
    }

    /// Whether a token has outlived its expiry.
    pub fn has_expired_tokens(&self, now: Ts) -> bool {
        self.token_expiry.first().is_some_and(|(at, _)| *at < now.0)
    }

    /// Counts for operators: collections, healthy segments are not counted here but all rows.
    pub fn counts(&self) -> Counts {
        Counts {
            collections: self.names.len(),
            segments: self.segments.len(),
            channels: self.channels.len(),
            nodes: self.nodes.len(),
            annotations: self.annotations.len(),
        }
    }
}

/// How many rows of each kind memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Live collections.
    pub collections: usize,
    /// Segments, dropped ones included.
    pub segments: usize,
    /// Channels, tombstones included.
    pub channels: usize,
    /// Data nodes.
    pub nodes: usize,
    /// Annotations.
    pub annotations: usize,
}
