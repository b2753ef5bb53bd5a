//! A leader whose disk stalls gives up leadership within seconds.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Stage;
use crate::cluster::{Cluster, Disk, Setup};
use crate::workload::Load;

const NAME: &str = "slow fsync";
/// How long leadership may stay with a leader whose disk stalls: seconds, and a machine under load.
const MOVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long each sync takes, in milliseconds.
const SYNC_MS: [u32; 2] = [1000, 5000];

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<()> {
    let setup = Setup::new(Disk::Lossy);
    let mut cluster = Cluster::start(&stage.lab.programs, &stage.folder, setup).await?;
    let seed = u64::from(stage.draw());
    let mut load = Load::start(cluster.client(), stage.history.clone(), seed).await?;
    for sync_ms in SYNC_MS {
        let name = format!("{NAME} of the leader, {sync_ms} ms");
        match slow(stage, &cluster, &load, sync_ms).await {
            Ok(evidence) => stage.report.line(&name, true, &evidence),
            Err(error) => stage.report.line(&name, false, &format!("{error:#}")),
        }
        for index in 0..cluster.len() {
            cluster.member(index).lossy()?.control("heal")?;
        }
        for index in 0..cluster.len() {
            cluster.wait_until_caught_up(index).await?;
        }
    }
    stage.judge(NAME, &cluster, &mut load).await
}

async fn slow(
    stage: &mut Stage<'_>,
    cluster: &Cluster,
    load: &Load,
    sync_ms: u32,
) -> Result<String> {
    load.progress(100).await?;
    let leader = cluster.wait_for_leader().await?;
    let disk = cluster.member(leader.index).lossy()?;
    let before = disk.counters()?.slowed;
    stage.history.nemesis(&format!(
        "syncs of replica {} take {sync_ms} ms",
        leader.index + 1
    ));
    let from = stage.history.now();
    disk.control(&format!("sync_ms={sync_ms}"))?;
    let successor = cluster
        .wait_for_successor(leader, MOVE_TIMEOUT)
        .await
        .context("leadership stays with the slow disk")?;
    let moved = Duration::from_nanos(stage.history.now() - from);
    load.progress(100).await?;
    let gap = stage.history.longest_gap(from);
    let slowed = disk.counters()?.slowed - before;
    if slowed == 0 {
        bail!("no sync was slow");
    }
    if successor.index == leader.index {
        bail!("the replica with the slow disk leads again");
    }
    Ok(format!(
        "replica {} led, {slowed} syncs slowed; replica {} leads after {moved:.1?}, longest gap {gap:.1?}",
        leader.index + 1,
        successor.index + 1
    ))
}
