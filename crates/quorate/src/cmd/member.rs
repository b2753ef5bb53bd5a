//! `quorate member` and `quorate leader`: who belongs to the cluster, and who leads it.

use std::time::Duration;

use quorate_rpc::channel::check_address;
use quorate_rpc::proto::quorate::admin::{
    AddMemberRequest, PromoteMemberRequest, RemoveMemberRequest, TransferLeaderRequest,
};
use quorate_rpc::{Client, ClientError, Retry};
use serde::Serialize;
use tokio::time::Instant;

use super::status::{Answers, ask_all};
use super::{admin, within};
use crate::answer::{Answer, Column, or_dash, table};
use crate::context::Context;
use crate::error::{CliError, Exit};

/// Time between two tries to promote a learner that has not caught up.
const PROMOTE_INTERVAL: Duration = Duration::from_millis(500);
/// How long one such call may take: the leader waits some seconds for a learner by itself.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the members, with how far each has come
    List,
    /// Take a replica that waits with an empty folder into the cluster
    Add(AddArgs),
    /// Give a member that has caught up its vote
    Promote {
        /// Its node id
        node: u64,
    },
    /// Take a member out of the cluster; it serves no more
    Remove {
        /// Its node id
        node: u64,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct AddArgs {
    /// Addresses of the replica: for peers and for clients, as it advertises them
    #[arg(value_name = "PEER=CLIENT", value_parser = parse)]
    member: (String, String),
    /// Leave it without a vote
    #[arg(long)]
    learner: bool,
    /// How long it may take to catch up before its vote is left for later, in seconds
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    catch_up_timeout: u64,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum LeaderCommand {
    /// Hand leadership to another voter
    Transfer {
        /// Its node id; when not given, the one whose log is longest
        #[arg(long, value_name = "NODE")]
        to: Option<u64>,
    },
}

fn parse(text: &str) -> Result<(String, String), String> {
    let Some((peer, client)) = text.split_once('=') else {
        return Err("write PEER=CLIENT, for example 10.0.0.4:13334=10.0.0.4:13333".to_owned());
    };
    for address in [peer, client] {
        check_address(address).map_err(|error| error.to_string())?;
    }
    Ok((peer.to_owned(), client.to_owned()))
}

#[derive(Debug, Serialize)]
struct MemberView {
    node_id: u64,
    voter: bool,
    leads: bool,
    reachable: bool,
    peer_address: String,
    client_address: String,
    applied_index: u64,
    last_log_index: u64,
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<Answer, CliError> {
    let client = context.client()?;
    match command {
        Command::List => list(&client).await,
        Command::Add(args) => add(&client, args).await,
        Command::Promote { node } => {
            promote(&client, node).await?;
            Answer::new(
                &serde_json::json!({ "node_id": node, "voter": true }),
                format!("node {node} has a vote"),
            )
        }
        Command::Remove { node } => remove(&client, node).await,
    }
}

pub(crate) async fn run_leader(
    context: &Context,
    command: LeaderCommand,
) -> Result<Answer, CliError> {
    let LeaderCommand::Transfer { to } = command;
    let client = context.client()?;
    // Not repeated blindly: without a target a second call would hand it on once more.
    let retry = match to {
        Some(_) => Retry::Idempotent,
        None => Retry::IfNotApplied,
    };
    let request = TransferLeaderRequest {
        node_id: to.unwrap_or(0),
    };
    let reply = client
        .call(retry, |leader| async move {
            let request = within(request, CALL_TIMEOUT);
            admin(leader).transfer_leader(request).await
        })
        .await?;
    Answer::new(
        &serde_json::json!({ "leader": reply.node_id }),
        format!("node {} leads", reply.node_id),
    )
}

async fn list(client: &Client) -> Result<Answer, CliError> {
    let answers = ask_all(client).await;
    let members = members_of(&answers);
    let known = !members.is_empty();
    let columns = [
        Column::Number("node"),
        Column::Text("role"),
        Column::Text("peer address"),
        Column::Text("client address"),
        Column::Number("applied"),
        Column::Number("last log"),
    ];
    let rows = members.iter().map(|member| {
        let role = match (member.reachable, member.leads, member.voter) {
            (false, _, true) => "voter, unreachable",
            (false, _, false) => "learner, unreachable",
            (true, true, _) => "leader",
            (true, false, true) => "voter",
            (true, false, false) => "learner",
        };
        let number = |value: u64| {
            or_dash(if member.reachable {
                value.to_string()
            } else {
                String::new()
            })
        };
        vec![
            member.node_id.to_string(),
            role.to_owned(),
            member.peer_address.clone(),
            member.client_address.clone(),
            number(member.applied_index),
            number(member.last_log_index),
        ]
    });
    let text = if known {
        table(&columns, rows)
    } else {
        let reasons: Vec<String> = answers
            .iter()
            .filter_map(|(address, answer)| Some(format!("{address}: {}", answer.as_ref().err()?)))
            .collect();
        format!("no member of a cluster answers\n{}", reasons.join("\n"))
    };
    Ok(Answer::new(&members, text)?.unless(known, Exit::Unavailable))
}

/// The members as the one who knows most tells them.
fn members_of(answers: &Answers) -> Vec<MemberView> {
    let statuses = || answers.values().flatten();
    let Some(best) = statuses().max_by_key(|s| (s.leading, s.term, s.applied_index)) else {
        return Vec::new();
    };
    best.replicas
        .iter()
        .map(|member| {
            let own = statuses().find(|status| status.node_id == member.node_id);
            MemberView {
                node_id: member.node_id,
                voter: member.voter,
                leads: own.is_some_and(|status| status.leading),
                reachable: own.is_some(),
                peer_address: member.peer_address.clone(),
                client_address: member.client_address.clone(),
                applied_index: own.map_or(0, |status| status.applied_index),
                last_log_index: own.map_or(0, |status| status.last_log_index),
            }
        })
        .collect()
}

async fn add(client: &Client, args: AddArgs) -> Result<Answer, CliError> {
    let (peer_address, client_address) = args.member;
    let request = AddMemberRequest {
        peer_address,
        client_address,
        promote: false,
    };
    let reply = client
        .call(Retry::Idempotent, |leader| {
            let request = within(request.clone(), CALL_TIMEOUT);
            async move { admin(leader).add_member(request).await }
        })
        .await?;
    let node = reply.node_id;
    let mut voter = reply.voter;
    if !voter && !args.learner {
        voter = promote_when_caught_up(client, node, args.catch_up_timeout).await?;
    }
    let text = if voter {
        format!("node {node} is a member with a vote")
    } else {
        format!(
            "node {node} is a member without a vote; quorate member promote {node} gives it one"
        )
    };
    let value = serde_json::json!({ "node_id": node, "voter": voter });
    Ok(Answer::new(&value, text)?.unless(voter || args.learner, Exit::Failed))
}

/// Tries until the learner has caught up, or the time for that is over.
async fn promote_when_caught_up(
    client: &Client,
    node: u64,
    timeout_s: u64,
) -> Result<bool, CliError> {
    let deadline = Instant::now() + Duration::from_secs(timeout_s);
    let mut last = String::new();
    loop {
        match promote(client, node).await {
            Ok(()) => return Ok(true),
            Err(error) if error.refusal() != Some(tonic::Code::FailedPrecondition) => {
                return Err(error.into());
            }
            Err(error) => {
                let reason = error.to_string();
                if Instant::now() >= deadline {
                    eprintln!("{reason}");
                    return Ok(false);
                }
                if reason != last {
                    eprintln!("{reason}");
                    last = reason;
                }
            }
        }
        tokio::time::sleep(PROMOTE_INTERVAL).await;
    }
}

async fn promote(client: &Client, node: u64) -> Result<(), ClientError> {
    client
        .call(Retry::Idempotent, |leader| async move {
            let request = within(PromoteMemberRequest { node_id: node }, CALL_TIMEOUT);
            admin(leader).promote_member(request).await
        })
        .await?;
    Ok(())
}

async fn remove(client: &Client, node: u64) -> Result<Answer, CliError> {
    let removed = client
        .call(Retry::Idempotent, |leader| async move {
            let request = within(RemoveMemberRequest { node_id: node }, CALL_TIMEOUT);
            admin(leader).remove_member(request).await
        })
        .await;
    match removed {
        Ok(_) => {}
        // An earlier attempt of this very call did it, and its answer got lost.
        Err(ClientError::RefusedAfterUnknown(status)) if status.code() == tonic::Code::NotFound => {
        }
        Err(error) => return Err(error.into()),
    }
    Answer::new(
        &serde_json::json!({ "removed": node }),
        format!("node {node} is no member any more; its process ends by itself"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCluster;

    #[tokio::test]
    async fn members_are_listed_with_the_unreachable_among_them() {
        let cluster = FakeCluster::start(2).await.with_dead_replica().await;
        let answer = list(&cluster.context_of(0).client().unwrap())
            .await
            .unwrap();
        let members = answer.json.as_array().unwrap();
        assert_eq!(members.len(), 3);
        assert_eq!(members[0]["leads"], true);
        assert_eq!(members[2]["reachable"], false);
        assert!(answer.text.contains("unreachable"), "{}", answer.text);
    }

    #[test]
    fn a_member_is_two_addresses() {
        assert_eq!(parse("a:1=b:2"), Ok(("a:1".to_owned(), "b:2".to_owned())));
        for text in ["a:1", "a:1=b", "=", ""] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
