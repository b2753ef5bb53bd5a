//! From election to loops and back: `Follower → Starting → Leading → Stopping`.
//!
//! The scope is unpublished *before* leadership can be lost: when the leader lease ends (openraft
//! goes on calling itself Leader without a quorum), on transfer, and on stop. Stop for one term
//! completes before start for the next, even leader → leader.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use quorate_meta::command::{Command, encode_entry, fenced};
use quorate_meta::{Ts, pb};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Scope;
use crate::coordinator::Coordinator;
use crate::error::Result;
use crate::{loops, metrics};

/// Loops get this long to end; then they are aborted.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

struct Leading {
    scope: Arc<Scope>,
    tasks: JoinSet<()>,
}

/// Follows this replica's leadership until `cancel`.
pub async fn run(coordinator: Arc<Coordinator>, cancel: CancellationToken) {
    let mut server = coordinator.consensus().raft().server_metrics();
    let check = coordinator.config().raft.heartbeat;
    let mut leading: Option<Leading> = None;
    loop {
        let term = coordinator.consensus().leading_term();
        let serves = term.is_some() && coordinator.consensus().lease_runs();
        let keep = serves && leading.as_ref().map(|l| l.scope.term) == term;
        if !keep && let Some(ended) = leading.take() {
            stop(&coordinator, ended).await;
            continue;
        }
        if leading.is_none()
            && serves
            && let Some(term) = term
        {
            match start(&coordinator, term).await {
                Ok(started) => leading = Some(started),
                Err(error) => tracing::info!(term, %error, "leadership not taken up yet"),
            }
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            // Leadership may also end without a change of metrics: the lease is looked at often.
            () = tokio::time::sleep(check) => {}
            changed = server.changed() => if changed.is_err() { break },
        }
    }
    if let Some(ended) = leading.take() {
        stop(&coordinator, ended).await;
    }
}

async fn start(coordinator: &Arc<Coordinator>, term: u64) -> Result<Leading> {
    let started = tokio::time::Instant::now();
    let consensus = coordinator.consensus();
    let policy = &coordinator.config().policy;
    // When this is applied here, every entry of earlier leaders is.
    let begin = fenced(
        term,
        Ts::from_ms(coordinator.wall().now_ms()),
        Command::BeginEpoch(pb::BeginEpoch { term }),
    );
    consensus
        .propose(encode_entry(vec![begin]), policy.propose_timeout)
        .await?;
    let scope = Scope::open(
        term,
        coordinator.wall().as_ref(),
        policy,
        consensus.clone(),
        coordinator.proposer().clone(),
        CancellationToken::new(),
    )
    .await?;
    scope.confirm()?;
    coordinator.publish(Some(scope.clone()));
    let mut tasks = JoinSet::new();
    loops::spawn_all(coordinator, &scope, &mut tasks);
    metrics::leader_ready(started.elapsed());
    tracing::info!(term, took = ?started.elapsed(), "leading");
    Ok(Leading { scope, tasks })
}

async fn stop(coordinator: &Arc<Coordinator>, mut ended: Leading) {
    coordinator.publish(None);
    ended.scope.cancel.cancel();
    let all = async { while ended.tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_TIMEOUT, all).await.is_err() {
        tracing::warn!(
            term = ended.scope.term,
            "loops did not end in time; aborting them"
        );
        ended.tasks.shutdown().await;
    }
    tracing::info!(term = ended.scope.term, "no longer leading");
}
