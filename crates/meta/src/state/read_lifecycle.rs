//! Questions about compaction, indexes, lineage and garbage collection.

use std::sync::Arc;

use super::State;
use crate::id::{CollectionId, SegmentId};
use crate::model::{Segment, SegmentState, index};
use crate::pb::{self, BuildState};
use crate::time::Ts;

impl State {
    /// A compaction task, live or ended.
    pub fn compaction(&self, plan_id: i64) -> Option<&Arc<pb::CompactionRow>> {
        self.compactions.rows.get(&plan_id)
    }

    /// Compaction tasks by plan id, ended ones too.
    pub fn compactions(&self) -> impl Iterator<Item = &Arc<pb::CompactionRow>> {
        self.compactions.rows.values()
    }

    /// Pending and executing compaction tasks, by plan id.
    pub fn live_compactions(&self) -> impl Iterator<Item = &Arc<pb::CompactionRow>> {
        self.compactions
            .live
            .iter()
            .filter_map(|id| self.compactions.rows.get(id))
    }

    /// The live task that holds a segment: as an input, or as a target of its deletes.
    pub fn held_by(&self, segment: SegmentId) -> Option<i64> {
        self.compactions.held.get(&segment).copied()
    }

    /// An index, dropped or not.
    pub fn index(&self, id: i64) -> Option<&Arc<pb::IndexRow>> {
        self.indexes.rows.get(&id)
    }

    /// Live indexes of a collection, by id.
    pub fn indexes_of(&self, collection: CollectionId) -> impl Iterator<Item = &Arc<pb::IndexRow>> {
        self.indexes
            .by_collection
            .get(&collection)
            .into_iter()
            .flatten()
            .filter_map(|id| self.indexes.rows.get(id))
            .filter(|row| index::is_live(row))
    }

    /// Indexes that were dropped, or whose collection was, by id.
    pub fn dropped_indexes(&self) -> impl Iterator<Item = &Arc<pb::IndexRow>> {
        self.indexes
            .rows
            .values()
            .filter(|row| !self.index_is_live(row))
    }

    /// Whether an index and its collection are live.
    pub(crate) fn index_is_live(&self, row: &pb::IndexRow) -> bool {
        index::is_live(row)
            && row.index.as_ref().is_some_and(|index| {
                self.live_collection(CollectionId(index.collection_id))
                    .is_some()
            })
    }

    /// The index build with this id.
    pub fn build(&self, build_id: i64) -> Option<&Arc<pb::BuildRow>> {
        self.indexes.builds.get(&build_id)
    }

    /// The build of one index for one segment.
    pub fn build_of(&self, segment: SegmentId, index_id: i64) -> Option<&Arc<pb::BuildRow>> {
        self.build(*self.indexes.by_segment.get(&(segment, index_id))?)
    }

    /// Builds of a segment, by index id, those of dropped indexes too.
    pub fn builds_of(&self, segment: SegmentId) -> impl Iterator<Item = &Arc<pb::BuildRow>> {
        self.indexes
            .by_segment
            .range((segment, i64::MIN)..=(segment, i64::MAX))
            .filter_map(|(_, id)| self.build(*id))
    }

    /// Builds that wait or run, by id. Those that nobody wants any more (their segment or index
    /// was dropped) are left out.
    pub fn open_builds(&self) -> impl Iterator<Item = &Arc<pb::BuildRow>> {
        self.indexes
            .open
            .iter()
            .filter_map(|id| self.build(*id))
            .filter(|row| {
                self.healthy_segment(SegmentId(row.segment_id)).is_some()
                    && self
                        .index(row.index_id)
                        .is_some_and(|index| self.index_is_live(index))
            })
    }

    /// All builds, by id.
    pub fn builds(&self) -> impl Iterator<Item = &Arc<pb::BuildRow>> {
        self.indexes.builds.values()
    }

    /// Flushed, and every live index of the collection, of which there is at least one, is finished
    /// for it: the derived state *Indexed* (`semantics.md` §1).
    pub fn is_indexed(&self, segment: &Segment) -> bool {
        self.effective_state(segment) == SegmentState::Flushed
            && self.indexes_of(segment.collection).next().is_some()
            && self.has_indexes(segment, |_| true)
    }

    /// Whether readers may use a segment in its parents' place: Flushed, and every live vector
    /// index of the collection is finished for it; there need not be one (Milvus #53064).
    pub fn is_ready(&self, segment: &Segment) -> bool {
        self.effective_state(segment) == SegmentState::Flushed && self.has_vector_indexes(segment)
    }

    /// [`Self::is_ready`] whatever the segment's state.
    pub(crate) fn has_vector_indexes(&self, segment: &Segment) -> bool {
        self.has_indexes(segment, index::is_vector)
    }

    fn has_indexes(&self, segment: &Segment, wanted: impl Fn(&pb::CreateIndex) -> bool) -> bool {
        self.indexes_of(segment.collection)
            .filter_map(|row| row.index.as_ref())
            .filter(|index| wanted(index))
            .all(|index| {
                self.build_of(segment.id, index.index_id)
                    .is_some_and(|build| build.state() == BuildState::Finished)
            })
    }

    /// The segments this one was made of, while all of them are there.
    pub fn parents_of(&self, segment: SegmentId) -> &[SegmentId] {
        self.lineage
            .parents
            .get(&segment)
            .map_or(&[], Vec::as_slice)
    }

    /// The segments made of this one, by id.
    pub fn children_of(&self, segment: SegmentId) -> &[SegmentId] {
        self.lineage
            .children
            .get(&segment)
            .map_or(&[], Vec::as_slice)
    }

    /// A delete log whose object lies in the folder of another segment than those that hold it.
    pub fn carried(&self, log_id: i64) -> Option<&pb::CarriedRow> {
        self.lineage.carried.get(&log_id)
    }

    /// The end of the longest pause of garbage collection that holds for a collection, or for all,
    /// at `now`.
    pub fn gc_pause(&self, collection: CollectionId, now: Ts) -> Option<Ts> {
        self.gc_pauses
            .values()
            .filter(|row| row.collection_id == 0 || row.collection_id == collection.0)
            .map(|row| Ts(row.until))
            .filter(|until| *until > now)
            .max()
    }

    /// Pauses of garbage collection, by collection and ticket, some of which may be over.
    pub fn gc_pauses(&self) -> impl Iterator<Item = &pb::GcPauseRow> {
        self.gc_pauses.values()
    }

    /// Condemned segments, by id: their objects are being deleted.
    pub fn condemned(&self) -> impl Iterator<Item = &Segment> {
        self.condemned.iter().filter_map(|id| self.segment(*id))
    }

    /// Segments stored as Dropped and not condemned, by id. One that a tombstone covers comes here
    /// when its row is rewritten.
    pub fn dropped_segments(&self) -> impl Iterator<Item = &Segment> {
        self.dropped.iter().filter_map(|id| self.segment(*id))
    }
}
