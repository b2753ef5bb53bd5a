//! The stages of the demo, in order. Each adds its line to the table; what goes wrong is named.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use quorate_ingest::{IngestOptions, IngestProgress, IngestReport, VerifyOptions, VerifyReport};
use quorate_rpc::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Args, CALL_TIMEOUT, Report, Stage};
use crate::cmd::inventory::Inventory;
use crate::cmd::{check, flush};
use crate::context::Context;
use crate::devcluster::DevCluster;
use crate::error::CliError;

/// The collection of the demo.
pub(super) const COLLECTION: &str = "demo";
/// The leader is killed when so much of the rows is acknowledged, per cent…
const KILL_LEADER_AT: u64 = 40;
/// …and a kill later than this would prove little.
const KILL_LEADER_BEFORE: u64 = 70;
/// A data node is killed when so much of the rows is acknowledged, per cent.
const KILL_NODE_AT: u64 = 80;
/// How long a new leader may take before the demo gives up.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) struct Demo {
    cluster: DevCluster,
    pub(super) file: PathBuf,
    rate: u32,
    stages: Vec<Stage>,
    /// Share of the file's rows that was deleted.
    pub(super) deleted: f64,
    /// Rows of other files.
    pub(super) others: u64,
    pub(super) problems: Vec<String>,
}

/// A replica that leads.
struct Leader {
    index: usize,
    node_id: u64,
    term: u64,
}

impl Demo {
    pub(super) fn new(cluster: DevCluster, args: &Args, startup: Duration) -> Self {
        let what = format!(
            "{} replicas and {} data nodes are up",
            cluster.replicas().len(),
            cluster.data_nodes().len()
        );
        let mut demo = Self {
            cluster,
            file: args.file.clone(),
            rate: args.rate,
            stages: Vec::new(),
            deleted: 0.0,
            others: 0,
            problems: Vec::new(),
        };
        demo.note("start", what, None, None, startup);
        demo
    }

    pub(super) fn client(&self) -> Client {
        self.cluster.client()
    }

    pub(super) fn object_store(&self) -> String {
        self.cluster.object_store()
    }

    pub(super) async fn stop(self) {
        self.cluster.stop().await;
    }

    pub(super) fn note(
        &mut self,
        stage: &str,
        what: impl Into<String>,
        rows: Option<u64>,
        bytes: Option<u64>,
        took: Duration,
    ) {
        let stage = Stage {
            stage: stage.to_owned(),
            what: what.into(),
            rows,
            bytes,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        };
        eprintln!("{:>6} ms  {}: {}", stage.took_ms, stage.stage, stage.what);
        self.stages.push(stage);
    }

    async fn leader(&self) -> Result<Leader, CliError> {
        let deadline = Instant::now() + ELECTION_TIMEOUT;
        loop {
            if let Some((index, status)) = self.cluster.leader().await
                && status.leading
            {
                return Ok(Leader {
                    index,
                    node_id: status.node_id,
                    term: status.term,
                });
            }
            if Instant::now() >= deadline {
                return Err(failed(format!("no leader within {ELECTION_TIMEOUT:?}")));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The whole life of the rows, each stage compared with what should be stored.
    pub(super) async fn play(&mut self) -> Result<Report, CliError> {
        let old = self.leader().await?;
        let (sender, mut progress) = watch::channel(IngestProgress::default());
        let started = Instant::now();
        let client = self.client();
        let options = IngestOptions {
            channels: 2,
            create: true,
            rate_rows_per_s: Some(self.rate),
            batch_rows: 50,
            ..IngestOptions::new(&self.file, COLLECTION)
        };
        let ingest = tokio::spawn(async move {
            quorate_ingest::ingest(&client, options, sender, CancellationToken::new()).await
        });

        let done = reach(&mut progress, KILL_LEADER_AT).await?;
        let total = progress.borrow().rows_total;
        if done * 100 > total * KILL_LEADER_BEFORE {
            return Err(failed(format!(
                "{done} of {total} rows were acknowledged before the leader could be killed; \
                 take a lower --rate"
            )));
        }
        let killed = Instant::now();
        self.cluster.kill_replica(old.index).await?;
        let new = self.leader().await?;
        self.note(
            "leader killed",
            format!(
                "SIGKILL of replica {} (term {}) at {} % of the rows; replica {} leads in term {}",
                old.node_id,
                old.term,
                done * 100 / total.max(1),
                new.node_id,
                new.term
            ),
            Some(done),
            None,
            killed.elapsed(),
        );

        let done = reach(&mut progress, KILL_NODE_AT).await?;
        let killed = Instant::now();
        self.cluster.kill_data_node(0).await?;
        self.note(
            "data node killed",
            format!(
                "SIGKILL of {} at {} % of the rows",
                self.cluster.data_nodes()[0].name(),
                done * 100 / total.max(1)
            ),
            Some(done),
            None,
            killed.elapsed(),
        );

        eprintln!("           its channels move when its lease of 5 s has ended …");
        let ingested = ingest
            .await
            .map_err(CliError::failed)?
            .map_err(CliError::failed)?;
        let seen = ingested.progress.clone();
        self.note(
            "ingest",
            format!(
                "all rows stored; {} sent again, {} channel moves, longest gap {} ms",
                seen.rows_sent_again,
                seen.owner_changes,
                seen.longest_gap.as_millis()
            ),
            Some(seen.rows_durable),
            Some(seen.bytes_sent),
            started.elapsed(),
        );
        self.bring_back(&old).await?;
        self.flush().await?;
        self.verify().await?;
        let recall = self.live_on().await?;
        let verified = self.verify().await?;
        self.check().await?;
        let inventory = self.inventory().await?;
        Ok(self.report(&old, &new, &ingested, &verified, recall, &inventory))
    }

    /// The killed processes come back, so that the replicas can be compared in the end.
    async fn bring_back(&mut self, old: &Leader) -> Result<(), CliError> {
        let started = Instant::now();
        self.cluster.restart_replica(old.index).await?;
        self.cluster.restart_data_node(0).await?;
        self.note(
            "restart",
            format!(
                "replica {} and {} again",
                old.node_id,
                self.cluster.data_nodes()[0].name()
            ),
            None,
            None,
            started.elapsed(),
        );
        Ok(())
    }

    pub(super) async fn flush(&mut self) -> Result<(), CliError> {
        let started = Instant::now();
        let answer = flush::run(&self.context(), flush::Args::waiting_for(COLLECTION)).await?;
        let sealed = answer.json[0]["sealed_segments"]
            .as_array()
            .map_or(0, Vec::len);
        let before = answer.json[0]["flushed_segments"]
            .as_array()
            .map_or(0, Vec::len);
        if answer.exit.is_some() {
            return Err(failed("the flush did not complete in time".to_owned()));
        }
        self.note(
            "flush",
            format!("{sealed} segments flushed, {before} were before"),
            None,
            None,
            started.elapsed(),
        );
        Ok(())
    }

    /// Reads every row back from the objects and compares it with the file.
    pub(super) async fn verify(&mut self) -> Result<VerifyReport, CliError> {
        let started = Instant::now();
        let report = self.compare().await?;
        self.problems.extend(problems_of(&report));
        if report.extra != self.others {
            self.problems.push(format!(
                "{} rows are stored beside those of the file, not {}",
                report.extra, self.others
            ));
        }
        self.note(
            "verify",
            format!(
                "{} objects of {} segments read; {} missing, {} doubled, {} wrong, {} not deleted",
                report.objects,
                report.segments,
                report.missing.count,
                report.doubled.count,
                report.wrong.count,
                report.not_deleted.count
            ),
            Some(report.rows_found),
            Some(report.bytes),
            started.elapsed(),
        );
        Ok(report)
    }

    /// The comparison alone.
    pub(super) async fn compare(&self) -> Result<VerifyReport, CliError> {
        let options = VerifyOptions {
            file: self.file.clone(),
            collection: COLLECTION.to_owned(),
            object_store: self.object_store(),
            primary_key: None,
            deleted_fraction: Some(self.deleted),
        };
        let (sender, _) = watch::channel(quorate_ingest::VerifyProgress::default());
        quorate_ingest::verify(&self.client(), options, sender)
            .await
            .map_err(CliError::failed)
    }

    /// Compares the replicas, the one that was killed included.
    async fn check(&mut self) -> Result<(), CliError> {
        let started = Instant::now();
        let answer = check::run(&self.context(), check::Args::full()).await?;
        let equal = answer.exit.is_none();
        let what = format!(
            "state of all replicas at log index {}: {}",
            answer.json["index"],
            if equal { "equal" } else { "not equal" }
        );
        self.note("check", what, None, None, started.elapsed());
        if !equal {
            self.problems.push(answer.text);
        }
        Ok(())
    }

    pub(super) fn context(&self) -> Context {
        Context::to(self.cluster.endpoints(), CALL_TIMEOUT)
    }

    fn report(
        &self,
        old: &Leader,
        new: &Leader,
        ingested: &IngestReport,
        verified: &VerifyReport,
        recall: f64,
        inventory: &Inventory,
    ) -> Report {
        let gap = ingested.progress.longest_gap.as_millis();
        Report {
            stages: self.stages.clone(),
            old_leader: old.node_id,
            old_term: old.term,
            new_leader: new.node_id,
            new_term: new.term,
            rows_in: ingested.progress.rows_total,
            rows_deleted: ingested.progress.rows_total - verified.rows_expected,
            rows_out: verified.rows_found,
            rows_sent_again: ingested.progress.rows_sent_again,
            longest_gap_ms: u64::try_from(gap).unwrap_or(u64::MAX),
            recall,
            objects: inventory.objects,
            orphans: inventory.orphans.len(),
            missing_objects: inventory.missing.len(),
            ok: self.problems.is_empty() && new.term > old.term,
            problems: self.problems.clone(),
        }
    }
}

/// What is wrong, in words; empty = nothing.
pub(super) fn problems_of(report: &VerifyReport) -> Vec<String> {
    let mut problems = Vec::new();
    for (what, found) in [("missing", &report.missing), ("doubled", &report.doubled)] {
        if found.count > 0 {
            let keys: Vec<_> = found
                .first
                .iter()
                .map(crate::cmd::verify::key_text)
                .collect();
            problems.push(format!("{} rows {what}: {}", found.count, keys.join(", ")));
        }
    }
    if report.not_deleted.count > 0 {
        let count = report.not_deleted.count;
        problems.push(format!("{count} deleted rows are still there"));
    }
    for wrong in &report.wrong.first {
        problems.push(format!(
            "row {}: field {} is {}, not {}",
            crate::cmd::verify::key_text(&wrong.key),
            wrong.field,
            wrong.found,
            wrong.expected
        ));
    }
    problems.extend(report.problems.first.iter().map(ToString::to_string));
    let found = report.rows_found.saturating_sub(report.extra);
    if found != report.rows_expected && problems.is_empty() {
        problems.push(format!(
            "{} rows in, {} rows out",
            report.rows_expected, found
        ));
    }
    problems
}

/// Waits until so much of the rows is acknowledged; the number of them.
async fn reach(
    progress: &mut watch::Receiver<IngestProgress>,
    percent: u64,
) -> Result<u64, CliError> {
    let reached = |progress: &IngestProgress| {
        progress.rows_total > 0 && progress.rows_done() * 100 >= progress.rows_total * percent
    };
    let seen = progress
        .wait_for(reached)
        .await
        .map_err(|_| failed(format!("the ingest ended before {percent} % of the rows")))?;
    Ok(seen.rows_done())
}

pub(super) fn failed(problem: String) -> CliError {
    CliError::failed(anyhow::Error::msg(problem))
}
