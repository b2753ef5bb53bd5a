//! How a simulated data node saves: rows and deletes are written to the object store, then their
//! paths are told to the coordinator, again and again until it answers. What waits for an answer is
//! kept young, so that garbage collection does not take it for an orphan.

use std::sync::Arc;
use std::time::Duration;

use quorate_coord::CoordError;
use quorate_meta::Reason;
use quorate_meta::ranges::RangeSet;
use quorate_rpc::proto::milvus::data::{
    Binlog, CheckPoint, FieldBinlog, SaveBinlogPathsRequest, SegmentLevel, SegmentStartPosition,
};
use quorate_rpc::proto::quorate::oracle::AllocIdRequest;
use quorate_rpc::proto::quorate::row::RowRange;
use tokio_util::sync::CancellationToken;

use super::client::{Outcome, Repeat};
use super::data_node::{STREAM, missing};
use super::ledger::{Offer, Saved};
use super::node_work::{FIELDS, PATIENCE, Worker, base, position};
use super::objects::{Content, Piece, rows};
use super::own::Phase;

const SYNC_ROUND: Duration = Duration::from_millis(100);
/// Deletes hold for every partition.
const ALL_PARTITIONS: i64 = -1;

/// Files and rows of one save, taken out of a channel.
struct Job {
    channel: String,
    collection: i64,
    partition: i64,
    epoch: i64,
    /// Of deletes: given when they are saved.
    segment: i64,
    pieces: Vec<Piece>,
    deletes: Vec<(u64, u64)>,
    flush: bool,
    has_rows: bool,
    over: CancellationToken,
}

impl Worker {
    pub(super) async fn syncs(self: &Arc<Self>, life: &CancellationToken) {
        loop {
            tokio::time::sleep(SYNC_ROUND).await;
            self.node.finish_releases();
            let all = self.session.cluster.world.chance(60);
            for job in self.take_jobs(all) {
                let worker = self.clone();
                let life = life.clone();
                tokio::spawn(async move {
                    let over = job.over.clone();
                    tokio::select! {
                        biased;
                        () = life.cancelled() => {}
                        () = over.cancelled() => {}
                        () = worker.sync(job) => {}
                    }
                });
            }
        }
    }

    fn take_jobs(&self, all: bool) -> Vec<Job> {
        let mut process = self.node.hold();
        let Some(process) = process.as_mut() else {
            return Vec::new();
        };
        let mut jobs = Vec::new();
        for own in process.channels.values_mut() {
            if own.phase == Phase::Watching {
                continue;
            }
            if own.deletes_due(all) {
                own.deletes.syncing = std::mem::take(&mut own.deletes.held);
                jobs.push(Job {
                    channel: own.name.clone(),
                    collection: own.collection,
                    partition: ALL_PARTITIONS,
                    epoch: own.epoch,
                    segment: 0,
                    pieces: Vec::new(),
                    deletes: own.deletes.syncing.clone(),
                    flush: true,
                    has_rows: false,
                    over: own.over.clone(),
                });
            }
            for id in own.due(all) {
                let Some(segment) = own.segments.get_mut(&id) else {
                    continue;
                };
                segment.busy = true;
                segment.syncing = std::mem::take(&mut segment.pieces);
                jobs.push(Job {
                    channel: own.name.clone(),
                    collection: own.collection,
                    partition: segment.partition,
                    epoch: own.epoch,
                    segment: id,
                    pieces: segment.syncing.clone(),
                    deletes: Vec::new(),
                    flush: segment.flush,
                    has_rows: segment.saved > 0 || !segment.syncing.is_empty(),
                    over: own.over.clone(),
                });
            }
        }
        jobs
    }

    /// The first of some ids; it does not give up.
    async fn ids(&self, count: usize) -> i64 {
        let count = u32::try_from(count).unwrap_or(1);
        loop {
            let answer = self
                .session
                .ask("log ids", PATIENCE, Repeat::Always, |c| async move {
                    c.alloc_id(AllocIdRequest { count }).await
                })
                .await;
            if let Some(served) = answer.ok() {
                return served.value.first;
            }
        }
    }

    async fn sync(&self, mut job: Job) {
        let is_empty = job.pieces.is_empty() && job.deletes.is_empty();
        let log_id = match is_empty {
            true => None,
            false => Some(self.ids(FIELDS.len() + 2).await),
        };
        if !job.deletes.is_empty() {
            // The id behind those of the logs.
            let last = i64::try_from(FIELDS.len() + 1).unwrap_or(0);
            job.segment = log_id.unwrap_or(0) + last;
        }
        let files = job.files(log_id);
        for (path, content) in &files {
            self.node.store.put(path, content.clone()).await;
        }
        let (node_id, refresh) = match self.node.hold().as_ref() {
            Some(process) => (process.id, process.refresh),
            None => return,
        };
        let request = job.request(node_id, log_id);
        if let Some(log_id) = log_id
            && !job.pieces.is_empty()
        {
            let offer = Offer {
                segment: job.segment,
                partition: job.partition,
                ordinals: job.pieces.iter().map(|p| (p.from, p.to)).collect(),
            };
            let key = (job.channel.clone(), log_id);
            self.ledger.hold().offered.insert(key, offer);
        }
        let answer = loop {
            self.keep_young(&files, refresh).await;
            let patience = refresh.min(PATIENCE);
            let answer = self
                .session
                .ask("save", patience, Repeat::Always, |c| {
                    let request = request.clone();
                    async move { c.save_binlog_paths(request).await }
                })
                .await;
            if !matches!(answer, Outcome::Fail | Outcome::Info) {
                break answer;
            }
        };
        match answer {
            Outcome::Ok(_) => self.saved(&job, log_id),
            Outcome::Refused(error) | Outcome::RefusedLate(error) => {
                self.refused(&job, &error).await;
            }
            Outcome::Fail | Outcome::Info => {}
        }
    }

    /// Writes again what has grown old while its save was not answered.
    async fn keep_young(&self, files: &[(String, Content)], refresh: Duration) {
        let store = &self.node.store;
        let old = |path: &str| store.age(path).is_none_or(|age| age >= refresh);
        if files.iter().any(|(path, _)| old(path)) {
            for (path, content) in files {
                store.put(path, content.clone()).await;
            }
        }
    }

    fn saved(&self, job: &Job, log_id: Option<i64>) {
        let world = &self.session.cluster.world;
        world.note(format_args!(
            "d{} saved {} of {} flush {}",
            self.node.number, job.segment, job.channel, job.flush
        ));
        if !job.deletes.is_empty() {
            if let Some(process) = self.node.hold().as_mut()
                && let Some(own) = process.channels.get_mut(&job.channel)
                && own.epoch == job.epoch
            {
                own.deletes.syncing.clear();
            }
            return;
        }
        self.ledger.hold().saved.push(Saved {
            channel: job.channel.clone(),
            segment: job.segment,
            partition: job.partition,
            log_id,
            last: job.flush,
            has_rows: job.has_rows,
            at: world.now_ns(),
        });
        let mut process = self.node.hold();
        let own = process
            .as_mut()
            .and_then(|process| process.channels.get_mut(&job.channel))
            .filter(|own| own.epoch == job.epoch);
        let Some(own) = own else { return };
        if job.flush {
            own.segments.remove(&job.segment);
            own.flushed.insert(job.segment);
        } else if let Some(segment) = own.segments.get_mut(&job.segment) {
            segment.saved += i64::try_from(rows(&job.pieces)).unwrap_or(0);
            segment.syncing.clear();
            segment.busy = false;
        }
    }

    async fn refused(&self, job: &Job, error: &CoordError) {
        let world = &self.session.cluster.world;
        world.note(format_args!(
            "d{} save of {} refused: {error}",
            self.node.number, job.segment
        ));
        let not_owner = matches!(
            error,
            CoordError::Rejected(Reason::ChannelNotFound | Reason::NodeNotFound, _)
        );
        if not_owner {
            self.node.forfeit(&job.channel, job.epoch);
            return;
        }
        if !job.deletes.is_empty() {
            // The collection is gone; so is what they would delete.
            if let Some(process) = self.node.hold().as_mut()
                && let Some(own) = process.channels.get_mut(&job.channel)
                && own.epoch == job.epoch
            {
                own.deletes.syncing.clear();
            }
            return;
        }
        let stored = self.stored(&job.channel).await;
        let mut process = self.node.hold();
        let own = process
            .as_mut()
            .and_then(|process| process.channels.get_mut(&job.channel))
            .filter(|own| own.epoch == job.epoch);
        let Some(own) = own else { return };
        // What came to the segment meanwhile is lost with it.
        let gone = own.segments.remove(&job.segment);
        let held = gone.into_iter().flat_map(|segment| segment.pieces);
        let mut lost = RangeSet::new();
        for piece in job.pieces.iter().cloned().chain(held) {
            lost.insert(piece.from, piece.to);
        }
        let mut known = RangeSet::new();
        for &(from, to) in own.known.ranges() {
            for (from, to) in missing(&lost, from, to) {
                known.insert(from, to);
            }
        }
        for &(from, to) in stored.iter().flat_map(RangeSet::ranges) {
            known.insert(from, to);
        }
        own.known = known;
        own.flushed.insert(job.segment);
    }
}

impl Job {
    /// Rows it holds in its files.
    fn rows(&self) -> i64 {
        let count = rows(&self.pieces) + self.deletes.len() as u64;
        i64::try_from(count).unwrap_or(0)
    }

    /// First and last timestamp.
    fn times(&self) -> (u64, u64) {
        let rows = self.pieces.iter().map(|piece| piece.ts);
        let all = || rows.clone().chain(self.deletes.iter().map(|(_, ts)| *ts));
        (all().min().unwrap_or(0), all().max().unwrap_or(0))
    }

    fn place(&self) -> String {
        format!("{}/{}/{}", self.collection, self.partition, self.segment)
    }

    /// Objects to be written first.
    fn files(&self, log_id: Option<i64>) -> Vec<(String, Content)> {
        let Some(log_id) = log_id else {
            return Vec::new();
        };
        let place = self.place();
        if !self.deletes.is_empty() {
            let content = Content::Deletes(Arc::new(self.deletes.clone()));
            return vec![(format!("delta_log/{place}/{log_id}"), content)];
        }
        let content = Content::Rows(Arc::new(self.pieces.clone()));
        let mut files: Vec<(String, Content)> = FIELDS
            .iter()
            .zip(log_id..)
            .map(|(field, id)| (format!("insert_log/{place}/{field}/{id}"), content.clone()))
            .collect();
        let stats = log_id + FIELDS.len() as i64;
        let path = format!("stats_log/{place}/{}/{stats}", FIELDS[0]);
        files.push((path, Content::Opaque));
        files
    }

    fn log(&self, field_id: i64, log_id: i64) -> FieldBinlog {
        let (timestamp_from, timestamp_to) = self.times();
        FieldBinlog {
            field_id,
            binlogs: vec![Binlog {
                entries_num: self.rows(),
                timestamp_from,
                timestamp_to,
                log_size: self.rows() * 8,
                memory_size: self.rows() * 8,
                log_id,
                ..Binlog::default()
            }],
        }
    }

    fn request(&self, node_id: i64, log_id: Option<i64>) -> SaveBinlogPathsRequest {
        let (first, last) = self.times();
        let has_files = log_id.is_some();
        let deletes = !self.deletes.is_empty();
        let inserts = log_id.filter(|_| !deletes);
        let level = match deletes {
            true => SegmentLevel::L0,
            false => SegmentLevel::L1,
        };
        SaveBinlogPathsRequest {
            base: base(node_id),
            segment_id: self.segment,
            collection_id: self.collection,
            partition_id: self.partition,
            channel: self.channel.clone(),
            seg_level: level.into(),
            field2_binlog_paths: FIELDS
                .iter()
                .zip(inserts.into_iter().flat_map(|id| id..))
                .map(|(field, id)| self.log(*field, id))
                .collect(),
            field2_statslog_paths: inserts
                .map(|id| self.log(FIELDS[0], id + FIELDS.len() as i64))
                .into_iter()
                .collect(),
            deltalogs: log_id
                .filter(|_| deletes)
                .map(|id| self.log(0, id))
                .into_iter()
                .collect(),
            check_points: has_files
                .then(|| CheckPoint {
                    segment_id: self.segment,
                    position: Some(position(&self.channel, last)),
                    num_of_rows: if deletes { 0 } else { self.rows() },
                })
                .into_iter()
                .collect(),
            start_positions: has_files
                .then(|| SegmentStartPosition {
                    segment_id: self.segment,
                    start_position: Some(position(&self.channel, first)),
                })
                .into_iter()
                .collect(),
            flushed: self.flush,
            row_ranges: self
                .pieces
                .iter()
                .map(|piece| RowRange {
                    stream: STREAM.to_vec(),
                    from: piece.from,
                    to: piece.to,
                })
                .collect(),
            assignment_epoch: self.epoch,
            ..SaveBinlogPathsRequest::default()
        }
    }
}
