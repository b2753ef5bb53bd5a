//! Data nodes' leases: a node that stops renewing is expired, and its channels move.
//!
//! The expiry is a proposal that carries the term, never a local act: a leader that wakes after a
//! pause expires nobody, because its lease has run out first.

use std::sync::Arc;
use std::time::Duration;

use quorate_meta::command::Command;
use quorate_meta::pb;

use crate::coordinator::Coordinator;
use crate::leader::{NodeLease, Scope};
use crate::metrics;

const ROUND: Duration = Duration::from_millis(250);

pub(super) async fn run(coordinator: Arc<Coordinator>, scope: Arc<Scope>) {
    let never = tokio::sync::Notify::new();
    while super::next_round(&scope, &never, ROUND).await {
        expire(&coordinator, &scope).await;
        report(&coordinator);
    }
}

async fn expire(coordinator: &Coordinator, scope: &Scope) {
    let lease = coordinator.config().policy.node_lease;
    let known: Vec<(i64, String)> = coordinator
        .state()
        .nodes()
        .map(|node| (node.id, node.session.clone()))
        .collect();
    let late: Vec<(i64, String)> = {
        let mut leases = scope.leases.lock();
        leases.retain(|id, _| known.iter().any(|(known, _)| known == id));
        known
            .into_iter()
            .filter(|(id, _)| {
                // A node that registered under another leader's eyes gets a lease from now on.
                let node = leases.entry(*id).or_insert_with(|| NodeLease {
                    renewed: tokio::time::Instant::now(),
                    buffered_rows: 0,
                    buffered_bytes: 0,
                });
                node.renewed.elapsed() >= lease
            })
            .collect()
    };
    for (node_id, session) in late {
        if scope.confirm().is_err() {
            return;
        }
        let command = Command::ExpireNode(pb::ExpireNode { node_id, session });
        match scope.propose(command).await {
            Ok(_) => tracing::warn!(node_id, "data node expired: its lease ran out"),
            Err(error) => tracing::info!(node_id, %error, "data node not expired yet"),
        }
    }
}

fn report(coordinator: &Coordinator) {
    let counts = coordinator.state().counts();
    metrics::counts(counts.nodes, counts.collections, &[]);
}
