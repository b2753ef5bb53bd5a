//! The only user of openraft's client API: propose, confirm leadership, know the leader, change the
//! members.

mod members;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::{ClientWriteError, Fatal, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::vote::RaftLeaderId;
use openraft::{Instant as _, RaftMetrics, ServerState, TokioInstant};
use quorate_raft_store::types::term_of;
use quorate_raft_store::{Member, NodeId, Payload, Raft, StateStore, TypeConfig};

use crate::error::{CoordError, Result};
use crate::machine::MetaMachine;

pub use members::{Change, Group};

/// This replica's Raft node.
#[derive(Clone)]
pub struct Consensus {
    raft: Raft<MetaMachine>,
    store: StateStore<MetaMachine>,
    /// Length of the leader lease, shortened for clocks that run at different rates.
    lease: Duration,
    election_max: Duration,
    /// A term this replica leads and has begun to hand over; it serves no more in it.
    resigned: Arc<AtomicU64>,
}

/// An applied entry.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Term of the entry.
    pub term: u64,
    /// Index of the entry.
    pub index: u64,
    /// What apply answered.
    pub reply: Bytes,
}

impl Consensus {
    /// Around a running Raft node. `election_max` is its longest election timeout: openraft's
    /// voters grant no vote for that long after they last heard of a leader.
    pub fn new(
        raft: Raft<MetaMachine>,
        store: StateStore<MetaMachine>,
        election_max: Duration,
    ) -> Self {
        Self {
            raft,
            store,
            lease: election_max * 4 / 5,
            election_max,
            resigned: Arc::default(),
        }
    }

    /// The Raft node itself, for the peers' service and for shutting down.
    pub fn raft(&self) -> &Raft<MetaMachine> {
        &self.raft
    }

    /// The state store.
    pub fn store(&self) -> &StateStore<MetaMachine> {
        &self.store
    }

    /// This replica's id.
    pub fn node_id(&self) -> NodeId {
        *self.raft.node_id()
    }

    /// All there is to know about the Raft node right now.
    pub fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.raft.metrics().borrow_watched().clone()
    }

    /// The term this replica leads, if a quorum has elected it.
    pub fn leading_term(&self) -> Option<u64> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.state == ServerState::Leader
            && metrics.current_leader == Some(*self.raft.node_id())
            && metrics.vote.committed;
        leads.then(|| metrics.vote.leader_id.term())
    }

    /// The leader as this replica knows it.
    pub fn leader(&self) -> Option<(NodeId, Member)> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let id = metrics.current_leader?;
        let member = metrics.membership_config.membership().get_node(&id)?;
        Some((id, member.clone()))
    }

    /// Whether the leader lease still runs: as long as it does, no other replica can have been
    /// elected. Counted from the *sending* of the last messages a quorum acknowledged (Raft
    /// dissertation §6.4.1). A lone voter is its own quorum.
    pub fn lease_runs(&self) -> bool {
        let resigned = self.resigned.load(Ordering::Acquire);
        if self.leading_term().is_none_or(|term| term == resigned) {
            return false;
        }
        let metrics = self.raft.data_metrics();
        let acked = metrics.borrow_watched().last_quorum_acked;
        self.is_alone()
            || acked.is_some_and(|acked| TokioInstant::now() < acked.into_inner() + self.lease)
    }

    fn is_alone(&self) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let mut voters = metrics.membership_config.membership().voter_ids();
        voters.next() == Some(*self.raft.node_id()) && voters.next().is_none()
    }

    fn not_leader(&self, forward: &ForwardToLeader<TypeConfig>) -> CoordError {
        let hint = forward
            .leader_node
            .as_ref()
            .map(|member| member.client_addr.clone())
            .or_else(|| self.leader().map(|(_, member)| member.client_addr));
        CoordError::NotLeader { hint }
    }

    /// Puts an entry into the log and waits until it is applied here.
    ///
    /// # Errors
    /// `NotLeader`: surely not proposed. `Unknown`: it may yet be applied.
    pub async fn propose(&self, payload: Bytes, timeout: Duration) -> Result<Applied> {
        let written = tokio::time::timeout(timeout, self.raft.client_write(Payload(payload)));
        match written.await {
            Err(_) => Err(CoordError::Unknown(format!(
                "not applied within {timeout:?}; no quorum?"
            ))),
            Ok(Ok(response)) => Ok(Applied {
                term: term_of(&response.log_id),
                index: response.log_id.index,
                reply: response.data.0,
            }),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                Err(self.not_leader(&forward))
            }
            Ok(Err(RaftError::APIError(error))) => Err(CoordError::Unknown(error.to_string())),
            // Even a failed write here may be of an entry the others have committed.
            Ok(Err(RaftError::Fatal(fatal))) => Err(CoordError::Unknown(stopped(&fatal))),
        }
    }

    /// Confirms with a quorum that this replica leads, and waits until it has applied all that was
    /// committed before (ReadIndex, Raft dissertation §6.4).
    ///
    /// # Errors
    /// `NotLeader`, or `NotReady` without a quorum in time or when this replica has stopped.
    pub async fn barrier(&self, timeout: Duration) -> Result<()> {
        let confirmed = async {
            let linearizer = self
                .raft
                .get_read_linearizer(LinearizerOption::from(ReadPolicy::ReadIndex))
                .await
                .map_err(|error| match error {
                    RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
                        self.not_leader(&forward)
                    }
                    RaftError::APIError(error) => CoordError::NotReady(error.to_string()),
                    RaftError::Fatal(fatal) => CoordError::NotReady(stopped(&fatal)),
                })?;
            linearizer
                .await_ready(&self.raft)
                .await
                .map_err(|fatal| CoordError::NotReady(stopped(&fatal)))?;
            Ok(())
        };
        tokio::time::timeout(timeout, confirmed)
            .await
            .unwrap_or_else(|_| {
                Err(CoordError::NotReady(format!(
                    "no quorum confirmed the leader within {timeout:?}"
                )))
            })
    }

    /// The voter whose log is longest, if this replica leads and there is another one.
    pub fn successor(&self) -> Option<NodeId> {
        let metrics = self.metrics();
        let own = *self.raft.node_id();
        let voters: Vec<NodeId> = metrics.membership_config.membership().voter_ids().collect();
        metrics
            .replication?
            .into_iter()
            .filter(|(id, _)| *id != own && voters.contains(id))
            .max_by_key(|(id, matched)| {
                let index = matched.as_ref().map_or(0, |log_id| log_id.index);
                (index, std::cmp::Reverse(*id))
            })
            .map(|(id, _)| id)
    }

    /// Hands leadership to the voter whose log is longest, if this replica leads and there is
    /// another one.
    pub async fn transfer_away(&self) -> Option<NodeId> {
        let target = self.successor()?;
        self.raft.trigger().transfer_leader(target).await.ok()?;
        Some(target)
    }
}

fn stopped(fatal: &Fatal<TypeConfig>) -> String {
    format!("this replica has stopped: {fatal}")
}
