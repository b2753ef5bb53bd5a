//! The time tick of our channels, and their checkpoints.
//!
//! Each round takes a timestamp; the ticks reported are those of the round before, so that a
//! writer that took its timestamp before this round still gets its rows in.

use std::sync::Arc;

use quorate_rpc::proto::milvus::common::MsgType;
use quorate_rpc::proto::milvus::data::{
    ReportDataNodeTtMsgsRequest, UpdateChannelCheckpointRequest,
};
use quorate_rpc::proto::milvus::msg::{DataNodeTtMsg, MsgPosition};
use tokio::time::MissedTickBehavior;

use crate::coordinator::base;
use crate::node::Node;
use crate::ownership::{Ownership, Phase};

/// A checkpoint that moved by less (one second) is not worth a write of its own.
const CHECKPOINT_STEP: u64 = 1000 << 18;

/// Ticks until the node ends.
pub(crate) async fn run(node: Arc<Node>) {
    let stop = node.stop.clone();
    let rounds = async {
        let mut interval = tokio::time::interval(node.config.tick_interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut previous = 0;
        let mut failing = false;
        loop {
            interval.tick().await;
            let result = round(&node, &mut previous).await;
            if let Err(error) = &result
                && !failing
            {
                tracing::warn!(%error, "time ticks cannot be reported, trying on");
            }
            failing = result.is_err();
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = rounds => {}
    }
}

async fn round(node: &Arc<Node>, previous: &mut u64) -> Result<(), quorate_rpc::ClientError> {
    let channels = node.all_channels();
    // Buffers grow old whether the coordinator answers or not.
    for own in &channels {
        node.schedule(own);
    }
    if channels.is_empty() {
        *previous = 0;
        return Ok(());
    }
    let now = node.coordinator.alloc_timestamp().await?;
    let floor = std::mem::replace(previous, now);
    let ticking: Vec<Arc<Ownership>> = channels
        .into_iter()
        .filter(|own| !own.token.is_cancelled() && own.lock().phase != Phase::Watching)
        .collect();
    if ticking.is_empty() {
        return Ok(());
    }
    let request = ReportDataNodeTtMsgsRequest {
        base: Some(base(MsgType::DataNodeTt, node.node_id(), now)),
        msgs: ticking.iter().map(|own| tick(node, own, floor)).collect(),
    };
    node.coordinator.report_ticks(&request).await?;
    report_checkpoints(node, &ticking).await
}

/// Raises the floor and says what was accepted up to it, in one step.
fn tick(node: &Node, own: &Ownership, floor: u64) -> DataNodeTtMsg {
    let mut state = own.lock();
    state.channel.advance(floor);
    DataNodeTtMsg {
        base: Some(base(
            MsgType::DataNodeTt,
            node.node_id(),
            state.channel.floor(),
        )),
        channel_name: own.name.clone(),
        timestamp: state.channel.floor(),
        segments_stats: state.channel.statistics(),
    }
}

async fn report_checkpoints(
    node: &Node,
    channels: &[Arc<Ownership>],
) -> Result<(), quorate_rpc::ClientError> {
    let moved: Vec<(&Arc<Ownership>, MsgPosition)> = channels
        .iter()
        .filter_map(|own| {
            let state = own.lock();
            let checkpoint = state.channel.checkpoint_to_report(CHECKPOINT_STEP)?;
            Some((own, state.channel.position(checkpoint)))
        })
        .collect();
    let [(first, position), ..] = &moved[..] else {
        return Ok(());
    };
    let request = UpdateChannelCheckpointRequest {
        base: Some(base(MsgType::Undefined, node.node_id(), position.timestamp)),
        v_channel: first.name.clone(),
        position: Some(position.clone()),
        channel_checkpoints: moved.iter().map(|(_, position)| position.clone()).collect(),
    };
    node.coordinator.update_checkpoints(&request).await?;
    for (own, position) in moved {
        own.lock().channel.checkpoint_reported(position.timestamp);
    }
    Ok(())
}
