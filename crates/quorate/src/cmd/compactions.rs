//! `quorate compactions`: what is being compacted, and what was.

use quorate_rpc::Retry;
use quorate_rpc::proto::quorate::admin::{Compaction, ListCompactionsRequest};
use serde::Serialize;

use super::{admin, collection_id};
use crate::answer::{Answer, Column, or_dash, table, time};
use crate::context::Context;
use crate::error::CliError;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List compaction tasks
    List {
        /// Only those of this collection, by name or id
        #[arg(long)]
        collection: Option<String>,
        /// Ended ones too, as long as they are remembered
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Serialize)]
struct TaskView {
    plan_id: i64,
    trigger_id: i64,
    kind: String,
    state: String,
    collection_id: i64,
    partition_id: i64,
    channel: String,
    inputs: Vec<i64>,
    targets: Vec<i64>,
    outputs: Vec<i64>,
    node_id: i64,
    attempt: u32,
    started_at: u64,
    ended_at: u64,
    fail_reason: String,
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<Answer, CliError> {
    let Command::List { collection, all } = command;
    let client = context.client()?;
    let request = ListCompactionsRequest {
        collection_id: collection_id(&client, collection.as_deref()).await?,
        include_ended: all,
    };
    let reply = client
        .call(Retry::Idempotent, |leader| async move {
            admin(leader).list_compactions(request).await
        })
        .await?;
    let tasks: Vec<TaskView> = reply.compactions.into_iter().map(view_of).collect();
    let text = if tasks.is_empty() {
        "there are no compactions".to_owned()
    } else {
        text_of(&tasks)
    };
    Answer::new(&tasks, text)
}

fn view_of(task: Compaction) -> TaskView {
    TaskView {
        plan_id: task.plan_id,
        trigger_id: task.trigger_id,
        kind: task.kind,
        state: task.state,
        collection_id: task.collection_id,
        partition_id: task.partition_id,
        channel: task.channel,
        inputs: task.inputs,
        targets: task.targets,
        outputs: task.outputs,
        node_id: task.node_id,
        attempt: task.attempt,
        started_at: task.started_at,
        ended_at: task.ended_at,
        fail_reason: task.fail_reason,
    }
}

fn text_of(tasks: &[TaskView]) -> String {
    let columns = [
        Column::Number("plan"),
        Column::Text("kind"),
        Column::Text("state"),
        Column::Text("channel"),
        Column::Number("partition"),
        Column::Text("inputs"),
        Column::Text("outputs or targets"),
        Column::Number("node"),
        Column::Number("try"),
        Column::Text("started"),
        Column::Text("ended"),
        Column::Text("why it failed"),
    ];
    let ids = |ids: &[i64]| {
        let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
        or_dash(ids.join(","))
    };
    let rows = tasks.iter().map(|task| {
        let outputs = if task.outputs.is_empty() {
            &task.targets
        } else {
            &task.outputs
        };
        vec![
            task.plan_id.to_string(),
            task.kind.clone(),
            task.state.clone(),
            task.channel.clone(),
            task.partition_id.to_string(),
            ids(&task.inputs),
            ids(outputs),
            task.node_id.to_string(),
            task.attempt.to_string(),
            time(task.started_at),
            or_dash(time(task.ended_at)),
            or_dash(&task.fail_reason),
        ]
    });
    table(&columns, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCluster;

    #[tokio::test]
    async fn tasks_are_listed_and_ended_ones_when_asked_for() {
        let cluster = FakeCluster::start(1).await;
        let list = |all| Command::List {
            collection: Some("docs".to_owned()),
            all,
        };
        let live = run(&cluster.context(), list(false)).await.unwrap();
        assert_eq!(live.json.as_array().unwrap().len(), 1);
        assert_eq!(live.json[0]["state"], "executing");
        let all = run(&cluster.context(), list(true)).await.unwrap();
        assert_eq!(all.json.as_array().unwrap().len(), 2);
        assert!(all.text.contains("disk full"), "{}", all.text);
    }
}
