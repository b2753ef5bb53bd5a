//! Everything that is stored of a collection, read back from its objects.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use quorate_binlog::{
    BinlogError, ColumnData, InsertLog, LogPath, LogStore, ROW_ID_FIELD, Schema, TIMESTAMP_FIELD,
    delta, insert, stats,
};
use quorate_rpc::proto::milvus::common::SegmentState;
use quorate_rpc::proto::milvus::data::{Binlog, FieldBinlog, SegmentInfo, SegmentLevel};
use tokio::sync::watch;

use super::fingerprint::{self, RowPrint};
use super::{ObjectProblem, VerifyProgress, VerifyReport, blocking};
use crate::collection::{self, ALL_PARTITIONS, KnownCollection};
use crate::coordinator::Coordinator;
use crate::error::VerifyError;

/// Objects fetched at a time.
const FETCHES_MAX: usize = 4;
/// Bits of a place that hold the row within its group.
const ROW_BITS: u32 = 32;

/// The segments of a collection that hold rows or deletes, by id, with their binlogs.
pub(super) async fn segments(
    coordinator: &Coordinator,
    collection_id: i64,
) -> Result<Vec<SegmentInfo>, VerifyError> {
    let failed = |action: &str, error| collection::failed(action.to_owned(), error);
    let info = coordinator
        .recovery_info(collection_id)
        .await
        .map_err(|error| failed("get the collection's segments", error))?;
    let mut ids: BTreeSet<i64> = info.segments.iter().map(|segment| segment.id).collect();
    for channel in &info.channels {
        ids.extend(&channel.flushed_segment_ids);
        ids.extend(&channel.unflushed_segment_ids);
        ids.extend(&channel.level_zero_segment_ids);
        let infos = channel.flushed_segments.iter();
        ids.extend(infos.chain(&channel.unflushed_segments).map(|s| s.id));
    }
    let ids: Vec<i64> = ids.into_iter().collect();
    let mut segments = coordinator
        .segments(&ids)
        .await
        .map_err(|error| failed("get the segments' binlogs", error))?;
    segments.sort_by_key(|segment| segment.id);
    Ok(segments)
}

/// Log files of a segment that were written together: the same rows, field by field.
#[derive(Debug, Clone)]
pub(super) struct Group {
    segment: i64,
    partition: i64,
    /// In the order of the schema.
    fields: Vec<(LogPath, Binlog)>,
    row_ids: (LogPath, Binlog),
    timestamps: (LogPath, Binlog),
}

/// What is stored.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Rows that were not deleted.
    pub(super) rows: Vec<RowPrint>,
    /// Hashes of the keys of rows that are stored but deleted, sorted.
    pub(super) deleted: Vec<u128>,
    pub(super) groups: Vec<Group>,
}

/// What a delete applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Scope {
    Everything,
    Partition(i64),
    Segment(i64),
}

/// Highest timestamp of a delete, by scope and hash of the key.
#[derive(Debug, Default)]
struct Deletes {
    by_scope: HashMap<Scope, HashMap<u128, u64>>,
}

impl Deletes {
    fn add(&mut self, scope: Scope, key: u128, timestamp: u64) {
        let known = self.by_scope.entry(scope).or_default();
        let highest = known.entry(key).or_default();
        *highest = timestamp.max(*highest);
    }

    /// Whether a row of a segment was deleted after it was inserted.
    fn hit(&self, segment: i64, partition: i64, key: u128, timestamp: u64) -> bool {
        let scopes = [
            Scope::Everything,
            Scope::Partition(partition),
            Scope::Segment(segment),
        ];
        scopes.iter().any(|scope| {
            let deletes = self.by_scope.get(scope);
            deletes
                .and_then(|deletes| deletes.get(&key))
                .is_some_and(|deleted| *deleted > timestamp)
        })
    }
}

/// Reads objects and collects what is wrong with them.
pub(super) struct Reading<'a> {
    store: &'a LogStore,
    collection_id: i64,
    schema: Arc<Schema>,
    progress: &'a watch::Sender<VerifyProgress>,
    report: &'a mut VerifyReport,
}

impl<'a> Reading<'a> {
    pub(super) fn new(
        store: &'a LogStore,
        collection: &KnownCollection,
        progress: &'a watch::Sender<VerifyProgress>,
        report: &'a mut VerifyReport,
    ) -> Reading<'a> {
        Reading {
            store,
            collection_id: collection.id(),
            schema: Arc::clone(&collection.schema),
            progress,
            report,
        }
    }

    pub(super) async fn read(&mut self, segments: &[SegmentInfo]) -> Result<Stored, VerifyError> {
        let logs =
            |fields: &[FieldBinlog]| -> usize { fields.iter().map(|f| f.binlogs.len()).sum() };
        let objects: usize = segments
            .iter()
            .map(|s| logs(&s.binlogs) + logs(&s.statslogs) + logs(&s.deltalogs))
            .sum();
        self.progress
            .send_modify(|p| p.objects_total = objects as u64);

        let mut deletes = Deletes::default();
        for segment in segments {
            self.read_deletes(segment, &mut deletes).await?;
        }
        let deletes = Arc::new(deletes);
        let mut stored = Stored::default();
        for segment in segments {
            self.read_stats(segment).await?;
            for group in self.groups(segment) {
                self.read_group(group, &deletes, &mut stored).await?;
            }
        }
        stored.deleted.sort_unstable();
        self.report.rows_found = stored.rows.len() as u64;
        self.report.rows_deleted = stored.deleted.len() as u64;
        Ok(stored)
    }

    async fn read_deletes(
        &mut self,
        segment: &SegmentInfo,
        deletes: &mut Deletes,
    ) -> Result<(), VerifyError> {
        let level_zero = segment.level == SegmentLevel::L0 as i32;
        let scope = match (level_zero, segment.partition_id) {
            (false, _) => Scope::Segment(segment.id),
            (true, ALL_PARTITIONS) => Scope::Everything,
            (true, partition) => Scope::Partition(partition),
        };
        for log in segment.deltalogs.iter().flat_map(|field| &field.binlogs) {
            let expected = LogPath::Delta {
                collection: self.collection_id,
                partition: segment.partition_id,
                segment: segment.id,
                log_id: log.log_id,
            };
            let Some(path) = self.path(segment.id, log, expected) else {
                continue;
            };
            let Some(rows) = self.object(&path, delta::decode).await? else {
                continue;
            };
            self.check_entries(&path, log, rows.len() as u64);
            let mut scratch = Vec::new();
            for (row, timestamp) in rows.timestamps.iter().enumerate() {
                let key = fingerprint::of_key(rows.keys.value(row), &mut scratch);
                deletes.add(scope, key, *timestamp);
            }
        }
        Ok(())
    }

    async fn read_stats(&mut self, segment: &SegmentInfo) -> Result<(), VerifyError> {
        for field in &segment.statslogs {
            for log in &field.binlogs {
                let expected = LogPath::Stats {
                    collection: self.collection_id,
                    partition: segment.partition_id,
                    segment: segment.id,
                    field: field.field_id,
                    log_id: log.log_id,
                };
                let Some(path) = self.path(segment.id, log, expected) else {
                    continue;
                };
                if let Some(read) = self.object(&path, stats::decode).await? {
                    self.check_entries(&path, log, read.rows);
                }
            }
        }
        Ok(())
    }

    /// The logs of a segment by what was written together. Log ids grow with time, so the n-th log
    /// of each field belongs to the n-th write.
    fn groups(&mut self, segment: &SegmentInfo) -> Vec<Group> {
        if segment.binlogs.is_empty() {
            self.check_rows(segment, 0);
            return Vec::new();
        }
        let mut by_field: BTreeMap<i64, Vec<Binlog>> = BTreeMap::new();
        for field in &segment.binlogs {
            let logs = by_field.entry(field.field_id).or_default();
            logs.extend(field.binlogs.iter().cloned());
        }
        for logs in by_field.values_mut() {
            logs.sort_by_key(|log| log.log_id);
        }
        let names: Vec<(i64, String)> = self
            .schema
            .fields()
            .iter()
            .map(|field| (field.id, format!("field {:?}", field.name)))
            .chain([
                (ROW_ID_FIELD, "the row ids".to_owned()),
                (TIMESTAMP_FIELD, "the timestamps".to_owned()),
            ])
            .collect();
        let key = self.schema.primary_key().id;
        let key_logs = by_field.get(&key).cloned().unwrap_or_default();
        self.check_rows(segment, key_logs.iter().map(|log| log.entries_num).sum());

        let mut columns = Vec::with_capacity(names.len());
        for (id, name) in &names {
            let logs = by_field.remove(id).unwrap_or_default();
            let alike = logs.len() == key_logs.len()
                && logs.iter().zip(&key_logs).all(|(log, key)| {
                    log.entries_num == key.entries_num
                        && log.timestamp_from == key.timestamp_from
                        && log.timestamp_to == key.timestamp_to
                });
            if !alike {
                self.problem(
                    segment.id,
                    None,
                    format!(
                        "the binlogs of {name} do not match those of the primary key \
                         ({} and {} files)",
                        logs.len(),
                        key_logs.len()
                    ),
                );
                return Vec::new();
            }
            let mut paths = Vec::with_capacity(logs.len());
            for log in logs {
                let expected = LogPath::Insert {
                    collection: self.collection_id,
                    partition: segment.partition_id,
                    segment: segment.id,
                    field: *id,
                    log_id: log.log_id,
                };
                paths.push(
                    self.path(segment.id, &log, expected)
                        .map(|path| (path, log)),
                );
            }
            columns.push(paths);
        }
        let mut groups = Vec::with_capacity(key_logs.len());
        for at in 0..key_logs.len() {
            // A log without a usable path is a problem noted already.
            let logs: Option<Vec<(LogPath, Binlog)>> =
                columns.iter().map(|paths| paths[at].clone()).collect();
            let Some(mut fields) = logs else { continue };
            let (Some(timestamps), Some(row_ids)) = (fields.pop(), fields.pop()) else {
                continue;
            };
            groups.push(Group {
                segment: segment.id,
                partition: segment.partition_id,
                fields,
                row_ids,
                timestamps,
            });
        }
        groups
    }

    async fn read_group(
        &mut self,
        group: Group,
        deletes: &Arc<Deletes>,
        stored: &mut Stored,
    ) -> Result<(), VerifyError> {
        let logs = group
            .fields
            .iter()
            .chain([&group.row_ids, &group.timestamps]);
        let logs: Vec<(LogPath, Binlog)> = logs.cloned().collect();
        let fetched: Vec<_> = stream::iter(logs.iter())
            .map(|(path, _)| fetch(self.store, path, insert::decode))
            .buffered(FETCHES_MAX)
            .collect()
            .await;
        let mut columns = Vec::with_capacity(logs.len());
        for ((path, log), fetched) in logs.iter().zip(fetched) {
            if let Some(read) = self.taken(path, fetched)?
                && self.check_log(path, log, &read)
            {
                columns.push(read.column);
            }
        }
        if columns.len() != logs.len() {
            return Ok(());
        }
        let Some(ColumnData::Int64(timestamps)) = columns.pop() else {
            let path = group.timestamps.0;
            self.object_problem(&path, "timestamps must be of type Int64".into());
            return Ok(());
        };
        // The ordinals themselves are the writer's business; they were read as a check.
        columns.pop();

        let number = stored.groups.len() as u64;
        let key = self.schema.primary_key_index();
        let (segment, partition) = (group.segment, group.partition);
        let deletes = Arc::clone(deletes);
        let (alive, deleted) = blocking(move || {
            let mut rows = Vec::with_capacity(timestamps.len());
            fingerprint::add(
                &columns,
                key,
                |at| (number << ROW_BITS) | at as u64,
                &mut rows,
            );
            let mut deleted = Vec::new();
            let mut timestamps = timestamps.into_iter();
            rows.retain(|row| {
                let timestamp = timestamps.next().unwrap_or_default() as u64;
                let hit = deletes.hit(segment, partition, row.key, timestamp);
                if hit {
                    deleted.push(row.key);
                }
                !hit
            });
            Ok((rows, deleted))
        })
        .await?;
        let read = (alive.len() + deleted.len()) as u64;
        self.progress.send_modify(|p| p.rows_read += read);
        stored.rows.extend(alive);
        stored.deleted.extend(deleted);
        stored.groups.push(group);
        Ok(())
    }

    /// Whether a log has as many rows as the metadata says, of the type of its field.
    fn check_log(&mut self, path: &LogPath, log: &Binlog, read: &InsertLog) -> bool {
        if !self.check_entries(path, log, read.column.len() as u64) {
            return false;
        }
        let field = path.field().and_then(|id| self.schema.field(id));
        if let Some(field) = field.filter(|field| !read.column.fits(field.kind)) {
            let reason = format!(
                "its values are of type {}, the field {:?} is {}",
                read.column.kind().name(),
                field.name,
                field.kind.name()
            );
            self.object_problem(path, reason);
            return false;
        }
        true
    }

    fn check_entries(&mut self, path: &LogPath, log: &Binlog, rows: u64) -> bool {
        let agrees = u64::try_from(log.entries_num) == Ok(rows);
        if !agrees {
            let reason = format!("it has {rows} rows, its metadata says {}", log.entries_num);
            self.object_problem(path, reason);
        }
        agrees
    }

    /// While a segment takes rows, its count may be ahead of what is stored.
    fn check_rows(&mut self, segment: &SegmentInfo, in_logs: i64) {
        let stated = segment.num_of_rows;
        let settled = segment.state == SegmentState::Flushed as i32
            || segment.state == SegmentState::Flushing as i32;
        let level_zero = segment.level == SegmentLevel::L0 as i32;
        let agrees = level_zero || stated == in_logs || (!settled && stated > in_logs);
        if !agrees {
            self.problem(
                segment.id,
                None,
                format!("its row count is {stated}, its binlogs have {in_logs} rows"),
            );
        }
    }

    /// Where a log lies. A path that belongs to something else is a problem; an empty one is made
    /// from the ids, as Milvus does.
    fn path(&mut self, segment: i64, log: &Binlog, expected: LogPath) -> Option<LogPath> {
        if log.log_path.is_empty() {
            return Some(expected);
        }
        let reason = match LogPath::parse(&log.log_path) {
            Ok(path) if same_place(path, expected) => return Some(path),
            Ok(_) => format!("its path should end in {expected}"),
            Err(error) => error.to_string(),
        };
        self.problem(segment, Some(log.log_path.clone()), reason);
        None
    }

    async fn object<T: Send + 'static>(
        &mut self,
        path: &LogPath,
        decode: fn(&str, bytes::Bytes) -> Result<T, BinlogError>,
    ) -> Result<Option<T>, VerifyError> {
        let fetched = fetch(self.store, path, decode).await;
        self.taken(path, fetched)
    }

    fn taken<T>(
        &mut self,
        path: &LogPath,
        fetched: Result<(u64, Result<T, BinlogError>), BinlogError>,
    ) -> Result<Option<T>, VerifyError> {
        self.progress.send_modify(|p| p.objects_read += 1);
        match fetched {
            Ok((bytes, decoded)) => {
                self.report.objects += 1;
                self.report.bytes += bytes;
                match decoded {
                    Ok(read) => return Ok(Some(read)),
                    Err(error) => self.object_problem(path, error.to_string()),
                }
            }
            Err(error) => self.object_problem(path, error.to_string()),
        }
        Ok(None)
    }

    fn object_problem(&mut self, path: &LogPath, reason: String) {
        let location = self.store.location(path).to_string();
        self.problem(path.segment(), Some(location), reason);
    }

    fn problem(&mut self, segment: i64, path: Option<String>, reason: String) {
        self.report.problems.add(ObjectProblem {
            segment,
            path,
            reason,
        });
    }
}

impl Stored {
    /// Values of stored rows by place, in the order of the schema; groups are read again.
    pub(super) async fn values(
        &self,
        store: &LogStore,
        places: &BTreeSet<u64>,
    ) -> Result<HashMap<u64, Vec<ColumnData>>, VerifyError> {
        let mut out = HashMap::with_capacity(places.len());
        let mut open: Option<(u64, Vec<ColumnData>)> = None;
        for place in places {
            let (number, row) = (place >> ROW_BITS, (place & ((1 << ROW_BITS) - 1)) as usize);
            if open.as_ref().is_none_or(|(opened, _)| *opened != number) {
                let group = &self.groups[number as usize];
                let mut columns = Vec::with_capacity(group.fields.len());
                for (path, _) in &group.fields {
                    columns.push(store.read_insert(path).await?.column);
                }
                open = Some((number, columns));
            }
            if let Some((_, columns)) = &open {
                let values = columns.iter().map(|column| column.slice(row..row + 1));
                out.insert(*place, values.collect());
            }
        }
        Ok(out)
    }
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

/// Fetches an object and decodes it away from the threads that serve requests. The outer result is
/// about the object, the inner about its contents.
async fn fetch<T: Send + 'static>(
    store: &LogStore,
    path: &LogPath,
    decode: fn(&str, bytes::Bytes) -> Result<T, BinlogError>,
) -> Result<(u64, Result<T, BinlogError>), BinlogError> {
    let bytes = store.get(path).await?;
    let size = bytes.len() as u64;
    let location = store.location(path).to_string();
    let failed_at = location.clone();
    let decoded = tokio::task::spawn_blocking(move || decode(&location, bytes))
        .await
        .unwrap_or_else(|_| {
            Err(BinlogError::File {
                path: failed_at,
                reason: "reading it was interrupted".into(),
            })
        });
    Ok((size, decoded))
}
