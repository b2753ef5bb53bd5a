//! Sealing and flushing, at the pace of the channels' time ticks (`semantics.md` §3, §4).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_meta::command::Command;
use quorate_meta::model::SegmentState;
use quorate_meta::pb::{self, SealReason};
use quorate_meta::plan::flush::flushable;
use quorate_meta::plan::seal::{GrowingView, SealPolicy, seal_reason};
use quorate_meta::{CollectionId, SegmentId, State};
use quorate_rpc::proto::milvus::data::{FlushChannelsRequest, FlushSegmentsRequest};
use tokio::time::Instant;

use crate::coordinator::Coordinator;
use crate::leader::Scope;
use crate::leader::grants::ChannelGrants;
use crate::metrics;

/// A sweep looks at everything even if no wake came.
const SWEEP: Duration = Duration::from_secs(1);
/// Deadline of a flush call to a data node; the call only queues the work there.
const DISPATCH_TIMEOUT: Duration = Duration::from_secs(2);

/// What was dispatched when. Volatile: a successor dispatches again, which is harmless.
#[derive(Default)]
struct Dispatched {
    segments: BTreeMap<SegmentId, Instant>,
    channels: BTreeMap<String, (u64, Instant)>,
}

pub(super) async fn run(coordinator: Arc<Coordinator>, scope: Arc<Scope>) {
    let wakes = coordinator.consensus().store().machine().wakes().clone();
    let mut dispatched = Dispatched::default();
    loop {
        finish_flushes(&coordinator, &scope).await;
        let channels: Vec<String> = coordinator
            .state()
            .channels_with_unflushed()
            .map(|name| name.to_string())
            .collect();
        for channel in &channels {
            seal(&coordinator, &scope, channel).await;
            dispatch_segments(&coordinator, &scope, channel, &mut dispatched).await;
        }
        dispatch_channels(&coordinator, &scope, &mut dispatched).await;
        dispatched.segments.retain(|id, _| {
            let state = coordinator.state();
            state
                .segment(*id)
                .is_some_and(|s| s.state == SegmentState::Sealed)
        });
        scope.grants.retain_known(&coordinator.state());
        tokio::select! {
            biased;
            () = scope.cancel.cancelled() => return,
            () = scope.ticked.notified() => {}
            () = wakes.segments.notified() => {}
            () = tokio::time::sleep(SWEEP) => {}
        }
    }
}

/// Flushing → Flushed, for every segment whose final save has come, from this or an earlier epoch.
async fn finish_flushes(coordinator: &Coordinator, scope: &Scope) {
    let flushing: Vec<SegmentId> = {
        let state = coordinator.state();
        state
            .channels_with_unflushed()
            .flat_map(|channel| state.unflushed_on(channel))
            .filter(|segment| state.effective_state(segment) == SegmentState::Flushing)
            .map(|segment| segment.id)
            .collect()
    };
    let finish = flushing
        .into_iter()
        .map(|id| scope.propose(Command::FinishFlush(pb::FinishFlush { segment_id: id.0 })));
    for result in futures::future::join_all(finish).await {
        if let Err(error) = result {
            tracing::info!(%error, "flush not finished yet");
        }
    }
}

fn policy_of(coordinator: &Coordinator) -> SealPolicy {
    let policy = &coordinator.config().policy;
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    SealPolicy {
        binlog_files_max: policy.segment_binlog_files_max,
        life_ms_max: ms(policy.segment_life_max),
        idle_ms_max: ms(policy.flush_idle_max),
        idle_size_bytes_min: policy.flush_size_bytes_min,
    }
}

/// Seals what is full or old on a channel. While the seal is on its way, the segments take no
/// grants; the entry carries the last expiry, so that every replica knows it.
async fn seal(coordinator: &Coordinator, scope: &Scope, channel: &str) {
    let grants = scope.grants.channel(channel);
    let mut grants = grants.lock().await;
    let policy = policy_of(coordinator);
    let seals: Vec<pb::Seal> = {
        let state = coordinator.state();
        grants.retain_growing(&state);
        state
            .unflushed_on(channel)
            .filter(|segment| state.effective_state(segment) == SegmentState::Growing)
            .filter_map(|segment| {
                let rows = grants.rows(segment.id, segment.rows);
                let view = GrowingView {
                    segment,
                    rows,
                    size_bytes: size_of(&state, segment, rows),
                };
                let reason = seal_reason(&view, grants.tick, &policy).ok()?;
                Some(seal_of(segment.id, reason, &grants, scope))
            })
            .collect()
    };
    if seals.is_empty() {
        return;
    }
    let ids: Vec<SegmentId> = seals
        .iter()
        .map(|seal| SegmentId(seal.segment_id))
        .collect();
    grants.set_sealing(ids.iter().copied(), true);
    let reasons: Vec<SealReason> = seals.iter().map(pb::Seal::reason).collect();
    let command = Command::SealSegments(pb::SealSegments {
        seals,
        flush_ts: 0,
        flush_channels: Vec::new(),
    });
    match scope.propose(command).await {
        Ok(_) => {
            for reason in reasons {
                metrics::sealed(reason.as_str_name());
            }
        }
        Err(error) => {
            grants.set_sealing(ids, false);
            tracing::info!(channel, %error, "segments not sealed yet");
        }
    }
}

/// A seal with the last expiry any leader can have granted on the segment.
pub(crate) fn seal_of(
    segment: SegmentId,
    reason: SealReason,
    grants: &ChannelGrants,
    scope: &Scope,
) -> pb::Seal {
    pb::Seal {
        segment_id: segment.0,
        last_expire_ts: grants.last_expire(segment, scope.floor).0,
        reason: reason.into(),
    }
}

/// Saved bytes, and an estimate for the rows that are still in memory.
fn size_of(state: &State, segment: &quorate_meta::model::Segment, rows: i64) -> u64 {
    let row_size = state
        .collection(segment.collection)
        .map_or(0, |row| u64::from(row.row_size_bytes));
    let buffered = u64::try_from(rows - segment.rows).unwrap_or(0);
    segment.size_bytes + buffered * row_size
}

/// Who to call for a channel: the address of its owner, while it is watched.
fn owner(state: &State, channel: &str) -> Option<String> {
    let row = state.channel(channel)?;
    let watched = row.state() == pb::ChannelState::Watched && row.dropped_at == 0;
    let node = state.node(row.node_id).filter(|_| watched)?;
    Some(node.address.clone())
}

/// Asks the owner to flush sealed segments whose writers' reservations the time tick has passed.
/// Losing the call is harmless: the next tick sends it again.
async fn dispatch_segments(
    coordinator: &Coordinator,
    scope: &Scope,
    channel: &str,
    dispatched: &mut Dispatched,
) {
    let interval = coordinator.config().policy.flush_interval;
    let grants = scope.grants.channel(channel);
    let grants = grants.lock().await;
    let (address, collection, segments) = {
        let state = coordinator.state();
        let Some(address) = owner(&state, channel) else {
            return;
        };
        let due: Vec<_> = state
            .unflushed_on(channel)
            .filter(|segment| state.effective_state(segment) == SegmentState::Sealed)
            .filter(|segment| {
                let rows = grants.rows(segment.id, segment.rows);
                flushable(segment, rows, grants.tick).is_ok()
                    && dispatched
                        .segments
                        .get(&segment.id)
                        .is_none_or(|at| at.elapsed() >= interval)
            })
            .map(|segment| (segment.id, segment.collection))
            .collect();
        let Some(&(_, collection)) = due.first() else {
            return;
        };
        let ids: Vec<SegmentId> = due.into_iter().map(|(id, _)| id).collect();
        (address, collection, ids)
    };
    drop(grants);
    if scope.confirm().is_err() {
        return;
    }
    for id in &segments {
        dispatched.segments.insert(*id, Instant::now());
    }
    let request = FlushSegmentsRequest {
        collection_id: collection.0,
        segment_i_ds: segments.iter().map(|id| id.0).collect(),
        channel_name: channel.to_owned(),
        ..Default::default()
    };
    if let Err(error) = coordinator
        .data_nodes()
        .flush_segments(&address, request, DISPATCH_TIMEOUT)
        .await
    {
        tracing::info!(channel, %error, "flush not dispatched; the next round does");
    }
}

/// Asks owners to make everything up to a manual flush's timestamp durable, until the checkpoint
/// has passed it. The timestamp is on the channel, so a new owner or leader goes on with it.
async fn dispatch_channels(coordinator: &Coordinator, scope: &Scope, dispatched: &mut Dispatched) {
    let interval = coordinator.config().policy.flush_interval;
    let due: Vec<(String, String, u64)> = {
        let state = coordinator.state();
        state
            .channels()
            .filter(|row| {
                let checkpoint = row
                    .checkpoint
                    .as_ref()
                    .map_or(0, |checkpoint| checkpoint.ts);
                row.flush_ts > checkpoint
                    && dispatched
                        .channels
                        .get(&row.name)
                        .is_none_or(|(ts, at)| *ts != row.flush_ts || at.elapsed() >= interval)
                    && state
                        .live_collection(CollectionId(row.collection_id))
                        .is_some()
            })
            .filter_map(|row| Some((row.name.clone(), owner(&state, &row.name)?, row.flush_ts)))
            .collect()
    };
    for (channel, address, flush_ts) in due {
        if scope.confirm().is_err() {
            return;
        }
        dispatched
            .channels
            .insert(channel.clone(), (flush_ts, Instant::now()));
        let request = FlushChannelsRequest {
            flush_ts,
            channels: vec![channel.clone()],
            ..Default::default()
        };
        if let Err(error) = coordinator
            .data_nodes()
            .flush_channels(&address, request, DISPATCH_TIMEOUT)
            .await
        {
            tracing::info!(channel, %error, "flush of the channel not dispatched; the next round does");
        }
    }
    let state = coordinator.state();
    dispatched
        .channels
        .retain(|name, _| state.channel(name).is_some());
}
