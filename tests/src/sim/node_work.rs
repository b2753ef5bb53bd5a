//! What a simulated data node does by itself: membership, time ticks, checkpoints and saves, all
//! through calls to the coordinator as a client makes them.

use std::sync::Arc;
use std::time::Duration;

use quorate_coord::CoordError;
use quorate_meta::Reason;
use quorate_meta::ranges::RangeSet;
use quorate_rpc::proto::milvus::common::{MsgBase, SegmentStats};
use quorate_rpc::proto::milvus::data::{
    Binlog, CheckPoint, FieldBinlog, ReportDataNodeTtMsgsRequest, SaveBinlogPathsRequest,
    SegmentLevel, SegmentStartPosition, UpdateChannelCheckpointRequest,
};
use quorate_rpc::proto::milvus::msg::{DataNodeTtMsg, MsgPosition};
use quorate_rpc::proto::quorate::node::{GetCoverageRequest, HeartbeatRequest, RegisterRequest};
use quorate_rpc::proto::quorate::oracle::{AllocIdRequest, AllocTimestampRequest};
use quorate_rpc::proto::quorate::row::RowRange;
use tokio_util::sync::CancellationToken;

use super::client::{Outcome, Repeat, Session};
use super::data_node::{DataNode, Phase, Piece, STREAM, missing};
use super::ledger::{Ledger, Saved};
use super::world::Place;

const TICK: Duration = Duration::from_millis(200);
const SYNC_ROUND: Duration = Duration::from_millis(100);
const HEARTBEAT: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);
/// Fields of every row.
const FIELDS: [i64; 2] = [100, 101];

/// Everything one process of a data node works with.
pub(super) struct Worker {
    node: Arc<DataNode>,
    session: Session,
    ledger: Arc<Ledger>,
}

/// Runs a data node's process until its life ends.
pub(super) async fn run(
    node: Arc<DataNode>,
    cluster: Arc<super::replica::Cluster>,
    ledger: Arc<Ledger>,
    life: CancellationToken,
) {
    let place = Place::DataNode(node.number);
    let worker = Arc::new(Worker {
        session: Session::new(cluster, place),
        node,
        ledger,
    });
    let work = async {
        tokio::join!(
            worker.membership(),
            worker.ticks(),
            worker.begins(&life),
            worker.syncs(&life),
        )
    };
    tokio::select! {
        biased;
        () = life.cancelled() => {}
        _ = work => {}
    }
}

fn base(source: i64) -> Option<MsgBase> {
    Some(MsgBase {
        source_id: source,
        ..MsgBase::default()
    })
}

fn position(channel: &str, ts: u64) -> MsgPosition {
    MsgPosition {
        channel_name: channel.to_owned(),
        msg_id: vec![1],
        timestamp: ts,
        ..MsgPosition::default()
    }
}

/// Files and rows of one save, taken out of a channel.
struct Job {
    channel: String,
    collection: i64,
    epoch: i64,
    segment: i64,
    pieces: Vec<Piece>,
    flush: bool,
    has_rows: bool,
    over: CancellationToken,
}

impl Worker {
    async fn membership(&self) {
        let mut registrations = 0;
        loop {
            registrations += 1;
            let session = self.node.hold().as_ref().map(|p| p.session.clone());
            let Some(session) = session else { return };
            let session = format!("{session}-{registrations}");
            let request = RegisterRequest {
                address: self.node.address.clone(),
                session: session.clone(),
                version: "simulated".into(),
            };
            let registered = self
                .session
                .ask("register", PATIENCE, Repeat::Always, |coordinator| {
                    let request = request.clone();
                    async move { coordinator.register(request).await }
                })
                .await;
            let Some(served) = registered.ok() else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let id = served.value.node_id;
            if let Some(process) = self.node.hold().as_mut() {
                process.id = id;
            }
            self.heartbeats(id, &session).await;
            // Expired: what we own is somebody else's.
            if let Some(process) = self.node.hold().as_mut() {
                for own in process.channels.values() {
                    own.over.cancel();
                }
                process.channels.clear();
                process.id = 0;
            }
        }
    }

    /// Renews the lease until it is refused.
    async fn heartbeats(&self, node_id: i64, session: &str) {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            let request = HeartbeatRequest {
                node_id,
                session: session.to_owned(),
                ..HeartbeatRequest::default()
            };
            let answer = self
                .session
                .ask("heartbeat", PATIENCE, Repeat::Always, |coordinator| {
                    let request = request.clone();
                    async move { coordinator.heartbeat(request).await }
                })
                .await;
            if let Outcome::Refused(error) | Outcome::RefusedLate(error) = answer {
                let world = &self.session.cluster.world;
                world.note(format_args!("d{} {error}", self.node.number));
                return;
            }
        }
    }

    async fn timestamp(&self) -> Option<u64> {
        let answer = self
            .session
            .ask("timestamp", PATIENCE, Repeat::Always, |c| async move {
                c.alloc_timestamp(AllocTimestampRequest { count: 1 }).await
            })
            .await;
        answer.ok().map(|served| served.value.first)
    }

    async fn ticks(&self) {
        let mut previous = 0;
        loop {
            tokio::time::sleep(TICK).await;
            let Some(now) = self.timestamp().await else {
                continue;
            };
            let floor = std::mem::replace(&mut previous, now);
            let (id, msgs) = {
                let mut process = self.node.hold();
                let Some(process) = process.as_mut() else {
                    return;
                };
                let msgs: Vec<DataNodeTtMsg> = process
                    .channels
                    .values_mut()
                    .filter(|own| own.phase != Phase::Watching)
                    .map(|own| {
                        own.floor = own.floor.max(floor);
                        DataNodeTtMsg {
                            base: base(process.id),
                            channel_name: own.name.clone(),
                            timestamp: own.floor,
                            segments_stats: own
                                .counts(self.node.careless)
                                .into_iter()
                                .map(|(segment_id, num_rows)| SegmentStats {
                                    segment_id,
                                    num_rows,
                                })
                                .collect(),
                        }
                    })
                    .collect();
                (process.id, msgs)
            };
            // Channels may come before the answer to our registration.
            if msgs.is_empty() || id == 0 {
                continue;
            }
            let request = ReportDataNodeTtMsgsRequest {
                base: base(id),
                msgs,
            };
            self.session
                .ask("tick", Duration::from_secs(1), Repeat::Always, |c| {
                    let request = request.clone();
                    async move { c.report_data_node_tt_msgs(request).await }
                })
                .await;
            self.checkpoints(id).await;
        }
    }

    async fn checkpoints(&self, id: i64) {
        let moved: Vec<(String, i64, u64)> = {
            let process = self.node.hold();
            let Some(process) = process.as_ref() else {
                return;
            };
            let channels = process.channels.values();
            channels
                .filter(|own| own.phase != Phase::Watching)
                .map(|own| (own, own.durable_ts()))
                .filter(|(own, ts)| *ts > own.checkpoint)
                .map(|(own, ts)| (own.name.clone(), own.epoch, ts))
                .collect()
        };
        if moved.is_empty() {
            return;
        }
        let request = UpdateChannelCheckpointRequest {
            base: base(id),
            channel_checkpoints: moved
                .iter()
                .map(|(name, _, ts)| position(name, *ts))
                .collect(),
            ..UpdateChannelCheckpointRequest::default()
        };
        let answer = self
            .session
            .ask("checkpoint", Duration::from_secs(1), Repeat::Always, |c| {
                let request = request.clone();
                async move {
                    let answer = c.update_channel_checkpoint(request.clone()).await;
                    // What the answering leader has applied: an acknowledged checkpoint is there,
                    // if the node still owns the channel under the same assignment.
                    let state = c.state();
                    let stored: Vec<(String, i64, u64)> = request
                        .channel_checkpoints
                        .iter()
                        .filter_map(|position| state.channel(&position.channel_name))
                        .map(|row| {
                            let ts = row.checkpoint.as_ref().map_or(0, |at| at.ts);
                            let ours = id != 0 && row.node_id == id;
                            let epoch = if ours { row.assignment_epoch } else { 0 };
                            (row.name.clone(), epoch, ts)
                        })
                        .collect();
                    answer.map(|_| stored)
                }
            })
            .await;
        let Some(served) = answer.ok() else { return };
        let world = &self.session.cluster.world;
        for (name, epoch, ts) in &moved {
            let stored = served.value.iter().find(|(stored, ..)| stored == name);
            if let Some((_, stored_epoch, stored_ts)) = stored
                && stored_epoch == epoch
                && stored_ts < ts
            {
                world.violation(format!(
                    "checkpoint {ts} of {name} was acknowledged by r{} which has {stored_ts}",
                    served.node
                ));
            }
            if let Some(process) = self.node.hold().as_mut()
                && let Some(own) = process.channels.get_mut(name)
                && own.epoch == *epoch
            {
                own.checkpoint = own.checkpoint.max(*ts);
            }
        }
    }

    /// Learns what is stored of new channels; from then on rows are taken.
    async fn begins(self: &Arc<Self>, life: &CancellationToken) {
        loop {
            self.node.begun.notified().await;
            let fresh: Vec<(String, i64, CancellationToken)> = {
                let process = self.node.hold();
                let channels = process.iter().flat_map(|process| process.channels.values());
                channels
                    .filter(|own| own.phase == Phase::Watching)
                    .map(|own| (own.name.clone(), own.epoch, own.over.clone()))
                    .collect()
            };
            for (name, epoch, over) in fresh {
                let worker = self.clone();
                let life = life.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        biased;
                        () = life.cancelled() => {}
                        () = over.cancelled() => {}
                        () = worker.begin(&name, epoch) => {}
                    }
                });
            }
        }
    }

    async fn begin(&self, channel: &str, epoch: i64) {
        loop {
            if let Some(stored) = self.stored(channel).await
                && let Some(now) = self.timestamp().await
            {
                if let Some(process) = self.node.hold().as_mut()
                    && let Some(own) = process.channels.get_mut(channel)
                    && own.epoch == epoch
                    && own.phase == Phase::Watching
                {
                    own.known = stored;
                    own.floor = now;
                    own.phase = Phase::Watched;
                }
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn stored(&self, channel: &str) -> Option<RangeSet> {
        let request = GetCoverageRequest {
            channel: channel.to_owned(),
            stream: STREAM.to_vec(),
        };
        let answer = self
            .session
            .ask("coverage", PATIENCE, Repeat::Always, |c| {
                let request = request.clone();
                async move { c.get_coverage(request).await }
            })
            .await;
        let mut stored = RangeSet::new();
        for range in answer.ok()?.value.ranges {
            stored.insert(range.from, range.to);
        }
        Some(stored)
    }

    async fn syncs(self: &Arc<Self>, life: &CancellationToken) {
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
            for id in own.due(all) {
                let Some(segment) = own.segments.get_mut(&id) else {
                    continue;
                };
                segment.busy = true;
                segment.syncing = std::mem::take(&mut segment.pieces);
                jobs.push(Job {
                    channel: own.name.clone(),
                    collection: own.collection,
                    epoch: own.epoch,
                    segment: id,
                    pieces: segment.syncing.clone(),
                    flush: segment.flush,
                    has_rows: segment.saved > 0 || !segment.syncing.is_empty(),
                    over: own.over.clone(),
                });
            }
        }
        jobs
    }

    async fn log_id(&self) -> i64 {
        loop {
            let count = u32::try_from(FIELDS.len()).unwrap_or(1);
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

    async fn sync(&self, job: Job) {
        let log_id = match job.pieces.is_empty() {
            true => None,
            false => Some(self.log_id().await),
        };
        let node_id = self.node.hold().as_ref().map_or(0, |process| process.id);
        let request = save_request(&job, node_id, log_id);
        if let Some(log_id) = log_id {
            let ordinals = job.pieces.iter().map(|p| (p.from, p.to)).collect();
            let key = (job.channel.clone(), log_id);
            self.ledger.hold().offered.insert(key, ordinals);
        }
        let answer = loop {
            let answer = self
                .session
                .ask("save", PATIENCE, Repeat::Always, |c| {
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

    fn saved(&self, job: &Job, log_id: Option<i64>) {
        let world = &self.session.cluster.world;
        world.note(format_args!(
            "d{} saved {} of {} flush {}",
            self.node.number, job.segment, job.channel, job.flush
        ));
        self.ledger.hold().saved.push(Saved {
            channel: job.channel.clone(),
            segment: job.segment,
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
            let rows: u64 = job.pieces.iter().map(|p| p.to - p.from).sum();
            segment.saved += i64::try_from(rows).unwrap_or(0);
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
        let stored = self.stored(&job.channel).await;
        let mut process = self.node.hold();
        let own = process
            .as_mut()
            .and_then(|process| process.channels.get_mut(&job.channel))
            .filter(|own| own.epoch == job.epoch);
        let Some(own) = own else { return };
        let mut known = RangeSet::new();
        for &(from, to) in own.known.ranges() {
            let mut lost = RangeSet::new();
            for piece in &job.pieces {
                lost.insert(piece.from, piece.to);
            }
            for (from, to) in missing(&lost, from, to) {
                known.insert(from, to);
            }
        }
        for &(from, to) in stored.iter().flat_map(RangeSet::ranges) {
            known.insert(from, to);
        }
        own.known = known;
        own.segments.remove(&job.segment);
        own.flushed.insert(job.segment);
    }
}

fn save_request(job: &Job, node_id: i64, log_id: Option<i64>) -> SaveBinlogPathsRequest {
    let first = job.pieces.iter().map(|p| p.ts).min().unwrap_or(0);
    let last = job.pieces.iter().map(|p| p.ts).max().unwrap_or(0);
    let rows: u64 = job.pieces.iter().map(|p| p.to - p.from).sum();
    let rows = i64::try_from(rows).unwrap_or(0);
    let files = FIELDS.iter().zip(log_id.into_iter().flat_map(|id| id..));
    let has_rows = log_id.is_some();
    SaveBinlogPathsRequest {
        base: base(node_id),
        segment_id: job.segment,
        collection_id: job.collection,
        partition_id: 0,
        channel: job.channel.clone(),
        seg_level: SegmentLevel::L1.into(),
        field2_binlog_paths: files
            .map(|(field_id, log_id)| FieldBinlog {
                field_id: *field_id,
                binlogs: vec![Binlog {
                    entries_num: rows,
                    timestamp_from: first,
                    timestamp_to: last,
                    log_size: rows * 8,
                    memory_size: rows * 8,
                    log_id,
                    ..Binlog::default()
                }],
            })
            .collect(),
        check_points: has_rows
            .then(|| CheckPoint {
                segment_id: job.segment,
                position: Some(position(&job.channel, last)),
                num_of_rows: rows,
            })
            .into_iter()
            .collect(),
        start_positions: has_rows
            .then(|| SegmentStartPosition {
                segment_id: job.segment,
                start_position: Some(position(&job.channel, first)),
            })
            .into_iter()
            .collect(),
        flushed: job.flush,
        row_ranges: job
            .pieces
            .iter()
            .map(|piece| RowRange {
                stream: STREAM.to_vec(),
                from: piece.from,
                to: piece.to,
            })
            .collect(),
        assignment_epoch: job.epoch,
        ..SaveBinlogPathsRequest::default()
    }
}
