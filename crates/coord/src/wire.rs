//! Between rows of the state and messages of Milvus.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use prost::Message;
use quorate_meta::model::Segment;
use quorate_meta::state::key;
use quorate_meta::{SegmentId, State, pb};
use quorate_raft_store::View;
use quorate_rpc::proto::milvus::schema::{CollectionSchema, DataType, FieldSchema};
use quorate_rpc::proto::milvus::{common, data, msg};

/// A stored position as Milvus's.
pub fn to_position(position: &pb::Position) -> msg::MsgPosition {
    msg::MsgPosition {
        channel_name: position.channel.clone(),
        msg_id: position.msg_id.to_vec(),
        msg_group: position.msg_group.clone(),
        timestamp: position.ts,
    }
}

/// Milvus's position as a stored one.
pub fn from_position(position: &msg::MsgPosition) -> pb::Position {
    pb::Position {
        channel: position.channel_name.clone(),
        msg_id: position.msg_id.clone().into(),
        msg_group: position.msg_group.clone(),
        ts: position.timestamp,
    }
}

/// The path of a log file as Milvus builds it from its ids.
pub fn canonical_path(segment: &Segment, file: &pb::BinlogRef) -> String {
    let (c, p, s) = (segment.collection, segment.partition, segment.id);
    let (field, log) = (file.field_id, file.log_id);
    match file.kind() {
        pb::LogKind::Delta => format!("delta_log/{c}/{p}/{s}/{log}"),
        pb::LogKind::Stats => format!("stats_log/{c}/{p}/{s}/{field}/{log}"),
        pb::LogKind::Bm25 => format!("bm25_stats/{c}/{p}/{s}/{field}/{log}"),
        _ => format!("insert_log/{c}/{p}/{s}/{field}/{log}"),
    }
}

/// Where a log file lies.
pub fn path_of(segment: &Segment, file: &pb::BinlogRef) -> String {
    if file.path.is_empty() {
        canonical_path(segment, file)
    } else {
        file.path.clone()
    }
}

/// What the disk holds of a segment.
#[derive(Clone, Debug, Default)]
pub struct ColdSegment {
    /// Its log files, by (kind, field, log id).
    pub files: Vec<pb::BinlogRef>,
    /// Its start position.
    pub start: Option<pb::Position>,
    /// Its last position.
    pub dml: Option<pb::Position>,
}

/// Reads the cold rows of a segment.
///
/// # Errors
/// The disk failed, or a row is damaged: never taken for "not there".
pub fn read_cold(view: &dyn View, id: SegmentId) -> std::io::Result<ColdSegment> {
    let damaged = |error: prost::DecodeError| {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string())
    };
    let mut cold = ColdSegment::default();
    let prefix = key::binlogs(id);
    let mut failed = None;
    view.scan(
        &prefix,
        &key::prefix_end(&prefix),
        &mut |_, value| match pb::BinlogRef::decode(value) {
            Ok(file) => {
                cold.files.push(file);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        },
    )?;
    if let Some(error) = failed {
        return Err(damaged(error));
    }
    for (is_start, slot) in [(true, &mut cold.start), (false, &mut cold.dml)] {
        if let Some(value) = view.get(&key::position(id, is_start))? {
            *slot = Some(pb::Position::decode(value.as_slice()).map_err(damaged)?);
        }
    }
    Ok(cold)
}

fn to_field_binlogs(
    segment: &Segment,
    files: &[pb::BinlogRef],
    kind: pb::LogKind,
) -> Vec<data::FieldBinlog> {
    let mut fields: BTreeMap<i64, Vec<data::Binlog>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.kind() == kind) {
        let log_path = path_of(segment, file);
        fields.entry(file.field_id).or_default().push(data::Binlog {
            entries_num: file.rows,
            timestamp_from: file.ts_from,
            timestamp_to: file.ts_to,
            log_path,
            log_size: file.log_size_bytes,
            log_id: file.log_id,
            memory_size: file.memory_size_bytes,
        });
    }
    fields
        .into_iter()
        .map(|(field_id, binlogs)| data::FieldBinlog { field_id, binlogs })
        .collect()
}

/// A segment as Milvus's `SegmentInfo`; with files and positions when `cold` is given.
pub fn to_segment_info(
    state: &State,
    segment: &Segment,
    cold: Option<&ColdSegment>,
) -> data::SegmentInfo {
    let fallback = |ts: quorate_meta::Ts| {
        (!ts.is_zero()).then(|| msg::MsgPosition {
            channel_name: segment.channel.to_string(),
            timestamp: ts.0,
            ..Default::default()
        })
    };
    let mut info = data::SegmentInfo {
        id: segment.id.0,
        collection_id: segment.collection.0,
        partition_id: segment.partition.0,
        insert_channel: segment.channel.to_string(),
        num_of_rows: segment.rows,
        state: state.effective_state(segment) as i32,
        max_row_num: segment.max_rows,
        last_expire_time: segment.last_expire.0,
        start_position: fallback(segment.start),
        dml_position: fallback(segment.dml),
        // Milvus counts nanoseconds here.
        dropped_at: state.dropped_at(segment).ms().saturating_mul(1_000_000),
        level: segment.level as i32,
        created_by_compaction: segment.compacted_from,
        compaction_from: state.parents_of(segment.id).iter().map(|id| id.0).collect(),
        compacted: segment.compacted,
        ..Default::default()
    };
    if let Some(cold) = cold {
        let of = |kind| to_field_binlogs(segment, &cold.files, kind);
        info.binlogs = of(pb::LogKind::Insert);
        info.statslogs = of(pb::LogKind::Stats);
        info.deltalogs = of(pb::LogKind::Delta);
        info.bm25statslogs = of(pb::LogKind::Bm25);
        info.start_position = cold.start.as_ref().map(to_position).or(info.start_position);
        info.dml_position = cold.dml.as_ref().map(to_position).or(info.dml_position);
    }
    info
}

/// The state of a segment on the wire.
pub fn to_state(state: &State, segment: &Segment) -> common::SegmentState {
    common::SegmentState::try_from(state.effective_state(segment) as i32)
        .unwrap_or(common::SegmentState::None)
}

fn type_param(field: &FieldSchema, name: &str) -> Option<u32> {
    let pair = field.type_params.iter().find(|pair| pair.key == name)?;
    pair.value.parse().ok()
}

/// Estimated bytes of a row (`semantics.md` §2); 0 = the schema says nothing.
pub fn row_size_bytes(schema: &CollectionSchema) -> u32 {
    let size = |field: &FieldSchema| {
        let dim = type_param(field, "dim").unwrap_or(0);
        match field.data_type() {
            DataType::Bool | DataType::Int8 => 1,
            DataType::Int16 => 2,
            DataType::Int32 | DataType::Float => 4,
            DataType::Int64 | DataType::Double => 8,
            DataType::VarChar | DataType::String => {
                type_param(field, "max_length").unwrap_or(256).min(256)
            }
            DataType::Array | DataType::Json | DataType::Geometry => 512,
            DataType::FloatVector => dim.saturating_mul(4),
            DataType::Float16Vector | DataType::BFloat16Vector => dim.saturating_mul(2),
            DataType::BinaryVector => dim / 8,
            DataType::SparseFloatVector => 1200,
            DataType::None => 0,
        }
    };
    schema.fields.iter().map(size).fold(0, u32::saturating_add)
}

/// Why a log path can't be what it is said to be. The words are the real DataCoord's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It names another segment, or is no log path.
    #[error("the segment path doesn't match the segmentID, segmentID {0}, path {1}")]
    OtherSegment(i64, String),
    /// Neither path nor log id.
    #[error("a binlog of segment {0} has neither a path nor a log id")]
    Nothing(i64),
}

/// One told binlog as a stored reference; the ids in its path must match.
///
/// # Errors
/// The path names another segment, or there is nothing to know the file by.
pub fn to_binlog_ref(
    segment: &Segment,
    kind: pb::LogKind,
    field_id: i64,
    binlog: &data::Binlog,
) -> Result<pb::BinlogRef, PathError> {
    let id = segment.id.0;
    let mut log_id = binlog.log_id;
    if binlog.log_path.is_empty() {
        if log_id == 0 {
            return Err(PathError::Nothing(id));
        }
    } else {
        let parts: Vec<&str> = binlog.log_path.split('/').collect();
        // …/segment/field/log, and …/segment/log for delete logs.
        let depth = if kind == pb::LogKind::Delta { 2 } else { 3 };
        let number = |back: usize| {
            parts
                .len()
                .checked_sub(back)
                .and_then(|at| parts[at].parse::<i64>().ok())
        };
        if number(depth) != Some(id) {
            return Err(PathError::OtherSegment(id, binlog.log_path.clone()));
        }
        let told = number(1).filter(|&told| log_id == 0 || told == log_id);
        log_id = told.ok_or_else(|| PathError::OtherSegment(id, binlog.log_path.clone()))?;
    }
    let mut file = pb::BinlogRef {
        kind: kind.into(),
        field_id,
        log_id,
        rows: binlog.entries_num,
        ts_from: binlog.timestamp_from,
        ts_to: binlog.timestamp_to,
        log_size_bytes: binlog.log_size,
        memory_size_bytes: binlog.memory_size,
        path: String::new(),
    };
    if !binlog.log_path.is_empty() && binlog.log_path != canonical_path(segment, &file) {
        file.path = binlog.log_path.clone();
    }
    Ok(file)
}
