//! What operators ask.

use std::time::Duration;

use openraft::ServerState;
use quorate_meta::command::{Command, encode_entry, unfenced};
use quorate_meta::model::SegmentState;
use quorate_meta::model::channel::state_name;
use quorate_meta::{CollectionId, SegmentId, pb};
use quorate_rpc::proto::quorate::admin::{
    Channel, GetCheckRequest, GetCheckResponse, ListChannelsRequest, ListChannelsResponse,
    ListNodesResponse, ListSegmentsRequest, ListSegmentsResponse, MarkCheckResponse, Node, Replica,
    Segment, StatusResponse,
};

use crate::coordinator::Coordinator;
use crate::error::{CoordError, Result};
use crate::wire;

/// Page of a listing of segments.
const PAGE: usize = 10_000;
const PAGE_MAX: usize = 100_000;
/// How long a check may take.
const CHECK_TIMEOUT_MS: u32 = 30_000;

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Coordinator {
    /// This replica's own view.
    pub fn status(&self, cluster_id: &str) -> StatusResponse {
        let metrics = self.consensus().metrics();
        let applied = self.consensus().store().applied();
        let membership = metrics.membership_config.membership();
        let counts = self.state().counts();
        let leader = self.consensus().leader();
        let index = |id: Option<quorate_raft_store::LogId>| id.map_or(0, |id| id.index);
        StatusResponse {
            cluster_id: cluster_id.to_owned(),
            node_id: metrics.id,
            role: match (&metrics.running_state, metrics.state) {
                (Err(_), _) => "stopped",
                (_, ServerState::Leader) => "leader",
                (_, ServerState::Follower) => "follower",
                (_, ServerState::Candidate) => "candidate",
                (_, ServerState::Learner) => "learner",
                (_, ServerState::Shutdown) => "stopped",
            }
            .into(),
            term: metrics.current_term,
            leader_id: leader.as_ref().map_or(0, |(id, _)| *id),
            leader_client_address: leader.map_or(String::new(), |(_, member)| member.client_addr),
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed_index: index(metrics.local_committed),
            applied_index: index(applied.log_id),
            replicas: membership
                .nodes()
                .map(|(id, member)| Replica {
                    node_id: *id,
                    peer_address: member.peer_addr.clone(),
                    client_address: member.client_addr.clone(),
                    voter: membership.voter_ids().any(|voter| voter == *id),
                })
                .collect(),
            version: env!("CARGO_PKG_VERSION").into(),
            leading: self.is_leading(),
            collections: counts.collections as u64,
            segments: counts.segments as u64,
            channels: counts.channels as u64,
            data_nodes: counts.nodes as u64,
            digest: hex(&applied.digest),
            snapshot_index: index(metrics.snapshot),
            purged_index: index(metrics.purged),
        }
    }

    /// Segments by id, a page at a time. Filters count before the page is cut.
    ///
    /// # Errors
    /// The disk failed, or this replica does not lead.
    pub async fn list_segments(
        &self,
        request: ListSegmentsRequest,
    ) -> Result<ListSegmentsResponse> {
        self.barrier().await?;
        let limit = match request.limit {
            0 => PAGE,
            limit => (limit as usize).min(PAGE_MAX),
        };
        let (mut chosen, more) = {
            let state = self.state();
            let wanted = |segment: &&quorate_meta::model::Segment| {
                let shown = state.effective_state(segment);
                (request.collection_id == 0 || segment.collection.0 == request.collection_id)
                    && (request.segment_ids.is_empty()
                        || request.segment_ids.contains(&segment.id.0))
                    && (request.include_dropped || shown != SegmentState::Dropped)
                    && (request.states.is_empty() || request.states.contains(&(shown as i32)))
            };
            let mut chosen: Vec<SegmentId> = state
                .segments_after(SegmentId(request.after_id))
                .filter(wanted)
                .map(|segment| segment.id)
                .take(limit + 1)
                .collect();
            let more = chosen.len() > limit;
            chosen.truncate(limit);
            (chosen, more)
        };
        let mut segments = Vec::with_capacity(chosen.len());
        for id in chosen.drain(..) {
            let state = self.state();
            // Between the pages' lock and this one a segment may have been forgotten.
            let Some(segment) = state.segment(id) else {
                continue;
            };
            let cold = if request.details {
                Some(self.cold(id)?)
            } else {
                None
            };
            segments.push(Segment {
                info: Some(wire::to_segment_info(&state, segment, cold.as_ref())),
                size_bytes: segment.size_bytes,
                files: segment.files,
                state: if state.is_indexed(segment) {
                    "Indexed".into()
                } else {
                    state.effective_state(segment).name().into()
                },
                seal_reason: pb::SealReason::try_from(i32::from(segment.seal_reason))
                    .unwrap_or(pb::SealReason::None)
                    .as_str_name()
                    .trim_start_matches("SEAL_REASON_")
                    .to_lowercase(),
            });
        }
        Ok(ListSegmentsResponse { segments, more })
    }

    /// Channels by name.
    ///
    /// # Errors
    /// This replica does not lead.
    pub async fn list_channels(
        &self,
        request: ListChannelsRequest,
    ) -> Result<ListChannelsResponse> {
        let state = self.read().await?;
        let channels = state
            .channels()
            .filter(|row| request.collection_id == 0 || row.collection_id == request.collection_id)
            .map(|row| Channel {
                name: row.name.clone(),
                collection_id: row.collection_id,
                state: state_name(row.state()).into(),
                node_id: row.node_id,
                node_address: state
                    .node(row.node_id)
                    .map_or(String::new(), |node| node.address.clone()),
                assignment_epoch: row.assignment_epoch,
                checkpoint_ts: row
                    .checkpoint
                    .as_ref()
                    .map_or(0, |checkpoint| checkpoint.ts),
                dropped: row.dropped_at != 0
                    || state
                        .live_collection(CollectionId(row.collection_id))
                        .is_none(),
            })
            .collect();
        Ok(ListChannelsResponse { channels })
    }

    /// Data nodes by id.
    ///
    /// # Errors
    /// This replica does not lead.
    pub async fn list_nodes(&self) -> Result<ListNodesResponse> {
        let scope = self.scope()?;
        let state = self.read().await?;
        let leases = scope.leases.lock();
        let nodes = state
            .nodes()
            .map(|node| {
                let lease = leases.get(&node.id);
                Node {
                    id: node.id,
                    address: node.address.clone(),
                    session: node.session.clone(),
                    version: node.version.clone(),
                    registered_at: node.registered_at,
                    channels: u32::try_from(
                        state
                            .channels()
                            .filter(|row| row.node_id == node.id)
                            .count(),
                    )
                    .unwrap_or(u32::MAX),
                    heartbeat_age_ms: lease.map_or(0, |lease| {
                        u64::try_from(lease.renewed.elapsed().as_millis()).unwrap_or(u64::MAX)
                    }),
                    buffered_rows: lease.map_or(0, |lease| lease.buffered_rows),
                    buffered_bytes: lease.map_or(0, |lease| lease.buffered_bytes),
                }
            })
            .collect();
        Ok(ListNodesResponse { nodes })
    }

    /// Puts a marker into the log at which every replica hashes its whole state.
    ///
    /// # Errors
    /// This replica does not lead, or has no quorum.
    pub async fn mark_check(&self) -> Result<MarkCheckResponse> {
        let scope = self.scope()?;
        let command = Command::MarkCheck(pb::MarkCheck {});
        let entry = encode_entry(vec![unfenced(scope.clock.stamp(), command)]);
        let timeout = self.config().policy.propose_timeout;
        let applied = self.consensus().propose(entry, timeout).await?;
        Ok(MarkCheckResponse {
            index: applied.index,
        })
    }

    /// This replica's hashes at a marked index.
    ///
    /// # Errors
    /// They do not come in time: the index was not marked, or this replica is behind.
    pub async fn get_check(&self, request: GetCheckRequest) -> Result<GetCheckResponse> {
        let timeout_ms = match request.timeout_ms {
            0 => CHECK_TIMEOUT_MS,
            ms => ms,
        };
        let machine = self.consensus().store().machine();
        let timeout = Duration::from_millis(u64::from(timeout_ms));
        let result = machine
            .checks()
            .wait(request.index, timeout)
            .await
            .ok_or_else(|| {
                CoordError::NotReady(format!(
                    "no check at index {} within {timeout_ms} ms; applied here: {}",
                    request.index,
                    machine.applied_index()
                ))
            })?;
        let state_hash = match &result.state_hash {
            Ok(hash) => hex(hash),
            Err(problem) => return Err(CoordError::Internal(problem.clone())),
        };
        Ok(GetCheckResponse {
            index: result.index,
            digest: hex(&result.digest),
            state_hash,
            rows: result.rows,
            violations: result.violations.clone(),
        })
    }
}
