//! Who belongs to the Raft group, and changes of that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant as _, RaftMetrics, TokioInstant};
use quorate_raft_store::types::term_of;
use quorate_raft_store::{Member, NodeId, TypeConfig};

use super::{Consensus, stopped};
use crate::error::{CoordError, Result};

/// A member that has acknowledged nothing for so many longest election timeouts counts as down.
const DOWN_TIMEOUTS: u32 = 5;

/// Who belongs to the group, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Members with a vote.
    pub voters: BTreeSet<NodeId>,
    /// All members with their addresses.
    pub members: BTreeMap<NodeId, Member>,
    /// Members that have acknowledged something lately, the leader among them.
    pub up: BTreeSet<NodeId>,
    /// A change is under way.
    pub changing: bool,
}

impl Group {
    /// Why these voters could not go on together: no majority of them is up.
    ///
    /// # Errors
    /// The reason, for people.
    pub fn must_have_quorum(&self, voters: &BTreeSet<NodeId>) -> std::result::Result<(), String> {
        let up = voters.intersection(&self.up).count();
        let quorum = voters.len() / 2 + 1;
        if up >= quorum {
            return Ok(());
        }
        let down: Vec<String> = voters
            .difference(&self.up)
            .map(ToString::to_string)
            .collect();
        Err(format!(
            "the cluster would lose its quorum: of its then {} voters {quorum} must be up, and {up} \
             are (down: {})",
            voters.len(),
            down.join(", ")
        ))
    }
}

/// A change of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new member without a vote.
    AddLearner(NodeId, Member),
    /// A vote for a member.
    Promote(NodeId),
    /// Away with a member that has a vote.
    RemoveVoter(NodeId),
    /// Away with a member that has none.
    RemoveLearner(NodeId),
}

impl Consensus {
    /// All members this replica knows, with their addresses.
    pub fn members(&self) -> Vec<(NodeId, Member)> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        membership
            .nodes()
            .map(|(id, member)| (*id, member.clone()))
            .collect()
    }

    /// Term and index of the last entry of this replica's log; zeros when it is empty. The term is
    /// that of the vote where the entry is not applied yet, which is never below the entry's.
    pub fn last_log(&self) -> (u64, u64) {
        let metrics = self.metrics();
        let Some(index) = metrics.last_log_index else {
            return (0, 0);
        };
        match metrics.last_applied {
            Some(applied) if applied.index == index => (term_of(&applied), index),
            _ => (metrics.current_term, index),
        }
    }

    /// Whether a membership is applied here that lacks `node` and is not older than `position`, term
    /// and index of the last entry `node` has; with the index of the membership.
    ///
    /// An entry that adds `node` is in `node`'s log, so an older membership proves nothing.
    pub fn removed_since(&self, node: NodeId, position: (u64, u64)) -> (bool, u64) {
        let applied = self.store.applied().membership;
        let Some(log_id) = applied.log_id() else {
            return (false, 0);
        };
        let is_member = applied.membership().get_node(&node).is_some();
        let is_newer = (term_of(log_id), log_id.index) >= position;
        (!is_member && is_newer, log_id.index)
    }

    /// The group as this leader sees it.
    ///
    /// # Errors
    /// This replica does not lead.
    pub fn group(&self) -> Result<Group> {
        let metrics = self.metrics();
        let Some(heartbeats) = metrics.heartbeat.as_ref() else {
            return Err(CoordError::NotLeader {
                hint: self.leader().map(|(_, member)| member.client_addr),
            });
        };
        let patience = self.election_max * DOWN_TIMEOUTS;
        let mut up: BTreeSet<NodeId> = heartbeats
            .iter()
            .filter(|(_, acked)| {
                acked.is_some_and(|acked| TokioInstant::now() < acked.into_inner() + patience)
            })
            .map(|(id, _)| *id)
            .collect();
        up.insert(self.node_id());
        let membership = metrics.membership_config.membership();
        Ok(Group {
            voters: membership.voter_ids().collect(),
            members: membership
                .nodes()
                .map(|(id, member)| (*id, member.clone()))
                .collect(),
            up,
            changing: metrics.membership_config != metrics.committed_membership_config
                || membership.get_joint_config().len() > 1,
        })
    }

    /// Carries out one change and waits until it is committed.
    ///
    /// # Errors
    /// Refused by Raft: `Rejected` with its reason. `Unknown`: it may yet come about.
    pub async fn change_members(&self, change: Change, timeout: Duration) -> Result<()> {
        let one = |id| BTreeSet::from([id]);
        let change = match change {
            Change::AddLearner(id, member) => {
                ChangeMembers::AddNodes(BTreeMap::from([(id, member)]))
            }
            Change::Promote(id) => ChangeMembers::AddVoterIds(one(id)),
            Change::RemoveVoter(id) => ChangeMembers::RemoveVoters(one(id)),
            Change::RemoveLearner(id) => ChangeMembers::RemoveNodes(one(id)),
        };
        let written = self.raft.change_membership(change, false);
        match tokio::time::timeout(timeout, written).await {
            Err(_) => Err(CoordError::Unknown(format!(
                "the change was not committed within {timeout:?}; `quorate member list` shows what \
                 came of it"
            ))),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                Err(self.not_leader(&forward))
            }
            Ok(Err(RaftError::APIError(error))) => Err(CoordError::Rejected(
                quorate_meta::Reason::IllegalState,
                error.to_string(),
            )),
            Ok(Err(RaftError::Fatal(fatal))) => Err(CoordError::Unknown(stopped(&fatal))),
        }
    }

    /// Index up to which the leader knows `node`'s log to be equal to its own, and its own end.
    pub fn progress(&self, node: NodeId) -> (u64, u64) {
        progress(&self.metrics(), node)
    }

    /// Waits until `node` has every entry this leader has now.
    ///
    /// # Errors
    /// How far it has come instead.
    pub async fn catch_up(
        &self,
        node: NodeId,
        timeout: Duration,
    ) -> std::result::Result<(), String> {
        let (_, target) = self.progress(node);
        let wait = self.raft.wait(Some(timeout));
        let reached = wait.metrics(
            |metrics| progress(metrics, node).0 >= target,
            "a learner has caught up",
        );
        match reached.await {
            Ok(_) => Ok(()),
            Err(_) => {
                let (matched, last) = self.progress(node);
                Err(format!("it has log index {matched} of {last}"))
            }
        }
    }

    /// Gives up serving in the term this replica leads: nothing is answered from memory any more,
    /// as if the lease had ended. A successor it hands over to does not wait for that lease.
    ///
    /// # Errors
    /// This replica does not lead.
    pub fn resign(&self) -> Result<u64> {
        let term = self.leading_term().ok_or_else(|| CoordError::NotLeader {
            hint: self.leader().map(|(_, member)| member.client_addr),
        })?;
        self.resigned.store(term, Ordering::Release);
        Ok(term)
    }

    /// Serves again after [`resign`](Self::resign). Only while no successor was named.
    pub fn resume(&self) {
        self.resigned.store(0, Ordering::Release);
    }

    /// Hands leadership of the resigned `term` to a voter, and waits until it leads.
    ///
    /// # Errors
    /// It does not lead in time; then the voters elect somebody.
    pub async fn hand_over(&self, term: u64, target: NodeId, timeout: Duration) -> Result<()> {
        let stop = |fatal| CoordError::NotReady(stopped(&fatal));
        self.raft
            .trigger()
            .transfer_leader(target)
            .await
            .map_err(stop)?;
        let wait = self.raft.wait(Some(timeout));
        let handed = wait.metrics(
            |metrics| metrics.current_leader == Some(target),
            "leadership handed over",
        );
        if handed.await.is_ok() {
            return Ok(());
        }
        if self.leading_term() == Some(term) {
            // Still leader, in a term it has given up: only an election gets it out of that.
            self.raft.trigger().elect(true).await.map_err(stop)?;
        }
        Err(CoordError::NotReady(format!(
            "node {target} did not take over leadership within {timeout:?}; `quorate status` shows \
             who leads"
        )))
    }
}

fn progress(metrics: &RaftMetrics<TypeConfig>, node: NodeId) -> (u64, u64) {
    let matched = metrics
        .replication
        .as_ref()
        .and_then(|replication| replication.get(&node).copied().flatten());
    (
        matched.map_or(0, |log_id| log_id.index),
        metrics.last_log_index.unwrap_or(0),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn group(voters: &[u64], up: &[u64]) -> Group {
        Group {
            voters: voters.iter().copied().collect(),
            members: BTreeMap::new(),
            up: up.iter().copied().collect(),
            changing: false,
        }
    }

    #[test]
    fn a_majority_of_the_new_voters_must_be_up() {
        let three = group(&[1, 2, 3], &[1, 2]);
        assert_eq!(three.must_have_quorum(&three.voters), Ok(()));
        // Without node 2, nodes 1 and 3 would have to agree, and 3 is down.
        let reason = three.must_have_quorum(&BTreeSet::from([1, 3])).unwrap_err();
        assert!(reason.contains("down: 3"), "{reason}");
        assert_eq!(three.must_have_quorum(&BTreeSet::from([1, 2])), Ok(()));
        // A fourth voter that is down makes the quorum three of four.
        assert!(
            three
                .must_have_quorum(&BTreeSet::from([1, 2, 3, 4]))
                .is_err()
        );
        assert!(three.must_have_quorum(&BTreeSet::new()).is_err());
    }
}
