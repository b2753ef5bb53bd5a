//! `quorate flush`: seals what is growing, and waits, if asked to, until it is written out.

use std::time::Duration;

use quorate_rpc::proto::milvus::data::{FlushRequest, FlushResponse, GetFlushStateRequest};
use quorate_rpc::proto::quorate::collection::{Collection, ListCollectionsRequest};
use quorate_rpc::status::checked;
use quorate_rpc::{Client, Retry};
use serde::Serialize;
use tokio::time::Instant;

use super::{collections_client, data_coord, describe};
use crate::answer::{Answer, Column, table, time};
use crate::context::Context;
use crate::error::{CliError, Exit};

/// Time between two looks at whether a flush is complete.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Time between two lines about what is being waited for.
const NOTICE_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this collection, by name or id; all when not given
    #[arg(long)]
    collection: Option<String>,
    /// Wait until everything written before is in the object store
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait, in seconds; exit code 1 when it is over
    #[arg(long, default_value_t = 120, value_name = "SECONDS", requires = "wait")]
    wait_timeout: u64,
}

impl Args {
    /// Flush one collection without waiting.
    pub(crate) fn ordering(collection: &str) -> Self {
        Self {
            wait: false,
            ..Self::waiting_for(collection)
        }
    }

    /// Flush one collection and wait for it.
    pub(crate) fn waiting_for(collection: &str) -> Self {
        Self {
            collection: Some(collection.to_owned()),
            wait: true,
            wait_timeout: 60,
        }
    }
}

#[derive(Debug, Serialize)]
struct Flushed {
    collection: String,
    collection_id: i64,
    /// Sealed now or before, and not yet written out when the flush was ordered.
    sealed_segments: Vec<i64>,
    /// Written out already when the flush was ordered.
    flushed_segments: Vec<i64>,
    flush_ts: u64,
    /// Whether everything before flush_ts is written out; null when not waited for.
    complete: Option<bool>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Answer, CliError> {
    let client = context.client()?;
    let collections = match &args.collection {
        Some(name) => vec![describe(&client, name).await?],
        None => list(&client).await?,
    };
    let mut flushes = Vec::new();
    for collection in collections {
        flushes.push(start(&client, collection).await?);
    }
    if args.wait {
        wait(
            &client,
            &mut flushes,
            Duration::from_secs(args.wait_timeout),
        )
        .await?;
    }
    let complete = flushes.iter().all(|flush| flush.complete != Some(false));
    let text = text_of(&flushes);
    Ok(Answer::new(&flushes, text)?.unless(complete, Exit::Failed))
}

async fn list(client: &Client) -> Result<Vec<Collection>, CliError> {
    let reply = client
        .call(Retry::Idempotent, |leader| async move {
            collections_client(leader)
                .list_collections(ListCollectionsRequest {})
                .await
        })
        .await?;
    Ok(reply.collections)
}

async fn start(client: &Client, collection: Collection) -> Result<Flushed, CliError> {
    let id = collection.id;
    let reply: FlushResponse = client
        .call(Retry::Idempotent, |leader| async move {
            let request = FlushRequest {
                collection_id: id,
                ..Default::default()
            };
            checked(data_coord(leader).flush(request).await?)
        })
        .await
        .map_err(|error| {
            CliError::from(error).context(format!("cannot flush {}", collection.name))
        })?;
    Ok(Flushed {
        collection: collection.name,
        collection_id: id,
        sealed_segments: reply.segment_i_ds,
        flushed_segments: reply.flush_segment_i_ds,
        flush_ts: reply.flush_ts,
        complete: None,
    })
}

async fn wait(client: &Client, flushes: &mut [Flushed], timeout: Duration) -> Result<(), CliError> {
    let started = Instant::now();
    let mut notice = NOTICE_INTERVAL;
    loop {
        let mut open = Vec::new();
        for flush in flushes
            .iter_mut()
            .filter(|flush| flush.complete != Some(true))
        {
            let request = GetFlushStateRequest {
                segment_i_ds: flush.sealed_segments.clone(),
                flush_ts: flush.flush_ts,
                collection_id: flush.collection_id,
                ..Default::default()
            };
            let reply = client
                .call(Retry::Idempotent, |leader| {
                    let request = request.clone();
                    async move { checked(data_coord(leader).get_flush_state(request).await?) }
                })
                .await?;
            flush.complete = Some(reply.flushed);
            if !reply.flushed {
                open.push(flush.collection.as_str());
            }
        }
        if open.is_empty() || started.elapsed() >= timeout {
            return Ok(());
        }
        if started.elapsed() >= notice {
            eprintln!(
                "still writing out {} after {:.0} s …",
                open.join(", "),
                started.elapsed().as_secs_f64()
            );
            notice += NOTICE_INTERVAL;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn text_of(flushes: &[Flushed]) -> String {
    if flushes.is_empty() {
        return "there are no collections".to_owned();
    }
    let columns = [
        Column::Text("collection"),
        Column::Number("sealed"),
        Column::Number("flushed before"),
        Column::Text("flush time"),
        Column::Text("complete"),
    ];
    let rows = flushes.iter().map(|flush| {
        vec![
            flush.collection.clone(),
            flush.sealed_segments.len().to_string(),
            flush.flushed_segments.len().to_string(),
            time(flush.flush_ts),
            match flush.complete {
                None => "not waited for",
                Some(true) => "yes",
                Some(false) => "no",
            }
            .to_owned(),
        ]
    });
    table(&columns, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCluster;

    fn args(wait: bool) -> Args {
        Args {
            collection: Some("docs".to_owned()),
            wait,
            wait_timeout: 60,
        }
    }

    #[tokio::test]
    async fn a_flush_is_waited_for_until_it_is_complete() {
        let cluster = FakeCluster::start(1).await;
        cluster.flush_completes_at_poll(3);
        let answer = run(&cluster.context(), args(true)).await.unwrap();
        assert_eq!(answer.exit, None);
        assert_eq!(answer.json[0]["complete"], true);
        assert_eq!(answer.json[0]["sealed_segments"][0], 100);
    }

    #[tokio::test]
    async fn a_flush_that_does_not_complete_in_time_fails() {
        let cluster = FakeCluster::start(1).await;
        cluster.flush_completes_at_poll(usize::MAX);
        let args = Args {
            wait_timeout: 0,
            ..args(true)
        };
        let answer = run(&cluster.context(), args).await.unwrap();
        assert_eq!(answer.exit, Some(Exit::Failed));
        assert_eq!(answer.json[0]["complete"], false);
    }

    #[tokio::test]
    async fn without_waiting_nothing_is_claimed() {
        let cluster = FakeCluster::start(1).await;
        let answer = run(&cluster.context(), args(false)).await.unwrap();
        assert!(answer.json[0]["complete"].is_null());
    }

    #[tokio::test]
    async fn an_unknown_collection_is_named() {
        let cluster = FakeCluster::start(1).await;
        let args = Args {
            collection: Some("nope".to_owned()),
            ..args(false)
        };
        let error = run(&cluster.context(), args).await.unwrap_err();
        assert_eq!(error.exit(), Exit::Failed);
        assert!(error.to_string().contains("there is no collection nope"));
    }
}
