//! What a cluster is asked about itself.

use std::time::Duration;

use anyhow::Result;
use quorate_rpc::proto::quorate::admin::admin_client::AdminClient;
use quorate_rpc::proto::quorate::admin::{StatusRequest, StatusResponse};

use super::Cluster;
use crate::wait::{PATIENCE, until, until_within};

/// How long one replica may take to answer for itself.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// Who leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leader {
    /// In which term.
    pub term: u64,
    /// Which replica.
    pub index: usize,
}

impl Cluster {
    /// What a replica says of itself; none when it does not answer.
    pub async fn status(&self, index: usize) -> Option<StatusResponse> {
        let ask = async {
            let address = self.member(index).client_address();
            let replica = self.client.at(address).await.ok()?;
            let answer = AdminClient::new(replica).status(StatusRequest {}).await;
            answer.ok().map(tonic::Response::into_inner)
        };
        tokio::time::timeout(STATUS_TIMEOUT, ask).await.ok()?
    }

    /// Who leads now, as far as they answer.
    pub async fn leader(&self) -> Option<Leader> {
        let mut leader = None;
        for index in 0..self.len() {
            if let Some(status) = self.status(index).await
                && status.leading
            {
                let term = status.term;
                leader = leader.max(Some(Leader { term, index }));
            }
        }
        leader
    }

    /// Waits until somebody leads.
    ///
    /// # Errors
    /// Nobody does, for long.
    pub async fn wait_for_leader(&self) -> Result<Leader> {
        until("a leader", async || Ok(self.leader().await)).await
    }

    /// Waits until somebody leads in a later term than this.
    ///
    /// # Errors
    /// Nobody does within the limit.
    pub async fn wait_for_successor(&self, of: Leader, limit: Duration) -> Result<Leader> {
        until_within(limit, "another leader", async || {
            Ok(self.leader().await.filter(|leader| leader.term > of.term))
        })
        .await
    }

    /// Waits until a replica that was started has applied what the leader has committed by now.
    ///
    /// # Errors
    /// It ends instead, or stays behind.
    pub async fn wait_until_caught_up(&mut self, index: usize) -> Result<u64> {
        let mut goal = None;
        until_within(PATIENCE, "the replica catches up", async || {
            self.must_run(index)?;
            if goal.is_none()
                && let Some(leader) = self.leader().await
                && let Some(status) = self.status(leader.index).await
            {
                goal = Some(status.committed_index.max(status.applied_index));
            }
            let Some(goal) = goal else { return Ok(None) };
            let applied = self.status(index).await.map(|status| status.applied_index);
            Ok(applied.filter(|applied| *applied >= goal))
        })
        .await
    }
}
