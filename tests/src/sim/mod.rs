//! A deterministic simulation of a whole cluster in one process: the real coordinator, Raft and
//! storage code on simulated disks, clocks, network and data nodes, on one thread, from one seed.
//!
//! Invariants: the same seed gives the same trace; a run says *void* when too little happened in
//! it to prove anything.

pub mod check;
pub mod client;
pub mod data_node;
pub mod fault;
mod final_check;
pub mod history;
pub mod ledger;
mod net;
mod node_work;
mod observer;
pub mod replica;
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
use fault::Nemesis;
use history::{End, History};
use ledger::Ledger;
use replica::Cluster;
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
    /// How long faults are injected.
    pub faults: Duration,
    /// A planted bug.
    pub sabotage: Option<Sabotage>,
    /// Whether the trace is printed.
    pub print: bool,
}

impl Plan {
    /// The plan of a seed: one in four has five replicas, the others three.
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            replicas: if seed % 4 == 3 { 5 } else { 3 },
            faults: Duration::from_secs(60),
            sabotage: None,
            print: std::env::var_os("SIM_TRACE").is_some_and(|value| value == "1"),
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
            "SEED={} SIM_TRACE=1 cargo test --release -p quorate-tests --test simulation seeds_pass",
            self.seed
        )
    }
}

/// Real time after which a run counts as stuck: some task spins while simulated time stands still.
const REAL_TIME_MAX: Duration = Duration::from_secs(120);

/// Runs a plan on a thread of its own, so that nothing a thread remembers leaks into it.
pub fn run(plan: Plan) -> Report {
    let (done, report) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("seed-{}", plan.seed));
    let started = thread.spawn(move || {
        quorate_raft_store::runtime::seed_thread(plan.seed);
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .rng_seed(RngSeed::from_bytes(&plan.seed.to_be_bytes()))
            .unhandled_panic(UnhandledPanic::ShutdownRuntime)
            .build()
            .expect("a runtime without I/O needs nothing from the system");
        // Nobody waits for a run that was given up.
        let _ = done.send(runtime.block_on(simulate(plan)));
    });
    let problem = match (started, report.recv_timeout(REAL_TIME_MAX)) {
        (_, Ok(report)) => return report,
        (Err(error), _) => format!("no thread can be had: {error}"),
        (_, Err(RecvTimeoutError::Timeout)) => format!("stuck: not done in {REAL_TIME_MAX:?}"),
        (_, Err(RecvTimeoutError::Disconnected)) => "something panicked; see above".to_owned(),
    };
    Report {
        seed: plan.seed,
        trace_hash: String::new(),
        events: 0,
        simulated: Duration::ZERO,
        acknowledged: BTreeMap::new(),
        leader_changes: 0,
        rows: 0,
        violations: vec![problem],
    }
}

async fn simulate(plan: Plan) -> Report {
    let world = Arc::new(World::new(plan.seed, plan.print));
    let careless = plan.sabotage == Some(Sabotage::UncountedRows);
    let data_nodes: Vec<_> = (1..=DATA_NODES)
        .map(|number| DataNode::new(number, careless))
        .collect();
    let cluster = Cluster::new(world.clone(), plan.replicas, data_nodes, plan.sabotage);
    let history = Arc::new(History::default());
    let ledger = Arc::new(Ledger::default());
    let nemesis = Arc::new(Nemesis {
        cluster: cluster.clone(),
        ledger: ledger.clone(),
        clients: (1..=CLIENTS).map(Place::Client).collect(),
    });
    nemesis.heal().await;
    if let Err(problem) = cluster.form().await {
        world.violation(problem);
    }
    let session = Session::new(cluster.clone(), Place::Client(0));
    let main = workload::create(&session, "main", SHARDS).await;

    let shared = Arc::new(Shared {
        cluster: cluster.clone(),
        history: history.clone(),
        ledger: ledger.clone(),
        unique: AtomicU64::new(1),
        main: main.id,
        channels: main.channels.clone(),
    });
    let stop = CancellationToken::new();
    let watching = tokio::spawn(observer::watch(cluster.clone(), stop.clone()));
    let reading = tokio::spawn(observer::read(shared.clone(), stop.clone()));
    let mut clients = JoinSet::new();
    for number in 1..=CLIENTS {
        clients.spawn(Client::new(shared.clone(), number).run(stop.clone()));
    }
    let partition = main.partitions.first().map_or(0, |partition| partition.id);
    let writers: Vec<Arc<Writer>> = (101..)
        .zip(&main.channels)
        .map(|(number, channel)| {
            Arc::new(Writer {
                session: Session::new(cluster.clone(), Place::Client(number)),
                collection: (main.id, partition),
                channel: channel.clone(),
                place: Place::Client(number),
                made: AtomicU64::new(0),
                ending: AtomicBool::new(false),
                done: AtomicBool::new(false),
            })
        })
        .collect();
    for writer in &writers {
        tokio::spawn(writer.clone().run());
    }

    let breaking = CancellationToken::new();
    let faults = tokio::spawn(nemesis.clone().run(breaking.clone()));
    tokio::time::sleep(plan.faults).await;
    breaking.cancel();
    if faults.await.is_err() {
        world.violation("the faults did not end".into());
    }
    nemesis.heal().await;
    tokio::time::sleep(CALM_TIME).await;
    final_check::every_replica_serves(&cluster).await;
    stop.cancel();
    while clients.join_next().await.is_some() {}
    // Both end with `stop`; the last read of theirs is finished first.
    let _ = tokio::join!(watching, reading);
    final_check::everything_is_there(&shared, &writers).await;

    cluster.end();
    report(&plan, &world, &history, &writers)
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
        violations: world.violations(),
    }
}
