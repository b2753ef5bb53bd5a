//! Channels: out of the buffer to data nodes, step by step, and out of the world when dropped
//! (`semantics.md` §5).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use quorate_meta::command::Command;
use quorate_meta::pb::{ChannelRow, ChannelState};
use quorate_meta::plan::channel_assign::{Waiting, Worker, assign};
use quorate_meta::{CollectionId, pb};
use quorate_rpc::proto::milvus::data::{
    ChannelOperationsRequest, ChannelWatchInfo, ChannelWatchState,
};
use tokio::time::Instant;

use crate::coordinator::Coordinator;
use crate::leader::Scope;
use crate::service::watch_info;

/// Calls to data nodes at a time.
const PARALLEL: usize = 16;
/// How soon an operation under way is asked about again.
const POLL: Duration = Duration::from_millis(100);

/// What the loop remembers of an operation: since when it makes no progress.
struct Stalled {
    op_id: i64,
    since: Instant,
    progress: i32,
}

pub(super) async fn run(coordinator: Arc<Coordinator>, scope: Arc<Scope>) {
    let wakes = coordinator.consensus().store().machine().wakes().clone();
    let mut stalled: BTreeMap<String, Stalled> = BTreeMap::new();
    let mut busy = true;
    let idle = coordinator.config().policy.channel_check_interval;
    loop {
        let period = if busy { POLL.min(idle) } else { idle };
        if !super::next_round(&scope, &wakes.channels, period).await {
            return;
        }
        hand_out(&coordinator, &scope).await;
        busy = advance(&coordinator, &scope, &mut stalled).await;
    }
}

/// Gives channels in the buffer to live data nodes.
async fn hand_out(coordinator: &Coordinator, scope: &Scope) {
    let live = scope.live_nodes(coordinator.config().policy.node_lease);
    let (waiting, workers) = {
        let state = coordinator.state();
        let waiting: Vec<Waiting> = state
            .channels()
            .filter(|row| row.state() == ChannelState::Standby && row.dropped_at == 0)
            .map(|row| Waiting {
                channel: row.name.clone(),
                last_node: row.last_node_id,
            })
            .collect();
        let mut channels: BTreeMap<i64, usize> = BTreeMap::new();
        for row in state.channels().filter(|row| row.node_id != 0) {
            *channels.entry(row.node_id).or_default() += 1;
        }
        let workers: Vec<Worker> = live
            .into_iter()
            .filter(|id| state.node(*id).is_some())
            .map(|node| Worker {
                node,
                channels: channels.get(&node).copied().unwrap_or(0),
            })
            .collect();
        (waiting, workers)
    };
    let decisions = assign(&waiting, &workers);
    if decisions.is_empty() {
        return;
    }
    let count = u32::try_from(decisions.len()).unwrap_or(u32::MAX);
    let first = match scope.alloc_ids(count).await {
        Ok(first) => first,
        Err(error) => {
            tracing::info!(%error, "channels not assigned yet");
            return;
        }
    };
    let assignments = decisions
        .into_iter()
        .zip(first..)
        .map(|((channel, node_id), op_id)| pb::ChannelAssignment {
            channel,
            node_id,
            op_id,
        })
        .collect();
    let command = Command::AssignChannels(pb::AssignChannels { assignments });
    if let Err(error) = scope.propose(command).await {
        tracing::info!(%error, "channels not assigned yet");
    }
}

/// One step for every channel on its way. True = something is still on its way.
async fn advance(
    coordinator: &Coordinator,
    scope: &Scope,
    stalled: &mut BTreeMap<String, Stalled>,
) -> bool {
    let moving: Vec<(Arc<ChannelRow>, String)> = {
        let state = coordinator.state();
        state
            .channels()
            .filter(|row| row.state() != ChannelState::Watched || row.dropped_at != 0)
            .filter(|row| row.state() != ChannelState::Standby || row.dropped_at != 0)
            .map(|row| {
                let node = state.node(row.node_id);
                (
                    row.clone(),
                    node.map_or(String::new(), |node| node.address.clone()),
                )
            })
            .collect()
    };
    stalled.retain(|name, entry| {
        moving
            .iter()
            .any(|(row, _)| row.name == *name && row.op_id == entry.op_id)
    });
    let asked: Vec<(Arc<ChannelRow>, Progress)> = futures::stream::iter(moving.clone())
        .map(|(row, address)| async move {
            let progress = ask(coordinator, scope, &row, &address).await;
            (row, progress)
        })
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    let timeout = coordinator.config().policy.channel_watch_timeout;
    for (row, progress) in asked {
        let success = match progress {
            Progress::Ended(success) => success,
            Progress::Settled => continue,
            Progress::UnderWay(percent) => {
                let entry = stalled.entry(row.name.clone()).or_insert(Stalled {
                    op_id: row.op_id,
                    since: Instant::now(),
                    progress: percent,
                });
                if entry.progress != percent {
                    entry.progress = percent;
                    entry.since = Instant::now();
                }
                if entry.since.elapsed() < timeout {
                    continue;
                }
                tracing::warn!(
                    channel = row.name,
                    op = row.op_id,
                    "channel operation made no progress"
                );
                false
            }
        };
        let command = Command::StepChannel(pb::StepChannel {
            channel: row.name.clone(),
            op_id: row.op_id,
            success,
        });
        if let Err(error) = scope.propose(command).await {
            tracing::info!(channel = row.name, %error, "channel not moved on yet");
        }
    }
    !moving.is_empty()
}

enum Progress {
    /// The operation ended.
    Ended(bool),
    /// Still going, so many percent done.
    UnderWay(i32),
    /// Nothing to step: a proposal was made here, or the next round looks again.
    Settled,
}

async fn ask(
    coordinator: &Coordinator,
    scope: &Scope,
    row: &ChannelRow,
    address: &str,
) -> Progress {
    let timeout = coordinator.config().policy.channel_notify_timeout;
    match row.state() {
        ChannelState::Standby => {
            remove(coordinator, scope, row).await;
            Progress::Settled
        }
        ChannelState::Watched => {
            release(scope, row).await;
            Progress::Settled
        }
        ChannelState::ToWatch | ChannelState::ToRelease => {
            if row.dropped_at != 0 && row.state() == ChannelState::ToWatch {
                release(scope, row).await;
                return Progress::Settled;
            }
            let info = operation(coordinator, row);
            let request = ChannelOperationsRequest { infos: vec![info] };
            match coordinator
                .data_nodes()
                .notify_channel(address, request, timeout)
                .await
            {
                Ok(()) => Progress::Ended(true),
                Err(error) => {
                    tracing::debug!(channel = row.name, %error, "channel operation not begun");
                    Progress::UnderWay(-1)
                }
            }
        }
        ChannelState::Watching | ChannelState::Releasing => {
            let request = ChannelWatchInfo {
                vchan: Some(quorate_rpc::proto::milvus::data::VchannelInfo {
                    collection_id: row.collection_id,
                    channel_name: row.name.clone(),
                    ..Default::default()
                }),
                state: wanted(row.state()).into(),
                op_id: row.op_id,
                assignment_epoch: row.assignment_epoch,
                ..Default::default()
            };
            match coordinator
                .data_nodes()
                .channel_progress(address, request, timeout)
                .await
            {
                Ok(answer) if answer.op_id != row.op_id => Progress::UnderWay(-1),
                Ok(answer) => match answer.state() {
                    ChannelWatchState::WatchSuccess | ChannelWatchState::ReleaseSuccess => {
                        Progress::Ended(true)
                    }
                    ChannelWatchState::WatchFailure | ChannelWatchState::ReleaseFailure => {
                        Progress::Ended(false)
                    }
                    _ => Progress::UnderWay(answer.progress),
                },
                Err(error) => {
                    tracing::debug!(channel = row.name, %error, "channel operation: no answer");
                    Progress::UnderWay(-1)
                }
            }
        }
    }
}

fn wanted(state: ChannelState) -> ChannelWatchState {
    match state {
        ChannelState::ToWatch | ChannelState::Watching | ChannelState::Watched => {
            ChannelWatchState::ToWatch
        }
        _ => ChannelWatchState::ToRelease,
    }
}

/// The operation as the data node is told it. Segment lists are filled in now, never stored.
fn operation(coordinator: &Coordinator, row: &ChannelRow) -> ChannelWatchInfo {
    let state = coordinator.state();
    let collection = state.collection(CollectionId(row.collection_id)).cloned();
    watch_info(&state, row, collection.as_deref(), wanted(row.state()))
}

async fn release(scope: &Scope, row: &ChannelRow) {
    let Ok(op_id) = scope.alloc_ids(1).await else {
        return;
    };
    let command = Command::ReleaseChannel(pb::ReleaseChannel {
        channel: row.name.clone(),
        op_id,
    });
    if let Err(error) = scope.propose(command).await {
        tracing::info!(channel = row.name, %error, "channel not released yet");
    }
}

async fn remove(coordinator: &Coordinator, scope: &Scope, row: &ChannelRow) {
    // Its segments are rewritten first; the tombstone loop does that.
    if coordinator.state().segments_on(&row.name).next().is_some() {
        return;
    }
    let command = Command::RemoveChannel(pb::RemoveChannel {
        channel: row.name.clone(),
    });
    if let Err(error) = scope.propose(command).await {
        tracing::info!(channel = row.name, %error, "channel not removed yet");
    }
}
