//! Disks that fill up: the alarm comes before the disk is full, reads go on, and with room again
//! writes come back by themselves.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use quorate_rpc::proto::quorate::meta::meta_client::MetaClient;
use quorate_rpc::proto::quorate::meta::{GetRequest, PutRequest};
use quorate_rpc::{Client, ClientError, Retry};

use super::Stage;
use crate::cluster::{Cluster, Disk, Setup};
use crate::wait::{PATIENCE, until_within};
use crate::workload::Load;

const NAME: &str = "full disk";
/// Size of each replica's disk.
const DISK_MIB: u32 = 512;
/// Room below which a replica raises the alarm.
const LOW_MIB: u64 = 128;
/// Room at which that ends.
const CLEAR_MIB: u64 = 160;
/// Held back by each replica.
const RESERVE_MIB: u64 = 32;
/// What the filling leaves at first: too little, and far from none.
const LEFT_MIB: u64 = 64;
/// How long one call of a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// What a refusal for want of room says.
const REFUSAL: &str = "no writes are taken";

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<()> {
    let setup = Setup::new(Disk::Small(DISK_MIB))
        .set("quorate.disk.reserve", format!("{RESERVE_MIB}MB"))
        .set("quorate.disk.readOnlyBelow", format!("{LOW_MIB}MB"))
        .set("quorate.disk.alarmClearsAt", format!("{CLEAR_MIB}MB"));
    let mut cluster = Cluster::start(&stage.lab.programs, &stage.folder, setup).await?;
    let seed = u64::from(stage.draw());
    let mut load = Load::start(cluster.client(), stage.history.clone(), seed).await?;
    load.progress(200).await?;
    let outcome = one(stage, &mut cluster, &load).await;
    verdict(stage, "disk of one replica full", outcome);
    recover(&mut cluster).await?;
    let outcome = all(stage, &mut cluster, &load).await;
    verdict(stage, "disks of all replicas full", outcome);
    recover(&mut cluster).await?;
    stage.judge(NAME, &cluster, &mut load).await
}

fn verdict(stage: &mut Stage<'_>, name: &str, outcome: Result<String>) {
    match outcome {
        Ok(evidence) => stage.report.line(name, true, &evidence),
        Err(error) => stage.report.line(name, false, &format!("{error:#}")),
    }
}

/// Room on every disk, every replica up again.
async fn recover(cluster: &mut Cluster) -> Result<()> {
    for index in 0..cluster.len() {
        cluster.member(index).small()?.free()?;
        if cluster.member_mut(index).ended().is_some() {
            cluster.start_member(index)?;
        }
    }
    for index in 0..cluster.len() {
        cluster.wait_until_caught_up(index).await?;
    }
    Ok(())
}

/// The leader's disk fills up: the cluster goes on.
async fn one(stage: &mut Stage<'_>, cluster: &mut Cluster, load: &Load) -> Result<String> {
    let leader = cluster.wait_for_leader().await?;
    let index = leader.index;
    stage
        .history
        .nemesis(&format!("disk of replica {} fills up", index + 1));
    let from = stage.history.now();
    let logged = cluster.member(index).logged();
    cluster.member(index).small()?.fill(LEFT_MIB << 10)?;
    let alarm = until_within(PATIENCE, "the replica raises the alarm", async || {
        Ok(alarm(&cluster.member(index).logged_since(logged)))
    })
    .await?;
    let successor = cluster.wait_for_successor(leader, PATIENCE).await?;
    cluster.member(index).small()?.fill(0)?;
    let ops = stage.history.acks();
    load.progress(500).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    load.progress(500).await?;
    let gap = stage.history.longest_gap(from);
    let end = match cluster.member_mut(index).ended() {
        Some(status) => format!("it stopped ({status})"),
        None => "it stayed up".to_owned(),
    };
    cluster.member(index).small()?.free()?;
    if cluster.member_mut(index).ended().is_some() {
        cluster.start_member(index)?;
    }
    cluster.wait_until_caught_up(index).await?;
    Ok(format!(
        "replica {} led; alarm with room left: {alarm}; replica {} leads, {} operations went on with 0 KiB left there, {end}, and caught up with room again; longest gap {gap:.1?}",
        index + 1,
        successor.index + 1,
        stage.history.acks() - ops,
    ))
}

/// All disks fill up: no writes, before they are full; reads go on.
async fn all(stage: &mut Stage<'_>, cluster: &mut Cluster, load: &Load) -> Result<String> {
    stage.history.nemesis("all disks fill up");
    let client = cluster.client();
    for index in 0..cluster.len() {
        cluster.member(index).small()?.fill(LEFT_MIB << 10)?;
    }
    let refusal = until_within(PATIENCE, "writes are refused", async || {
        Ok(write(&client)
            .await
            .err()
            .filter(|text| text.contains(REFUSAL)))
    })
    .await?;
    let mut left = Vec::new();
    for index in 0..cluster.len() {
        cluster.must_run(index)?;
        left.push(format!("{} MiB", room_mib(cluster, index)?));
    }
    read(&client)
        .await
        .context("reads stopped with the writes")?;
    for index in 0..cluster.len() {
        cluster.member(index).small()?.fill(0)?;
    }
    // As long as nobody makes room it stays like that.
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        read(&client).await.context("reads stopped on full disks")?;
        if write(&client).await.is_ok() {
            bail!("a write was taken on full disks");
        }
    }
    for index in 0..cluster.len() {
        cluster.must_run(index)?;
        cluster.member(index).small()?.free()?;
    }
    let from = stage.history.now();
    load.progress(200)
        .await
        .context("writes do not come back with room")?;
    let back = Duration::from_nanos(stage.history.now() - from);
    for index in 0..cluster.len() {
        cluster.must_run(index)?;
    }
    Ok(format!(
        "read-only with {} left: {refusal}; reads went on with 0 KiB left; writes came back by themselves after {back:.1?}",
        left.join(", ")
    ))
}

/// What a replica logged about its disk.
fn alarm(log: &str) -> Option<String> {
    let line = log.lines().find(|line| line.contains("disk-low"))?;
    Some(line.trim().to_owned())
}

fn room_mib(cluster: &Cluster, index: usize) -> Result<u64> {
    let stat = nix::sys::statvfs::statvfs(cluster.member(index).data())
        .context("cannot ask for the room left")?;
    Ok((stat.blocks_available() * stat.fragment_size()) >> 20)
}

async fn write(client: &Client) -> Result<(), String> {
    let request = PutRequest {
        key: "probe".to_owned(),
        value: b"probe".to_vec(),
        token: Vec::new(),
    };
    let answer = client
        .call_within(PROBE_TIMEOUT, Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { MetaClient::new(leader).put(request).await }
        })
        .await;
    answer.map(|_| ()).map_err(|error| error.to_string())
}

async fn read(client: &Client) -> Result<(), ClientError> {
    client
        .call_within(PROBE_TIMEOUT * 2, Retry::Idempotent, |leader| async move {
            let key = "probe".to_owned();
            MetaClient::new(leader).get(GetRequest { key }).await
        })
        .await
        .map(|_| ())
}
