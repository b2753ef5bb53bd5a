//! The end of a soak: everything is written out, compacted and collected, and then exactly what
//! should be there is there.

use std::time::Duration;

use tokio::time::Instant;

use super::reader::{Look, Reader};
use super::shared::Shared;
use crate::cmd::inventory::{Inventory, Objects};
use crate::cmd::{check, compact, compactions, flush, gc};
use crate::error::CliError;

/// How long everything may take to settle.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(600);
/// Time between two looks at whether it has.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long the compactions of one collection may take.
const COMPACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// What is left in the end.
pub(super) struct Settled {
    pub(super) inventory: Inventory,
    /// Compactions that failed, with their reasons.
    pub(super) failed_compactions: Vec<String>,
    pub(super) took: Duration,
}

/// Waits until nothing moves any more and judges what is there. What is wrong is told as
/// violations.
pub(super) async fn settle(
    shared: &Shared,
    reader: &Reader,
    objects: &Objects,
) -> Result<Settled, CliError> {
    let started = Instant::now();
    let context = &shared.context;
    let collections = shared.model(|model| model.collections());
    for collection in &collections {
        let flushed = flush::run(context, flush::Args::waiting_for(collection)).await?;
        if flushed.exit.is_some() {
            shared.violation(format!("the flush of {collection} did not complete"));
        }
    }
    for collection in &collections {
        let args = compact::Args::waiting_for(collection, COMPACTION_TIMEOUT);
        let compacted = compact::run(context, args).await?;
        if compacted.json["ended"] != true {
            shared.violation(format!("the compaction of {collection} did not end"));
        }
    }
    let inventory = collect(shared, objects, started).await?;
    for problem in inventory.problems() {
        shared.violation(format!("in the end: {problem}"));
    }
    for collection in &collections {
        match reader.look(collection).await {
            Look::Good => shared.count("looks", 1),
            Look::Wrong => {}
            Look::Nothing => {
                shared.violation(format!("{collection} could not be read in the end"));
            }
        }
    }
    let checked = check::run(context, check::Args::full()).await?;
    if checked.exit.is_some() {
        shared.violation(format!("the replicas are not equal:\n{}", checked.text));
    }
    Ok(Settled {
        inventory,
        failed_compactions: failed_compactions(shared).await?,
        took: started.elapsed(),
    })
}

/// Collects garbage until only what is named is left, or time is over.
async fn collect(
    shared: &Shared,
    objects: &Objects,
    started: Instant,
) -> Result<Inventory, CliError> {
    let client = shared.context.client()?;
    loop {
        // The loops' own rounds go on meanwhile; one that fails here is tried again.
        let failed = gc::round(&shared.context, true).await.err();
        let open = compactions::run(
            &shared.context,
            compactions::Command::List {
                collection: None,
                all: false,
            },
        );
        let idle = open.await?.json.as_array().is_none_or(Vec::is_empty);
        let inventory = objects.inventory(&client).await?;
        if idle && inventory.is_clean() {
            return Ok(inventory);
        }
        if started.elapsed() >= SETTLE_TIMEOUT {
            if let Some(error) = failed {
                shared.violation(format!("the last garbage collection failed: {error}"));
            }
            return Ok(inventory);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn failed_compactions(shared: &Shared) -> Result<Vec<String>, CliError> {
    let command = compactions::Command::List {
        collection: None,
        all: true,
    };
    let answer = compactions::run(&shared.context, command).await?;
    let tasks = answer.json.as_array().into_iter().flatten();
    let failed = tasks.filter(|task| task["state"] == "failed");
    Ok(failed
        .map(|task| task["fail_reason"].as_str().unwrap_or_default().to_owned())
        .collect())
}
