//! `quorate compact`: orders a compaction, and waits, if asked to, until it has ended.

use std::time::Duration;

use quorate_rpc::proto::milvus::common::CompactionState;
use quorate_rpc::proto::milvus::milvus::{
    GetCompactionPlansRequest, GetCompactionStateRequest, ManualCompactionRequest,
};
use quorate_rpc::status::checked;
use quorate_rpc::{Client, Retry};
use serde::Serialize;
use tokio::time::Instant;

use super::partitions::partition_id;
use super::{data_coord, describe};
use crate::answer::{Answer, or_dash, pairs};
use crate::context::Context;
use crate::error::{CliError, Exit};

/// Time between two looks at whether it has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Time between two lines about what is being waited for.
const NOTICE_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The collection, by name or id
    #[arg(long)]
    collection: String,
    /// Only this partition, by name or id
    #[arg(long)]
    partition: Option<String>,
    /// Wait until every plan has ended
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait, in seconds; exit code 1 when it is over
    #[arg(long, default_value_t = 600, value_name = "SECONDS", requires = "wait")]
    wait_timeout: u64,
}

impl Args {
    /// Compact one collection without waiting.
    pub(crate) fn ordering(collection: &str) -> Self {
        Self {
            wait: false,
            ..Self::waiting_for(collection, Duration::ZERO)
        }
    }

    /// Compact one collection and wait for it.
    pub(crate) fn waiting_for(collection: &str, timeout: Duration) -> Self {
        Self {
            collection: collection.to_owned(),
            partition: None,
            wait: true,
            wait_timeout: timeout.as_secs(),
        }
    }
}

#[derive(Debug, Serialize)]
struct CompactView {
    collection_id: i64,
    /// -1 when there was nothing to compact.
    compaction_id: i64,
    plans: i32,
    executing: i64,
    completed: i64,
    failed: i64,
    timed_out: i64,
    merges: Vec<MergeView>,
    /// Whether every plan has ended; null when not waited for.
    ended: Option<bool>,
}

/// Segments, and the one that took their place.
#[derive(Debug, Serialize)]
struct MergeView {
    sources: Vec<i64>,
    target: i64,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Answer, CliError> {
    let client = context.client()?;
    let mut view = start(&client, &args).await?;
    if args.wait {
        let timeout = Duration::from_secs(args.wait_timeout);
        wait(&client, &mut view, timeout).await?;
    }
    let well = view.ended != Some(false) && view.failed == 0 && view.timed_out == 0;
    let text = text_of(&view);
    Ok(Answer::new(&view, text)?.unless(well, Exit::Failed))
}

async fn start(client: &Client, args: &Args) -> Result<CompactView, CliError> {
    let collection = describe(client, &args.collection).await?;
    let request = ManualCompactionRequest {
        collection_id: collection.id,
        partition_id: partition_id(&collection, args.partition.as_deref())?,
        ..Default::default()
    };
    // Ordered twice, the second order finds the segments taken by the first.
    let reply = client
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { checked(data_coord(leader).manual_compaction(request).await?) }
        })
        .await?;
    Ok(CompactView {
        collection_id: collection.id,
        compaction_id: reply.compaction_id,
        plans: reply.compaction_plan_count,
        executing: 0,
        completed: 0,
        failed: 0,
        timed_out: 0,
        merges: Vec::new(),
        ended: None,
    })
}

async fn wait(client: &Client, view: &mut CompactView, timeout: Duration) -> Result<(), CliError> {
    if view.plans == 0 {
        view.ended = Some(true);
        return Ok(());
    }
    let id = view.compaction_id;
    let started = Instant::now();
    let mut notice = NOTICE_INTERVAL;
    loop {
        let state = client
            .call(Retry::Idempotent, |leader| async move {
                let request = GetCompactionStateRequest { compaction_id: id };
                checked(data_coord(leader).get_compaction_state(request).await?)
            })
            .await?;
        view.executing = state.executing_plan_no;
        view.completed = state.completed_plan_no;
        view.failed = state.failed_plan_no;
        view.timed_out = state.timeout_plan_no;
        let ended = state.state == CompactionState::Completed as i32;
        view.ended = Some(ended);
        if ended || started.elapsed() >= timeout {
            break;
        }
        if started.elapsed() >= notice {
            eprintln!(
                "{} of {} plans still open after {:.0} s …",
                view.executing,
                view.plans,
                started.elapsed().as_secs_f64()
            );
            notice += NOTICE_INTERVAL;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let plans = client
        .call(Retry::Idempotent, |leader| async move {
            let request = GetCompactionPlansRequest { compaction_id: id };
            checked(
                data_coord(leader)
                    .get_compaction_state_with_plans(request)
                    .await?,
            )
        })
        .await?;
    view.merges = plans
        .merge_infos
        .into_iter()
        .map(|info| MergeView {
            sources: info.sources,
            target: info.target,
        })
        .collect();
    Ok(())
}

fn text_of(view: &CompactView) -> String {
    if view.plans == 0 {
        return "there is nothing to compact".to_owned();
    }
    let state = match view.ended {
        None => "ordered; quorate compactions list shows how far it is",
        Some(true) => "ended",
        Some(false) => "not ended in time",
    };
    let mut rows = vec![
        ("compaction", view.compaction_id.to_string()),
        ("plans", view.plans.to_string()),
        ("state", state.to_owned()),
    ];
    if view.ended.is_some() {
        rows.push(("completed", view.completed.to_string()));
        rows.push(("failed", (view.failed + view.timed_out).to_string()));
        let merges = view.merges.iter().map(|merge| {
            let sources: Vec<String> = merge.sources.iter().map(i64::to_string).collect();
            format!("{} → {}", sources.join(", "), merge.target)
        });
        rows.push(("segments", or_dash(merges.collect::<Vec<_>>().join("; "))));
    }
    pairs(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCluster;

    fn args(wait_timeout: u64) -> Args {
        Args::waiting_for("docs", Duration::from_secs(wait_timeout))
    }

    #[tokio::test]
    async fn a_compaction_is_waited_for_until_every_plan_has_ended() {
        let cluster = FakeCluster::start(1).await;
        cluster.compaction_ends_at_poll(3);
        let answer = run(&cluster.context(), args(60)).await.unwrap();
        assert_eq!(answer.exit, None);
        assert_eq!(answer.json["completed"], 2);
        assert_eq!(answer.json["merges"][0]["target"], 300);
        assert!(answer.text.contains("100, 101 → 300"), "{}", answer.text);
    }

    #[tokio::test]
    async fn a_compaction_that_does_not_end_in_time_fails() {
        let cluster = FakeCluster::start(1).await;
        cluster.compaction_ends_at_poll(usize::MAX);
        let answer = run(&cluster.context(), args(0)).await.unwrap();
        assert_eq!(answer.exit, Some(Exit::Failed));
        assert_eq!(answer.json["ended"], false);
    }

    #[tokio::test]
    async fn nothing_to_compact_is_no_failure() {
        let cluster = FakeCluster::start(1).await;
        cluster.compaction_ends_at_poll(0);
        let answer = run(&cluster.context(), args(60)).await.unwrap();
        assert_eq!(answer.exit, None);
        assert_eq!(answer.json["compaction_id"], -1);
        assert_eq!(answer.text, "there is nothing to compact");
    }

    #[tokio::test]
    async fn a_partition_that_is_not_there_is_named() {
        let cluster = FakeCluster::start(1).await;
        let args = Args {
            partition: Some("nope".to_owned()),
            ..args(60)
        };
        let error = run(&cluster.context(), args).await.unwrap_err();
        assert!(error.to_string().contains("no partition nope"), "{error}");
    }
}
