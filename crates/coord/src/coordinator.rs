//! One replica's coordinator, without its sockets: what the gRPC services, the simulation and the
//! tests call.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::RwLockReadGuard;
use quorate_meta::State;
use quorate_rpc::forward::{Leader, Leadership};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::WallClock;
use crate::config::Config;
use crate::consensus::Consensus;
use crate::error::{CoordError, Result};
use crate::leader::{self, Scope};
use crate::outbound::DataNodes;
use crate::outbound::objects::Objects;
use crate::proposer::Proposer;
use crate::reader::Reader;

/// One replica's coordinator.
pub struct Coordinator {
    config: Config,
    consensus: Consensus,
    proposer: Proposer,
    reader: Reader,
    wall: Arc<dyn WallClock>,
    data_nodes: Arc<dyn DataNodes>,
    objects: Option<Arc<dyn Objects>>,
    scope: ArcSwapOption<Scope>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Coordinator {
    /// Starts the coordinator on a running Raft node. Without an object store nothing is collected.
    pub fn start(
        config: Config,
        consensus: Consensus,
        wall: Arc<dyn WallClock>,
        data_nodes: Arc<dyn DataNodes>,
        objects: Option<Arc<dyn Objects>>,
    ) -> Arc<Self> {
        let cancel = CancellationToken::new();
        let policy = &config.policy;
        let proposer = Proposer::start(
            consensus.clone(),
            policy.proposals_max,
            policy.propose_timeout,
            cancel.clone(),
        );
        let coordinator = Arc::new(Self {
            proposer,
            reader: Reader::new(consensus.clone(), policy.propose_timeout),
            consensus,
            wall,
            data_nodes,
            objects,
            scope: ArcSwapOption::empty(),
            tasks: TaskTracker::new(),
            cancel: cancel.clone(),
            config,
        });
        coordinator
            .tasks
            .spawn(leader::run(coordinator.clone(), cancel));
        coordinator.tasks.close();
        coordinator
    }

    /// Stops loops and proposing; leadership itself ends with the Raft node.
    pub async fn stop(&self) {
        self.cancel.cancel();
        // The runtime bounds its own stop; this is for a bug in it.
        if tokio::time::timeout(Duration::from_secs(10), self.tasks.wait())
            .await
            .is_err()
        {
            tracing::error!("the coordinator's tasks did not end in 10 s");
        }
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The Raft node.
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    pub(crate) fn proposer(&self) -> &Proposer {
        &self.proposer
    }

    pub(crate) fn wall(&self) -> &Arc<dyn WallClock> {
        &self.wall
    }

    pub(crate) fn data_nodes(&self) -> &Arc<dyn DataNodes> {
        &self.data_nodes
    }

    pub(crate) fn objects(&self) -> Option<&Arc<dyn Objects>> {
        self.objects.as_ref()
    }

    pub(crate) fn publish(&self, scope: Option<Arc<Scope>>) {
        self.scope.store(scope);
    }

    /// The epoch this replica leads.
    ///
    /// # Errors
    /// It does not lead, or not yet.
    pub fn scope(&self) -> Result<Arc<Scope>> {
        if let Some(scope) = self.scope.load_full() {
            return Ok(scope);
        }
        match self.consensus.leader() {
            Some((id, _)) if id == self.consensus.node_id() => Err(CoordError::NotReady(
                "leadership is being taken up or has lost its quorum".into(),
            )),
            leader => Err(CoordError::NotLeader {
                hint: leader.map(|(_, member)| member.client_addr),
            }),
        }
    }

    /// Whether this replica leads and its loops run.
    pub fn is_leading(&self) -> bool {
        self.scope.load().is_some()
    }

    /// The state as applied here, without a barrier.
    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        self.consensus.store().machine().read()
    }

    /// Waits until the state here holds everything acknowledged before this call, then reads.
    ///
    /// # Errors
    /// This replica does not lead, or no quorum confirms it.
    pub async fn read(&self) -> Result<RwLockReadGuard<'_, State>> {
        self.reader.barrier().await?;
        Ok(self.state())
    }

    /// The barrier alone, for readers of cold rows.
    ///
    /// # Errors
    /// This replica does not lead, or no quorum confirms it.
    pub async fn barrier(&self) -> Result<()> {
        self.reader.barrier().await
    }
}

impl Leadership for Coordinator {
    fn leader(&self) -> Leader {
        match self.consensus.leader() {
            Some((id, _)) if id == self.consensus.node_id() => Leader::Here,
            Some((_, member)) => Leader::There {
                client_addr: member.client_addr,
            },
            None => Leader::Unknown,
        }
    }
}
