//! `quorate soak`: a cluster used at random while its processes are killed, with a reader that
//! knows what it must see.
//!
//! Everything random comes from one seed. Rows, deletes and drops are ordered until they are
//! acknowledged; [`model`] says what follows from that for a reader at any moment. In the end
//! everything settles, and the object store must hold exactly what the metadata names.

mod actions;
mod faults;
mod model;
mod reader;
mod settle;
mod shared;
mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;
use tokio::task::JoinSet;

use super::source::Source;
use crate::answer::{Answer, bytes, pairs};
use crate::context::Context;
use crate::devcluster::{DevCluster, DevOptions};
use crate::error::{CliError, Exit};
use actions::Place;
use faults::Faults;
use reader::Reader;
use settle::Settled;
use shared::Shared;
use store::Store;

/// How long a call may take with all its attempts.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a view of a reader is good for: the grace of garbage collection.
const GRACE_S: u64 = 6;
/// Settings under which everything happens within seconds, and often.
const SETTINGS: &[(&str, &str)] = &[
    ("dataCoord.segment.maxRows", "300"),
    ("dataCoord.compaction.triggerInterval", "4s"),
    ("dataCoord.compaction.levelzero.triggerInterval", "2s"),
    (
        "dataCoord.compaction.levelzero.forceTrigger.deltalogMinNum",
        "3",
    ),
    ("dataCoord.gc.interval", "2s"),
    ("dataCoord.gc.scanInterval", "5s"),
    ("dataCoord.gc.dropTolerance", "3s"),
    ("dataCoord.gc.missingTolerance", "15s"),
    ("quorate.raft.snapshotEntries", "2000"),
    ("quorate.raft.keepEntries", "200"),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long, in minutes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
    /// Where everything random comes from; a new one when not given
    #[arg(long)]
    seed: Option<u64>,
    /// Parquet file the rows are taken from; its column id is replaced
    #[arg(long, default_value = "tests/data/sample.parquet")]
    file: PathBuf,
    /// Collections used at the same time
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    collections: u8,
    /// Seconds between two kills
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    kill_every: u64,
    /// Keep objects in an S3 server that fails now and then, instead of a folder
    #[arg(long)]
    s3: bool,
    /// The S3 server's binary; the one beside this binary when not given
    #[arg(long, value_name = "FILE")]
    s3_server: Option<PathBuf>,
    /// Keep the cluster's folder here rather than in a temporary one
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    seed: u64,
    minutes: u64,
    object_store: String,
    counts: BTreeMap<&'static str, u64>,
    failed_compactions: Vec<String>,
    objects: u64,
    bytes: u64,
    settled_ms: u64,
    ok: bool,
    violations: Vec<String>,
}

pub(crate) async fn run(args: Args) -> Result<Answer, CliError> {
    let seed = args.seed.unwrap_or_else(rand::random);
    let scratch = tempfile::Builder::new()
        .prefix("quorate-soak-")
        .tempdir()
        .map_err(CliError::failed)?;
    let dir = args
        .data_dir
        .clone()
        .unwrap_or_else(|| scratch.path().to_owned());
    eprintln!(
        "seed {seed}: {} minutes in {} …",
        args.minutes,
        dir.display()
    );
    let result = soak(&args, seed, &dir).await;
    let wrong = !matches!(&result, Ok(answer) if answer.exit.is_none());
    if wrong && args.data_dir.is_none() {
        // What went wrong is in the logs.
        let kept = scratch.keep();
        eprintln!("everything is kept in {}", kept.display());
    }
    result.map_err(|error| error.hint(format!("the seed was {seed}")))
}

async fn soak(args: &Args, seed: u64, dir: &Path) -> Result<Answer, CliError> {
    let store = match args.s3 {
        false => Store::folder(&dir.join("objects")),
        true => {
            let binary = store::server_binary(args.s3_server.clone());
            Store::s3(&binary, &dir.join("s3"), seed).await?
        }
    };
    let source = Source::open(&args.file, &dir.join("rows"), 1)?;
    let mut server_args = Vec::new();
    let grace = ("quorate.gc.condemnGrace", &*format!("{GRACE_S}s"));
    for (key, value) in SETTINGS.iter().chain([&grace]) {
        server_args.extend(["--set".to_owned(), format!("{key}={value}")]);
    }
    let cluster = DevCluster::start(DevOptions {
        object_store: Some(store.url()),
        variables: store.variables(),
        server_args,
        data_node_args: ["--sync-interval-ms", "1000"].map(str::to_owned).into(),
        ..DevOptions::new(dir)
    })
    .await?;
    let client = cluster.client();
    let shared = Shared::new(Context::to(cluster.endpoints(), CALL_TIMEOUT));
    let reader = || -> Result<Reader, CliError> {
        Ok(Reader {
            shared: shared.clone(),
            client: client.clone(),
            store: store.logs()?,
            grace: Duration::from_secs(GRACE_S),
        })
    };
    let last_reader = reader()?;
    let objects = store.objects()?;
    let mut rngs = (0..).map(|stream: u64| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&stream.to_le_bytes());
        StdRng::from_seed(bytes)
    });
    let mut rng = || rngs.next().expect("a range without end does not end");

    let mut tasks = JoinSet::new();
    tasks.spawn(seen(shared.clone(), reader()?.run()));
    let source = Arc::new(tokio::sync::Mutex::new(source));
    for number in 1..=usize::from(args.collections) {
        let place = Place {
            shared: shared.clone(),
            client: client.clone(),
            source: Arc::clone(&source),
            number,
            collection: Arc::default(),
        };
        tasks.spawn(seen(shared.clone(), place.clone().write(rng())));
        tasks.spawn(seen(shared.clone(), place.operate(rng())));
    }
    let faults = Faults {
        cluster,
        store,
        kill_every: Duration::from_secs(args.kill_every),
        rng: rng(),
        shared: shared.clone(),
    };
    let faults = tokio::spawn(seen(shared.clone(), faults.run()));
    tell(&shared, Duration::from_secs(60 * args.minutes)).await;
    shared.stop.cancel();
    // The faults end first: what was ordered can then be seen through.
    let (cluster, store) = faults.await.map_err(CliError::failed)??;
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(CliError::failed)??;
    }
    eprintln!("settling …");
    let settled = settle::settle(&shared, &last_reader, &objects).await;
    cluster.stop().await;
    answer_of(args, seed, &shared, &store.url(), settled?)
}

/// A task whose failure ends the random part.
async fn seen<T>(
    shared: Shared,
    task: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let result = task.await;
    if result.is_err() {
        shared.stop.cancel();
    }
    result
}

/// Says every now and then how far it is, until time is over or something is wrong.
async fn tell(shared: &Shared, time: Duration) {
    let started = Instant::now();
    let step = Duration::from_secs(20);
    while let Some(left) = time.checked_sub(started.elapsed()) {
        if !shared.pause(step.min(left)).await {
            return;
        }
        eprintln!(
            "{:>5.0} s  {} rows ingested, {} deleted, {} processes killed, {} looks good, {} came to nothing",
            started.elapsed().as_secs_f64(),
            shared.counted("rows ingested"),
            shared.counted("rows deleted"),
            shared.counted("replicas killed") + shared.counted("data nodes killed"),
            shared.counted("looks"),
            shared.counted("looks that came to nothing"),
        );
    }
}

fn answer_of(
    args: &Args,
    seed: u64,
    shared: &Shared,
    object_store: &str,
    settled: Settled,
) -> Result<Answer, CliError> {
    let mut violations = shared.violations();
    if shared.counted("looks") == 0 {
        violations.push("not one look came about".to_owned());
    }
    let report = Report {
        seed,
        minutes: args.minutes,
        object_store: object_store.to_owned(),
        counts: shared.counts(),
        failed_compactions: settled.failed_compactions,
        objects: settled.inventory.objects,
        bytes: settled.inventory.bytes,
        settled_ms: u64::try_from(settled.took.as_millis()).unwrap_or(u64::MAX),
        ok: violations.is_empty(),
        violations,
    };
    let text = text_of(&report);
    Ok(Answer::new(&report, text)?.unless(report.ok, Exit::Failed))
}

fn text_of(report: &Report) -> String {
    let mut rows = vec![("seed", report.seed.to_string())];
    rows.extend(
        report
            .counts
            .iter()
            .map(|(what, count)| (*what, count.to_string())),
    );
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in &report.failed_compactions {
        *reasons.entry(reason).or_default() += 1;
    }
    rows.push((
        "compactions that failed",
        report.failed_compactions.len().to_string(),
    ));
    rows.extend(
        reasons
            .iter()
            .map(|(reason, count)| ("", format!("{count} × {reason}"))),
    );
    rows.push((
        "objects in the end",
        format!("{}, {}", report.objects, bytes(report.bytes)),
    ));
    rows.push(("time to settle", format!("{} ms", report.settled_ms)));
    let result = if report.ok {
        "no look saw a wrong row or missed an object; no orphan is left".to_owned()
    } else {
        format!("WRONG\n{}", report.violations.join("\n"))
    };
    format!("{}\n\n{result}", pairs(rows))
}
