//! `quorate gc`: what garbage collection would do, and making it do it now, or nothing for a time.

use std::time::Duration;

use quorate_rpc::Retry;
use quorate_rpc::proto::quorate::admin::{
    PauseGcRequest, PlanGcRequest, PlanGcResponse, ResumeGcRequest, RunGcRequest, RunGcResponse,
};
use serde::Serialize;

use super::{admin, collection_id, within};
use crate::answer::{Answer, Column, pairs, table, time};
use crate::context::Context;
use crate::error::CliError;

/// Orphans named in a table; the rest is counted.
const NAMED_MAX: usize = 20;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Run one round now; tolerances are as configured
    Run {
        /// Look for objects that nobody knows, too
        #[arg(long)]
        orphans: bool,
    },
    /// Show what would be done now, and why not more
    Plan {
        /// Look for objects that nobody knows, too: lists the whole object store
        #[arg(long)]
        orphans: bool,
    },
    /// Delete nothing for a time, or until resumed
    Pause {
        /// For how many seconds
        #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
        /// Only objects of this collection, by name or id
        #[arg(long)]
        collection: Option<String>,
        /// A name for this pause; the longest of all pauses counts
        #[arg(long, default_value = "")]
        ticket: String,
    },
    /// End a pause
    Resume {
        /// The pause with this ticket; all when not given
        #[arg(long, default_value = "")]
        ticket: String,
        /// Pauses of this collection, by name or id
        #[arg(long)]
        collection: Option<String>,
    },
}

#[derive(Debug, Serialize)]
pub(crate) struct PlanView {
    pub(crate) segments: Vec<SegmentView>,
    pub(crate) orphans: Vec<String>,
    pub(crate) young_orphans: u64,
    pub(crate) unreadable_names: u64,
    /// Why nothing is deleted now; empty when it is.
    pub(crate) paused: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct SegmentView {
    pub(crate) id: i64,
    pub(crate) verdict: String,
    pub(crate) dropped_at: u64,
}

#[derive(Debug, Serialize)]
struct RunView {
    condemned: u64,
    objects_deleted: u64,
    segments_forgotten: u64,
    indexes_forgotten: u64,
    collections_forgotten: u64,
    orphans_deleted: u64,
}

#[derive(Debug, Serialize)]
struct PauseView {
    ticket: String,
    until: u64,
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<Answer, CliError> {
    match command {
        Command::Run { orphans } => {
            let view = RunView::of(round(context, orphans).await?);
            let text = view.text();
            Answer::new(&view, text)
        }
        Command::Plan { orphans } => {
            let view = plan(context, orphans).await?;
            let text = view.text();
            Answer::new(&view, text)
        }
        Command::Pause {
            seconds,
            collection,
            ticket,
        } => pause(context, seconds, collection.as_deref(), ticket).await,
        Command::Resume { ticket, collection } => {
            resume(context, ticket, collection.as_deref()).await
        }
    }
}

/// How long a round may take: it may delete thousands of objects, and list the whole store.
const ROUND_TIMEOUT: Duration = Duration::from_secs(300);

/// Runs one round of garbage collection.
pub(crate) async fn round(context: &Context, orphans: bool) -> Result<RunGcResponse, CliError> {
    let context = &context.at_least(ROUND_TIMEOUT);
    let client = context.patient_client()?;
    let call = client.call(Retry::Idempotent, |leader| async move {
        let request = within(RunGcRequest { orphans }, context.timeout());
        admin(leader).run_gc(request).await
    });
    Ok(call.await?)
}

/// What garbage collection would do now.
pub(crate) async fn plan(context: &Context, orphans: bool) -> Result<PlanView, CliError> {
    let context = &context.at_least(ROUND_TIMEOUT);
    let client = context.patient_client()?;
    let call = client.call(Retry::Idempotent, |leader| async move {
        let request = within(PlanGcRequest { orphans }, context.timeout());
        admin(leader).plan_gc(request).await
    });
    Ok(PlanView::of(call.await?))
}

async fn pause(
    context: &Context,
    seconds: u64,
    collection: Option<&str>,
    ticket: String,
) -> Result<Answer, CliError> {
    let client = context.client()?;
    let request = PauseGcRequest {
        seconds,
        collection_id: collection_id(&client, collection).await?,
        // The same pause again, should the first answer be lost.
        ticket: match ticket.is_empty() {
            true => format!("cli-{:016x}", rand::random::<u64>()),
            false => ticket,
        },
    };
    let reply = client
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { admin(leader).pause_gc(request).await }
        })
        .await?;
    let view = PauseView {
        ticket: reply.ticket,
        until: reply.until,
    };
    let text = format!(
        "nothing is deleted until {}; quorate gc resume --ticket {} ends it",
        time(view.until),
        view.ticket
    );
    Answer::new(&view, text)
}

async fn resume(
    context: &Context,
    ticket: String,
    collection: Option<&str>,
) -> Result<Answer, CliError> {
    let client = context.client()?;
    let request = ResumeGcRequest {
        collection_id: collection_id(&client, collection).await?,
        ticket,
    };
    client
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { admin(leader).resume_gc(request).await }
        })
        .await?;
    Answer::new(&serde_json::json!({ "resumed": true }), "resumed")
}

impl PlanView {
    fn of(reply: PlanGcResponse) -> Self {
        Self {
            segments: reply
                .segments
                .into_iter()
                .map(|segment| SegmentView {
                    id: segment.segment_id,
                    verdict: segment.verdict,
                    dropped_at: segment.dropped_at,
                })
                .collect(),
            orphans: reply.orphans,
            young_orphans: reply.young_orphans,
            unreadable_names: reply.unreadable_names,
            paused: reply.paused,
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if !self.paused.is_empty() {
            text.push_str(&format!("nothing is deleted now: {}\n\n", self.paused));
        }
        if self.segments.is_empty() {
            text.push_str("no segment is dropped");
        } else {
            let columns = [
                Column::Number("segment"),
                Column::Text("dropped"),
                Column::Text("verdict"),
            ];
            let rows = self.segments.iter().map(|segment| {
                vec![
                    segment.id.to_string(),
                    time(segment.dropped_at),
                    segment.verdict.clone(),
                ]
            });
            text.push_str(&table(&columns, rows));
        }
        text.push_str("\n\n");
        text.push_str(&pairs([
            ("orphans", self.orphans.len().to_string()),
            ("too young yet", self.young_orphans.to_string()),
            (
                "names nobody understands",
                self.unreadable_names.to_string(),
            ),
        ]));
        for orphan in self.orphans.iter().take(NAMED_MAX) {
            text.push_str(&format!("\norphan: {orphan}"));
        }
        let more = self.orphans.len().saturating_sub(NAMED_MAX);
        if more > 0 {
            text.push_str(&format!("\norphan: and {more} more"));
        }
        text
    }
}

impl RunView {
    fn of(reply: RunGcResponse) -> Self {
        Self {
            condemned: reply.condemned,
            objects_deleted: reply.objects_deleted,
            segments_forgotten: reply.segments_forgotten,
            indexes_forgotten: reply.indexes_forgotten,
            collections_forgotten: reply.collections_forgotten,
            orphans_deleted: reply.orphans_deleted,
        }
    }

    fn text(&self) -> String {
        pairs([
            ("segments condemned", self.condemned.to_string()),
            ("objects deleted", self.objects_deleted.to_string()),
            ("segments forgotten", self.segments_forgotten.to_string()),
            ("indexes forgotten", self.indexes_forgotten.to_string()),
            (
                "collections forgotten",
                self.collections_forgotten.to_string(),
            ),
            ("orphans deleted", self.orphans_deleted.to_string()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCluster;

    #[tokio::test]
    async fn a_plan_names_what_waits_and_the_orphans() {
        let cluster = FakeCluster::start(1).await;
        let plan = Command::Plan { orphans: true };
        let answer = run(&cluster.context(), plan).await.unwrap();
        assert_eq!(answer.json["segments"][0]["verdict"], "waits: tolerance");
        assert_eq!(answer.json["orphans"].as_array().unwrap().len(), 25);
        for says in [
            "waits: tolerance",
            "orphan: insert_log/19",
            "orphan: and 5 more",
        ] {
            assert!(answer.text.contains(says), "{says}\n{}", answer.text);
        }
    }

    #[tokio::test]
    async fn a_round_says_what_it_did() {
        let cluster = FakeCluster::start(1).await;
        let round = Command::Run { orphans: false };
        let answer = run(&cluster.context(), round).await.unwrap();
        assert_eq!(answer.json["segments_forgotten"], 2);
        assert_eq!(answer.json["orphans_deleted"], 0);
    }

    #[tokio::test]
    async fn a_pause_shows_in_the_plan_until_it_is_ended() {
        let cluster = FakeCluster::start(1).await;
        let context = cluster.context();
        let pause = Command::Pause {
            seconds: 60,
            collection: Some("docs".to_owned()),
            ticket: String::new(),
        };
        let paused = run(&context, pause).await.unwrap();
        let ticket = paused.json["ticket"].as_str().unwrap().to_owned();
        assert!(paused.text.contains(&ticket));
        let plan = || Command::Plan { orphans: false };
        let answer = run(&context, plan()).await.unwrap();
        assert!(
            answer.text.contains("nothing is deleted now"),
            "{}",
            answer.text
        );
        let resume = Command::Resume {
            ticket,
            collection: Some("docs".to_owned()),
        };
        run(&context, resume).await.unwrap();
        let answer = run(&context, plan()).await.unwrap();
        assert_eq!(answer.json["paused"], "");
    }
}
