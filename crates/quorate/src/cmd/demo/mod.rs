//! `quorate demo`: the whole main job on real processes, with the leader and a data node killed on
//! the way; then deletes, compaction, an index, a drop and garbage collection. After each stage
//! every stored row is compared with what should be there, and in the end every object.

mod lifecycle;
mod stages;
mod tamper;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::answer::{Answer, Column, pairs, table};
use crate::devcluster::{DevCluster, DevOptions};
use crate::error::{CliError, Exit};

/// How long a call of the demo may take with all its attempts.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Settings of the replicas: small segments, so that the sample fills several, and garbage
/// collection within seconds.
const SETTINGS: &[&str] = &[
    "dataCoord.segment.maxRows=400",
    "dataCoord.gc.interval=1s",
    "dataCoord.gc.dropTolerance=2s",
    "dataCoord.gc.missingTolerance=15s",
    "quorate.gc.condemnGrace=2s",
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Parquet file to ingest
    #[arg(long, default_value = "tests/data/sample.parquet")]
    file: PathBuf,
    /// Rows ingested a second, so that the kills fall into the middle
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Keep the cluster's folder here rather than in a temporary one
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Then change a row, delete an object and an index file, and put an orphan back: the demo must
    /// notice all of them
    #[arg(long)]
    selftest: bool,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
struct Stage {
    stage: String,
    what: String,
    rows: Option<u64>,
    bytes: Option<u64>,
    took_ms: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    stages: Vec<Stage>,
    old_leader: u64,
    old_term: u64,
    new_leader: u64,
    new_term: u64,
    rows_in: u64,
    rows_deleted: u64,
    rows_out: u64,
    rows_sent_again: u64,
    longest_gap_ms: u64,
    /// Part of the true neighbours that the index files find, from 0 to 1.
    recall: f64,
    objects: u64,
    orphans: usize,
    missing_objects: usize,
    ok: bool,
    problems: Vec<String>,
}

pub(crate) async fn run(args: Args) -> Result<Answer, CliError> {
    let scratch = tempfile::Builder::new()
        .prefix("quorate-demo-")
        .tempdir()
        .map_err(CliError::failed)?;
    let dir = args
        .data_dir
        .clone()
        .unwrap_or_else(|| scratch.path().to_owned());
    eprintln!(
        "starting three replicas and two data nodes in {} …",
        dir.display()
    );
    let started = std::time::Instant::now();
    let cluster = DevCluster::start(DevOptions {
        server_args: SETTINGS
            .iter()
            .flat_map(|setting| ["--set", setting].map(str::to_owned))
            .collect(),
        data_node_args: ["--sync-interval-ms", "1000"].map(str::to_owned).into(),
        ..DevOptions::new(&dir)
    })
    .await?;
    let mut demo = stages::Demo::new(cluster, &args, started.elapsed());
    let played = demo.play().await;
    let answer = match (played, args.selftest) {
        (Ok(report), false) => answer_of(&report),
        (Ok(report), true) if !report.ok => answer_of(&report),
        (Ok(_), true) => tamper::selftest(&demo).await,
        (Err(error), _) => Err(error.hint(format!(
            "run it again with --data-dir to keep the logs; they were in {}",
            dir.join("logs").display()
        ))),
    };
    demo.stop().await;
    answer
}

fn answer_of(report: &Report) -> Result<Answer, CliError> {
    let columns = [
        Column::Text("stage"),
        Column::Text("what happened"),
        Column::Number("rows"),
        Column::Number("bytes"),
        Column::Number("time"),
    ];
    let stages = report.stages.iter().map(|stage| {
        let number = |value: Option<u64>| value.map_or(String::new(), |n| n.to_string());
        vec![
            stage.stage.clone(),
            stage.what.clone(),
            number(stage.rows),
            stage.bytes.map_or(String::new(), crate::answer::bytes),
            format!("{} ms", stage.took_ms),
        ]
    });
    let mut text = table(&columns, stages);
    text.push_str("\n\n");
    text.push_str(&pairs([
        (
            "leader",
            format!(
                "replica {} in term {} → replica {} in term {}",
                report.old_leader, report.old_term, report.new_leader, report.new_term
            ),
        ),
        ("rows in", report.rows_in.to_string()),
        ("rows deleted", report.rows_deleted.to_string()),
        ("rows out", report.rows_out.to_string()),
        ("rows sent again", report.rows_sent_again.to_string()),
        (
            "longest gap a client saw",
            format!("{} ms", report.longest_gap_ms),
        ),
        ("recall@10", format!("{:.4}", report.recall)),
        (
            "objects in the end",
            format!(
                "{}; {} orphans, {} missing",
                report.objects, report.orphans, report.missing_objects
            ),
        ),
        (
            "result",
            if report.ok {
                "every row is stored once and as it is".to_owned()
            } else {
                report.problems.join("; ")
            },
        ),
    ]));
    Ok(Answer::new(report, text)?.unless(report.ok, Exit::Failed))
}
