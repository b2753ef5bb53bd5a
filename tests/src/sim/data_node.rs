//! Data nodes without data: rows are ordinals of a stream. They keep the rules of the reference
//! data node: no row at or below the reported tick, none without a live grant, none twice; a save
//! is repeated as it was until it is answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_meta::ranges::RangeSet;
use quorate_rpc::proto::milvus::data::{
    ChannelWatchInfo, ChannelWatchState, FlushChannelsRequest, FlushSegmentsRequest,
};
use tokio_util::sync::CancellationToken;

use super::compactor::Compaction;
use super::indexer::Build;
use super::objects::{Piece, Store};
use super::own::{Deletes, Own, Phase, Segment};
use super::world::World;

/// The one stream of a channel.
pub const STREAM: &[u8] = b"simulated";

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
    pub(super) compactions: BTreeMap<i64, Compaction>,
    pub(super) builds: BTreeMap<i64, Build>,
    /// An object that is not saved at this age is written again.
    pub(super) refresh: Duration,
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
    /// Whether it lies about what came of compactions and index builds.
    lies: AtomicBool,
    pub(super) world: Arc<World>,
    pub(super) store: Arc<Store>,
    pub(super) process: Mutex<Option<Process>>,
    /// Told about every new ownership, to begin it.
    pub(super) begun: tokio::sync::Notify,
}

impl DataNode {
    /// A machine on which nothing runs yet.
    pub fn new(number: u64, careless: bool, world: Arc<World>, store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self {
            number,
            careless,
            lies: AtomicBool::new(false),
            world,
            store,
            address: format!("data-node-{number}:21124"),
            process: Mutex::new(None),
            begun: tokio::sync::Notify::new(),
        })
    }

    pub(super) fn hold(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it lies about what came of its work, or tells the truth again.
    pub fn set_lies(&self, lies: bool) {
        self.lies.store(lies, Ordering::Relaxed);
    }

    /// Whether the next answer is a lie.
    pub(super) fn lies_now(&self) -> bool {
        self.lies.load(Ordering::Relaxed) && self.world.chance(700)
    }

    /// Starts a process; gives its life.
    pub fn boot(&self, run: u64) -> CancellationToken {
        let life = CancellationToken::new();
        *self.hold() = Some(Process {
            session: format!("session-{}-{run}", self.number),
            id: 0,
            life: life.clone(),
            channels: BTreeMap::new(),
            compactions: BTreeMap::new(),
            builds: BTreeMap::new(),
            refresh: Duration::from_secs(1),
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
        (partition, epoch): (i64, i64),
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
            segment.partition = partition;
            for (from, to) in missing(&own.known, at, at + count) {
                segment.pieces.push(Piece { from, to, ts });
            }
            at += count;
        }
        own.known.insert(from, at);
        Ok(())
    }

    /// Takes deletes, or says why not. They hold for rows with lower timestamps.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn delete(
        &self,
        channel: &str,
        epoch: i64,
        ts: u64,
        ordinals: &[u64],
    ) -> Result<(), Refusal> {
        let mut process = self.hold();
        let own = process
            .as_mut()
            .and_then(|process| process.channels.get_mut(channel))
            .filter(|own| own.phase == Phase::Watched && own.epoch == epoch)
            .ok_or(Refusal::NotOwner)?;
        if ts <= own.floor {
            return Err(Refusal::Late);
        }
        let deletes = ordinals.iter().map(|ordinal| (*ordinal, ts));
        own.deletes.held.extend(deletes);
        Ok(())
    }

    pub(super) fn notify(&self, info: &ChannelWatchInfo, fails: bool) {
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
                            partition: info.partition_id,
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
                    deletes: Deletes::default(),
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

    pub(super) fn progress(&self, info: &ChannelWatchInfo) -> ChannelWatchState {
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

    pub(super) fn flush_segments(&self, request: &FlushSegmentsRequest) -> Result<(), String> {
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

    pub(super) fn flush_channels(&self, request: &FlushChannelsRequest) -> Result<(), String> {
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
