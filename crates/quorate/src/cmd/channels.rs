//! `quorate channels`: who owns which.

use quorate_rpc::Retry;
use quorate_rpc::proto::quorate::admin::{Channel, ListChannelsRequest};
use serde::Serialize;

use super::{admin, collection_id};
use crate::answer::{Answer, Column, or_dash, table, time};
use crate::context::Context;
use crate::error::CliError;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List channels with state, owner and checkpoint
    List {
        /// Only those of this collection, by name or id
        #[arg(long)]
        collection: Option<String>,
    },
}

#[derive(Debug, Serialize)]
struct ChannelView {
    name: String,
    collection_id: i64,
    state: String,
    node_id: i64,
    node_address: String,
    assignment_epoch: i64,
    checkpoint_ts: u64,
    dropped: bool,
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<Answer, CliError> {
    let Command::List { collection } = command;
    let client = context.client()?;
    let request = ListChannelsRequest {
        collection_id: collection_id(&client, collection.as_deref()).await?,
    };
    let reply = client
        .call(Retry::Idempotent, |leader| async move {
            admin(leader).list_channels(request).await
        })
        .await?;
    let channels: Vec<ChannelView> = reply.channels.into_iter().map(view_of).collect();
    let columns = [
        Column::Text("channel"),
        Column::Number("collection"),
        Column::Text("state"),
        Column::Number("node"),
        Column::Text("address"),
        Column::Number("epoch"),
        Column::Text("checkpoint"),
    ];
    let rows = channels.iter().map(|channel| {
        vec![
            channel.name.clone(),
            channel.collection_id.to_string(),
            if channel.dropped {
                "dropped".to_owned()
            } else {
                channel.state.clone()
            },
            or_dash(if channel.node_id > 0 {
                channel.node_id.to_string()
            } else {
                String::new()
            }),
            or_dash(&channel.node_address),
            channel.assignment_epoch.to_string(),
            or_dash(time(channel.checkpoint_ts)),
        ]
    });
    let text = table(&columns, rows);
    Answer::new(&channels, text)
}

fn view_of(channel: Channel) -> ChannelView {
    ChannelView {
        name: channel.name,
        collection_id: channel.collection_id,
        state: channel.state,
        node_id: channel.node_id,
        node_address: channel.node_address,
        assignment_epoch: channel.assignment_epoch,
        checkpoint_ts: channel.checkpoint_ts,
        dropped: channel.dropped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCluster;

    #[tokio::test]
    async fn channels_are_listed_with_their_owners() {
        let cluster = FakeCluster::start(1).await;
        let command = Command::List { collection: None };
        let answer = run(&cluster.context(), command).await.unwrap();
        assert_eq!(answer.json[0]["name"], "by-dev-docs_1v0");
        assert_eq!(answer.json[0]["node_id"], 7);
        assert!(answer.text.contains("Watched"));
    }
}
