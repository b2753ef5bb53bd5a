//! Everything that is stored of a collection, read back from its objects.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use quorate_binlog::group::{self, GroupProblem};
use quorate_binlog::{
    BinlogError, ColumnData, Group, InsertLog, LogPath, LogStore, NamedLog, Place, Schema, delta,
    insert, stats,
};
use quorate_rpc::proto::milvus::common::SegmentState;
use quorate_rpc::proto::milvus::data::{Binlog, FieldBinlog, SegmentInfo, SegmentLevel};
use tokio::sync::watch;

use super::fingerprint::{self, RowPrint};
use super::{ObjectProblem, ProblemKind, VerifyProgress, VerifyReport, blocking};
use crate::collection::{ALL_PARTITIONS, KnownCollection};
use crate::error::VerifyError;

/// Objects fetched at a time.
const FETCHES_MAX: usize = 4;
/// Bits of a place that hold the row within its group.
const ROW_BITS: u32 = 32;

/// What is stored.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Rows that were not deleted.
    pub(super) rows: Vec<RowPrint>,
    /// Hashes of the keys of rows that are stored but deleted, sorted.
    pub(super) deleted: Vec<u128>,
    /// Logs by what was written together, in the order of [`group::all_fields`].
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
                self.read_group(segment, group, &deletes, &mut stored)
                    .await?;
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
            let located = group::locate_delta(log, self.place(segment));
            let Some(path) = self.located(segment.id, located) else {
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
                let expected = self.place(segment).stats(field.field_id, log.log_id);
                let located = group::locate(log, expected);
                let Some(path) = self.located(segment.id, located) else {
                    continue;
                };
                if let Some(read) = self.object(&path, stats::decode).await? {
                    self.check_entries(&path, log, read.rows);
                }
            }
        }
        Ok(())
    }

    /// The logs of a segment by what was written together.
    fn groups(&mut self, segment: &SegmentInfo) -> Vec<Group> {
        let key = self.schema.primary_key().id;
        let key_logs = segment.binlogs.iter().filter(|f| f.field_id == key);
        let rows = key_logs.flat_map(|field| &field.binlogs);
        self.check_rows(segment, rows.map(|log| log.entries_num).sum());
        let fields = group::all_fields(&self.schema);
        let place = self.place(segment);
        let (groups, problems) = group::by_write(place, &self.schema, &fields, &segment.binlogs);
        for problem in problems {
            self.problem(segment.id, problem.path, problem.reason);
        }
        groups
    }

    async fn read_group(
        &mut self,
        segment: &SegmentInfo,
        group: Group,
        deletes: &Arc<Deletes>,
        stored: &mut Stored,
    ) -> Result<(), VerifyError> {
        let logs = group.logs.iter();
        let fetches: Vec<_> = logs
            .map(|log| fetch(self.store, &log.path, insert::decode))
            .collect();
        let fetched: Vec<_> = stream::iter(fetches).buffered(FETCHES_MAX).collect().await;
        let mut columns = Vec::with_capacity(group.logs.len());
        for (log, fetched) in group.logs.iter().zip(fetched) {
            if let Some(read) = self.taken(&log.path, fetched)?
                && self.check_log(log, &read)
            {
                columns.push(read.column);
            }
        }
        if columns.len() != group.logs.len() {
            return Ok(());
        }
        // The last two are the system's: row ids, timestamps.
        let Some(ColumnData::Int64(timestamps)) = columns.pop() else {
            if let Some(log) = group.logs.last() {
                self.object_problem(&log.path, "timestamps must be of type Int64".into());
            }
            return Ok(());
        };
        // The ordinals themselves are the writer's business; they were read as a check.
        columns.pop();

        let number = stored.groups.len() as u64;
        let key = self.schema.primary_key_index();
        let (segment, partition) = (segment.id, segment.partition_id);
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
    fn check_log(&mut self, log: &NamedLog, read: &InsertLog) -> bool {
        let path = &log.path;
        if !self.check_entries(path, &log.entry, read.column.len() as u64) {
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

    fn place(&self, segment: &SegmentInfo) -> Place {
        Place {
            collection: self.collection_id,
            partition: segment.partition_id,
            segment: segment.id,
        }
    }

    fn located(&mut self, segment: i64, located: Result<LogPath, GroupProblem>) -> Option<LogPath> {
        match located {
            Ok(path) => Some(path),
            Err(problem) => {
                self.problem(segment, problem.path, problem.reason);
                None
            }
        }
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
            Err(error) => {
                let kind = match &error {
                    BinlogError::Missing { .. } => ProblemKind::Missing,
                    BinlogError::Store { .. } | BinlogError::Deadline { .. } => {
                        ProblemKind::Unreachable
                    }
                    _ => ProblemKind::Wrong,
                };
                self.problem_at(path, kind, error.to_string());
            }
        }
        Ok(None)
    }

    fn object_problem(&mut self, path: &LogPath, reason: String) {
        self.problem_at(path, ProblemKind::Wrong, reason);
    }

    fn problem_at(&mut self, path: &LogPath, kind: ProblemKind, reason: String) {
        self.report.problems.add(ObjectProblem {
            kind,
            segment: path.segment(),
            path: Some(self.store.location(path).to_string()),
            reason,
        });
    }

    fn problem(&mut self, segment: i64, path: Option<String>, reason: String) {
        self.report.problems.add(ObjectProblem {
            kind: ProblemKind::Wrong,
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
                // All but the system's: row ids, timestamps.
                let (user, _) = group.logs.split_at(group.logs.len() - 2);
                let mut columns = Vec::with_capacity(user.len());
                for log in user {
                    columns.push(store.read_insert(&log.path).await?.column);
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
