//! An fsync or a write that fails is final: the replica stops, acknowledges nothing any more, and
//! the cluster goes on. What was not synced is then lost, as it is on a real disk.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Stage;
use crate::cluster::{Cluster, Disk, Leader, Setup};
use crate::wait::until_within;
use crate::workload::Load;

const NAME: &str = "failing disk";
/// How long it may take until a file is synced at all: a MANIFEST is only now and then.
const FAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a replica may go on after a sync has failed. Machines under load are slow.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Whose disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Leader,
    Follower,
}

/// One failure.
#[derive(Clone, Copy, Debug)]
struct Case {
    who: Who,
    what: &'static str,
    /// The fault.
    fault: &'static str,
    /// A part of the paths of the files that meet it; empty for all.
    path: &'static str,
}

const fn case(who: Who, what: &'static str, fault: &'static str, path: &'static str) -> Case {
    Case {
        who,
        what,
        fault,
        path,
    }
}

const CASES: [Case; 7] = [
    case(
        Who::Follower,
        "fsync of the log fails",
        "sync_eio",
        "/data/log/",
    ),
    case(
        Who::Leader,
        "fsync of the log fails",
        "sync_eio",
        "/data/log/",
    ),
    case(
        Who::Leader,
        "fsync of the witness fails",
        "sync_eio",
        "/data/witness",
    ),
    case(
        Who::Follower,
        "fsync of a MANIFEST fails",
        "sync_eio",
        "MANIFEST",
    ),
    case(Who::Leader, "every fsync fails", "sync_eio", ""),
    case(
        Who::Leader,
        "writes of the log fail",
        "write_eio",
        "/data/log/",
    ),
    case(
        Who::Follower,
        "the log's disk is full at once",
        "enospc",
        "/data/log/",
    ),
];

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<()> {
    let setup = Setup::new(Disk::Lossy)
        .set("quorate.raft.snapshotEntries", 400)
        .set("quorate.raft.keepEntries", 100);
    let mut cluster = Cluster::start(&stage.lab.programs, &stage.folder, setup).await?;
    let seed = u64::from(stage.draw());
    let mut load = Load::start(cluster.client(), stage.history.clone(), seed).await?;
    for case in CASES {
        let role = match case.who {
            Who::Leader => "leader",
            Who::Follower => "follower",
        };
        let name = format!("{} ({role})", case.what);
        let seed = stage.draw();
        let outcome = fail(stage, &mut cluster, &load, case, seed).await;
        match outcome {
            Ok(evidence) => stage.report.line(&name, true, &evidence),
            Err(error) => {
                stage
                    .report
                    .line(&name, false, &format!("seed {seed}: {error:#}"));
                heal(&mut cluster).await?;
            }
        }
    }
    stage.judge(NAME, &cluster, &mut load).await
}

/// After a case that failed: every replica as it should be, for the next one.
async fn heal(cluster: &mut Cluster) -> Result<()> {
    for index in 0..cluster.len() {
        cluster.member(index).syscalls().set("")?;
        if cluster.member_mut(index).ended().is_some() {
            cluster.start_member(index)?;
        }
    }
    for index in 0..cluster.len() {
        cluster.wait_until_caught_up(index).await?;
    }
    Ok(())
}

async fn fail(
    stage: &mut Stage<'_>,
    cluster: &mut Cluster,
    load: &Load,
    case: Case,
    seed: u32,
) -> Result<String> {
    load.progress(100).await?;
    let leader = cluster.wait_for_leader().await?;
    let index = match case.who {
        Who::Leader => leader.index,
        Who::Follower => (leader.index + 1) % cluster.len(),
    };
    let member = cluster.member(index);
    if case.path.starts_with("/data/") {
        let file = member.data().join(case.path.trim_start_matches("/data/"));
        if !file.exists() {
            bail!("there is no {}", file.display());
        }
    }
    let logged = member.logged();
    member.syscalls().forget()?;
    let from = stage.history.now();
    stage
        .history
        .nemesis(&format!("replica {}: {}", index + 1, case.what));
    let mut words = format!("{}=100", case.fault);
    if !case.path.is_empty() {
        words.push_str(&format!(" match={}", case.path));
    }
    member.syscalls().set(&words)?;
    until_within(FAULT_TIMEOUT, "the fault is met", async || {
        let thrown = cluster.member(index).syscalls().thrown(case.fault);
        Ok((!thrown.is_empty()).then_some(()))
    })
    .await?;
    let seen = stage.history.now();
    until_within(STOP_TIMEOUT, "the replica stops", async || {
        Ok(cluster.member_mut(index).ended())
    })
    .await
    .context("the disk failed, and the replica goes on")?;
    let stopped = Duration::from_nanos(stage.history.now() - seen);
    let thrown = cluster.member(index).syscalls().thrown(case.fault);
    if case.who == Who::Leader {
        cluster.wait_for_successor(leader, STOP_TIMEOUT).await?;
        acknowledged_after(stage, leader, seen)?;
    }
    load.progress(100).await?;
    let gap = stage.history.longest_gap(from);
    let reason = reason(&cluster.member(index).logged_since(logged))?;
    // The disk is replaced by a healthy one, on which what was not synced never was.
    cluster.member(index).syscalls().set("")?;
    cluster.kill(index).await?;
    let undone = cluster.member(index).lossy()?.lose_power(Some(seed))?;
    cluster.start_member(index)?;
    cluster.wait_until_caught_up(index).await?;
    load.progress(20).await?;
    load.read_back().await?;
    Ok(format!(
        "seed {seed}: replica {}, {} calls failed (first {}), stopped within {stopped:.1?}, longest gap {gap:.1?}, {undone} changes lost, back; it said: {reason}",
        index + 1,
        thrown.len(),
        thrown.first().map_or("", |path| file_name(path)),
    ))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Nothing that was asked for after the first failure was seen is acknowledged in that leader's
/// term.
fn acknowledged_after(stage: &Stage<'_>, leader: Leader, seen: u64) -> Result<()> {
    let ops = stage.history.ops();
    let late = ops
        .iter()
        .filter(|op| op.is_ok() && op.term == Some(leader.term) && op.invoked > seen)
        .count();
    if late > 0 {
        bail!("{late} operations were acknowledged by a leader whose sync had failed");
    }
    Ok(())
}

/// The last line that tells of the failure.
fn reason(log: &str) -> Result<String> {
    let told = log.lines().rev().find(|line| {
        let line = line.to_lowercase();
        line.contains("stopped") || line.contains("error") || line.contains("failed")
    });
    match told {
        Some(line) => Ok(line.trim().to_owned()),
        None => bail!("the replica stopped without a word"),
    }
}
