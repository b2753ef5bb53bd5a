//! What must be stored, what may be and what must not, by what was ordered and acknowledged.
//!
//! Every change has a *span*: from the moment it was ordered to the moment it was acknowledged,
//! if it was. Before its span a change has surely not happened, after it surely has, within it
//! nothing is known. A reader's look has a span too, so what it may see follows from comparing
//! moments alone. No key is ever used twice.

use std::collections::{BTreeMap, HashMap};

use quorate_ingest::RowPrint;

/// Violations named of one look; the rest is counted.
const NAMED_MAX: usize = 10;

/// A point in the order of everything the soak did; no two events share one.
pub(super) type Moment = u64;

/// From an order to its acknowledgement.
#[derive(Clone, Copy, Debug)]
struct Span {
    ordered: Moment,
    acknowledged: Option<Moment>,
}

impl Span {
    fn surely_before(&self, moment: Moment) -> bool {
        self.acknowledged.is_some_and(|done| done < moment)
    }

    fn possibly_before(&self, moment: Moment) -> bool {
        self.ordered < moment
    }
}

/// A row by what is known of it.
#[derive(Debug)]
struct Row {
    id: i64,
    values: u128,
    batch: usize,
    deleted: Option<Span>,
}

/// Rows that were ingested together.
#[derive(Debug)]
struct Batch {
    partition: String,
    ingested: Span,
    keys: Vec<u128>,
}

#[derive(Debug, Default)]
struct Collection {
    rows: HashMap<u128, Row>,
    batches: Vec<Batch>,
    /// Named partitions; the default one, which is never dropped, is none of them.
    partitions: BTreeMap<String, Option<Span>>,
    dropped: Option<Span>,
}

/// Name of the default partition here.
pub(super) const DEFAULT_PARTITION: &str = "";

/// Everything that was ordered.
#[derive(Debug, Default)]
pub(super) struct Model {
    now: Moment,
    collections: BTreeMap<String, Collection>,
}

/// Rows of a batch that can be deleted: ids and the hashes of their keys.
pub(super) type Keys = Vec<(i64, u128)>;

impl Model {
    /// A new moment, after everything before it.
    pub(super) fn moment(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    fn order(&mut self) -> Span {
        Span {
            ordered: self.moment(),
            acknowledged: None,
        }
    }

    pub(super) fn add_collection(&mut self, name: &str) {
        self.collections.entry(name.to_owned()).or_default();
    }

    /// Collections that were created, which their first ingest does, and whose drop has not been
    /// acknowledged.
    pub(super) fn collections(&self) -> Vec<String> {
        let there = |collection: &Collection| {
            let mut batches = collection.batches.iter();
            let gone = |span: Span| span.acknowledged.is_some();
            batches.any(|batch| batch.ingested.acknowledged.is_some())
                && !collection.dropped.is_some_and(gone)
        };
        let all = self.collections.iter();
        all.filter(|(_, collection)| there(collection))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Whether a collection may be gone at a moment.
    pub(super) fn may_be_dropped(&self, collection: &str, moment: Moment) -> bool {
        let dropped = self.collections.get(collection).and_then(|c| c.dropped);
        dropped.is_some_and(|span| span.possibly_before(moment))
    }

    /// Partitions that were not ordered to be dropped, without the default one.
    pub(super) fn partitions(&self, collection: &str) -> Vec<String> {
        let found = self.collections.get(collection);
        found
            .iter()
            .flat_map(|collection| &collection.partitions)
            .filter(|(_, dropped)| dropped.is_none())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Rows that should be there now.
    pub(super) fn alive(&self, collection: &str) -> usize {
        let found = self.collections.get(collection);
        found.map_or(0, |collection| {
            let rows = collection.rows.values();
            rows.filter(|row| collection.must_be_there(row, self.now + 1, self.now + 1))
                .count()
        })
    }

    /// An ingest of rows, by id, is ordered; the number of its batch.
    pub(super) fn order_ingest(
        &mut self,
        collection: &str,
        partition: &str,
        rows: &[(i64, RowPrint)],
    ) -> usize {
        let ingested = self.order();
        let collection = self.collections.entry(collection.to_owned()).or_default();
        if partition != DEFAULT_PARTITION {
            collection
                .partitions
                .entry(partition.to_owned())
                .or_default();
        }
        let batch = collection.batches.len();
        collection.batches.push(Batch {
            partition: partition.to_owned(),
            ingested,
            keys: rows.iter().map(|(_, print)| print.key).collect(),
        });
        for (id, print) in rows {
            let row = Row {
                id: *id,
                values: print.values,
                batch,
                deleted: None,
            };
            collection.rows.insert(print.key, row);
        }
        batch
    }

    pub(super) fn acknowledge_ingest(&mut self, collection: &str, batch: usize) {
        let now = self.moment();
        let found = self.collections.get_mut(collection);
        if let Some(batch) = found.and_then(|collection| collection.batches.get_mut(batch)) {
            batch.ingested.acknowledged = Some(now);
        }
    }

    /// Batches that are stored, with the rows that nobody has ordered to be deleted.
    pub(super) fn deletable(&self, collection: &str) -> Vec<Keys> {
        let Some(collection) = self.collections.get(collection) else {
            return Vec::new();
        };
        let dropped = |batch: &Batch| {
            let partition = collection.partitions.get(&batch.partition);
            partition.is_some_and(Option::is_some)
        };
        let keys = |batch: &Batch| -> Keys {
            let rows = batch.keys.iter().map(|key| (key, &collection.rows[key]));
            rows.filter(|(_, row)| row.deleted.is_none())
                .map(|(key, row)| (row.id, *key))
                .collect()
        };
        let stored = collection.batches.iter();
        stored
            .filter(|batch| batch.ingested.acknowledged.is_some() && !dropped(batch))
            .map(keys)
            .filter(|keys| !keys.is_empty())
            .collect()
    }

    pub(super) fn order_delete(&mut self, collection: &str, keys: &Keys) {
        let span = self.order();
        self.each_deleted(collection, keys, |row| row.deleted = Some(span));
    }

    pub(super) fn acknowledge_delete(&mut self, collection: &str, keys: &Keys) {
        let now = self.moment();
        self.each_deleted(collection, keys, |row| {
            if let Some(span) = &mut row.deleted {
                span.acknowledged = Some(now);
            }
        });
    }

    fn each_deleted(&mut self, collection: &str, keys: &Keys, mut act: impl FnMut(&mut Row)) {
        let Some(collection) = self.collections.get_mut(collection) else {
            return;
        };
        for (_, key) in keys {
            if let Some(row) = collection.rows.get_mut(key) {
                act(row);
            }
        }
    }

    pub(super) fn order_partition_drop(&mut self, collection: &str, partition: &str) {
        let span = self.order();
        let found = self.collections.get_mut(collection);
        if let Some(dropped) = found.and_then(|c| c.partitions.get_mut(partition)) {
            *dropped = Some(span);
        }
    }

    pub(super) fn acknowledge_partition_drop(&mut self, collection: &str, partition: &str) {
        let now = self.moment();
        let found = self.collections.get_mut(collection);
        if let Some(Some(span)) = found.and_then(|c| c.partitions.get_mut(partition)) {
            span.acknowledged = Some(now);
        }
    }

    pub(super) fn order_collection_drop(&mut self, collection: &str) {
        let span = self.order();
        if let Some(collection) = self.collections.get_mut(collection) {
            collection.dropped = Some(span);
        }
    }

    pub(super) fn acknowledge_collection_drop(&mut self, collection: &str) {
        let now = self.moment();
        let found = self.collections.get_mut(collection);
        if let Some(span) = found.and_then(|collection| collection.dropped.as_mut()) {
            span.acknowledged = Some(now);
        }
    }

    /// What is wrong with rows that were seen between two moments; empty when nothing is.
    pub(super) fn judge(
        &self,
        collection: &str,
        (from, to): (Moment, Moment),
        seen: &[RowPrint],
    ) -> Vec<String> {
        let Some(model) = self.collections.get(collection) else {
            return vec![format!("nobody ever ordered collection {collection}")];
        };
        let mut problems = Problems::default();
        let mut found: HashMap<u128, u32> = HashMap::with_capacity(seen.len());
        for print in seen {
            let copies = found.entry(print.key).or_default();
            *copies += 1;
            let Some(row) = model.rows.get(&print.key) else {
                problems
                    .add(|| format!("a row with key hash {:032x} was never ingested", print.key));
                continue;
            };
            let name = || model.describe(row);
            if *copies == 2 {
                problems.add(|| format!("{} is there twice", name()));
            }
            if print.values != row.values {
                problems.add(|| format!("{} has other values than it was ingested with", name()));
            }
            if let Some(why) = model.must_be_absent(row, from, to) {
                problems.add(|| format!("{} is there, but {why}", name()));
            }
        }
        for (key, row) in &model.rows {
            if model.must_be_there(row, from, to) && !found.contains_key(key) {
                problems.add(|| format!("{} is missing", model.describe(row)));
            }
        }
        problems.told()
    }
}

impl Collection {
    fn drops_of(&self, batch: &Batch) -> impl Iterator<Item = Span> {
        let partition = self.partitions.get(&batch.partition);
        partition.copied().flatten().into_iter().chain(self.dropped)
    }

    fn must_be_there(&self, row: &Row, from: Moment, to: Moment) -> bool {
        let batch = &self.batches[row.batch];
        let gone = |span: Span| span.possibly_before(to);
        batch.ingested.surely_before(from)
            && !row.deleted.is_some_and(gone)
            && !self.drops_of(batch).any(gone)
    }

    fn must_be_absent(&self, row: &Row, from: Moment, to: Moment) -> Option<&'static str> {
        let batch = &self.batches[row.batch];
        if !batch.ingested.possibly_before(to) {
            return Some("its ingest was not begun yet");
        }
        if row.deleted.is_some_and(|span| span.surely_before(from)) {
            return Some("its delete was acknowledged");
        }
        let mut drops = self.drops_of(batch);
        drops
            .any(|span| span.surely_before(from))
            .then_some("its partition or collection was dropped")
    }

    fn describe(&self, row: &Row) -> String {
        let batch = &self.batches[row.batch];
        let partition = match batch.partition.as_str() {
            DEFAULT_PARTITION => "the default partition",
            name => name,
        };
        format!("row {} of batch {} in {partition}", row.id, row.batch)
    }
}

/// The first problems, and how many there are.
#[derive(Debug, Default)]
struct Problems {
    first: Vec<String>,
    count: usize,
}

impl Problems {
    fn add(&mut self, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < NAMED_MAX {
            self.first.push(text());
        }
    }

    fn told(mut self) -> Vec<String> {
        let more = self.count - self.first.len();
        if more > 0 {
            self.first.push(format!("and {more} more"));
        }
        self.first
    }
}

#[cfg(test)]
mod tests;
