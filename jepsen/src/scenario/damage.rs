//! Damaged files of one replica: it never serves or votes with what it lost.
//!
//! The trap: replica C is down while A and B acknowledge writes; then A is damaged, and A and C are
//! started without B. Together they are a majority. An A that forgot would let C be elected, and
//! what was acknowledged would be gone. So A must refuse, or have everything. Then B is started, and
//! A comes back by the steps an operator is told to take.

mod case;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Stage;
use crate::check;
use crate::cluster::{Cluster, Disk, Setup};
use crate::history::History;
use crate::process::must;
use crate::wait::{until, until_within};
use crate::workload::Load;
use case::{CASES, Case};

/// The two that acknowledge, and the one that is behind.
const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
/// Operations acknowledged in each part of the prelude: more entries than the log keeps.
const OPERATIONS: usize = 1200;
/// How long A may take to refuse, or to serve together with C.
const DECIDE_TIMEOUT: Duration = Duration::from_secs(12);

/// What the damaged replica did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It ended.
    Refused,
    /// It served, and had everything.
    Served,
    /// It ran and nobody served: it had not what it needs to vote or lead.
    Idle,
}

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<()> {
    let setup = Setup::new(Disk::Plain)
        .set("quorate.raft.snapshotEntries", 300)
        .set("quorate.raft.keepEntries", 100);
    let mut cluster = Cluster::start(&stage.lab.programs, &stage.folder, setup).await?;
    let seed = u64::from(stage.draw());
    let mut load = Load::start(cluster.client(), stage.history.clone(), seed).await?;
    prelude(&mut cluster, &mut load).await?;
    let saved = stage.folder.join("saved");
    for index in 0..cluster.len() {
        copy(cluster.member(index).data(), &saved.join(index.to_string()))?;
    }
    for case in CASES {
        let seed = stage.draw();
        for index in 0..cluster.len() {
            cluster.kill(index).await?;
            copy(&saved.join(index.to_string()), cluster.member(index).data())?;
        }
        let outcome = one(stage, &mut cluster, &load, case, seed).await;
        let name = format!("{}: {}", case.file.name(), case.damage.name());
        match outcome {
            Ok(evidence) => stage.report.line(&name, true, &evidence),
            Err(error) => stage
                .report
                .line(&name, false, &format!("seed {seed}: {error:#}")),
        }
    }
    Ok(())
}

/// A log with tables and a write-ahead log, snapshots, a purged part; C is behind, all are down.
async fn prelude(cluster: &mut Cluster, load: &mut Load) -> Result<()> {
    load.progress(OPERATIONS).await?;
    // A database writes its write-ahead log into a table when it is opened.
    for index in 0..cluster.len() {
        cluster.member_mut(index).terminate().await?;
        cluster.start_member(index)?;
        cluster.wait_until_caught_up(index).await?;
    }
    load.progress(OPERATIONS / 4).await?;
    cluster.kill(C).await?;
    load.progress(OPERATIONS).await?;
    load.pause().await?;
    load.read_back().await?;
    // A has what was acknowledged on its disk, by Raft or by now.
    cluster.wait_until_caught_up(A).await?;
    cluster.kill_all().await
}

/// Replaces a folder by a copy of another, hard links and all.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to).with_context(|| format!("cannot clear {}", to.display()))?;
    }
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent)?;
    }
    must("cp", &["-a".as_ref(), from.as_os_str(), to.as_os_str()])
}

async fn one(
    stage: &mut Stage<'_>,
    cluster: &mut Cluster,
    base: &Load,
    case: &Case,
    seed: u32,
) -> Result<String> {
    let file = case.file.locate(cluster.member(A).data())?;
    let mut did = case.damage.apply(&file, &mut stage.rng)?;
    if case.file.set_back_state(cluster.member(A).data())? {
        did.push_str(", and the state lags");
    }
    let path = stage.folder.join(format!("history-{seed}.jsonl"));
    let history = Arc::new(stage.history.fork(&path)?);
    history.nemesis(&format!("replica {}: {did}", A + 1));
    let mut load = base.fork(history.clone());

    let logged = cluster.member(A).logged();
    cluster.start_member(A)?;
    cluster.start_member(C)?;
    let end = decide(cluster, &load, &history).await?;

    // With B everything is there again, whatever A does.
    cluster.start_member(B)?;
    until("B and C serve", async || Ok(cluster.leader().await)).await?;
    load.resume(u64::from(seed));
    load.progress(60).await?;
    load.pause().await?;
    load.read_back().await?;
    // It may find the damage only now.
    let caught_up = cluster.wait_until_caught_up(A).await;
    let end = match cluster.member_mut(A).ended() {
        Some(_) => End::Refused,
        None => end,
    };
    let mut told = match end {
        End::Refused => {
            let said = cluster.member(A).logged_since(logged);
            let said = explained(&said, cluster.member(A).data())?;
            replace(cluster, A).await?;
            cluster.wait_until_caught_up(A).await?;
            format!("refused, replaced by the steps of the manual; it said: {said}")
        }
        End::Served => "it has everything, and serves".to_owned(),
        End::Idle => "it ran, nothing was served without B, and it caught up".to_owned(),
    };
    if end != End::Refused {
        caught_up?;
    }
    let rows = cluster.check_full().await?;
    judge(&history)?;
    history.flush()?;
    told.push_str(&format!("; replicas equal, {rows} rows"));
    Ok(format!("seed {seed}: {did}; {told}"))
}

/// What A does when only C is there beside it.
async fn decide(cluster: &mut Cluster, load: &Load, history: &History) -> Result<End> {
    let served = until_within(DECIDE_TIMEOUT, "A decides", async || {
        if cluster.member_mut(A).ended().is_some() {
            return Ok(Some(false));
        }
        Ok(cluster.leader().await.map(|_| true))
    })
    .await;
    match served {
        Err(_) => Ok(End::Idle),
        Ok(true) => {
            if let Err(error) = load.read_back().await {
                // It may have met the damage by now, and stopped.
                return match cluster.member_mut(A).ended() {
                    Some(_) => Ok(End::Refused),
                    None => Err(error.context("A and C elected a leader, and it does not answer")),
                };
            }
            judge(history).context("A and C served without what was acknowledged")?;
            Ok(End::Served)
        }
        Ok(false) => {
            // C lacks what was acknowledged and must not lead by itself.
            if let Some(leader) = cluster.leader().await {
                bail!("replica {} leads alone", leader.index + 1);
            }
            Ok(End::Refused)
        }
    }
}

fn judge(history: &History) -> Result<()> {
    let found = check::history(&history.ops());
    if !found.is_empty() {
        bail!("{}", found.join(" | "));
    }
    Ok(())
}

/// A refusal names the place and says what to do. Its last line.
fn explained(said: &str, data: &Path) -> Result<String> {
    if said.contains("panicked") {
        bail!("it panicked: {said}");
    }
    let last = said.trim_end().lines().last().unwrap_or("").to_owned();
    let place = data.display().to_string();
    if !said.contains(&place) {
        bail!("it refuses and does not say which file: {last}");
    }
    if !said.contains("quorate member") {
        bail!("it refuses and does not say what to do: {last}");
    }
    Ok(last)
}

/// The steps for a replica whose folder is lost: its old id is removed, and it is added with an
/// empty folder.
async fn replace(cluster: &mut Cluster, index: usize) -> Result<()> {
    let id = node_id(cluster, index).await?;
    cluster.kill(index).await?;
    let data: PathBuf = cluster.member(index).data().to_owned();
    std::fs::remove_dir_all(&data).with_context(|| format!("cannot clear {}", data.display()))?;
    cluster.cli(&["member", "remove", &id.to_string()]).await?;
    cluster.start_member(index)?;
    until("the new replica answers", async || {
        cluster.must_run(index)?;
        Ok(cluster.status(index).await.map(|_| ()))
    })
    .await?;
    let addresses = cluster.member(index).addresses();
    cluster.cli(&["member", "add", &addresses]).await?;
    Ok(())
}

/// The node id under which the cluster knows a replica.
async fn node_id(cluster: &Cluster, index: usize) -> Result<u64> {
    let address = cluster.member(index).client_address();
    for other in (0..cluster.len()).filter(|other| *other != index) {
        if let Some(status) = cluster.status(other).await
            && let Some(replica) = status
                .replicas
                .iter()
                .find(|replica| replica.client_address == address)
        {
            return Ok(replica.node_id);
        }
    }
    bail!("nobody knows a replica at {address}")
}
