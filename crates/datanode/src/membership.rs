//! Being a node of the cluster: registering, heartbeats, and starting over when we were expired.

use std::sync::Arc;
use std::time::Duration;

use quorate_rpc::proto::quorate::node::HeartbeatRequest;

use crate::node::Node;

const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// One registration.
pub(crate) struct Member {
    session: String,
    heartbeat_interval: Duration,
}

/// Registers under a fresh session; tries until it works.
pub(crate) async fn register(node: &Arc<Node>, advertise: &str) -> Member {
    let session = format!("{:032x}", rand::random::<u128>());
    let mut backoff = BACKOFF_FIRST;
    let mut warned = false;
    loop {
        match node.coordinator.register(advertise, &session).await {
            Ok(answer) => {
                node.set_node_id(answer.node_id);
                node.set_object_refresh(answer.object_refresh_ms);
                tracing::info!(node_id = answer.node_id, address = advertise, "registered");
                let heartbeat_interval = match answer.heartbeat_interval_ms {
                    0 => HEARTBEAT_INTERVAL,
                    ms => Duration::from_millis(ms),
                };
                return Member {
                    session,
                    heartbeat_interval,
                };
            }
            Err(error) if !warned => {
                warned = true;
                tracing::warn!(%error, "cannot register with the coordinator yet, trying on");
            }
            Err(error) => tracing::debug!(%error, "cannot register yet"),
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Sends heartbeats until the node ends.
pub(crate) async fn keep(node: Arc<Node>, advertise: String, mut member: Member) {
    let stop = node.stop.clone();
    let beats = async {
        let mut failing = false;
        loop {
            tokio::time::sleep(member.heartbeat_interval).await;
            let (buffered_rows, buffered_bytes) = node.held();
            let request = HeartbeatRequest {
                node_id: node.node_id(),
                session: member.session.clone(),
                buffered_rows,
                buffered_bytes,
            };
            match node.coordinator.heartbeat(request).await {
                Ok(true) => failing = false,
                Ok(false) => {
                    tracing::warn!(
                        node_id = node.node_id(),
                        "expired by the coordinator, registering anew"
                    );
                    node.forfeit_all("the node was expired");
                    member = register(&node, &advertise).await;
                }
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(%error, "heartbeat failed, trying on");
                }
                Err(_) => {}
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = beats => {}
    }
}
