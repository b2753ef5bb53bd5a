//! What is left once everything is healed and nobody writes any more: nothing that is dropped, and
//! in the object store exactly what live segments and indexes name.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quorate_coord::{Coordinator, wire};
use quorate_meta::SegmentId;
use quorate_meta::model::SegmentState;
use quorate_meta::pb::BuildState;
use tokio::time::Instant;

use super::workload::{Client, Shared};

/// Compactions, index builds and all tolerances get this long to come to an end.
const SETTLE: Duration = Duration::from_secs(120);

/// Before every segment.
const FIRST: SegmentId = SegmentId(i64::MIN);

/// Waits until nothing is left to do; `complete`: or says what is. Missing objects are said always.
pub(super) async fn no_garbage_is_left(shared: &Arc<Shared>, complete: bool) {
    let world = &shared.cluster.world;
    let client = Client::new(shared.clone(), 300);
    let deadline = Instant::now() + if complete { SETTLE } else { SETTLE / 6 };
    let mut left;
    loop {
        client.run_gc(true).await;
        left = leftovers(shared);
        if left.is_empty() || Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    if complete {
        for what in left {
            world.violation(format!("after {SETTLE:?} of calm: {what}"));
        }
    }
    if let Some((_, running)) = leader(shared) {
        for path in named(&running.coordinator) {
            if shared.cluster.store.peek(&path).is_none() {
                world.violation(format!("{path} is named and is not there"));
            }
        }
    }
}

fn leader(shared: &Shared) -> Option<(u64, Arc<super::replica::Running>)> {
    let id = shared.cluster.leader()?;
    Some((id, shared.cluster.running(id)?))
}

/// Everything that should come to an end and has not.
fn leftovers(shared: &Shared) -> Vec<String> {
    let Some((_, running)) = leader(shared) else {
        return vec!["nobody leads".into()];
    };
    let mut left = Vec::new();
    {
        let state = running.coordinator.state();
        let mut count = |what: &str, count: usize| {
            if count > 0 {
                left.push(format!("{count} {what}"));
            }
        };
        count(
            "compactions are not ended",
            state.live_compactions().count(),
        );
        count("index builds are not ended", state.open_builds().count());
        let gone = state
            .segments_after(FIRST)
            .filter(|segment| state.effective_state(segment) == SegmentState::Dropped);
        count("dropped segments are not forgotten", gone.count());
        let tombstones = state.tombstoned_collections().count();
        count(
            "dropped collections or partitions are not forgotten",
            tombstones,
        );
        count(
            "dropped indexes are not forgotten",
            state.dropped_indexes().count(),
        );
    }
    let known = named(&running.coordinator);
    let orphans: Vec<String> = shared
        .cluster
        .store
        .names()
        .into_iter()
        .filter(|path| !known.contains(path))
        .collect();
    if let Some(first) = orphans.first() {
        left.push(format!("{} orphans, the first is {first}", orphans.len()));
    }
    left
}

/// The objects live segments and finished builds of live indexes name.
fn named(coordinator: &Coordinator) -> BTreeSet<String> {
    let state = coordinator.state();
    let mut paths = BTreeSet::new();
    for segment in state.segments_after(FIRST) {
        if state.effective_state(segment) == SegmentState::Dropped {
            continue;
        }
        let cold = coordinator
            .consensus()
            .store()
            .with_view(|view| wire::read_cold(view, segment.id))
            .and_then(|read| read)
            .unwrap_or_default();
        for file in &cold.files {
            paths.insert(match file.path.as_str() {
                "" => wire::canonical_path(segment, file),
                told => told.to_owned(),
            });
        }
        let live: BTreeSet<i64> = state
            .indexes_of(segment.collection)
            .filter_map(|row| Some(row.index.as_ref()?.index_id))
            .collect();
        let builds = state.builds_of(segment.id);
        let finished = builds.filter(|build| build.state() == BuildState::Finished);
        for build in finished.filter(|build| live.contains(&build.index_id)) {
            paths.extend(build.files.iter().cloned());
        }
    }
    paths
}
