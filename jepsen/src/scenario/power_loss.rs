//! The power goes: what was not synced is lost, and the last write may be torn. First of one
//! replica at a time, then of all at once, under load.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::RngExt;

use super::Stage;
use crate::cluster::{Cluster, Disk, Setup};
use crate::workload::Load;

const NAME: &str = "power loss";
/// Operations acknowledged between two losses, so that there is something to lose.
const BETWEEN: usize = 150;
/// Rounds of one replica after which what was written is read back.
const READ_BACK_EVERY: u32 = 5;

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<()> {
    let setup = Setup::new(Disk::Lossy)
        .set("quorate.raft.snapshotEntries", 4000)
        .set("quorate.raft.keepEntries", 1000);
    let mut cluster = Cluster::start(&stage.lab.programs, &stage.folder, setup).await?;
    let seed = u64::from(stage.draw());
    let mut load = Load::start(cluster.client(), stage.history.clone(), seed).await?;
    let mut undone = 0;
    for round in 1..=stage.rounds {
        let seed = stage.draw();
        undone += one(stage, &mut cluster, &load, round, seed)
            .await
            .with_context(|| format!("{NAME} of one replica, round {round}, seed {seed}"))?;
    }
    let rounds = (stage.rounds * 3).div_ceil(10);
    for round in 1..=rounds {
        let seed = stage.draw();
        undone += all(stage, &mut cluster, &load, round, rounds, seed)
            .await
            .with_context(|| format!("{NAME} of all replicas, round {round}, seed {seed}"))?;
    }
    if undone == 0 {
        bail!("no write was lost in any round: the disks lose nothing, which proves nothing");
    }
    stage.judge(NAME, &cluster, &mut load).await
}

/// One round of one replica. How many changes its disk lost.
async fn one(
    stage: &mut Stage<'_>,
    cluster: &mut Cluster,
    load: &Load,
    round: u32,
    seed: u32,
) -> Result<u64> {
    load.progress(BETWEEN).await?;
    let leader = cluster.wait_for_leader().await?;
    let index = if stage.rng.random_bool(0.5) {
        leader.index
    } else {
        stage.rng.random_range(0..cluster.len())
    };
    let role = if index == leader.index {
        "leader"
    } else {
        "follower"
    };
    let what = format!("replica {} ({role})", index + 1);
    stage.history.nemesis(&format!("power loss of {what}"));
    let from = stage.history.now();
    cluster.kill(index).await?;
    let undone = cluster.member(index).lossy()?.lose_power(Some(seed))?;
    cluster.start_member(index)?;
    cluster.wait_until_caught_up(index).await?;
    let back = Duration::from_nanos(stage.history.now() - from);
    load.progress(1).await?;
    if round.is_multiple_of(READ_BACK_EVERY) {
        load.read_back().await?;
    }
    stage.report.line(
        "power loss of one replica",
        true,
        &format!(
            "round {round} of {}, seed {seed}: {what}, {undone} changes lost; caught up after {back:.1?}, longest gap {:.1?}",
            stage.rounds,
            stage.history.longest_gap(from)
        ),
    );
    Ok(undone)
}

/// One round of all of them. How many changes their disks lost.
async fn all(
    stage: &mut Stage<'_>,
    cluster: &mut Cluster,
    load: &Load,
    round: u32,
    rounds: u32,
    seed: u32,
) -> Result<u64> {
    load.progress(BETWEEN).await?;
    stage.history.nemesis("power loss of all replicas");
    let from = stage.history.now();
    cluster.kill_all().await?;
    let mut undone = 0;
    for index in 0..cluster.len() {
        let own = seed.wrapping_add(u32::try_from(index).unwrap_or(0));
        undone += cluster.member(index).lossy()?.lose_power(Some(own))?;
    }
    for index in 0..cluster.len() {
        cluster.start_member(index)?;
    }
    for index in 0..cluster.len() {
        cluster.wait_until_caught_up(index).await?;
    }
    let back = Duration::from_nanos(stage.history.now() - from);
    load.progress(1).await?;
    let keys = load.read_back().await?;
    stage.report.line(
        "power loss of all replicas",
        true,
        &format!(
            "round {round} of {rounds}, seed {seed}: {undone} changes lost; all caught up after {back:.1?}, longest gap {:.1?}, {keys} keys read back",
            stage.history.longest_gap(from)
        ),
    );
    Ok(undone)
}
