//! Insert logs of a segment by what was written together, and how much is written together when a
//! segment is rewritten.

use std::collections::BTreeMap;

use quorate_rpc::proto::milvus::data::{Binlog, FieldBinlog};

use crate::insert::{ROW_ID_FIELD, TIMESTAMP_FIELD};
use crate::path::LogPath;
use crate::schema::Schema;

/// Rows of a group of logs at most when a segment is rewritten.
pub const BATCH_ROWS: usize = 64 * 1024;
/// A group of logs is complete when its values have this size in memory, in a rewrite.
pub const BATCH_BYTES: usize = 16 << 20;

/// Most log ids that rewriting takes. `memory_bytes` is the size of all values in memory, those of
/// the system fields too; `fields` are the user's; `segments` the outputs.
///
/// Every group but the last of an output has [`BATCH_ROWS`] rows or [`BATCH_BYTES`] bytes; a group
/// has a log for each field and the two system fields, an output one of statistics.
pub fn rewrite_logs_max(rows: u64, memory_bytes: u64, fields: usize, segments: u64) -> u64 {
    let groups = rows / BATCH_ROWS as u64 + memory_bytes / BATCH_BYTES as u64 + segments;
    groups * (fields as u64 + 2) + segments
}

/// A segment, and so where its logs lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Collection id.
    pub collection: i64,
    /// Partition id; -1 for deletes that apply to all partitions.
    pub partition: i64,
    /// Segment id.
    pub segment: i64,
}

impl Place {
    /// Path of an insert log of the segment.
    pub fn insert(&self, field: i64, log_id: i64) -> LogPath {
        LogPath::Insert {
            collection: self.collection,
            partition: self.partition,
            segment: self.segment,
            field,
            log_id,
        }
    }

    /// Path of a stats log of the segment.
    pub fn stats(&self, field: i64, log_id: i64) -> LogPath {
        LogPath::Stats {
            collection: self.collection,
            partition: self.partition,
            segment: self.segment,
            field,
            log_id,
        }
    }

    /// Path of a delta log of the segment.
    pub fn delta(&self, log_id: i64) -> LogPath {
        LogPath::Delta {
            collection: self.collection,
            partition: self.partition,
            segment: self.segment,
            log_id,
        }
    }
}

/// A log file and what the metadata says of it.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedLog {
    /// Where it lies.
    pub path: LogPath,
    /// The metadata's entry.
    pub entry: Binlog,
}

/// Logs written together: the same rows, field by field.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// One log for each field asked for, in that order.
    pub logs: Vec<NamedLog>,
}

impl Group {
    /// Rows of each of its logs, as the metadata says.
    pub fn rows(&self) -> u64 {
        let first = self.logs.first();
        first.map_or(0, |log| log.entry.entries_num.max(0) as u64)
    }
}

/// What is wrong with the metadata of a log, or of the logs of a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}{}", .path.as_ref().map(|path| format!(" (log path {path:?})")).unwrap_or_default())]
pub struct GroupProblem {
    /// The path it is about.
    pub path: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// Where an insert or stats log lies: by its own path, or made from the ids when that is empty, as
/// Milvus does. A path that belongs to something else is refused.
pub fn locate(entry: &Binlog, expected: LogPath) -> Result<LogPath, GroupProblem> {
    if entry.log_path.is_empty() {
        return Ok(expected);
    }
    let reason = match LogPath::parse(&entry.log_path) {
        Ok(path) if same_place(path, expected) => return Ok(path),
        Ok(_) => format!("its path should end in {expected}"),
        Err(error) => error.to_string(),
    };
    Err(GroupProblem {
        path: Some(entry.log_path.clone()),
        reason,
    })
}

/// Where a delta log of a segment lies. Unlike other logs it may lie with another segment of the
/// collection: one that was compacted into this one while the deletes arrived.
pub fn locate_delta(entry: &Binlog, place: Place) -> Result<LogPath, GroupProblem> {
    if entry.log_path.is_empty() {
        return Ok(place.delta(entry.log_id));
    }
    let reason = match LogPath::parse(&entry.log_path) {
        Ok(path @ LogPath::Delta { .. })
            if path.collection() == place.collection
                && (entry.log_id == 0 || entry.log_id == path.log_id()) =>
        {
            return Ok(path);
        }
        Ok(_) => format!(
            "it should be the path of delta log {} of collection {}",
            entry.log_id, place.collection
        ),
        Err(error) => error.to_string(),
    };
    Err(GroupProblem {
        path: Some(entry.log_path.clone()),
        reason,
    })
}

fn same_place(path: LogPath, expected: LogPath) -> bool {
    // A log id of 0 says that only the path knows it.
    let ids = |p: LogPath| {
        (
            p.kind(),
            p.collection(),
            p.partition(),
            p.segment(),
            p.field(),
        )
    };
    ids(path) == ids(expected) && (expected.log_id() == 0 || path.log_id() == expected.log_id())
}

/// All fields of a schema and the system fields: the user's in the order of the schema, then row
/// ids, then timestamps.
pub fn all_fields(schema: &Schema) -> Vec<i64> {
    let user = schema.fields().iter().map(|field| field.id);
    user.chain([ROW_ID_FIELD, TIMESTAMP_FIELD]).collect()
}

/// The logs of some fields of a segment by what was written together, oldest first, and what is
/// wrong with them. Log ids grow with time, so the n-th log of each field belongs to the n-th
/// write. A field whose logs do not match those of the primary key leaves no groups at all; a
/// group with a log at an impossible path is left out.
pub fn by_write(
    place: Place,
    schema: &Schema,
    fields: &[i64],
    binlogs: &[FieldBinlog],
) -> (Vec<Group>, Vec<GroupProblem>) {
    let mut by_field: BTreeMap<i64, Vec<&Binlog>> = BTreeMap::new();
    for field in binlogs {
        let logs = by_field.entry(field.field_id).or_default();
        logs.extend(&field.binlogs);
    }
    for logs in by_field.values_mut() {
        logs.sort_by_key(|log| log.log_id);
    }
    let of_field = |id: &i64| by_field.get(id).map_or(&[][..], Vec::as_slice);
    let key_logs = of_field(&schema.primary_key().id);
    for id in fields {
        let logs = of_field(id);
        let alike = logs.len() == key_logs.len()
            && logs.iter().zip(key_logs).all(|(log, key)| {
                log.entries_num == key.entries_num
                    && log.timestamp_from == key.timestamp_from
                    && log.timestamp_to == key.timestamp_to
            });
        if !alike {
            let problem = GroupProblem {
                path: None,
                reason: format!(
                    "the binlogs of {} do not match those of the primary key ({} and {} files)",
                    name_of(*id, schema),
                    logs.len(),
                    key_logs.len()
                ),
            };
            return (Vec::new(), vec![problem]);
        }
    }
    let mut groups = Vec::with_capacity(key_logs.len());
    let mut problems = Vec::new();
    for at in 0..key_logs.len() {
        let mut logs = Vec::with_capacity(fields.len());
        for id in fields {
            let entry = of_field(id)[at];
            match locate(entry, place.insert(*id, entry.log_id)) {
                Ok(path) => logs.push(NamedLog {
                    path,
                    entry: entry.clone(),
                }),
                Err(problem) => problems.push(problem),
            }
        }
        if logs.len() == fields.len() {
            groups.push(Group { logs });
        }
    }
    (groups, problems)
}

fn name_of(field: i64, schema: &Schema) -> String {
    match field {
        ROW_ID_FIELD => "the row ids".to_owned(),
        TIMESTAMP_FIELD => "the timestamps".to_owned(),
        id => match schema.field(id) {
            Some(field) => format!("field {:?}", field.name),
            None => format!("field {id}, which the schema does not have,"),
        },
    }
}

#[cfg(test)]
mod tests;
