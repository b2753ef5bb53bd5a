//! What a drop leaves to do: a drop is one tombstone, and readers see its segments as Dropped from
//! that entry on. Here their own rows are rewritten, in slices. Also forgets old request tokens.

use std::sync::Arc;
use std::time::Duration;

use quorate_meta::command::Command;
use quorate_meta::model::SegmentState;
use quorate_meta::{CollectionId, State, pb};

use crate::coordinator::Coordinator;
use crate::leader::Scope;

/// Rows rewritten by one command.
const SLICE: usize = 1000;
/// A sweep looks at everything even if no wake came.
const SWEEP: Duration = Duration::from_secs(10);

pub(super) async fn run(coordinator: Arc<Coordinator>, scope: Arc<Scope>) {
    let wakes = coordinator.consensus().store().machine().wakes().clone();
    loop {
        rewrite(&coordinator, &scope).await;
        forget_tokens(&coordinator, &scope).await;
        if !super::next_round(&scope, &wakes.drops, SWEEP).await {
            return;
        }
    }
}

async fn rewrite(coordinator: &Coordinator, scope: &Scope) {
    loop {
        let segment_ids = entombed(&coordinator.state());
        if segment_ids.is_empty() {
            return;
        }
        let count = segment_ids.len();
        let command = Command::RewriteDropped(pb::RewriteDropped { segment_ids });
        match scope.propose(command).await {
            Ok(_) => {
                tracing::info!(count, "dropped segments rewritten");
                // Their channels may go now.
                coordinator
                    .consensus()
                    .store()
                    .machine()
                    .wakes()
                    .channels
                    .notify_one();
            }
            Err(error) => {
                tracing::info!(%error, "dropped segments not rewritten yet");
                return;
            }
        }
    }
}

/// Segments under a tombstone whose own row does not say so yet, a slice of them.
fn entombed(state: &State) -> Vec<i64> {
    let collections = state.tombstoned_collections().flat_map(|row| {
        state
            .segments_of(CollectionId(row.id))
            .filter(|segment| segment.state != SegmentState::Dropped)
            .filter(|segment| state.effective_state(segment) == SegmentState::Dropped)
    });
    let channels = state
        .channels()
        .filter(|row| row.dropped_at != 0)
        .flat_map(|row| state.segments_on(&row.name));
    let mut ids: Vec<i64> = collections
        .chain(channels)
        .map(|segment| segment.id.0)
        .take(SLICE)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Only once this leader has led for as long as tokens live: one whose wall clock is ahead would
/// else forget those of its predecessor at once, and a repeated request would take effect twice
/// (found by the simulation, seed 109).
async fn forget_tokens(coordinator: &Coordinator, scope: &Scope) {
    if scope.opened.elapsed() < coordinator.config().policy.token_ttl {
        return;
    }
    while coordinator.state().has_expired_tokens(scope.clock.stamp()) {
        if let Err(error) = scope
            .propose(Command::ExpireTokens(pb::ExpireTokens {}))
            .await
        {
            tracing::info!(%error, "old request tokens not forgotten yet");
            return;
        }
    }
}
