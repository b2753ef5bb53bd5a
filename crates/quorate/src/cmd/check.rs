//! `quorate check`: whether all replicas hold the same state, as it was at one log index.

use futures::future::join_all;
use quorate_rpc::proto::quorate::admin::{GetCheckRequest, GetCheckResponse, MarkCheckRequest};
use quorate_rpc::{Client, Retry};
use serde::Serialize;
use std::time::Duration;

use super::status::{Answers, ask_all, root_of};
use super::{admin, within};
use crate::answer::{Answer, Column, or_dash, table};
use crate::context::Context;
use crate::error::{CliError, Exit};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also compare the hash of every row, as each replica reads it from its disk
    #[arg(long)]
    full: bool,
    /// How long a replica may take to hash its state, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    hash_timeout: u64,
}

impl Args {
    /// Compare every row.
    pub(crate) fn full() -> Self {
        Self {
            full: true,
            hash_timeout: 60,
        }
    }
}

#[derive(Debug, Serialize)]
struct ReplicaCheck {
    node_id: u64,
    client_address: String,
    error: Option<String>,
    digest: String,
    state_hash: Option<String>,
    rows: u64,
    violations: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Check {
    index: u64,
    /// Whether those that answered agree and break no invariant.
    equal: bool,
    /// Whether every replica answered.
    complete: bool,
    replicas: Vec<ReplicaCheck>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Answer, CliError> {
    let client = context.client()?;
    let mark = client
        .call(Retry::Idempotent, |leader| async move {
            admin(leader).mark_check(MarkCheckRequest {}).await
        })
        .await?;
    let timeout = Duration::from_secs(args.hash_timeout);
    let replicas = ask_all(&client).await;
    let checks = join_all(members_of(&replicas).into_iter().map(|(node_id, address)| {
        check_one(&client, node_id, address, mark.index, args.full, timeout)
    }))
    .await;
    let check = judge(mark.index, checks);
    let text = text_of(&check, args.full);
    let answer = Answer::new(&check, text)?;
    Ok(if check.equal {
        answer.unless(check.complete, Exit::Unavailable)
    } else {
        answer.unless(false, Exit::Failed)
    })
}

/// Every replica by id and address, those included that did not answer.
fn members_of(answers: &Answers) -> Vec<(u64, String)> {
    let named: Vec<(u64, &str)> = answers
        .values()
        .flatten()
        .flat_map(|status| &status.replicas)
        .map(|replica| (replica.node_id, replica.client_address.as_str()))
        .collect();
    let mut members: Vec<(u64, String)> = answers
        .iter()
        .map(|(address, answer)| {
            let id = match answer {
                Ok(status) => status.node_id,
                Err(_) => named
                    .iter()
                    .find(|(_, name)| name == address)
                    .map_or(0, |(id, _)| *id),
            };
            (id, address.clone())
        })
        .collect();
    members.sort();
    members
}

async fn check_one(
    client: &Client,
    node_id: u64,
    client_address: String,
    index: u64,
    full: bool,
    timeout: Duration,
) -> ReplicaCheck {
    let answer = get_check(client, &client_address, index, timeout).await;
    let (error, check) = match answer {
        Ok(check) => (None, check),
        Err(error) => (Some(error), GetCheckResponse::default()),
    };
    ReplicaCheck {
        node_id,
        client_address,
        state_hash: (full && error.is_none()).then_some(check.state_hash),
        error,
        digest: check.digest,
        rows: check.rows,
        violations: check.violations,
    }
}

async fn get_check(
    client: &Client,
    address: &str,
    index: u64,
    timeout: Duration,
) -> Result<GetCheckResponse, String> {
    let request = GetCheckRequest {
        index,
        timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
    };
    let replica = client.at(address).await.map_err(|error| root_of(&error))?;
    // The replica itself gives up at `timeout`, with a better message.
    let call = within(request, timeout + Duration::from_secs(2));
    match admin(replica).get_check(call).await {
        Ok(check) if check.get_ref().index == index => Ok(check.into_inner()),
        Ok(check) => Err(format!("answered for index {}", check.get_ref().index)),
        Err(status) => Err(status.message().to_owned()),
    }
}

fn judge(index: u64, replicas: Vec<ReplicaCheck>) -> Check {
    let answered: Vec<&ReplicaCheck> = replicas.iter().filter(|r| r.error.is_none()).collect();
    let alike = answered.windows(2).all(|pair| {
        (&pair[0].digest, &pair[0].state_hash, pair[0].rows)
            == (&pair[1].digest, &pair[1].state_hash, pair[1].rows)
    });
    Check {
        index,
        equal: alike && answered.iter().all(|replica| replica.violations.is_empty()),
        complete: !answered.is_empty() && answered.len() == replicas.len(),
        replicas,
    }
}

fn text_of(check: &Check, full: bool) -> String {
    let mut columns = vec![
        Column::Number("replica"),
        Column::Text("address"),
        Column::Number("rows"),
        Column::Text("digest"),
    ];
    if full {
        columns.push(Column::Text("state hash"));
    }
    let rows = check.replicas.iter().map(|replica| {
        let mut row = vec![replica.node_id.to_string(), replica.client_address.clone()];
        match &replica.error {
            Some(error) => row.extend(["-".to_owned(), format!("no answer: {error}")]),
            None => {
                row.extend([replica.rows.to_string(), or_dash(&replica.digest)]);
                row.extend(replica.state_hash.clone());
            }
        }
        row
    });
    let mut text = table(&columns, rows);
    for replica in &check.replicas {
        for violation in &replica.violations {
            text.push_str(&format!(
                "\nbroken invariant on replica {}: {violation}",
                replica.node_id
            ));
        }
    }
    let verdict = match (check.equal, check.complete) {
        (true, true) => "all replicas are equal",
        (true, false) => "those that answered are equal, but not all did",
        (false, _) => "the replicas DIFFER or break an invariant",
    };
    format!("{text}\n\nat log index {}: {verdict}", check.index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCluster;

    fn args(full: bool) -> Args {
        Args {
            full,
            hash_timeout: 10,
        }
    }

    #[tokio::test]
    async fn equal_replicas_pass() {
        let cluster = FakeCluster::start(3).await;
        let answer = run(&cluster.context_of(0), args(true)).await.unwrap();
        assert_eq!(answer.exit, None, "{}", answer.text);
        assert_eq!(answer.json["replicas"].as_array().unwrap().len(), 3);
        assert_eq!(answer.json["index"], 12);
    }

    #[tokio::test]
    async fn another_state_hash_fails_only_the_full_check() {
        let cluster = FakeCluster::start(3).await;
        cluster.corrupt(2);
        let quick = run(&cluster.context_of(0), args(false)).await.unwrap();
        assert_eq!(quick.exit, None);
        let full = run(&cluster.context_of(0), args(true)).await.unwrap();
        assert_eq!(full.exit, Some(Exit::Failed));
        assert_eq!(full.json["equal"], false);
    }

    #[tokio::test]
    async fn a_replica_that_does_not_answer_is_no_proof() {
        let cluster = FakeCluster::start(2).await.with_dead_replica().await;
        let answer = run(&cluster.context_of(0), args(true)).await.unwrap();
        assert_eq!(answer.exit, Some(Exit::Unavailable));
        assert_eq!(answer.json["equal"], true);
        assert_eq!(answer.json["complete"], false);
    }
}
