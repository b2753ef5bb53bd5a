//! `quorate status`: asks every replica that can be found, each about itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use quorate_rpc::Client;
use quorate_rpc::proto::quorate::admin::{StatusRequest, StatusResponse};
use serde::Serialize;

use super::{admin, within};
use crate::answer::{Answer, Column, or_dash, pairs, table};
use crate::context::Context;
use crate::error::{CliError, Exit};

/// How long one replica may take to answer.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(3);

/// One replica, or an address at which none answered.
#[derive(Debug, Serialize)]
struct ReplicaView {
    client_address: String,
    reachable: bool,
    error: Option<String>,
    node_id: u64,
    peer_address: String,
    role: String,
    leading: bool,
    voter: bool,
    term: u64,
    leader_id: u64,
    last_log_index: u64,
    committed_index: u64,
    applied_index: u64,
    snapshot_index: u64,
    purged_index: u64,
    digest: String,
    version: String,
}

/// The cluster as its replicas tell it.
#[derive(Debug, Serialize)]
struct ClusterView {
    cluster_id: String,
    term: u64,
    leader: Option<LeaderView>,
    replicas: Vec<ReplicaView>,
    collections: u64,
    segments: u64,
    channels: u64,
    data_nodes: u64,
}

#[derive(Debug, Serialize)]
struct LeaderView {
    node_id: u64,
    client_address: String,
}

/// What each address answered.
pub(super) type Answers = BTreeMap<String, Result<StatusResponse, String>>;

/// Asks the given addresses, and every replica these name, each once.
pub(super) async fn ask_all(client: &Client) -> Answers {
    let mut answers = Answers::new();
    let mut known_nodes = BTreeSet::new();
    let mut to_ask: BTreeSet<String> = client.endpoints().into_iter().collect();
    while !to_ask.is_empty() {
        let asked = join_all(to_ask.iter().map(|address| ask(client, address))).await;
        for (address, answer) in std::mem::take(&mut to_ask).into_iter().zip(asked) {
            if let Ok(status) = &answer {
                // A replica reached under a second name is the same replica.
                if status.node_id != 0 && !known_nodes.insert(status.node_id) {
                    continue;
                }
            }
            answers.insert(address, answer);
        }
        for status in answers.values().flatten() {
            for replica in &status.replicas {
                let address = &replica.client_address;
                let unknown = !known_nodes.contains(&replica.node_id);
                if unknown && !address.is_empty() && !answers.contains_key(address) {
                    to_ask.insert(address.clone());
                }
            }
        }
    }
    answers
}

async fn ask(client: &Client, address: &str) -> Result<StatusResponse, String> {
    let ask = async {
        let replica = client.at(address).await.map_err(|error| root_of(&error))?;
        let answer = admin(replica)
            .status(within(StatusRequest {}, REPLICA_TIMEOUT))
            .await;
        match answer {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(status.message().to_owned()),
        }
    };
    tokio::time::timeout(REPLICA_TIMEOUT, ask)
        .await
        .unwrap_or_else(|_| Err(format!("no answer in {REPLICA_TIMEOUT:?}")))
}

/// The cause at the root, which for a connection is what the system says.
pub(super) fn root_of(error: &dyn std::error::Error) -> String {
    let mut root = error;
    while let Some(cause) = root.source() {
        root = cause;
    }
    root.to_string()
}

pub(crate) async fn run(context: &Context) -> Result<Answer, CliError> {
    let client = context.client()?;
    let view = view_of(ask_all(&client).await);
    let exit = if view.leader.is_some() {
        None
    } else {
        Some(Exit::Unavailable)
    };
    let text = text_of(&view);
    Ok(Answer {
        exit,
        ..Answer::new(&view, text)?
    })
}

fn view_of(answers: Answers) -> ClusterView {
    let best = answers
        .values()
        .flatten()
        .max_by_key(|status| (status.leading, status.term, status.applied_index))
        .cloned()
        .unwrap_or_default();
    // The one that leads in the highest term: an older leader may not know of it yet.
    let leader = answers
        .iter()
        .filter_map(|(address, answer)| Some((address, answer.as_ref().ok()?)))
        .filter(|(_, status)| status.leading)
        .max_by_key(|(_, status)| status.term)
        .map(|(address, status)| LeaderView {
            node_id: status.node_id,
            client_address: address.clone(),
        });
    let mut replicas: Vec<ReplicaView> = answers
        .iter()
        .map(|(address, answer)| replica_view(address, answer, &best))
        .collect();
    replicas.sort_by(|a, b| (a.node_id, &a.client_address).cmp(&(b.node_id, &b.client_address)));
    ClusterView {
        term: answers
            .values()
            .flatten()
            .map(|s| s.term)
            .max()
            .unwrap_or(0),
        leader,
        replicas,
        cluster_id: best.cluster_id,
        collections: best.collections,
        segments: best.segments,
        channels: best.channels,
        data_nodes: best.data_nodes,
    }
}

fn replica_view(
    address: &str,
    answer: &Result<StatusResponse, String>,
    best: &StatusResponse,
) -> ReplicaView {
    let status = answer.clone().unwrap_or_default();
    let member = best.replicas.iter().find(|replica| {
        if status.node_id == 0 {
            replica.client_address == address
        } else {
            replica.node_id == status.node_id
        }
    });
    ReplicaView {
        client_address: address.to_owned(),
        reachable: answer.is_ok(),
        error: answer.as_ref().err().cloned(),
        node_id: member.map_or(status.node_id, |member| member.node_id),
        peer_address: member.map_or_else(String::new, |member| member.peer_address.clone()),
        voter: member.is_some_and(|member| member.voter),
        role: status.role,
        leading: status.leading,
        term: status.term,
        leader_id: status.leader_id,
        last_log_index: status.last_log_index,
        committed_index: status.committed_index,
        applied_index: status.applied_index,
        snapshot_index: status.snapshot_index,
        purged_index: status.purged_index,
        digest: status.digest,
        version: status.version,
    }
}

fn text_of(view: &ClusterView) -> String {
    let leader = match &view.leader {
        Some(leader) => format!("replica {} at {}", leader.node_id, leader.client_address),
        None => "none".to_owned(),
    };
    let summary = pairs([
        ("cluster", or_dash(&view.cluster_id)),
        ("leader", leader),
        ("term", view.term.to_string()),
        ("collections", view.collections.to_string()),
        ("segments", view.segments.to_string()),
        ("channels", view.channels.to_string()),
        ("data nodes", view.data_nodes.to_string()),
    ]);
    let columns = [
        Column::Number("replica"),
        Column::Text("address"),
        Column::Text("role"),
        Column::Number("term"),
        Column::Number("applied"),
        Column::Number("committed"),
        Column::Number("last log"),
        Column::Number("snapshot"),
        Column::Text("version"),
    ];
    let rows = view.replicas.iter().map(|replica| {
        let mut row = vec![
            or_dash(if replica.node_id == 0 {
                String::new()
            } else {
                replica.node_id.to_string()
            }),
            replica.client_address.clone(),
        ];
        match &replica.error {
            Some(_) => row.push("unreachable".to_owned()),
            None => row.extend([
                match (replica.leading, replica.role.as_str()) {
                    (false, "leader") => "leader (not serving)".to_owned(),
                    (_, role) => role.to_owned(),
                },
                replica.term.to_string(),
                replica.applied_index.to_string(),
                replica.committed_index.to_string(),
                replica.last_log_index.to_string(),
                replica.snapshot_index.to_string(),
                replica.version.clone(),
            ]),
        }
        row
    });
    let mut text = format!("{summary}\n\n{}\n", table(&columns, rows));
    for replica in &view.replicas {
        if let Some(error) = &replica.error {
            text.push_str(&format!(
                "\n{} is unreachable: {error}",
                replica.client_address
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCluster;

    #[tokio::test]
    async fn every_replica_is_found_from_one_and_the_dead_are_shown() {
        let cluster = FakeCluster::start(2).await.with_dead_replica().await;
        let answer = run(&cluster.context_of(0)).await.unwrap();
        assert_eq!(answer.exit, None);
        let replicas = answer.json["replicas"].as_array().unwrap();
        assert_eq!(replicas.len(), 3);
        let reachable: Vec<bool> = replicas
            .iter()
            .map(|replica| replica["reachable"].as_bool().unwrap())
            .collect();
        assert_eq!(reachable, [true, true, false]);
        assert_eq!(answer.json["leader"]["node_id"], 1);
        assert_eq!(replicas[2]["node_id"], 3);
        assert!(answer.text.contains("unreachable"));
    }

    #[tokio::test]
    async fn a_replica_reached_under_two_names_is_shown_once() {
        let cluster = FakeCluster::start(1).await;
        let address = cluster.address(0).replace("127.0.0.1", "localhost");
        let endpoints = vec![cluster.address(0), address];
        let answer = run(&Context::to(endpoints, REPLICA_TIMEOUT)).await.unwrap();
        assert_eq!(answer.json["replicas"].as_array().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn without_a_leader_the_cluster_is_unavailable() {
        let cluster = FakeCluster::start(1).await;
        cluster.depose();
        let answer = run(&cluster.context()).await.unwrap();
        assert_eq!(answer.exit, Some(Exit::Unavailable));
        assert!(answer.json["leader"].is_null());
    }
}
