//! Replicas: the real coordinator, Raft and storage code on a simulated disk, started, crashed
//! and started again.
//!
//! A run of a replica that has ended is inert from that moment on: its links, its clients' calls
//! and its calls to data nodes fail, and after a power loss its disk does, too.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_coord::clock::WallClock;
use quorate_coord::config::Config;
use quorate_coord::consensus::Consensus;
use quorate_coord::machine::MetaMachine;
use quorate_coord::server::raft_settings;
use quorate_coord::transport::Network;
use quorate_coord::{CoordError, Coordinator};
use quorate_raft_store::{MemDisk, Member, NodeId, Raft, open_mem};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Sabotage;
use super::data_node::DataNode;
use super::ledger::Ledger;
use super::net::SimLinks;
use super::node_work;
use super::objects::{SimObjects, Store};
use super::outbound::SimDataNodes;
use super::trap::{Set, Trap};
use super::world::{Place, World};

/// Where the simulated wall clocks start.
pub(super) const EPOCH_MS: u64 = 1_750_000_000_000;

/// A replica's wall clock: it may be wrong, and it jumps.
pub struct SkewedClock {
    world: Arc<World>,
    skew_ms: AtomicI64,
}

impl SkewedClock {
    /// Sets how wrong it is.
    pub fn set_skew_ms(&self, skew_ms: i64) {
        self.skew_ms.store(skew_ms, Ordering::Relaxed);
    }
}

impl WallClock for SkewedClock {
    fn now_ms(&self) -> u64 {
        let elapsed = u64::try_from(self.world.now().as_millis()).unwrap_or(u64::MAX);
        (EPOCH_MS + elapsed).saturating_add_signed(self.skew_ms.load(Ordering::Relaxed))
    }
}

/// One run of a replica, from a start to its end.
pub struct Running {
    /// Which run of the replica this is.
    pub run: u64,
    /// The coordinator.
    pub coordinator: Arc<Coordinator>,
    /// Cancelled when the run ends.
    pub life: CancellationToken,
    pub(super) votes_from: Instant,
}

/// How a run of a replica ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Power loss: what was not synced is gone.
    PowerLoss,
    /// SIGKILL: the disk keeps everything that was written.
    Kill,
    /// SIGTERM: leadership is handed over first.
    Graceful,
}

struct Host {
    disk: Arc<MemDisk>,
    clock: Arc<SkewedClock>,
    runs: u64,
    running: Option<Arc<Running>>,
}

/// All replicas, and the data nodes they call.
pub struct Cluster {
    /// The shared world.
    pub world: Arc<World>,
    /// The settings of every replica.
    pub config: Config,
    /// The data nodes.
    pub data_nodes: Vec<Arc<DataNode>>,
    /// The object store.
    pub store: Arc<Store>,
    /// What data nodes and clients were promised.
    pub ledger: Arc<Ledger>,
    sabotage: Option<Sabotage>,
    pub(super) trap: Mutex<Option<Set>>,
    hosts: Mutex<BTreeMap<NodeId, Host>>,
}

/// The client address of a replica.
pub fn client_addr(id: NodeId) -> String {
    format!("replica-{id}:13333")
}

/// Settings for a simulation: production timing, small segments, windows and snapshots, so that
/// a minute sees a lot of each.
pub fn config() -> Config {
    let mut config = Config {
        data_dir: PathBuf::from("simulated"),
        ..Config::default()
    };
    config.raft.snapshot_entries = 150;
    config.raft.keep_entries = 40;
    config.policy.segment_rows_max = 120;
    config.policy.segment_binlog_files_max = 8;
    config.policy.id_window = 50;
    config.policy.token_ttl = Duration::from_secs(30);
    let compaction = &mut config.policy.compaction;
    compaction.scan_interval = Duration::from_secs(5);
    compaction.level0_interval = Duration::from_secs(1);
    compaction.keep_ended = Duration::from_secs(10);
    compaction.timeout = Duration::from_secs(20);
    compaction.level0_files.0 = 3;
    config.policy.work.retry_max = Duration::from_secs(4);
    let gc = &mut config.policy.gc;
    gc.interval = Duration::from_secs(1);
    gc.scan_interval = Duration::from_secs(4);
    gc.drop_tolerance = Duration::from_secs(3);
    // Clocks of two leaders may be 5 s apart unnoticed; readers and writers need theirs beyond it.
    gc.condemn_grace = Duration::from_secs(8);
    gc.missing_tolerance = Duration::from_secs(15);
    config
}

impl Cluster {
    /// `replicas` replicas that are not started yet.
    pub fn new(
        world: Arc<World>,
        replicas: u64,
        data_nodes: Vec<Arc<DataNode>>,
        store: Arc<Store>,
        sabotage: Option<Sabotage>,
        trap: Option<Trap>,
    ) -> Arc<Self> {
        let hosts = (1..=replicas)
            .map(|id| {
                let clock = SkewedClock {
                    world: world.clone(),
                    skew_ms: AtomicI64::new(0),
                };
                let host = Host {
                    disk: MemDisk::new(),
                    clock: Arc::new(clock),
                    runs: 0,
                    running: None,
                };
                (id, host)
            })
            .collect();
        Arc::new(Self {
            world,
            config: config(),
            data_nodes,
            store,
            ledger: Arc::new(Ledger::default()),
            sabotage,
            trap: Mutex::new(trap.map(Set::new)),
            hosts: Mutex::new(hosts),
        })
    }

    fn with<T>(&self, id: NodeId, f: impl FnOnce(&mut Host) -> T) -> Option<T> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get_mut(&id).map(f)
    }

    /// All ids.
    pub fn ids(&self) -> Vec<NodeId> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.keys().copied().collect()
    }

    /// The replica's current run, if it is up.
    pub fn running(&self, id: NodeId) -> Option<Arc<Running>> {
        self.with(id, |host| host.running.clone()).flatten()
    }

    /// All that are up.
    pub fn all_running(&self) -> Vec<(NodeId, Arc<Running>)> {
        self.ids()
            .into_iter()
            .filter_map(|id| Some((id, self.running(id)?)))
            .collect()
    }

    /// The replica that leads and serves, as it says.
    pub fn leader(&self) -> Option<NodeId> {
        self.all_running()
            .into_iter()
            .filter_map(|(id, running)| Some((running.coordinator.scope().ok()?.term, id)))
            .max()
            .map(|(_, id)| id)
    }

    /// The wall clock of a replica.
    pub fn clock(&self, id: NodeId) -> Option<Arc<SkewedClock>> {
        self.with(id, |host| host.clock.clone())
    }

    /// Starts a replica from its disk, as the server does.
    ///
    /// # Errors
    /// The disk can't be opened: after whatever faults, that must never be.
    pub async fn start(self: &Arc<Self>, id: NodeId) -> Result<(), String> {
        let opened = self.with(id, |host| {
            host.runs += 1;
            (host.disk.clone(), host.clock.clone(), host.runs)
        });
        let Some((disk, clock, run)) = opened else {
            return Err(format!("no replica {id}"));
        };
        let life = CancellationToken::new();
        let latency = self
            .world
            .between(Duration::from_micros(200), Duration::from_millis(4));
        let (log, store) = open_mem(&disk, Arc::new(MetaMachine::new()), latency)
            .map_err(|error| format!("replica {id} does not open: {error:?}"))?;
        let raft_config = &self.config.raft;
        let mut settings = raft_settings("simulated", raft_config)
            .validate()
            .map_err(|error| error.to_string())?;
        if self.sabotage == Some(Sabotage::RestoreLeader) {
            settings.enable_leader_restore = Some(true);
        }
        let links = SimLinks {
            cluster: self.clone(),
            own: id,
            life: life.clone(),
        };
        let network = Network::new(Arc::new(links));
        let raft = Raft::new(id, Arc::new(settings), network, log, store.clone())
            .await
            .map_err(|fatal| format!("replica {id} does not start: {fatal}"))?;
        let data_nodes = SimDataNodes {
            cluster: self.clone(),
            own: id,
            life: life.clone(),
        };
        let objects = SimObjects {
            store: self.store.clone(),
            cluster: self.clone(),
            own: id,
            life: life.clone(),
        };
        let mut config = self.config.clone();
        config.advertise_client = client_addr(id);
        let coordinator = Coordinator::start(
            config,
            Consensus::new(raft.clone(), store, raft_config.election_max),
            clock,
            Arc::new(data_nodes),
            Some(Arc::new(objects)),
        );
        let quiet = raft_config.election_max;
        tokio::spawn(async move {
            tokio::time::sleep(quiet).await;
            raft.runtime_config().elect(true);
        });
        let running = Running {
            run,
            coordinator,
            life,
            votes_from: Instant::now() + quiet,
        };
        self.world.note(format_args!("r{id} started, run {run}"));
        self.with(id, |host| host.running = Some(Arc::new(running)));
        Ok(())
    }

    /// Starts a data node that is down.
    pub fn boot(self: &Arc<Self>, number: u64) {
        let node = self.data_nodes.iter().find(|node| node.number == number);
        let Some(node) = node.filter(|node| !node.is_up()) else {
            return;
        };
        let life = node.boot(self.world.now_ns());
        tokio::spawn(node_work::run(
            node.clone(),
            self.clone(),
            self.ledger.clone(),
            life,
        ));
    }

    /// Forms the cluster, on the first replica.
    ///
    /// # Errors
    /// openraft refused.
    pub async fn form(&self) -> Result<(), String> {
        let members: BTreeMap<NodeId, Member> = self
            .ids()
            .into_iter()
            .map(|id| {
                let member = Member {
                    peer_addr: format!("replica-{id}:13334"),
                    client_addr: client_addr(id),
                };
                (id, member)
            })
            .collect();
        let first = self.running(1).ok_or("replica 1 is not up")?;
        first
            .coordinator
            .consensus()
            .raft()
            .initialize(members)
            .await
            .map_err(|error| error.to_string())
    }

    /// Lets go of everything that runs, so that the memory of a finished simulation is free.
    pub fn end(&self) {
        for id in self.ids() {
            if let Some(Some(running)) = self.with(id, |host| host.running.take()) {
                running.life.cancel();
            }
        }
        for node in &self.data_nodes {
            node.kill();
        }
    }

    /// Ends a run. What is left of it winds down in the background, unable to reach anything.
    pub async fn stop(&self, id: NodeId, how: Stop) {
        let Some(running) = self.running(id) else {
            return;
        };
        self.world.note(format_args!("r{id} stops: {how:?}"));
        if how == Stop::Graceful {
            running.coordinator.stop().await;
            let consensus = running.coordinator.consensus();
            if consensus.leading_term().is_some() && consensus.transfer_away().await.is_some() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        self.with(id, |host| {
            host.running = None;
            match (how, self.sabotage) {
                (Stop::PowerLoss, Some(Sabotage::ForgetSynced)) => {
                    host.disk.crash();
                    host.disk = MemDisk::new();
                }
                (Stop::PowerLoss, _) => host.disk.crash(),
                _ => {}
            }
        });
        running.life.cancel();
        tokio::spawn(async move {
            running.coordinator.stop().await;
            // Its disk may be gone: it cannot stop cleanly.
            let _ = running.coordinator.consensus().raft().shutdown().await;
        });
    }
}

/// Why a client has no answer it can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Nobody listens there: surely nothing happened.
    Refused,
    /// The request or the answer may be lost.
    Silence,
    /// The replica answered with an error.
    Error(CoordError),
}

/// An answer and who gave it.
#[derive(Clone, Debug)]
pub struct Served<T> {
    /// The answer.
    pub value: T,
    /// The replica.
    pub node: NodeId,
    /// The term under which it leads.
    pub term: Option<u64>,
}

impl Cluster {
    /// One call to one replica, as over a socket: it may get lost, and a caller that gives up
    /// may or may not take the work over there with it.
    pub async fn call<T, F, Fut>(
        self: &Arc<Self>,
        from: Place,
        to: NodeId,
        what: &'static str,
        timeout: Duration,
        work: F,
    ) -> Result<Served<T>, NoAnswer>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Coordinator>) -> Fut + Send,
        Fut: Future<Output = Result<T, CoordError>> + Send + 'static,
    {
        let place = Place::Replica(to);
        let drops_work = self.world.chance(500);
        let exchange = async {
            if !self.world.carry(from, place, what).await {
                futures::future::pending::<()>().await;
            }
            let answer = match self.running(to) {
                None => Err(NoAnswer::Refused),
                Some(running) => serve(work, &running, to, drops_work).await,
            };
            if !self.world.carry(place, from, what).await {
                futures::future::pending::<()>().await;
            }
            answer
        };
        tokio::time::timeout(timeout, exchange)
            .await
            .unwrap_or(Err(NoAnswer::Silence))
    }
}

async fn serve<T, F, Fut>(
    work: F,
    running: &Arc<Running>,
    node: NodeId,
    drops_work: bool,
) -> Result<Served<T>, NoAnswer>
where
    T: Send + 'static,
    F: FnOnce(Arc<Coordinator>) -> Fut,
    Fut: Future<Output = Result<T, CoordError>> + Send + 'static,
{
    let coordinator = running.coordinator.clone();
    let handling = tokio::spawn(work(coordinator.clone()));
    // A client that hangs up takes the handler with it, if the replica notices.
    let _hang_up = drops_work.then(|| AbortOnDrop(handling.abort_handle()));
    let result = tokio::select! {
        biased;
        () = running.life.cancelled() => return Err(NoAnswer::Silence),
        result = handling => result,
    };
    match result {
        Ok(Ok(value)) => Ok(Served {
            value,
            node,
            term: coordinator.scope().ok().map(|scope| scope.term),
        }),
        Ok(Err(error)) => Err(NoAnswer::Error(error)),
        Err(_) => Err(NoAnswer::Silence),
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
