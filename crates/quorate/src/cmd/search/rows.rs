//! The rows of a segment by their offsets, as index files know them, and which of them count.

use std::collections::BTreeMap;

use quorate_binlog::group::{self, Place};
use quorate_binlog::{ColumnData, Deletes, LogStore, TIMESTAMP_FIELD, Value};
use quorate_ingest::{Key, View};
use quorate_rpc::proto::milvus::data::{SegmentInfo, SegmentLevel};

use crate::error::CliError;

/// Deletes of a level-zero segment with this partition hold for all.
const ALL_PARTITIONS: i64 = -1;

/// Deletes that are not yet with the segments they hit, by partition.
#[derive(Debug, Default)]
pub(super) struct LevelZero {
    by_partition: BTreeMap<i64, Deletes>,
}

/// Rows of a segment that are not deleted.
#[derive(Debug)]
pub(super) struct Rows {
    /// Rows with the deleted ones.
    pub(super) total: u64,
    /// Offsets, in order.
    pub(super) offsets: Vec<u64>,
    /// One for each offset.
    pub(super) keys: Vec<Key>,
    /// `dim` values for each offset; empty when they were not asked for.
    pub(super) vectors: Vec<f32>,
}

pub(super) fn is_level_zero(segment: &SegmentInfo) -> bool {
    segment.level == SegmentLevel::L0 as i32
}

impl LevelZero {
    pub(super) async fn read(store: &LogStore, view: &View) -> Result<Self, CliError> {
        let mut out = Self::default();
        for segment in view.segments().iter().filter(|s| is_level_zero(s)) {
            let deletes = out.by_partition.entry(segment.partition_id).or_default();
            read_deletes(store, view, segment, deletes).await?;
        }
        Ok(out)
    }

    fn hits(&self, partition: i64, key: Value<'_>, timestamp: u64) -> bool {
        [ALL_PARTITIONS, partition].iter().any(|partition| {
            let deletes = self.by_partition.get(partition);
            deletes.is_some_and(|deletes| deletes.hits(key, timestamp))
        })
    }
}

fn place_of(view: &View, segment: &SegmentInfo) -> Place {
    Place {
        collection: view.collection().id,
        partition: segment.partition_id,
        segment: segment.id,
    }
}

async fn read_deletes(
    store: &LogStore,
    view: &View,
    segment: &SegmentInfo,
    deletes: &mut Deletes,
) -> Result<(), CliError> {
    let place = place_of(view, segment);
    for log in segment.deltalogs.iter().flat_map(|field| &field.binlogs) {
        let path = group::locate_delta(log, place).map_err(|problem| of(segment, problem))?;
        let rows = store.read_delta(&path).await.map_err(CliError::failed)?;
        deletes.add(&rows);
    }
    Ok(())
}

fn of(segment: &SegmentInfo, problem: impl Into<anyhow::Error>) -> CliError {
    CliError::failed(problem).context(format!("segment {}", segment.id))
}

/// Reads the rows of a segment; with `vector`, their values of this field too.
pub(super) async fn read(
    store: &LogStore,
    view: &View,
    segment: &SegmentInfo,
    level_zero: &LevelZero,
    vector: Option<i64>,
) -> Result<Rows, CliError> {
    let mut deletes = Deletes::default();
    read_deletes(store, view, segment, &mut deletes).await?;
    let mut fields = vec![view.schema().primary_key().id, TIMESTAMP_FIELD];
    fields.extend(vector);
    let place = place_of(view, segment);
    let (groups, problems) = group::by_write(place, view.schema(), &fields, &segment.binlogs);
    if let Some(problem) = problems.into_iter().next() {
        return Err(of(segment, problem));
    }
    let mut rows = Rows {
        total: 0,
        offsets: Vec::new(),
        keys: Vec::new(),
        vectors: Vec::new(),
    };
    for group in groups {
        let mut columns = Vec::with_capacity(group.logs.len());
        for log in &group.logs {
            let read = store.read_insert(&log.path).await;
            columns.push(read.map_err(CliError::failed)?.column);
        }
        let deleted = |key: Value<'_>, timestamp| {
            deletes.hits(key, timestamp) || level_zero.hits(segment.partition_id, key, timestamp)
        };
        rows.add(&columns, deleted).map_err(|reason| {
            of(
                segment,
                anyhow::anyhow!("its log files do not match: {reason}"),
            )
        })?;
    }
    Ok(rows)
}

impl Rows {
    /// Appends rows: columns of keys, of timestamps, and of vectors or not.
    fn add(
        &mut self,
        columns: &[ColumnData],
        deleted: impl Fn(Value<'_>, u64) -> bool,
    ) -> Result<(), &'static str> {
        let [keys, timestamps, vectors @ ..] = columns else {
            return Err("keys or timestamps are missing");
        };
        let ColumnData::Int64(timestamps) = timestamps else {
            return Err("timestamps are not of type Int64");
        };
        if columns.iter().any(|column| column.len() != keys.len()) {
            return Err("they have different numbers of rows");
        }
        for (row, timestamp) in timestamps.iter().enumerate() {
            let offset = self.total;
            self.total += 1;
            // Timestamps are stored by their bits.
            if deleted(keys.value(row), *timestamp as u64) {
                continue;
            }
            self.offsets.push(offset);
            self.keys
                .push(Key::of(keys, row).ok_or("keys are of a type that no key has")?);
            match vectors.first().map(|column| column.value(row)) {
                None => {}
                Some(Value::FloatVector(vector)) => self.vectors.extend_from_slice(vector),
                Some(_) => return Err("the field does not hold float vectors"),
            }
        }
        Ok(())
    }

    /// The key of a row that counts, by its offset.
    pub(super) fn key(&self, offset: u64) -> Option<&Key> {
        let at = self.offsets.binary_search(&offset).ok()?;
        self.keys.get(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_count_deleted_rows_too() {
        let mut rows = Rows {
            total: 0,
            offsets: Vec::new(),
            keys: Vec::new(),
            vectors: Vec::new(),
        };
        let vectors = |data: &[f32]| ColumnData::FloatVector {
            dim: 2,
            data: data.to_vec(),
        };
        let first = [
            ColumnData::Int64(vec![5, 6]),
            ColumnData::Int64(vec![10, 10]),
            vectors(&[1.0, 2.0, 3.0, 4.0]),
        ];
        let second = [
            ColumnData::Int64(vec![7]),
            ColumnData::Int64(vec![12]),
            vectors(&[5.0, 6.0]),
        ];
        let deleted = |key: Value<'_>, timestamp: u64| key == Value::Int64(5) && timestamp < 11;
        rows.add(&first, deleted).unwrap();
        rows.add(&second, deleted).unwrap();
        assert_eq!((rows.total, &rows.offsets[..]), (3, &[1, 2][..]));
        assert_eq!(rows.vectors, [3.0, 4.0, 5.0, 6.0]);
        assert_eq!(rows.key(2), Some(&Key::Int64(7)));
        assert_eq!(rows.key(0), None);

        let short = [ColumnData::Int64(vec![5, 6]), ColumnData::Int64(vec![10])];
        assert!(rows.add(&short, deleted).is_err());
    }
}
