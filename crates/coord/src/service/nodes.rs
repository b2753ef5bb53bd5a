//! Data nodes: registration, leases, and what is stored of a channel.

use quorate_meta::command::Command;
use quorate_meta::pb::ChannelState;
use quorate_meta::{Reason, pb};
use quorate_rpc::proto::quorate::node::{
    GetCoverageRequest, GetCoverageResponse, HeartbeatRequest, HeartbeatResponse, RegisterRequest,
    RegisterResponse,
};
use quorate_rpc::proto::quorate::row::RowRange;
use tokio::time::Instant;

use crate::coordinator::Coordinator;
use crate::error::{CoordError, Result};
use crate::leader::NodeLease;

impl Coordinator {
    /// Registers a data node process.
    ///
    /// # Errors
    /// A bad address, too many nodes, or this replica does not lead.
    pub async fn register(&self, request: RegisterRequest) -> Result<RegisterResponse> {
        let scope = self.scope()?;
        quorate_rpc::channel::check_address(&request.address)
            .map_err(|error| CoordError::Invalid(error.to_string()))?;
        let reply = scope
            .propose_fact(Command::RegisterNode(pb::RegisterNode {
                address: request.address.clone(),
                session: request.session,
                version: request.version,
            }))
            .await?;
        scope.leases.lock().insert(
            reply.id,
            NodeLease {
                renewed: Instant::now(),
                buffered_rows: 0,
                buffered_bytes: 0,
            },
        );
        // Channels may be waiting for a node.
        let machine = self.consensus().store().machine();
        machine.wakes().channels.notify_one();
        tracing::info!(
            node = reply.id,
            address = request.address,
            "data node registered"
        );
        let policy = &self.config().policy;
        let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(0);
        Ok(RegisterResponse {
            node_id: reply.id,
            lease_ms: ms(policy.node_lease),
            // Three may fail before an object looks like an orphan.
            object_refresh_ms: (ms(policy.gc.missing_tolerance) / 4).max(1),
            heartbeat_interval_ms: ms(policy.node_heartbeat),
        })
    }

    /// Renews a data node's lease.
    ///
    /// # Errors
    /// `NodeNotFound`: it was expired and must register again.
    pub async fn heartbeat(&self, request: HeartbeatRequest) -> Result<HeartbeatResponse> {
        let scope = self.scope()?;
        let known = self
            .state()
            .node(request.node_id)
            .is_some_and(|node| node.session == request.session);
        if !known {
            // It may be the state here that is behind.
            self.barrier().await?;
            let known = self
                .state()
                .node(request.node_id)
                .is_some_and(|node| node.session == request.session);
            if !known {
                return Err(CoordError::Rejected(
                    Reason::NodeNotFound,
                    format!(
                        "data node {} is not registered with this session; register again",
                        request.node_id
                    ),
                ));
            }
        }
        scope.confirm()?;
        scope.leases.lock().insert(
            request.node_id,
            NodeLease {
                renewed: Instant::now(),
                buffered_rows: request.buffered_rows,
                buffered_bytes: request.buffered_bytes,
            },
        );
        Ok(HeartbeatResponse {})
    }

    /// What is stored of the streams of a channel, and who owns it.
    ///
    /// # Errors
    /// `ChannelNotFound`, or this replica does not lead.
    pub async fn get_coverage(&self, request: GetCoverageRequest) -> Result<GetCoverageResponse> {
        let state = self.read().await?;
        let row = state.channel(&request.channel).ok_or_else(|| {
            CoordError::Rejected(
                Reason::ChannelNotFound,
                format!("channel not found[channel={}]", request.channel),
            )
        })?;
        let ranges = state
            .coverage_of(&request.channel)
            .into_iter()
            .flatten()
            .filter(|(stream, _)| request.stream.is_empty() || stream[..] == request.stream[..])
            .flat_map(|(stream, stored)| {
                stored.ranges().iter().map(|&(from, to)| RowRange {
                    stream: stream.to_vec(),
                    from,
                    to,
                })
            })
            .collect();
        let owner = state
            .node(row.node_id)
            .filter(|_| row.state() == ChannelState::Watched);
        Ok(GetCoverageResponse {
            ranges,
            node_id: owner.map_or(0, |node| node.id),
            node_address: owner.map_or(String::new(), |node| node.address.clone()),
            assignment_epoch: row.assignment_epoch,
            checkpoint_ts: row
                .checkpoint
                .as_ref()
                .map_or(0, |checkpoint| checkpoint.ts),
        })
    }
}
