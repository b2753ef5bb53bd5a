#![allow(clippy::unwrap_used)]

mod level0;
mod merge;
mod plans;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use quorate_binlog::{
    ColumnData, DeltaRows, Group, LogPath, LogStore, Place, PrimaryKeyStats, Schema, delta, group,
    stats,
};
use quorate_rpc::proto::milvus::common::KeyValuePair;
use quorate_rpc::proto::milvus::data::{
    Binlog, CompactionPlan, CompactionSegment, CompactionSegmentBinlogs, CompactionType,
    FieldBinlog, IdRange, SegmentLevel,
};
use quorate_rpc::proto::milvus::schema::{CollectionSchema, DataType, FieldSchema};

use super::output::store_group;

pub(super) const COLLECTION: i64 = 1;
pub(super) const PARTITION: i64 = 2;
pub(super) const CHANNEL: &str = "dml_0_1v0";

/// What a row is made of; its other values follow from its row id.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Row {
    pub key: i64,
    pub row_id: i64,
    pub timestamp: i64,
}

/// A segment as a test describes it.
#[derive(Debug, Clone, Default)]
pub(super) struct Segment {
    pub id: i64,
    pub partition: i64,
    /// Rows by what is written together.
    pub groups: Vec<Vec<Row>>,
    /// Deletes by delta log: keys and timestamps.
    pub deltas: Vec<Vec<(i64, u64)>>,
    pub level_zero: bool,
}

impl Segment {
    pub fn place(&self) -> Place {
        Place {
            collection: COLLECTION,
            partition: self.partition,
            segment: self.id,
        }
    }

    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.groups.iter().flatten()
    }

    /// Whether its own delete logs delete a row of it.
    pub fn deletes(&self, row: &Row) -> bool {
        hit(self.deltas.iter().flatten(), row)
    }
}

/// Whether one of some deletes hits a row.
pub(super) fn hit<'a>(deletes: impl IntoIterator<Item = &'a (i64, u64)>, row: &Row) -> bool {
    deletes
        .into_iter()
        .any(|(key, timestamp)| *key == row.key && *timestamp > row.timestamp as u64)
}

/// An object store in memory with log files.
pub(super) struct Objects {
    pub inner: Arc<InMemory>,
    pub store: LogStore,
    next_id: i64,
}

impl Objects {
    pub fn new() -> Objects {
        let inner = Arc::new(InMemory::new());
        let root = object_store::path::Path::from("root");
        Objects {
            store: LogStore::new(inner.clone(), root, Duration::from_secs(1)),
            inner,
            next_id: 1,
        }
    }

    /// Writes a segment's logs as data nodes do.
    pub async fn write(&mut self, segment: &Segment, schema: &Schema) -> CompactionSegmentBinlogs {
        let place = segment.place();
        let schema = Arc::new(schema.clone());
        let fields = group::all_fields(&schema);
        let mut binlogs: Vec<FieldBinlog> = fields.iter().map(|id| field(*id)).collect();
        let mut statslogs = field(100);
        for rows in &segment.groups {
            let columns = columns(rows, &schema);
            let first = self.ids(fields.len() as i64 + 1);
            let written = store_group(&self.store, place, &schema, columns, first)
                .await
                .unwrap();
            for (field, log) in binlogs.iter_mut().zip(written.logs) {
                field.binlogs.push(log);
            }
            let path = place.stats(100, first + fields.len() as i64);
            let log = stats::encode(path, &written.stats.unwrap(), written.timestamps).unwrap();
            self.store.put(&log).await.unwrap();
            statslogs.binlogs.push(log.to_binlog(self.store.root()));
        }
        let mut deltalogs = field(100);
        for deletes in segment.deltas.iter().filter(|deletes| !deletes.is_empty()) {
            let path = place.delta(self.ids(1));
            let rows = DeltaRows {
                keys: ColumnData::Int64(deletes.iter().map(|(key, _)| *key).collect()),
                timestamps: deletes.iter().map(|(_, timestamp)| *timestamp).collect(),
            };
            let log = delta::encode(path, &rows).unwrap();
            self.store.put(&log).await.unwrap();
            deltalogs.binlogs.push(log.to_binlog(self.store.root()));
        }
        let level = if segment.level_zero {
            SegmentLevel::L0
        } else {
            SegmentLevel::L1
        };
        CompactionSegmentBinlogs {
            segment_id: segment.id,
            field_binlogs: binlogs,
            field2_statslog_paths: vec![statslogs],
            deltalogs: vec![deltalogs],
            insert_channel: CHANNEL.into(),
            level: level.into(),
            collection_id: COLLECTION,
            partition_id: segment.partition,
            is_sorted: false,
        }
    }

    pub async fn write_all(
        &mut self,
        segments: &[Segment],
        schema: &Schema,
    ) -> Vec<CompactionSegmentBinlogs> {
        let mut written = Vec::with_capacity(segments.len());
        for segment in segments {
            written.push(self.write(segment, schema).await);
        }
        written
    }

    /// Locations of all objects, sorted.
    pub async fn all(&self) -> Vec<String> {
        let objects = self.inner.list(None);
        let mut paths: Vec<String> = objects
            .map(|object| object.unwrap().location.to_string())
            .collect()
            .await;
        paths.sort();
        paths
    }

    pub async fn remove(&self, location: &str) {
        self.inner.delete(&location.into()).await.unwrap();
    }

    fn ids(&mut self, count: i64) -> i64 {
        let first = self.next_id;
        self.next_id += count;
        first
    }
}

pub(super) fn proto_schema() -> CollectionSchema {
    let field = |id, name: &str, data_type: DataType| FieldSchema {
        field_id: id,
        name: name.into(),
        data_type: data_type.into(),
        is_primary_key: id == 100,
        type_params: vec![KeyValuePair {
            key: "dim".into(),
            value: "3".into(),
        }],
        ..Default::default()
    };
    CollectionSchema {
        name: "docs".into(),
        fields: vec![
            field(100, "id", DataType::Int64),
            field(101, "text", DataType::VarChar),
            field(102, "vector", DataType::FloatVector),
        ],
        ..Default::default()
    }
}

pub(super) fn schema() -> Schema {
    Schema::from_proto(&proto_schema()).unwrap()
}

/// The columns of some rows: the schema's, then row ids and timestamps.
pub(super) fn columns(rows: &[Row], schema: &Schema) -> Vec<ColumnData> {
    let mut columns = vec![ColumnData::Int64(rows.iter().map(|row| row.key).collect())];
    if schema.fields().len() > 1 {
        let text = |row: &Row| format!("text of {}", row.row_id);
        columns.push(ColumnData::VarChar(rows.iter().map(text).collect()));
        columns.push(ColumnData::FloatVector {
            dim: 3,
            data: rows
                .iter()
                .flat_map(|r| [r.row_id as f32, 0.5, -1.0])
                .collect(),
        });
    }
    columns.push(ColumnData::Int64(
        rows.iter().map(|row| row.row_id).collect(),
    ));
    columns.push(ColumnData::Int64(
        rows.iter().map(|row| row.timestamp).collect(),
    ));
    columns
}

/// A plan with plenty of ids.
pub(super) fn plan(
    kind: CompactionType,
    segments: Vec<CompactionSegmentBinlogs>,
) -> CompactionPlan {
    CompactionPlan {
        plan_id: 9,
        segment_binlogs: segments,
        timeout_in_seconds: 60,
        r#type: kind.into(),
        channel: CHANNEL.into(),
        schema: Some(proto_schema()),
        pre_allocated_segment_i_ds: id_range(50_000..51_000),
        pre_allocated_log_i_ds: id_range(60_000..70_000),
        ..Default::default()
    }
}

pub(super) fn id_range(ids: Range<i64>) -> Option<IdRange> {
    Some(IdRange {
        begin: ids.start,
        end: ids.end,
    })
}

/// Every log an output names.
pub(super) fn named(output: &CompactionSegment) -> impl Iterator<Item = &Binlog> {
    let fields = output.insert_logs.iter();
    fields
        .chain(&output.field2_statslog_paths)
        .chain(&output.deltalogs)
        .flat_map(|field| &field.binlogs)
}

/// The groups of an output, read back: columns of each.
pub(super) async fn read_output(
    objects: &Objects,
    schema: &Schema,
    output: &CompactionSegment,
) -> Vec<Vec<ColumnData>> {
    let place = Place {
        collection: COLLECTION,
        partition: PARTITION,
        segment: output.segment_id,
    };
    let fields = group::all_fields(schema);
    let (groups, problems) = group::by_write(place, schema, &fields, &output.insert_logs);
    assert_eq!(problems, []);
    let mut read = Vec::new();
    for Group { logs } in groups {
        let mut columns = Vec::new();
        for log in logs {
            let column = objects.store.read_insert(&log.path).await.unwrap().column;
            assert_eq!(column.len() as i64, log.entry.entries_num);
            assert_eq!(column.memory_size() as i64, log.entry.memory_size);
            columns.push(column);
        }
        read.push(columns);
    }
    read
}

/// The statistics of an output.
pub(super) async fn read_stats(objects: &Objects, output: &CompactionSegment) -> PrimaryKeyStats {
    let log = &output.field2_statslog_paths[0].binlogs[0];
    let path = LogPath::parse(&log.log_path).unwrap();
    objects.store.read_stats(&path).await.unwrap()
}

fn field(id: i64) -> FieldBinlog {
    FieldBinlog {
        field_id: id,
        binlogs: Vec::new(),
    }
}
