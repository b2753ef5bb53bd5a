//! A member of a cluster: Raft node and coordinator on the folder's log and state.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Config as RaftSettings, SnapshotPolicy};
use parking_lot::Mutex;
use quorate_raft_store::{DataDir, Identity, Options, Raft};
use quorate_rpc::channel::ChannelOptions;
use tokio::time::Instant;

use super::ServerError;
use super::links::GrpcLinks;
use crate::clock::SystemClock;
use crate::config::{Config, RaftConfig};
use crate::consensus::Consensus;
use crate::coordinator::Coordinator;
use crate::machine::MetaMachine;
use crate::outbound::GrpcDataNodes;
use crate::outbound::objects::{Objects, StoredObjects};
use crate::transport::Network;

/// How long a stopping leader waits for its successor.
const HANDOVER: Duration = Duration::from_secs(1);

/// A member of a cluster.
pub(super) struct Replica {
    identity: Identity,
    coordinator: Arc<Coordinator>,
    /// Until then this voter grants no vote: the lease it gave before a restart may still run.
    votes_from: Instant,
    /// Applied up to here = caught up with what was known to be committed at start.
    start_committed: u64,
    /// When a leader was last heard of; the start, before that.
    leader_heard: Mutex<Instant>,
}

/// openraft's settings for ours.
pub fn raft_settings(cluster: &str, raft: &RaftConfig) -> RaftSettings {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    RaftSettings {
        cluster_name: cluster.to_owned(),
        heartbeat_interval: ms(raft.heartbeat),
        election_timeout_min: ms(raft.election_min),
        election_timeout_max: ms(raft.election_max),
        // A probe after quorum loss must outlast lease and timeout; three of them are plenty.
        quorum_loss_probe_interval: Some(ms(raft.election_max) * 3),
        enable_pre_vote: Some(true),
        // Switched on once a lease given before a restart has surely ended.
        enable_elect: false,
        // A leader commits with its followers' fsyncs alone. After a power loss its log may lack
        // entries they hold, and in the same term it would write others in their place: it must
        // be elected anew (found by the simulation, seed 10).
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(raft.snapshot_entries),
        max_in_snapshot_log_to_keep: raft.keep_entries,
        replication_lag_threshold: raft.snapshot_entries + raft.keep_entries,
        purge_batch_size: 256,
        max_payload_entries: 256,
        install_snapshot_timeout: 600_000,
        backoff: "50ms 100ms 200ms ...500ms".to_owned(),
        ..RaftSettings::default()
    }
}

impl Replica {
    /// Opens log and state and starts Raft and coordinator on them.
    pub(super) async fn start(
        config: &Config,
        data_dir: &DataDir,
        identity: Identity,
        options: &ChannelOptions,
    ) -> Result<Self, ServerError> {
        let machine = Arc::new(MetaMachine::new());
        let objects = match config.object_store.url.as_str() {
            "" => None,
            _ => {
                let stored = StoredObjects::open(&config.object_store)?;
                Some(Arc::new(stored) as Arc<dyn Objects>)
            }
        };
        let (log, store) = quorate_raft_store::open(data_dir, machine, &Options::default())?;
        let settings = raft_settings(&identity.cluster_id, &config.raft)
            .validate()
            .map_err(|error| ServerError::Raft(error.to_string()))?;
        let links = GrpcLinks::new(
            identity.cluster_id.clone(),
            identity.node_id,
            options.clone(),
        );
        let raft = Raft::new(
            identity.node_id,
            Arc::new(settings),
            Network::new(Arc::new(links)),
            log,
            store.clone(),
        )
        .await
        .map_err(|fatal| ServerError::Stopped(fatal.to_string()))?;
        let start_committed = {
            let metrics = raft.data_metrics();
            let metrics = metrics.borrow_watched();
            metrics.local_committed.map_or(0, |id| id.index)
        };
        let consensus = Consensus::new(raft.clone(), store, config.raft.election_max);
        let coordinator = Coordinator::start(
            config.clone(),
            consensus,
            Arc::new(SystemClock),
            Arc::new(GrpcDataNodes::default()),
            objects,
        );
        let quiet = config.raft.election_max;
        tokio::spawn(async move {
            tokio::time::sleep(quiet).await;
            raft.runtime_config().elect(true);
        });
        tracing::info!(
            cluster = identity.cluster_id,
            node = identity.node_id,
            committed = start_committed,
            "replica started"
        );
        Ok(Self {
            identity,
            coordinator,
            votes_from: Instant::now() + quiet,
            start_committed,
            leader_heard: Mutex::new(Instant::now()),
        })
    }

    /// A leader of this cluster has called.
    pub(super) fn note_leader(&self) {
        *self.leader_heard.lock() = Instant::now();
    }

    /// For how long no leader has been heard of; not at all when this replica leads.
    pub(super) fn leaderless_for(&self) -> Duration {
        if self.coordinator.consensus().leading_term().is_some() {
            self.note_leader();
        }
        self.leader_heard.lock().elapsed()
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn coordinator(&self) -> &Arc<Coordinator> {
        &self.coordinator
    }

    /// Whether this voter may grant votes: not for one election timeout after its start, since it
    /// does not remember when it last heard of a leader (that leader's lease may count on it).
    pub(super) fn may_vote(&self) -> bool {
        Instant::now() >= self.votes_from
    }

    /// Whether the cluster was formed.
    pub(super) fn is_initialized(&self) -> bool {
        let metrics = self.coordinator.consensus().metrics();
        metrics.last_log_index.is_some()
            || metrics
                .membership_config
                .membership()
                .nodes()
                .next()
                .is_some()
    }

    /// Whether everything known to be committed at start is applied.
    pub(super) fn is_caught_up(&self) -> bool {
        let applied = self.coordinator.consensus().store().applied();
        self.is_initialized() && applied.log_id.map_or(0, |id| id.index) >= self.start_committed
    }

    /// Stops serving as leader, hands leadership over, stops Raft.
    pub(super) async fn stop(&self) {
        self.coordinator.stop().await;
        let consensus = self.coordinator.consensus();
        if consensus.leading_term().is_some()
            && let Some(target) = consensus.transfer_away().await
        {
            let handed = consensus
                .raft()
                .wait(Some(HANDOVER))
                .metrics(
                    |metrics| {
                        metrics
                            .current_leader
                            .is_some_and(|leader| leader != metrics.id)
                    },
                    "leadership handed over",
                )
                .await;
            tracing::info!(target, done = handed.is_ok(), "leadership handed over");
        }
        if let Err(error) = consensus.raft().shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
    }
}
