//! What is done to clusters, one file each. Every scenario has a cluster, a history and a folder of
//! its own, and ends with the same judgement.

mod damage;
mod failing_disk;
mod full_disk;
mod lying_disk;
mod power_loss;
mod slow_disk;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use rand::rngs::StdRng;

use crate::check;
use crate::cluster::Cluster;
use crate::history::History;
use crate::lab::Lab;
use crate::report::Report;
use crate::workload::Load;

/// All scenarios, in the order they are run.
pub const NAMES: [&str; 6] = [
    "power-loss",
    "lying-disk",
    "failing-disk",
    "slow-disk",
    "full-disk",
    "damage",
];

/// Acknowledged operations of each kind below which a history proves nothing.
const OPERATIONS_MIN: usize = 20;

/// What a scenario works with.
pub struct Stage<'a> {
    /// The run.
    pub lab: &'a Lab,
    /// Where results go.
    pub report: &'a mut Report,
    /// The scenario's own folder.
    pub folder: PathBuf,
    /// Its random numbers.
    pub rng: StdRng,
    /// What its clients are told.
    pub history: Arc<History>,
    /// How much of it.
    pub rounds: u32,
}

/// Runs the scenarios named, or all. What fails is in the report.
pub async fn run_all(lab: &Lab, report: &mut Report, rounds: u32, only: &[String]) {
    for name in NAMES {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        let failed = report.failed();
        if let Err(error) = run(lab, report, rounds, name).await {
            report.line(name, false, &format!("seed {}: {error:#}", lab.seed));
        }
        if report.failed() == failed
            && let Ok(folder) = lab.part(name)
        {
            lab.forget(&folder);
        }
    }
}

async fn run(lab: &Lab, report: &mut Report, rounds: u32, name: &str) -> Result<()> {
    let folder = lab.part(name)?;
    let history = Arc::new(History::create(&folder.join("history.jsonl"))?);
    let mut stage = Stage {
        lab,
        report,
        rng: lab.rng(name),
        folder,
        history,
        rounds,
    };
    let result = match name {
        "power-loss" => power_loss::run(&mut stage).await,
        "lying-disk" => lying_disk::run(&mut stage).await,
        "failing-disk" => failing_disk::run(&mut stage).await,
        "slow-disk" => slow_disk::run(&mut stage).await,
        "full-disk" => full_disk::run(&mut stage).await,
        "damage" => damage::run(&mut stage).await,
        other => bail!("no scenario is called {other}"),
    };
    stage.history.flush()?;
    result
}

impl Stage<'_> {
    /// A number for a fault to be random with.
    pub fn draw(&mut self) -> u32 {
        use rand::RngExt;
        self.rng.random_range(1..=u32::MAX >> 1)
    }

    /// Ends the load, reads everything back, compares the replicas and judges the history.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub async fn judge(&mut self, name: &str, cluster: &Cluster, load: &mut Load) -> Result<()> {
        load.pause().await?;
        let keys = load.read_back().await?;
        let rows = cluster.check_full().await?;
        let ops = self.history.ops();
        let counts = check::acknowledged(&ops);
        let told: Vec<String> = counts.iter().map(|(f, n)| format!("{n} {f}")).collect();
        let mut found = check::history(&ops);
        for kind in ["write", "read", "cas", "alloc-id", "alloc-ts", "assign"] {
            let count = counts.get(kind).copied().unwrap_or(0);
            if count < OPERATIONS_MIN {
                found.push(format!("only {count} {kind}: the run proves nothing"));
            }
        }
        let evidence = if found.is_empty() {
            format!(
                "{}; {keys} keys read back at the end; replicas equal, {rows} rows",
                told.join(", ")
            )
        } else {
            format!("seed {}: {}", self.lab.seed, found.join(" | "))
        };
        self.report
            .line(&format!("{name}: history"), found.is_empty(), &evidence);
        Ok(())
    }
}
