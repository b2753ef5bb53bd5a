//! A deterministic simulation of a whole cluster in one process: the real coordinator, Raft and
//! storage code on simulated disks, clocks, network and data nodes, on one thread, from one seed.
//!
//! Invariants: the same seed gives the same trace; a run says *void* when too little happened in
//! it to prove anything.

pub mod check;
pub mod client;
mod compactor;
pub mod data_node;
pub mod deleter;
pub mod fault;
mod final_check;
pub mod history;
mod indexer;
pub mod ledger;
mod lifecycle;
mod net;
mod node_sync;
mod node_work;
pub mod objects;
mod observer;
mod outbound;
mod own;
pub mod partitions;
mod reader;
pub mod replica;
pub mod runner;
mod settle;
pub mod trap;
pub mod workload;
pub mod world;
pub mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use tokio::runtime::{Builder, RngSeed, UnhandledPanic};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use client::Session;
use data_node::DataNode;
use deleter::Deleter;
use fault::Nemesis;
use history::{End, History};
use objects::Store;
use partitions::Partitions;
use replica::Cluster;
use trap::Trap;
use workload::{Client, Shared};
use world::{Place, World};
use writer::Writer;

/// Bugs planted by the simulation itself, to prove that it finds any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A power loss takes synced data, too.
    ForgetSynced,
    /// A restarted leader goes on in its old term, whatever its log lost (openraft's default).
    RestoreLeader,
    /// Data nodes' time ticks do not count the rows they hold.
    UncountedRows,
}

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Everything random follows from it.
    pub seed: u64,
    /// Coordinator replicas.
    pub replicas: u64,
    /// How long the cluster works before everything is healed and checked.
    pub faults: Duration,
    /// Whether faults are injected meanwhile.
    pub nemesis: bool,
    /// Whether clocks may be off by hours; garbage may be left then.
    pub wild_clocks: bool,
    /// Whether one of the data nodes lies about what came of its work.
    pub liar: bool,
    /// A crash behind a step of a protocol.
    pub trap: Option<Trap>,
    /// A planted bug.
    pub sabotage: Option<Sabotage>,
    /// Whether the trace is printed.
    pub print: bool,
}

impl Plan {
    /// The plan of a seed: one in four has five replicas, the others three; one in three has wild
    /// clocks, one in five a data node that lies.
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            replicas: if seed % 4 == 3 { 5 } else { 3 },
            faults: Duration::from_secs(60),
            nemesis: true,
            wild_clocks: seed % 3 == 2,
            liar: seed % 5 == 4,
            trap: None,
            sabotage: None,
            print: trace_is_wanted(),
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The plan's seed.
    pub seed: u64,
    /// Hash over every event.
    pub trace_hash: String,
    /// How many there were.
    pub events: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Acknowledged operations by name.
    pub acknowledged: BTreeMap<&'static str, u64>,
    /// Changes of leader between acknowledged operations.
    pub leader_changes: usize,
    /// Rows written.
    pub rows: u64,
    /// Whether the plan's trap, if it has one, has sprung.
    pub sprung: bool,
    /// Everything that is wrong.
    pub violations: Vec<String>,
}

/// Operations a run needs to count.
const ACKNOWLEDGED_MIN: u64 = 500;
/// Changes of leader a run needs to count.
const LEADER_CHANGES_MIN: usize = 2;
/// Time after healing in which every replica must serve again.
const CALM_TIME: Duration = Duration::from_secs(10);
const CLIENTS: u64 = 4;
/// The client that keeps house.
const KEEPER: u64 = 9;
const DATA_NODES: u64 = 3;
const SHARDS: u32 = 2;

impl Report {
    /// All acknowledged operations.
    pub fn operations(&self) -> u64 {
        self.acknowledged.values().sum()
    }

    /// Why the run proves nothing, if it does not.
    pub fn void(&self) -> Option<String> {
        let operations = self.operations();
        if operations < ACKNOWLEDGED_MIN {
            return Some(format!("only {operations} operations were acknowledged"));
        }
        let changes = self.leader_changes;
        (changes < LEADER_CHANGES_MIN).then(|| format!("only {changes} changes of leader"))
    }

    /// How to run the seed again.
    pub fn repeat(&self) -> String {
        format!(
            "cargo run --release -p quorate-tests --bin quorate-sim -- --seed {}",
            self.seed
        )
    }
}

/// Real time after which a run counts as stuck: some task spins while simulated time stands still.
const REAL_TIME_MAX: Duration = Duration::from_secs(120);

/// Runs a plan on a thread of its own, so that nothing a thread remembers leaks into it.
pub fn run(plan: Plan) -> Report {
    let problem = match on_a_thread(plan.seed, move || simulate(plan)) {
        Ok(report) => return report,
        Err(problem) => problem,
    };
    Report {
        seed: plan.seed,
        trace_hash: String::new(),
        events: 0,
        simulated: Duration::ZERO,
        acknowledged: BTreeMap::new(),
        leader_changes: 0,
        rows: 0,
        sprung: false,
        violations: vec![problem],
    }
}

fn on_a_thread<T, F, Fut>(seed: u64, work: F) -> Result<T, String>
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T>,
{
    let (done, ended) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("seed-{seed}"));
    let started = thread.spawn(move || {
        quorate_raft_store::runtime::seed_thread(seed);
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .rng_seed(RngSeed::from_bytes(&seed.to_be_bytes()))
            .unhandled_panic(UnhandledPanic::ShutdownRuntime)
            .build()
            .expect("a runtime without I/O needs nothing from the system");
        // Nobody waits for a run that was given up.
        let _ = done.send(runtime.block_on(work()));
    });
    match (started, ended.recv_timeout(REAL_TIME_MAX)) {
        (_, Ok(value)) => Ok(value),
        (Err(error), _) => Err(format!("no thread can be had: {error}")),
        (_, Err(RecvTimeoutError::Timeout)) => Err(format!("stuck: not done in {REAL_TIME_MAX:?}")),
        (_, Err(RecvTimeoutError::Disconnected)) => Err("something panicked; see above".to_owned()),
    }
}

/// Replicas and data nodes, all of them up and none of them disturbed, for `story` to do with as it
/// likes; answers what is wrong in the end, found by the world or told by the story.
///
/// # Errors
/// The story panicked or did not end.
pub fn script<F, Fut>(seed: u64, replicas: u64, story: F) -> Result<Vec<String>, String>
where
    F: FnOnce(Arc<Cluster>) -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    on_a_thread(seed, move || async move {
        let world = Arc::new(World::new(seed, trace_is_wanted()));
        let cluster = cluster(&world, replicas, None, None);
        for id in cluster.ids() {
            if let Err(problem) = cluster.start(id).await {
                world.violation(problem);
            }
        }
        for node in &cluster.data_nodes {
            cluster.boot(node.number);
        }
        if let Err(problem) = cluster.form().await {
            world.violation(problem);
        }
        let stop = CancellationToken::new();
        let watching = tokio::spawn(observer::watch(cluster.clone(), stop.clone()));
        story(cluster.clone()).await;
        final_check::replicas_are_equal(&cluster).await;
        stop.cancel();
        let _ = watching.await;
        cluster.end();
        world.violations()
    })
}

fn trace_is_wanted() -> bool {
    std::env::var_os("SIM_TRACE").is_some_and(|value| value == "1")
}

fn cluster(
    world: &Arc<World>,
    replicas: u64,
    sabotage: Option<Sabotage>,
    trap: Option<Trap>,
) -> Arc<Cluster> {
    let careless = sabotage == Some(Sabotage::UncountedRows);
    let store = Store::new(world.clone());
    let data_nodes: Vec<_> = (1..=DATA_NODES)
        .map(|number| DataNode::new(number, careless, world.clone(), store.clone()))
        .collect();
    Cluster::new(world.clone(), replicas, data_nodes, store, sabotage, trap)
}

async fn simulate(plan: Plan) -> Report {
    let world = Arc::new(World::new(plan.seed, plan.print));
    let cluster = cluster(&world, plan.replicas, plan.sabotage, plan.trap);
    let history = Arc::new(History::default());
    let nemesis = Arc::new(Nemesis {
        cluster: cluster.clone(),
        clients: (1..=CLIENTS).map(Place::Client).collect(),
        wild_clocks: plan.wild_clocks,
    });
    nemesis.heal().await;
    if let Some(node) = cluster.data_nodes.last() {
        node.set_lies(plan.liar);
    }
    if let Err(problem) = cluster.form().await {
        world.violation(problem);
    }
    let session = Session::new(cluster.clone(), Place::Client(0));
    let main = workload::create(&session, "main", SHARDS).await;

    let partition = main.partitions.first().map_or(0, |partition| partition.id);
    let partitions = Arc::new(Partitions::new(partition));
    let shared = Arc::new(Shared {
        cluster: cluster.clone(),
        history: history.clone(),
        unique: AtomicU64::new(1),
        main: main.id,
        channels: main.channels.clone(),
        partitions: partitions.clone(),
    });
    let stop = CancellationToken::new();
    let watching = tokio::spawn(observer::watch(cluster.clone(), stop.clone()));
    let reading = tokio::spawn(observer::read(shared.clone(), stop.clone()));
    let mut clients = JoinSet::new();
    for number in 1..=CLIENTS {
        clients.spawn(Client::new(shared.clone(), number).run(stop.clone()));
    }
    clients.spawn(Client::new(shared.clone(), KEEPER).keep_house(stop.clone()));
    let session = |number| Session::new(cluster.clone(), Place::Client(number));
    let writers: Vec<Arc<Writer>> = (101..)
        .zip(&main.channels)
        .map(|(number, channel)| {
            Arc::new(Writer {
                session: session(number),
                collection: main.id,
                partitions: partitions.clone(),
                channel: channel.clone(),
                place: Place::Client(number),
                made: AtomicU64::new(0),
                ending: AtomicBool::new(false),
                done: AtomicBool::new(false),
            })
        })
        .collect();
    let deleters: Vec<Arc<Deleter>> = (151..)
        .zip(&main.channels)
        .map(|(number, channel)| {
            Arc::new(Deleter {
                session: session(number),
                channel: channel.clone(),
                place: Place::Client(number),
                ending: AtomicBool::new(false),
                done: AtomicBool::new(false),
            })
        })
        .collect();
    for deleter in &deleters {
        tokio::spawn(deleter.clone().run());
    }
    for writer in &writers {
        tokio::spawn(writer.clone().run());
    }

    let breaking = CancellationToken::new();
    let faults = plan
        .nemesis
        .then(|| tokio::spawn(nemesis.clone().run(breaking.clone())));
    tokio::time::sleep(plan.faults).await;
    breaking.cancel();
    if let Some(faults) = faults
        && faults.await.is_err()
    {
        world.violation("the faults did not end".into());
    }
    nemesis.heal().await;
    tokio::time::sleep(CALM_TIME).await;
    final_check::every_replica_serves(&cluster).await;
    stop.cancel();
    while clients.join_next().await.is_some() {}
    // It ends with `stop`; its last read is finished first.
    let _ = reading.await;
    for deleter in &deleters {
        deleter.ending.store(true, Ordering::Relaxed);
    }
    final_check::everything_is_stored(&shared, &writers, &deleters).await;
    settle::no_garbage_is_left(&shared, !plan.wild_clocks).await;
    final_check::everything_is_there(&shared, &writers).await;
    let _ = watching.await;

    let sprung = cluster.trap_has_sprung();
    cluster.end();
    Report {
        sprung,
        ..report(&plan, &world, &history, &writers)
    }
}

fn report(plan: &Plan, world: &World, history: &History, writers: &[Arc<Writer>]) -> Report {
    let ops = history.ops();
    for problem in check::history(&ops) {
        world.violation(problem);
    }
    let mut acknowledged: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut terms = std::collections::BTreeSet::new();
    for op in ops.iter().filter(|op| op.end == End::Ok) {
        *acknowledged.entry(op.call.name()).or_default() += 1;
        terms.extend(op.by.map(|(_, term)| term));
    }
    let (events, trace_hash) = world.trace();
    Report {
        seed: plan.seed,
        trace_hash,
        events,
        simulated: world.now(),
        acknowledged,
        leader_changes: terms.len().saturating_sub(1),
        rows: writers.iter().map(|w| w.made.load(Ordering::Relaxed)).sum(),
        sprung: true,
        violations: world.violations(),
    }
}
