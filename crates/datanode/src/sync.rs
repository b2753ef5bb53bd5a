//! Syncing: buffered rows and deletes become log files, and the log files become the
//! coordinator's.
//!
//! One sync of a segment at a time. A sync that has begun ends in one of three ways: saved,
//! refused for good, or abandoned because the ownership ended. While the coordinator has not
//! answered, the same save is sent again; nothing is written anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use quorate_binlog::{
    BinlogError, ColumnData, EncodedLog, LogPath, PrimaryKeyStats, ROW_ID_FIELD, Schema,
    TIMESTAMP_FIELD, delta, insert, stats,
};
use quorate_rpc::proto::milvus::common::MsgType;
use quorate_rpc::proto::milvus::data::{
    CheckPoint, FieldBinlog, SaveBinlogPathsRequest, SegmentLevel, SegmentStartPosition,
};
use quorate_rpc::proto::quorate::row::RowRange;
use quorate_rpc::status::{Code, DomainError};

use crate::channel::{DeleteJob, Job, SegmentJob, Target};
use crate::coordinator::{SaveAnswer, base};
use crate::node::Node;
use crate::operation;
use crate::ownership::{Ownership, Phase};

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Files of one sync written at a time.
const PUTS_AT_ONCE: usize = 4;

/// How a sync ended.
enum Outcome {
    Saved,
    Refused(DomainError),
    /// The ownership ended; its state does not matter any more.
    Abandoned,
}

impl Node {
    /// Starts a sync of everything of the channel that is due and not being synced.
    pub fn schedule(self: &Arc<Node>, own: &Arc<Ownership>) {
        let due = {
            let state = own.lock();
            if own.token.is_cancelled() || state.phase == Phase::Watching {
                return;
            }
            state.channel.due(Instant::now(), &self.limits())
        };
        for target in due {
            self.start_sync(own, target);
        }
    }

    /// Starts syncs of the largest buffers, until half of the budget is on its way out.
    pub fn relieve(self: &Arc<Node>) {
        let mut buffers: Vec<_> = self
            .all_channels()
            .into_iter()
            .flat_map(|own| {
                let buffers = own.lock().channel.buffers();
                buffers
                    .into_iter()
                    .map(move |buffer| (Arc::clone(&own), buffer))
            })
            .collect();
        buffers.sort_by_key(|(_, (_, bytes))| std::cmp::Reverse(*bytes));
        let mut started = 0;
        for (own, (target, bytes)) in buffers {
            if started >= self.memory.max_bytes() / 2 {
                break;
            }
            self.start_sync(&own, target);
            started += bytes;
        }
    }

    fn start_sync(self: &Arc<Node>, own: &Arc<Ownership>, target: Target) {
        {
            let mut state = own.lock();
            if own.token.is_cancelled() || !state.channel.begin_sync(target) {
                return;
            }
        }
        let (node, own) = (Arc::clone(self), Arc::clone(own));
        self.tasks.spawn(async move {
            let token = own.token.clone();
            tokio::select! {
                () = token.cancelled() => {}
                () = sync(&node, &own, target) => {}
            }
        });
    }
}

async fn sync(node: &Arc<Node>, own: &Arc<Ownership>, target: Target) {
    // Taken only when it is our turn: what arrives while waiting goes into the same files.
    let Ok(_permit) = node.sync_permits.acquire().await else {
        return;
    };
    let job = own.lock().channel.take(target);
    match job {
        Some(Job::Segment(job)) => sync_segment(node, own, job).await,
        Some(Job::Deletes(job)) => sync_deletes(node, own, job).await,
        None => return,
    }
    own.notify();
    node.schedule(own);
}

async fn sync_segment(node: &Arc<Node>, own: &Arc<Ownership>, job: SegmentJob) {
    let started = Instant::now();
    let job = Arc::new(job);
    let outcome = write_and_save_segment(node, own, &job).await;
    let elapsed_ms = started.elapsed().as_millis() as u64;
    let (segment, rows, bytes) = (job.segment_id, job.rows, job.bytes);
    match outcome {
        Outcome::Saved => {
            own.lock().channel.segment_saved(&job);
            if job.flush {
                tracing::info!(channel = %own.name, segment, rows, bytes, elapsed_ms, "segment flushed");
            } else {
                tracing::debug!(channel = %own.name, segment, rows, bytes, elapsed_ms, "segment synced");
            }
        }
        Outcome::Refused(error) => {
            let gone = error.is(Code::SegmentNotFound);
            own.lock().channel.segment_refused(&job, gone);
            tracing::warn!(channel = %own.name, segment, rows, %error,
                "save refused; its rows are forgotten here and sent again if they are not stored");
            if rows > 0 && !gone {
                node.tasks
                    .spawn(operation::refresh(Arc::clone(node), Arc::clone(own)));
            }
        }
        Outcome::Abandoned => {}
    }
}

async fn write_and_save_segment(
    node: &Arc<Node>,
    own: &Arc<Ownership>,
    job: &Arc<SegmentJob>,
) -> Outcome {
    let schema = Arc::clone(&own.lock().channel.schema);
    let mut logs = Vec::new();
    if job.rows > 0 {
        // One id for each field, two system fields and the statistics.
        let count = schema.fields().len() as u32 + 3;
        let first = alloc_ids(node, own, count).await;
        let collection = own.lock().channel.collection_id;
        let job_to_encode = Arc::clone(job);
        let encoded = tokio::task::spawn_blocking(move || {
            encode_segment(&job_to_encode, &schema, collection, first)
        })
        .await;
        logs = match encoded {
            Ok(Ok(logs)) => logs,
            Ok(Err(error)) => return refused_here(&error.to_string()),
            Err(error) => return refused_here(&error.to_string()),
        };
        put_all(node, own, &logs).await;
    }
    let request = segment_save(node, own, job, &logs);
    save(node, own, request, &logs).await
}

async fn sync_deletes(node: &Arc<Node>, own: &Arc<Ownership>, job: DeleteJob) {
    let rows = job.rows.len();
    let first = alloc_ids(node, own, 2).await;
    let path = LogPath::Delta {
        collection: own.lock().channel.collection_id,
        partition: job.partition_id,
        segment: first,
        log_id: first + 1,
    };
    let outcome = match delta::encode(path, &job.rows) {
        Ok(log) => {
            let logs = [log];
            put_all(node, own, &logs).await;
            let request = deletes_save(node, own, &job, first, &logs[0]);
            save(node, own, request, &logs).await
        }
        Err(error) => refused_here(&error.to_string()),
    };
    let saved = match outcome {
        Outcome::Saved => true,
        Outcome::Refused(error) => {
            tracing::warn!(channel = %own.name, rows, %error, "deletes refused; their writer is told");
            false
        }
        Outcome::Abandoned => return,
    };
    own.lock().channel.deletes_done(&job, saved);
    tracing::debug!(channel = %own.name, segment = first, rows, saved, "deletes synced");
}

/// What cannot be encoded cannot be kept either: it is treated like a refusal.
fn refused_here(reason: &str) -> Outcome {
    Outcome::Refused(DomainError {
        code: Code::ServiceInternal.number(),
        reason: format!("cannot write log files: {reason}"),
        retriable: false,
    })
}

/// Tries until it works; the caller is cancelled with the ownership.
async fn alloc_ids(node: &Node, own: &Ownership, count: u32) -> i64 {
    let mut backoff = Backoff::new();
    loop {
        match node.coordinator.alloc_ids(count).await {
            Ok(first) => return first,
            Err(error) => {
                backoff.note(
                    || tracing::warn!(channel = %own.name, %error, "cannot get log ids, trying on"),
                );
            }
        }
        backoff.wait().await;
    }
}

/// Writes files until all are there; the caller is cancelled with the ownership.
async fn put_all(node: &Node, own: &Ownership, logs: &[EncodedLog]) {
    let mut backoff = Backoff::new();
    loop {
        let puts = stream::iter(logs.to_vec()).map(|log| {
            let store = node.store.clone();
            async move { store.put(&log).await }
        });
        let result = puts
            .buffer_unordered(PUTS_AT_ONCE)
            .try_collect::<()>()
            .await;
        match result {
            Ok(()) => return,
            Err(error) => {
                backoff.note(|| tracing::warn!(channel = %own.name, %error, "cannot write log files; rows are kept, trying on"));
            }
        }
        backoff.wait().await;
    }
}

/// Sends one save until it is answered.
async fn save(
    node: &Arc<Node>,
    own: &Arc<Ownership>,
    request: SaveBinlogPathsRequest,
    logs: &[EncodedLog],
) -> Outcome {
    let mut backoff = Backoff::new();
    let mut may_be_there = false;
    let mut written = Instant::now();
    loop {
        // Files that nobody knows are garbage when they are old: ours must not look it.
        if written.elapsed() >= node.object_refresh() {
            written = Instant::now();
            put_all(node, own, logs).await;
        }
        match node.coordinator.save(&request).await {
            SaveAnswer::Saved => return Outcome::Saved,
            SaveAnswer::Refused {
                error,
                maybe_applied,
            } => {
                // Files are ours to delete only if no attempt can have been taken.
                if !(may_be_there || maybe_applied) {
                    delete_all(node, logs);
                }
                if means_not_owner(&error) {
                    node.forfeit(own, &error.to_string());
                    return Outcome::Abandoned;
                }
                return Outcome::Refused(error);
            }
            SaveAnswer::Open {
                error,
                maybe_applied,
            } => {
                may_be_there |= maybe_applied;
                let segment = request.segment_id;
                backoff.note(|| tracing::warn!(channel = %own.name, segment, %error, "save not answered, sending it again"));
            }
        }
        backoff.wait().await;
    }
}

/// Whether a refusal says that the channel is not ours, or not any more.
fn means_not_owner(error: &DomainError) -> bool {
    [
        Code::ChannelNotFound,
        Code::NodeNotFound,
        Code::NodeOffline,
        Code::NodeNotMatch,
    ]
    .into_iter()
    .any(|code| error.is(code))
}

/// Best effort: what stays behind is an orphan for the coordinator's garbage collection.
fn delete_all(node: &Arc<Node>, logs: &[EncodedLog]) {
    let paths: Vec<LogPath> = logs.iter().map(|log| log.path).collect();
    let store = node.store.clone();
    node.tasks.spawn(async move {
        for path in paths {
            if let Err(error) = store.delete(&path).await {
                tracing::debug!(%error, "a log file of a refused save stays behind");
            }
        }
    });
}

/// All log files of the rows of a job, in the order of the save.
fn encode_segment(
    job: &SegmentJob,
    schema: &Schema,
    collection: i64,
    first_id: i64,
) -> Result<Vec<EncodedLog>, BinlogError> {
    let partition = job.partition_id.unwrap_or_default();
    let segment = job.segment_id;
    let timestamps = (job.timestamp_from, job.timestamp_to);
    let mut logs = Vec::with_capacity(schema.fields().len() + 3);
    let mut log_id = first_id;
    let mut add = |field: i64, column: &ColumnData| -> Result<(), BinlogError> {
        let path = LogPath::Insert {
            collection,
            partition,
            segment,
            field,
            log_id,
        };
        log_id += 1;
        logs.push(insert::encode(path, column, timestamps)?);
        Ok(())
    };
    let row_ids = job
        .ranges()
        .flat_map(|range| range.from..range.to)
        .map(|ordinal| ordinal as i64)
        .collect();
    add(ROW_ID_FIELD, &ColumnData::Int64(row_ids))?;
    let row_timestamps = job
        .chunks
        .iter()
        .flat_map(|chunk| std::iter::repeat_n(chunk.timestamp as i64, chunk.rows as usize))
        .collect();
    add(TIMESTAMP_FIELD, &ColumnData::Int64(row_timestamps))?;
    let mut key_stats = None;
    for (at, field) in schema.fields().iter().enumerate() {
        let mut column = ColumnData::new(field.kind);
        for chunk in job.chunks.iter() {
            let same_type = column.extend(&chunk.columns[at]);
            debug_assert!(same_type, "columns were checked against the schema");
        }
        add(field.id, &column)?;
        if field.primary_key {
            key_stats = PrimaryKeyStats::of(&column);
        }
    }
    if let Some(key_stats) = key_stats {
        let path = LogPath::Stats {
            collection,
            partition,
            segment,
            field: schema.primary_key().id,
            log_id,
        };
        logs.push(stats::encode(path, &key_stats, timestamps)?);
    }
    Ok(logs)
}

fn segment_save(
    node: &Node,
    own: &Ownership,
    job: &SegmentJob,
    logs: &[EncodedLog],
) -> SaveBinlogPathsRequest {
    let state = own.lock();
    let channel = &state.channel;
    let of_kind = |stats: bool| {
        logs.iter()
            .filter(|log| matches!(log.path, LogPath::Stats { .. }) == stats)
            .map(|log| FieldBinlog {
                field_id: log.path.field().unwrap_or_default(),
                binlogs: vec![log.to_binlog(node.store.root())],
            })
            .collect()
    };
    let timestamp = match job.timestamp_to {
        // Nothing new: the segment is complete as of the tick.
        0 => channel.floor(),
        last => last,
    };
    let check_points = job
        .rows_saved_then
        .map(|rows| CheckPoint {
            segment_id: job.segment_id,
            position: Some(channel.position_of(&channel.next_after(job), timestamp)),
            num_of_rows: rows as i64,
        })
        .into_iter()
        .collect();
    let start_positions = (job.first && job.rows > 0)
        .then(|| SegmentStartPosition {
            start_position: Some(channel.position(job.timestamp_from)),
            segment_id: job.segment_id,
        })
        .into_iter()
        .collect();
    SaveBinlogPathsRequest {
        base: Some(base(MsgType::Undefined, node.node_id(), timestamp)),
        segment_id: job.segment_id,
        collection_id: channel.collection_id,
        partition_id: job.partition_id.unwrap_or_default(),
        channel: own.name.clone(),
        field2_binlog_paths: of_kind(false),
        field2_statslog_paths: of_kind(true),
        check_points,
        start_positions,
        flushed: job.flush,
        seg_level: SegmentLevel::L1.into(),
        row_ranges: merged(job.ranges()),
        assignment_epoch: own.epoch,
        ..SaveBinlogPathsRequest::default()
    }
}

/// Ranges with neighbours merged, in the order of their streams.
fn merged<'a>(ranges: impl Iterator<Item = &'a RowRange>) -> Vec<RowRange> {
    let mut set = quorate_binlog::RowSet::new();
    for range in ranges {
        set.insert(&range.stream, range.from, range.to);
    }
    set.to_proto()
}

/// Deletes are saved as a segment of level zero that is complete from the start.
fn deletes_save(
    node: &Node,
    own: &Ownership,
    job: &DeleteJob,
    segment_id: i64,
    log: &EncodedLog,
) -> SaveBinlogPathsRequest {
    let state = own.lock();
    let channel = &state.channel;
    SaveBinlogPathsRequest {
        base: Some(base(MsgType::Undefined, node.node_id(), job.timestamp_to)),
        segment_id,
        collection_id: channel.collection_id,
        partition_id: job.partition_id,
        channel: own.name.clone(),
        deltalogs: vec![FieldBinlog {
            field_id: 0,
            binlogs: vec![log.to_binlog(node.store.root())],
        }],
        check_points: vec![CheckPoint {
            segment_id,
            position: Some(channel.position(job.timestamp_to)),
            num_of_rows: 0,
        }],
        start_positions: vec![SegmentStartPosition {
            start_position: Some(channel.position(job.timestamp_from)),
            segment_id,
        }],
        flushed: true,
        seg_level: SegmentLevel::L0.into(),
        assignment_epoch: own.epoch,
        ..SaveBinlogPathsRequest::default()
    }
}

/// Growing waits between attempts; the first failure is worth a word, the others are not.
struct Backoff {
    next: Duration,
}

impl Backoff {
    fn new() -> Backoff {
        Backoff {
            next: BACKOFF_FIRST,
        }
    }

    fn note(&self, log: impl FnOnce()) {
        if self.next == BACKOFF_FIRST {
            log();
        }
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(BACKOFF_MAX);
    }
}
