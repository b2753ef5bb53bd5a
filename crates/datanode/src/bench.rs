//! Measuring: what a merge costs, next to what reading and writing the same data costs anyway.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use quorate_binlog::{
    ColumnData, DeltaRows, EncodedLog, LogPath, LogStore, Place, Schema, delta, group, recode,
};
use quorate_rpc::proto::milvus::common::KeyValuePair;
use quorate_rpc::proto::milvus::data::{
    Binlog, CompactionPlan, CompactionSegment, CompactionSegmentBinlogs, CompactionType,
    FieldBinlog, IdRange, SegmentLevel,
};
use quorate_rpc::proto::milvus::schema::{CollectionSchema, DataType, FieldSchema};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::worker::compaction::{PlanError, carry_out_plan, store_group};

const COLLECTION: i64 = 1;
const PARTITION: i64 = 2;
const KEY_FIELD: i64 = 100;
const TEXT_FIELD: i64 = 101;
const VECTOR_FIELD: i64 = 102;
const FIELDS: usize = 3;
/// Bytes of values that inputs have in a log, as a data node writes them.
const GROUP_BYTES: usize = 16 << 20;
/// Files the plain copy works on at a time, as many as a merge has in work.
const FILES_AT_ONCE: usize = 4;
const OBJECT_DEADLINE: Duration = Duration::from_secs(60);

/// What to merge.
#[derive(Debug, Clone, Copy)]
pub struct MergeSpec {
    /// Input segments.
    pub segments: u32,
    /// Rows of each.
    pub rows: u32,
    /// Dimension of the vectors.
    pub dim: u32,
    /// Rows deleted in each, per thousand.
    pub deleted_permille: u32,
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Rows of the inputs.
    pub rows_in: u64,
    /// Rows of the output.
    pub rows_out: u64,
    /// Size of the inputs' insert logs in the object store.
    pub file_bytes: u64,
    /// Size of the inputs' values in memory.
    pub memory_bytes: u64,
    /// Duration of the merge.
    pub merge: Duration,
    /// Duration of reading and writing the same files as they are.
    pub plain: Duration,
}

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot measure a merge: {reason}")]
pub struct BenchError {
    reason: String,
}

impl BenchError {
    fn new(reason: impl ToString) -> BenchError {
        BenchError {
            reason: reason.to_string(),
        }
    }
}

impl From<PlanError> for BenchError {
    fn from(error: PlanError) -> BenchError {
        BenchError::new(error)
    }
}

/// Makes segments of random vectors in a local folder, merges them as the data node does, and then
/// reads and writes the same files with the same crate and settings, without looking at them.
pub async fn merge_throughput(folder: &Path, spec: MergeSpec) -> Result<Measured, BenchError> {
    if spec.segments == 0 || spec.rows == 0 || spec.dim == 0 || spec.deleted_permille > 1000 {
        return Err(BenchError::new(format!("nothing to merge in {spec:?}")));
    }
    let store =
        LogStore::open(&folder.display().to_string(), OBJECT_DEADLINE).map_err(BenchError::new)?;
    let mut random = StdRng::seed_from_u64(7);
    let mut next_id = 1;
    let mut inputs = Vec::new();
    for segment in 1..=i64::from(spec.segments) {
        inputs.push(make_segment(&store, spec, segment, &mut next_id, &mut random).await?);
    }
    let logs = || {
        let fields = inputs.iter().flat_map(|input| &input.field_binlogs);
        fields.flat_map(|field| &field.binlogs)
    };
    let sum = |of: fn(&Binlog) -> i64| -> u64 { logs().map(|log| of(log).max(0) as u64).sum() };
    let (file_bytes, memory_bytes) = (sum(|log| log.log_size), sum(|log| log.memory_size));
    let paths: Vec<LogPath> = logs()
        .map(|log| LogPath::parse(&log.log_path).map_err(BenchError::new))
        .collect::<Result<_, _>>()?;

    let rows_in = u64::from(spec.segments) * u64::from(spec.rows);
    let log_ids = group::rewrite_logs_max(rows_in, memory_bytes, FIELDS, 1);
    let plan = plan(inputs, spec.dim, log_ids, next_id);
    let started = Instant::now();
    let outputs = carry_out_plan(&store, &plan).await?;
    let merge = started.elapsed();

    let started = Instant::now();
    copy(&store, &paths).await?;
    let plain = started.elapsed();
    Ok(Measured {
        rows_in,
        rows_out: rows_of(&outputs),
        file_bytes,
        memory_bytes,
        merge,
        plain,
    })
}

fn rows_of(outputs: &[CompactionSegment]) -> u64 {
    let rows = outputs.iter().map(|output| output.num_of_rows.max(0));
    rows.sum::<i64>() as u64
}

/// Copies files to places of their own.
async fn copy(store: &LogStore, paths: &[LogPath]) -> Result<(), BenchError> {
    // Segments of the copies, apart from all others.
    const OFFSET: i64 = 1_000_000;
    let copies = paths.iter().map(|path| async move {
        let bytes = store.get(path).await.map_err(BenchError::new)?;
        let bytes = tokio::task::spawn_blocking(move || recode(bytes))
            .await
            .map_err(BenchError::new)?
            .map_err(BenchError::new)?;
        let place = Place {
            collection: path.collection(),
            partition: path.partition(),
            segment: path.segment() + OFFSET,
        };
        let log = EncodedLog {
            path: place.insert(path.field().unwrap_or_default(), path.log_id()),
            bytes,
            rows: 0,
            memory_size_bytes: 0,
            timestamp_from: 0,
            timestamp_to: 0,
        };
        store.put(&log).await.map_err(BenchError::new)
    });
    let copies: Vec<_> = copies.collect();
    stream::iter(copies)
        .buffer_unordered(FILES_AT_ONCE)
        .try_collect()
        .await
}

fn proto_schema(dim: u32) -> CollectionSchema {
    let field = |field_id, name: &str, data_type: DataType| FieldSchema {
        field_id,
        name: name.to_owned(),
        data_type: data_type.into(),
        is_primary_key: field_id == KEY_FIELD,
        ..Default::default()
    };
    let mut vector = field(VECTOR_FIELD, "embedding", DataType::FloatVector);
    vector.type_params.push(KeyValuePair {
        key: "dim".to_owned(),
        value: dim.to_string(),
    });
    CollectionSchema {
        name: "bench".to_owned(),
        fields: vec![
            field(KEY_FIELD, "id", DataType::Int64),
            field(TEXT_FIELD, "text", DataType::VarChar),
            vector,
        ],
        ..Default::default()
    }
}

/// Writes a segment as a data node does: groups of logs, and deletes of some of its rows.
async fn make_segment(
    store: &LogStore,
    spec: MergeSpec,
    segment: i64,
    next_id: &mut i64,
    random: &mut StdRng,
) -> Result<CompactionSegmentBinlogs, BenchError> {
    let schema = Schema::from_proto(&proto_schema(spec.dim)).map_err(BenchError::new)?;
    let schema = Arc::new(schema);
    let place = Place {
        collection: COLLECTION,
        partition: PARTITION,
        segment,
    };
    let fields = group::all_fields(&schema);
    let mut binlogs: Vec<FieldBinlog> = fields.iter().map(|id| empty(*id)).collect();
    let group_rows = (GROUP_BYTES / (spec.dim as usize * size_of::<f32>())).max(1) as i64;
    let first_key = segment * (1 << 32);
    let (mut first, end) = (first_key, first_key + i64::from(spec.rows));
    while first < end {
        let keys = first..end.min(first + group_rows);
        first = keys.end;
        let columns = columns(keys, spec.dim, random);
        let first_id = *next_id;
        *next_id += fields.len() as i64;
        let written = store_group(store, place, &schema, columns, first_id).await?;
        for (field, log) in binlogs.iter_mut().zip(written.logs) {
            field.binlogs.push(log);
        }
    }
    let deleted = |key: &i64| {
        (key - first_key) * i64::from(spec.deleted_permille) % 1000
            < i64::from(spec.deleted_permille)
    };
    let keys: Vec<i64> = (first_key..end).filter(deleted).collect();
    let mut deltalogs = empty(KEY_FIELD);
    if !keys.is_empty() {
        let rows = DeltaRows {
            timestamps: vec![u64::MAX; keys.len()],
            keys: ColumnData::Int64(keys),
        };
        let log = delta::encode(place.delta(*next_id), &rows).map_err(BenchError::new)?;
        *next_id += 1;
        store.put(&log).await.map_err(BenchError::new)?;
        deltalogs.binlogs.push(log.to_binlog(store.root()));
    }
    Ok(CompactionSegmentBinlogs {
        segment_id: segment,
        field_binlogs: binlogs,
        deltalogs: vec![deltalogs],
        level: SegmentLevel::L1.into(),
        collection_id: COLLECTION,
        partition_id: PARTITION,
        ..Default::default()
    })
}

fn empty(field_id: i64) -> FieldBinlog {
    FieldBinlog {
        field_id,
        binlogs: Vec::new(),
    }
}

/// Columns of rows with these keys: the schema's, then row ids and timestamps.
fn columns(keys: Range<i64>, dim: u32, random: &mut StdRng) -> Vec<ColumnData> {
    let rows = (keys.end - keys.start) as usize;
    let vectors = (0..rows * dim as usize).map(|_| random.random_range(-1.0..1.0));
    vec![
        ColumnData::Int64(keys.clone().collect()),
        ColumnData::VarChar(
            keys.clone()
                .map(|key| format!("text of row {key}"))
                .collect(),
        ),
        ColumnData::FloatVector {
            dim,
            data: vectors.collect(),
        },
        ColumnData::Int64(keys.collect()),
        ColumnData::Int64(vec![1; rows]),
    ]
}

/// All inputs into one output.
fn plan(
    inputs: Vec<CompactionSegmentBinlogs>,
    dim: u32,
    log_ids: u64,
    next_id: i64,
) -> CompactionPlan {
    CompactionPlan {
        plan_id: next_id,
        segment_binlogs: inputs,
        r#type: CompactionType::MergeCompaction.into(),
        channel: "bench".to_owned(),
        schema: Some(proto_schema(dim)),
        pre_allocated_segment_i_ds: Some(IdRange {
            begin: next_id,
            end: next_id + 1,
        }),
        pre_allocated_log_i_ds: Some(IdRange {
            begin: next_id,
            end: next_id + log_ids as i64,
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn a_merge_and_a_copy_of_the_same_data_are_measured() {
        let folder = tempfile::tempdir().unwrap();
        let spec = MergeSpec {
            segments: 3,
            rows: 1000,
            dim: 8,
            deleted_permille: 50,
        };
        let measured = merge_throughput(folder.path(), spec).await.unwrap();
        assert_eq!((measured.rows_in, measured.rows_out), (3000, 2850));
        assert!(measured.memory_bytes > 3000 * 8 * 4 && measured.file_bytes > 0);
        let nothing = MergeSpec { rows: 0, ..spec };
        assert!(merge_throughput(folder.path(), nothing).await.is_err());
    }
}
