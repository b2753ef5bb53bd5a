//! What a simulated data node does by itself: membership, time ticks, checkpoints and, in
//! [`super::node_sync`], saves; all through calls to the coordinator as a client makes them.

use std::sync::Arc;
use std::time::Duration;

use quorate_meta::ranges::RangeSet;
use quorate_rpc::proto::milvus::common::{MsgBase, SegmentStats};
use quorate_rpc::proto::milvus::data::{
    ReportDataNodeTtMsgsRequest, UpdateChannelCheckpointRequest,
};
use quorate_rpc::proto::milvus::msg::{DataNodeTtMsg, MsgPosition};
use quorate_rpc::proto::quorate::node::{GetCoverageRequest, HeartbeatRequest, RegisterRequest};
use quorate_rpc::proto::quorate::oracle::AllocTimestampRequest;
use tokio_util::sync::CancellationToken;

use super::client::{Outcome, Repeat, Session};
use super::data_node::{DataNode, STREAM};
use super::ledger::Ledger;
use super::own::Phase;
use super::world::Place;

const TICK: Duration = Duration::from_millis(200);
const HEARTBEAT: Duration = Duration::from_secs(1);
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Fields of every row.
pub(super) const FIELDS: [i64; 2] = [100, 101];

/// Everything one process of a data node works with.
pub(super) struct Worker {
    pub(super) node: Arc<DataNode>,
    pub(super) session: Session,
    pub(super) ledger: Arc<Ledger>,
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

pub(super) fn base(source: i64) -> Option<MsgBase> {
    Some(MsgBase {
        source_id: source,
        ..MsgBase::default()
    })
}

pub(super) fn position(channel: &str, ts: u64) -> MsgPosition {
    MsgPosition {
        channel_name: channel.to_owned(),
        msg_id: vec![1],
        timestamp: ts,
        ..MsgPosition::default()
    }
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
                process.refresh = Duration::from_millis(served.value.object_refresh_ms.max(100));
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

    pub(super) async fn stored(&self, channel: &str) -> Option<RangeSet> {
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
}
