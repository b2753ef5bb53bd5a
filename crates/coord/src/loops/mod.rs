//! The leader's loops. Each looks at the state, plans, proposes, and follows with effects. A wake
//! says "look", never "what"; there are no retries inside a round, the next round is the retry.

mod channels;
pub(crate) mod compaction;
pub(crate) mod gc;
mod index;
mod nodes;
mod segments;
pub(crate) use segments::seal_of;
mod tombstones;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::coordinator::Coordinator;
use crate::leader::Scope;

/// Starts every loop of an epoch.
pub(crate) fn spawn_all(
    coordinator: &Arc<Coordinator>,
    scope: &Arc<Scope>,
    tasks: &mut JoinSet<()>,
) {
    tasks.spawn(segments::run(coordinator.clone(), scope.clone()));
    tasks.spawn(channels::run(coordinator.clone(), scope.clone()));
    tasks.spawn(nodes::run(coordinator.clone(), scope.clone()));
    tasks.spawn(tombstones::run(coordinator.clone(), scope.clone()));
    tasks.spawn(gc::run(coordinator.clone(), scope.clone()));
    tasks.spawn(gc::scan(coordinator.clone(), scope.clone()));
    tasks.spawn(compaction::run(coordinator.clone(), scope.clone()));
    tasks.spawn(index::run(coordinator.clone(), scope.clone()));
}

/// Waits for the next round. False = the epoch has ended.
async fn next_round(scope: &Scope, wake: &Notify, period: Duration) -> bool {
    tokio::select! {
        biased;
        () = scope.cancel.cancelled() => false,
        () = wake.notified() => true,
        () = tokio::time::sleep(period) => true,
    }
}
