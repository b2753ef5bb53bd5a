//! Data nodes without data: rows are ordinals of a stream. They keep the rules of the reference
//! data node: no row at or below the reported tick, none without a live grant, none twice; a save
//! is repeated as it was until it is answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use quorate_coord::outbound::{DataNodes, NodeError};
use quorate_meta::ranges::RangeSet;
use quorate_rpc::proto::milvus::data::{
    ChannelOperationProgressResponse, ChannelOperationsRequest, ChannelWatchInfo,
    ChannelWatchState, FlushChannelsRequest, FlushSegmentsRequest,
};
use quorate_rpc::status;
use tokio_util::sync::CancellationToken;

use super::world::{Place, World};

/// The one stream of a channel.
pub const STREAM: &[u8] = b"simulated";

/// What a channel's owner is doing with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Watching,
    Watched,
    Releasing,
}

/// Rows accepted together.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) ts: u64,
}

/// A segment as its data node knows it.
#[derive(Debug, Default)]
pub(super) struct Segment {
    pub(super) saved: i64,
    pub(super) pieces: Vec<Piece>,
    pub(super) syncing: Vec<Piece>,
    pub(super) busy: bool,
    pub(super) flush: bool,
}

fn rows(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.to - piece.from).sum()
}

/// A channel owned.
pub(super) struct Own {
    pub(super) name: String,
    pub(super) collection: i64,
    pub(super) epoch: i64,
    pub(super) op_id: i64,
    pub(super) phase: Phase,
    pub(super) floor: u64,
    pub(super) known: RangeSet,
    pub(super) segments: BTreeMap<i64, Segment>,
    pub(super) flushed: BTreeSet<i64>,
    pub(super) flush_ts: u64,
    pub(super) checkpoint: u64,
    /// Cancelled when the ownership ends.
    pub(super) over: CancellationToken,
}

impl Own {
    /// Everything at or below this is durable.
    pub(super) fn durable_ts(&self) -> u64 {
        let unsaved = self
            .segments
            .values()
            .flat_map(|segment| segment.pieces.iter().chain(&segment.syncing))
            .map(|piece| piece.ts - 1);
        unsaved.min().map_or(self.floor, |ts| ts.min(self.floor))
    }

    /// Rows of each segment, saved and held; `careless`: saved ones only.
    pub(super) fn counts(&self, careless: bool) -> Vec<(i64, i64)> {
        self.segments
            .iter()
            .map(|(id, segment)| {
                let held = rows(&segment.pieces) + rows(&segment.syncing);
                let held = if careless { 0 } else { held };
                (*id, segment.saved + i64::try_from(held).unwrap_or(0))
            })
            .collect()
    }

    /// Segments with something to save now, `all` of them or only what was asked for.
    pub(super) fn due(&self, all: bool) -> Vec<i64> {
        let hurry = all || self.flush_ts > self.checkpoint || self.phase == Phase::Releasing;
        self.segments
            .iter()
            .filter(|(_, segment)| {
                !segment.busy && (segment.flush || (hurry && !segment.pieces.is_empty()))
            })
            .map(|(id, _)| *id)
            .collect()
    }

    /// Nothing is held any more.
    pub(super) fn is_drained(&self) -> bool {
        self.segments
            .values()
            .all(|segment| segment.pieces.is_empty() && !segment.busy)
    }
}

/// Why rows are not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Ask who owns the channel.
    NotOwner,
    /// Take a new timestamp and new segments.
    Late,
}

/// One run of a data node process.
pub(super) struct Process {
    pub(super) session: String,
    pub(super) id: i64,
    pub(super) life: CancellationToken,
    pub(super) channels: BTreeMap<String, Own>,
    finished: BTreeMap<(String, i64), ChannelWatchState>,
}

/// A data node's machine.
pub struct DataNode {
    /// Its number.
    pub number: u64,
    /// Where it is called.
    pub address: String,
    /// Planted bug: its ticks count saved rows only.
    pub(super) careless: bool,
    pub(super) process: Mutex<Option<Process>>,
    /// Told about every new ownership, to begin it.
    pub(super) begun: tokio::sync::Notify,
}

impl DataNode {
    /// A machine on which nothing runs yet.
    pub fn new(number: u64, careless: bool) -> Arc<Self> {
        Arc::new(Self {
            number,
            careless,
            address: format!("data-node-{number}:21124"),
            process: Mutex::new(None),
            begun: tokio::sync::Notify::new(),
        })
    }

    pub(super) fn hold(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a process; gives its life.
    pub fn boot(&self, run: u64) -> CancellationToken {
        let life = CancellationToken::new();
        *self.hold() = Some(Process {
            session: format!("session-{}-{run}", self.number),
            id: 0,
            life: life.clone(),
            channels: BTreeMap::new(),
            finished: BTreeMap::new(),
        });
        life
    }

    /// Kills the process: what was not saved is gone.
    pub fn kill(&self) {
        if let Some(process) = self.hold().take() {
            process.life.cancel();
            for own in process.channels.values() {
                own.over.cancel();
            }
        }
    }

    /// Whether a process runs.
    pub fn is_up(&self) -> bool {
        self.hold().is_some()
    }

    /// Takes rows, or says why not. Rows that are known already are skipped.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn insert(
        &self,
        channel: &str,
        epoch: i64,
        ts: u64,
        grants: &[(i64, u64, u64)],
        from: u64,
    ) -> Result<(), Refusal> {
        let mut process = self.hold();
        let own = process
            .as_mut()
            .and_then(|process| process.channels.get_mut(channel))
            .filter(|own| own.phase == Phase::Watched && own.epoch == epoch)
            .ok_or(Refusal::NotOwner)?;
        let late = |(segment, _, expire): &(i64, u64, u64)| {
            *expire <= ts
                || own.flushed.contains(segment)
                || own.segments.get(segment).is_some_and(|known| known.flush)
        };
        if ts <= own.floor || grants.iter().any(late) {
            return Err(Refusal::Late);
        }
        let mut at = from;
        for (segment, count, _) in grants {
            let segment = own.segments.entry(*segment).or_default();
            for (from, to) in missing(&own.known, at, at + count) {
                segment.pieces.push(Piece { from, to, ts });
            }
            at += count;
        }
        own.known.insert(from, at);
        Ok(())
    }

    fn notify(&self, info: &ChannelWatchInfo, fails: bool) {
        let Some(vchan) = &info.vchan else { return };
        let name = vchan.channel_name.clone();
        let mut process = self.hold();
        let Some(process) = process.as_mut() else {
            return;
        };
        if process.finished.contains_key(&(name.clone(), info.op_id)) {
            return;
        }
        match info.state() {
            ChannelWatchState::ToWatch if fails => {
                process
                    .finished
                    .insert((name, info.op_id), ChannelWatchState::WatchFailure);
            }
            ChannelWatchState::ToWatch => {
                if let Some(own) = process.channels.get(&name) {
                    if (info.assignment_epoch, info.op_id) <= (own.epoch, own.op_id) {
                        return;
                    }
                    own.over.cancel();
                }
                let segments = vchan
                    .unflushed_segments
                    .iter()
                    .map(|info| {
                        let segment = Segment {
                            saved: info.num_of_rows,
                            ..Segment::default()
                        };
                        (info.id, segment)
                    })
                    .collect();
                let own = Own {
                    name: name.clone(),
                    collection: vchan.collection_id,
                    epoch: info.assignment_epoch,
                    op_id: info.op_id,
                    phase: Phase::Watching,
                    floor: 0,
                    known: RangeSet::new(),
                    segments,
                    flushed: vchan.flushed_segment_ids.iter().copied().collect(),
                    flush_ts: 0,
                    checkpoint: 0,
                    over: process.life.child_token(),
                };
                process.channels.insert(name, own);
                self.begun.notify_one();
            }
            ChannelWatchState::ToRelease => match process.channels.get_mut(&name) {
                Some(own) if info.assignment_epoch >= own.epoch => {
                    own.phase = Phase::Releasing;
                    own.op_id = info.op_id;
                }
                Some(_) => {}
                None => {
                    process
                        .finished
                        .insert((name, info.op_id), ChannelWatchState::ReleaseSuccess);
                }
            },
            _ => {}
        }
    }

    fn progress(&self, info: &ChannelWatchInfo) -> ChannelWatchState {
        let name = info.vchan.as_ref().map_or("", |v| v.channel_name.as_str());
        let unknown = match info.state() {
            ChannelWatchState::ToRelease => ChannelWatchState::ReleaseFailure,
            _ => ChannelWatchState::WatchFailure,
        };
        let process = self.hold();
        let Some(process) = process.as_ref() else {
            return unknown;
        };
        let current = process
            .channels
            .get(name)
            .filter(|own| own.op_id == info.op_id)
            .map(|own| match own.phase {
                Phase::Watching => ChannelWatchState::ToWatch,
                Phase::Watched => ChannelWatchState::WatchSuccess,
                Phase::Releasing => ChannelWatchState::ToRelease,
            });
        let finished = || {
            process
                .finished
                .get(&(name.to_owned(), info.op_id))
                .copied()
        };
        current.or_else(finished).unwrap_or(unknown)
    }

    /// Ends releases that have nothing left to save.
    pub(super) fn finish_releases(&self) {
        let mut process = self.hold();
        let Some(process) = process.as_mut() else {
            return;
        };
        let done: Vec<String> = process
            .channels
            .values()
            .filter(|own| own.phase == Phase::Releasing && own.is_drained())
            .map(|own| own.name.clone())
            .collect();
        for name in done {
            if let Some(own) = process.channels.remove(&name) {
                own.over.cancel();
                process
                    .finished
                    .insert((name, own.op_id), ChannelWatchState::ReleaseSuccess);
            }
        }
    }

    /// The channel is not ours any more; its unsaved rows are forgotten.
    pub(super) fn forfeit(&self, channel: &str, epoch: i64) {
        let mut process = self.hold();
        if let Some(process) = process.as_mut()
            && let Some(own) = process.channels.get(channel)
            && own.epoch == epoch
        {
            own.over.cancel();
            process.channels.remove(channel);
        }
    }

    fn flush_segments(&self, request: &FlushSegmentsRequest) -> Result<(), String> {
        let mut process = self.hold();
        let own = process
            .as_mut()
            .and_then(|process| process.channels.get_mut(&request.channel_name))
            .ok_or("channel not found")?;
        for id in &request.segment_i_ds {
            if !own.flushed.contains(id) {
                own.segments.entry(*id).or_default().flush = true;
            }
        }
        Ok(())
    }

    fn flush_channels(&self, request: &FlushChannelsRequest) -> Result<(), String> {
        let mut process = self.hold();
        let channels = process.as_mut().map(|process| &mut process.channels);
        let channels = channels.ok_or("connection refused")?;
        for name in &request.channels {
            let own = channels.get_mut(name).ok_or("channel not found")?;
            own.flush_ts = own.flush_ts.max(request.flush_ts);
        }
        Ok(())
    }
}

/// Ranges of `from..to` that are not in the set.
pub(super) fn missing(set: &RangeSet, from: u64, to: u64) -> Vec<(u64, u64)> {
    let mut gaps = Vec::new();
    let mut at = from;
    for &(start, end) in set.ranges() {
        if end <= at {
            continue;
        }
        if start >= to {
            break;
        }
        if start > at {
            gaps.push((at, start));
        }
        at = at.max(end);
    }
    if at < to {
        gaps.push((at, to));
    }
    gaps
}

/// The data nodes as one run of a replica reaches them.
pub(super) struct SimDataNodes {
    pub(super) world: Arc<World>,
    pub(super) nodes: Vec<Arc<DataNode>>,
    pub(super) own: Place,
    pub(super) life: CancellationToken,
}

impl SimDataNodes {
    async fn call<T>(
        &self,
        address: &str,
        what: &str,
        timeout: Duration,
        work: impl FnOnce(&DataNode) -> Result<T, String> + Send,
    ) -> Result<T, NodeError> {
        let fail = |problem: &str| NodeError {
            address: address.to_owned(),
            problem: problem.to_owned(),
        };
        let node = self.nodes.iter().find(|node| node.address == address);
        let node = node.ok_or_else(|| fail("no such host"))?;
        let place = Place::DataNode(node.number);
        let exchange = async {
            if !self.world.carry(self.own, place, what).await {
                futures::future::pending::<()>().await;
            }
            let answer = if node.is_up() {
                work(node)
            } else {
                Err("connection refused".to_owned())
            };
            if !self.world.carry(place, self.own, what).await {
                futures::future::pending::<()>().await;
            }
            answer
        };
        tokio::select! {
            biased;
            () = self.life.cancelled() => Err(fail("this replica has crashed")),
            answer = tokio::time::timeout(timeout, exchange) => match answer {
                Ok(answer) => answer.map_err(|problem| fail(&problem)),
                Err(_) => Err(fail("no answer")),
            }
        }
    }
}

#[async_trait]
impl DataNodes for SimDataNodes {
    async fn notify_channel(
        &self,
        address: &str,
        request: ChannelOperationsRequest,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        let fails = self.world.chance(30);
        self.call(address, "channel operation", timeout, |node| {
            for info in &request.infos {
                node.notify(info, fails);
            }
            Ok(())
        })
        .await
    }

    async fn channel_progress(
        &self,
        address: &str,
        request: ChannelWatchInfo,
        timeout: Duration,
    ) -> Result<ChannelOperationProgressResponse, NodeError> {
        self.call(address, "channel progress", timeout, |node| {
            Ok(ChannelOperationProgressResponse {
                status: Some(status::ok()),
                op_id: request.op_id,
                state: node.progress(&request).into(),
                progress: 50,
            })
        })
        .await
    }

    async fn flush_segments(
        &self,
        address: &str,
        request: FlushSegmentsRequest,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        self.call(address, "flush segments", timeout, |node| {
            node.flush_segments(&request)
        })
        .await
    }

    async fn flush_channels(
        &self,
        address: &str,
        request: FlushChannelsRequest,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        self.call(address, "flush channels", timeout, |node| {
            node.flush_channels(&request)
        })
        .await
    }
}
