//! Disks that say they have synced and have not: then power loss must lose something, and it must
//! be noticed, by a replica that refuses or by the checkers. A harness that notices nothing here
//! would notice nothing anywhere.

use std::time::Duration;

use anyhow::Result;

use super::Stage;
use crate::check;
use crate::cluster::{Cluster, Disk, Setup};
use crate::wait::until_within;
use crate::workload::Load;

const NAME: &str = "lying fsync is noticed";
/// Clusters tried before it counts as not noticed.
const TRIES: u32 = 3;
/// How long replicas may take to come back, or not to.
const RETURN_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<()> {
    for attempt in 1..=TRIES {
        let folder = stage.folder.join(attempt.to_string());
        std::fs::create_dir_all(&folder)?;
        let setup = Setup::new(Disk::Lossy);
        let mut cluster = Cluster::start(&stage.lab.programs, &folder, setup).await?;
        let seed = u64::from(stage.draw());
        let mut load = Load::start(cluster.client(), stage.history.clone(), seed).await?;
        load.progress(200).await?;
        for index in 0..cluster.len() {
            cluster.member(index).lossy()?.control("sync_lie=1")?;
        }
        load.progress(500).await?;
        load.pause().await?;
        stage
            .history
            .nemesis("power loss of all replicas, disks lied");
        cluster.kill_all().await?;
        let mut lies = 0;
        let mut undone = 0;
        for index in 0..cluster.len() {
            let disk = cluster.member(index).lossy()?;
            lies += disk.counters()?.lies;
            undone += disk.lose_power(None)?;
            disk.control("heal")?;
        }
        let evidence =
            format!("try {attempt}, seed {seed}: {lies} syncs lied, {undone} changes lost");
        if let Some(noticed) = noticed(stage, &mut cluster, &load).await? {
            stage
                .report
                .line(NAME, true, &format!("{evidence}; {noticed}"));
            return Ok(());
        }
        println!("        {evidence}; not noticed");
    }
    stage.report.line(
        NAME,
        false,
        "disks that lied lost nothing anybody noticed: the harness is blind",
    );
    Ok(())
}

/// Starts the replicas again. How somebody noticed, if anybody did.
async fn noticed(stage: &Stage<'_>, cluster: &mut Cluster, load: &Load) -> Result<Option<String>> {
    for index in 0..cluster.len() {
        cluster.start_member(index)?;
    }
    let refused = until_within(RETURN_TIMEOUT, "replicas come back", async || {
        for index in 0..cluster.len() {
            if cluster.member_mut(index).ended().is_some() {
                return Ok(Some(Some(index)));
            }
        }
        Ok(cluster.leader().await.map(|_| None))
    })
    .await;
    match refused {
        Ok(Some(index)) => {
            return Ok(Some(format!(
                "replica {} refuses: {}",
                index + 1,
                cluster.member(index).last_words()
            )));
        }
        Ok(None) => {}
        Err(error) => return Ok(Some(format!("{error:#}"))),
    }
    load.read_back().await?;
    let found = check::history(&stage.history.ops());
    Ok(found.first().map(|first| {
        format!(
            "the checkers find {} violations, such as {first}",
            found.len()
        )
    }))
}
