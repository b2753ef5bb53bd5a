//! Channel operations of the coordinator: watch, release, and how far they are.

use std::sync::Arc;
use std::time::Duration;

use quorate_binlog::{RowSet, Schema};
use quorate_rpc::proto::milvus::data::{
    ChannelOperationProgressResponse, ChannelWatchInfo, ChannelWatchState,
};
use quorate_rpc::status;

use crate::channel::Channel;
use crate::node::Node;
use crate::ownership::{Ownership, Phase};

/// How long watching may take; below the coordinator's own limit of 120 s.
const WATCH_TIMEOUT: Duration = Duration::from_secs(60);
const BACKOFF: Duration = Duration::from_millis(200);

/// Takes an operation in; the work goes on in the background. The error is a reason to refuse it.
pub(crate) fn notify(node: &Arc<Node>, info: ChannelWatchInfo) -> Result<(), String> {
    let state = info.state();
    let Some(vchan) = &info.vchan else {
        return Err("the operation names no channel (vchan is missing)".into());
    };
    if vchan.channel_name.is_empty() {
        return Err("the operation names no channel (its name is empty)".into());
    }
    match state {
        ChannelWatchState::ToWatch => watch(node, info),
        ChannelWatchState::ToRelease => release(node, &info),
        other => {
            return Err(format!(
                "a channel cannot be asked to be {}",
                other.as_str_name()
            ));
        }
    }
    Ok(())
}

/// How far an operation is.
pub(crate) fn progress(node: &Node, info: &ChannelWatchInfo) -> ChannelOperationProgressResponse {
    let name = info
        .vchan
        .as_ref()
        .map_or("", |vchan| vchan.channel_name.as_str());
    let current = node.channel(name).and_then(|own| {
        let state = own.lock();
        (state.op_id == info.op_id).then_some(match state.phase {
            Phase::Watching => ChannelWatchState::ToWatch,
            Phase::Watched => ChannelWatchState::WatchSuccess,
            Phase::Releasing => ChannelWatchState::ToRelease,
        })
    });
    let unknown = match info.state() {
        ChannelWatchState::ToRelease => ChannelWatchState::ReleaseFailure,
        _ => ChannelWatchState::WatchFailure,
    };
    let state = current
        .or_else(|| node.finished_state(name, info.op_id))
        .unwrap_or(unknown);
    let under_way = matches!(
        state,
        ChannelWatchState::ToWatch | ChannelWatchState::ToRelease
    );
    ChannelOperationProgressResponse {
        status: Some(status::ok()),
        op_id: info.op_id,
        state: state.into(),
        progress: if under_way { 50 } else { 100 },
    }
}

fn watch(node: &Arc<Node>, info: ChannelWatchInfo) {
    let Some(vchan) = &info.vchan else { return };
    let name = vchan.channel_name.clone();
    let schema = match Schema::from_proto(info.schema.as_ref().unwrap_or(&Default::default())) {
        Ok(schema) => schema,
        Err(error) => {
            tracing::error!(channel = %name, %error, "cannot watch the channel: its schema is unusable");
            node.finish(&name, info.op_id, ChannelWatchState::WatchFailure);
            return;
        }
    };
    let channel = Channel::new(name.clone(), vchan.collection_id, Arc::new(schema), vchan);
    let own = Arc::new(Ownership::new(
        info.assignment_epoch,
        info.op_id,
        channel,
        node.stop.child_token(),
    ));
    let replaced = {
        let mut channels = node.channels();
        if node.finished_state(&name, info.op_id).is_some() {
            // A late repeat of an operation that is over.
            return;
        }
        if let Some(current) = channels.get(&name) {
            let theirs = (info.assignment_epoch, info.op_id);
            let ours = (current.epoch, current.lock().op_id);
            if theirs <= ours {
                if theirs < ours {
                    tracing::info!(channel = %name, ?theirs, ?ours, "an outdated watch is ignored");
                }
                return;
            }
        }
        channels.insert(name.clone(), Arc::clone(&own))
    };
    if let Some(replaced) = replaced {
        replaced.cancel();
        let (rows, _) = replaced.lock().channel.held();
        tracing::info!(channel = %name, epoch = replaced.epoch, rows, "earlier ownership replaced, its unsaved rows are dropped");
    }
    let node_of_task = Arc::clone(node);
    node.tasks.spawn(async move {
        let node = node_of_task;
        let begun = tokio::select! {
            () = own.token.cancelled() => return,
            begun = tokio::time::timeout(WATCH_TIMEOUT, begin(&node, &own)) => begun.is_ok(),
        };
        if begun {
            tracing::info!(channel = %own.name, epoch = own.epoch, op_id = info.op_id, "channel watched");
        } else {
            node.forfeit(&own, "the coordinator did not say in time what is stored");
        }
    });
}

/// Learns what is stored; from then on rows are taken.
async fn begin(node: &Node, own: &Arc<Ownership>) {
    loop {
        match coverage(node, own).await {
            Ok((stored, floor)) => {
                let mut state = own.lock();
                state.channel.begin(stored, floor);
                state.phase = Phase::Watched;
                drop(state);
                own.notify();
                return;
            }
            Err(reason) => {
                tracing::debug!(channel = %own.name, reason, "cannot watch yet");
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }
}

async fn coverage(node: &Node, own: &Ownership) -> Result<(RowSet, u64), String> {
    let answer = node
        .coordinator
        .coverage(&own.name)
        .await
        .map_err(|error| error.to_string())?;
    let stored = RowSet::from_proto(&answer.ranges).map_err(|error| error.to_string())?;
    // An earlier owner may have reported ticks up to just now.
    let now = node
        .coordinator
        .alloc_timestamp()
        .await
        .map_err(|error| error.to_string())?;
    Ok((stored, now.max(answer.checkpoint_ts)))
}

/// Asks again what is stored, after a save was refused: rows somebody else has stored must not be
/// taken once more.
pub(crate) async fn refresh(node: Arc<Node>, own: Arc<Ownership>) {
    match node.coordinator.coverage(&own.name).await {
        Ok(answer) => match RowSet::from_proto(&answer.ranges) {
            Ok(stored) => own.lock().channel.learn_stored(&stored),
            Err(error) => tracing::warn!(channel = %own.name, %error, "coverage is unusable"),
        },
        Err(error) => tracing::warn!(channel = %own.name, %error, "cannot ask what is stored"),
    }
}

fn release(node: &Arc<Node>, info: &ChannelWatchInfo) {
    let Some(vchan) = &info.vchan else { return };
    let (name, op_id) = (&vchan.channel_name, info.op_id);
    let Some(own) = node.channel(name) else {
        if node.finished_state(name, op_id).is_none() {
            node.finish(name, op_id, ChannelWatchState::ReleaseSuccess);
        }
        return;
    };
    {
        let mut state = own.lock();
        let outdated = info.assignment_epoch != 0 && info.assignment_epoch < own.epoch;
        if outdated || op_id == state.op_id {
            return;
        }
        let releasing = state.phase == Phase::Releasing;
        state.phase = Phase::Releasing;
        state.op_id = op_id;
        state.channel.draining = true;
        if releasing {
            return;
        }
    }
    own.notify();
    node.schedule(&own);
    let node_of_task = Arc::clone(node);
    node.tasks.spawn(async move {
        let node = node_of_task;
        let timeout = node.config.release_timeout;
        let drained = tokio::time::timeout(timeout, Node::drained(&own)).await.is_ok();
        if !drained {
            let (rows, _) = own.lock().channel.held();
            tracing::warn!(channel = %own.name, rows, "released before all rows were saved; they will be sent again");
        }
        let removed = {
            let mut channels = node.channels();
            match channels.get(&own.name) {
                Some(current) if Arc::ptr_eq(current, &own) => channels.remove(&own.name),
                _ => None,
            }
        };
        if removed.is_some() {
            let op_id = own.lock().op_id;
            own.cancel();
            let watched = own.watch_op_id;
            node.finish(&own.name, watched, ChannelWatchState::WatchFailure);
            node.finish(&own.name, op_id, ChannelWatchState::ReleaseSuccess);
            tracing::info!(channel = %own.name, epoch = own.epoch, op_id, "channel released");
        }
    });
}
