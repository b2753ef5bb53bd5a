//! `quorate nodes`: the data nodes.

use quorate_rpc::Retry;
use quorate_rpc::proto::quorate::admin::{ListNodesRequest, Node};
use serde::Serialize;

use super::admin;
use crate::answer::{Answer, Column, bytes, table, time};
use crate::context::Context;
use crate::error::CliError;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List data nodes with their lease and load
    List,
}

#[derive(Debug, Serialize)]
struct NodeView {
    id: i64,
    address: String,
    session: String,
    version: String,
    registered_at: u64,
    channels: u32,
    heartbeat_age_ms: u64,
    buffered_rows: u64,
    buffered_bytes: u64,
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<Answer, CliError> {
    let Command::List = command;
    let reply = context
        .client()?
        .call(Retry::Idempotent, |leader| async move {
            admin(leader).list_nodes(ListNodesRequest {}).await
        })
        .await?;
    let nodes: Vec<NodeView> = reply.nodes.into_iter().map(view_of).collect();
    let columns = [
        Column::Number("node"),
        Column::Text("address"),
        Column::Number("channels"),
        Column::Number("heartbeat"),
        Column::Number("buffered rows"),
        Column::Number("buffered"),
        Column::Text("registered"),
        Column::Text("version"),
    ];
    let rows = nodes.iter().map(|node| {
        vec![
            node.id.to_string(),
            node.address.clone(),
            node.channels.to_string(),
            format!("{:.1} s ago", node.heartbeat_age_ms as f64 / 1000.0),
            node.buffered_rows.to_string(),
            bytes(node.buffered_bytes),
            time(node.registered_at),
            node.version.clone(),
        ]
    });
    let text = table(&columns, rows);
    Answer::new(&nodes, text)
}

fn view_of(node: Node) -> NodeView {
    NodeView {
        id: node.id,
        address: node.address,
        session: node.session,
        version: node.version,
        registered_at: node.registered_at,
        channels: node.channels,
        heartbeat_age_ms: node.heartbeat_age_ms,
        buffered_rows: node.buffered_rows,
        buffered_bytes: node.buffered_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCluster;

    #[tokio::test]
    async fn nodes_are_listed_with_their_load() {
        let cluster = FakeCluster::start(1).await;
        let answer = run(&cluster.context(), Command::List).await.unwrap();
        assert_eq!(answer.json[0]["id"], 7);
        assert!(answer.text.contains("1.0 KiB"));
    }
}
