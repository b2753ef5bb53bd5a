//! Tables of compaction, indexes and lineage, with the indexes over them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::change::{index_id, plan_id};
use crate::id::{CollectionId, SegmentId};
use crate::model::{compaction, index};
use crate::pb;

/// Compaction tasks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Compactions {
    pub rows: BTreeMap<i64, Arc<pb::CompactionRow>>,
    pub live: BTreeSet<i64>,
    /// Inputs and targets of live tasks.
    pub held: BTreeMap<SegmentId, i64>,
}

/// Segments a task reads, replaces or adds to.
fn segments_of(row: &pb::CompactionRow) -> impl Iterator<Item = SegmentId> + '_ {
    row.plan.iter().flat_map(|plan| {
        let inputs = plan.inputs.iter().map(|input| input.segment_id);
        inputs.chain(plan.targets.iter().copied()).map(SegmentId)
    })
}

impl Compactions {
    pub fn put(&mut self, row: Arc<pb::CompactionRow>) {
        let id = plan_id(&row);
        let is_live = compaction::is_live(&row);
        // A plan never changes, so what is held changes with liveness alone.
        if is_live != self.live.contains(&id) {
            for segment in segments_of(&row) {
                if is_live {
                    self.held.insert(segment, id);
                } else if self.held.get(&segment) == Some(&id) {
                    self.held.remove(&segment);
                }
            }
            if is_live {
                self.live.insert(id);
            } else {
                self.live.remove(&id);
            }
        }
        self.rows.insert(id, row);
    }

    pub fn forget(&mut self, id: i64) {
        if self.live.remove(&id) {
            self.held.retain(|_, holder| *holder != id);
        }
        self.rows.remove(&id);
    }
}

/// Indexes and their builds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Indexes {
    pub rows: BTreeMap<i64, Arc<pb::IndexRow>>,
    /// Dropped ones included.
    pub by_collection: BTreeMap<CollectionId, BTreeSet<i64>>,
    pub builds: BTreeMap<i64, Arc<pb::BuildRow>>,
    /// Builds by (segment, index).
    pub by_segment: BTreeMap<(SegmentId, i64), i64>,
    pub open: BTreeSet<i64>,
    /// How many builds there are of each index.
    pub build_counts: BTreeMap<i64, usize>,
}

impl Indexes {
    pub fn put(&mut self, row: Arc<pb::IndexRow>) {
        let id = index_id(&row);
        if let Some(definition) = &row.index {
            self.by_collection
                .entry(CollectionId(definition.collection_id))
                .or_default()
                .insert(id);
        }
        self.rows.insert(id, row);
    }

    pub fn forget(&mut self, id: i64) {
        let Some(row) = self.rows.remove(&id) else {
            return;
        };
        let collection = row.index.as_ref().map(|index| index.collection_id);
        if let Some(collection) = collection.map(CollectionId)
            && let Some(ids) = self.by_collection.get_mut(&collection)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_collection.remove(&collection);
            }
        }
    }

    pub fn put_build(&mut self, row: Arc<pb::BuildRow>) {
        let id = row.build_id;
        if index::is_open(&row) {
            self.open.insert(id);
        } else {
            self.open.remove(&id);
        }
        self.by_segment
            .insert((SegmentId(row.segment_id), row.index_id), id);
        let index = row.index_id;
        if self.builds.insert(id, row).is_none() {
            *self.build_counts.entry(index).or_default() += 1;
        }
    }

    /// How many builds there are of an index.
    pub fn builds_of_index(&self, index_id: i64) -> usize {
        self.build_counts.get(&index_id).copied().unwrap_or(0)
    }

    pub fn forget_build(&mut self, id: i64) {
        let Some(row) = self.builds.remove(&id) else {
            return;
        };
        self.open.remove(&id);
        self.by_segment
            .remove(&(SegmentId(row.segment_id), row.index_id));
        if let Some(count) = self.build_counts.get_mut(&row.index_id) {
            *count -= 1;
            if *count == 0 {
                self.build_counts.remove(&row.index_id);
            }
        }
    }
}

/// What compacted segments were made of, and delete logs that passed on with it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lineage {
    pub parents: BTreeMap<SegmentId, Vec<SegmentId>>,
    pub children: BTreeMap<SegmentId, Vec<SegmentId>>,
    /// By log id.
    pub carried: BTreeMap<i64, pb::CarriedRow>,
    /// (holder, log id)
    pub holders: BTreeSet<(SegmentId, i64)>,
}

impl Lineage {
    pub fn put(&mut self, child: SegmentId, parents: Vec<SegmentId>) {
        self.forget(child);
        for &parent in &parents {
            let children = self.children.entry(parent).or_default();
            if let Err(at) = children.binary_search(&child) {
                children.insert(at, child);
            }
        }
        self.parents.insert(child, parents);
    }

    pub fn forget(&mut self, child: SegmentId) {
        for parent in self.parents.remove(&child).unwrap_or_default() {
            if let Some(children) = self.children.get_mut(&parent) {
                children.retain(|other| *other != child);
                if children.is_empty() {
                    self.children.remove(&parent);
                }
            }
        }
    }

    pub fn carry(&mut self, log_id: i64, row: pb::CarriedRow) {
        self.forget_carried(log_id);
        for &holder in &row.holders {
            self.holders.insert((SegmentId(holder), log_id));
        }
        self.carried.insert(log_id, row);
    }

    pub fn forget_carried(&mut self, log_id: i64) {
        if let Some(row) = self.carried.remove(&log_id) {
            for holder in row.holders {
                self.holders.remove(&(SegmentId(holder), log_id));
            }
        }
    }

    /// Carried delete logs a segment holds.
    pub fn carried_by(&self, segment: SegmentId) -> impl Iterator<Item = i64> + '_ {
        self.holders
            .range((segment, i64::MIN)..=(segment, i64::MAX))
            .map(|(_, log_id)| *log_id)
    }
}
