//! Index builds: one for every flushed segment and live index, on data nodes (`semantics.md` §8).
//!
//! A build is a row of the state. Each dispatch raises its version, and files of another version lie
//! elsewhere: a node that was given up changes nothing by what it still writes.

mod dispatch;
mod poll;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quorate_meta::command::Command;
use quorate_meta::model::Level;
use quorate_meta::pb::{self, BuildRow, BuildState};
use quorate_meta::plan::index_build;
use quorate_meta::{SegmentId, State};
use quorate_rpc::proto::milvus::index::IndexTaskInfo;
use tokio::time::Instant;

use crate::coordinator::Coordinator;
use crate::error::Result;
use crate::leader::Scope;
use crate::metrics;

/// Builds opened by one command.
const OPEN_SLICE: usize = 256;
/// All segments are looked at for missing builds so often, even if nothing says that one is.
const SCAN_INTERVAL: Duration = Duration::from_secs(60);
/// Calls to data nodes at a time.
const PARALLEL: usize = 16;

/// What this leader remembers of builds: hints, a successor does without.
#[derive(Default)]
struct Memory {
    /// What was given to data nodes: build id to node and address.
    given: BTreeMap<i64, (i64, String)>,
    /// Builds that were taken back, and until when they pause.
    resting: BTreeMap<i64, Instant>,
    /// When all segments were looked at for missing builds.
    scanned: Option<Instant>,
}

pub(super) async fn run(coordinator: Arc<Coordinator>, scope: Arc<Scope>) {
    let wakes = coordinator.consensus().store().machine().wakes().clone();
    let interval = coordinator.config().policy.compaction.check_interval;
    let mut memory = Memory::default();
    let mut polled: Option<Instant> = None;
    loop {
        open(&coordinator, &scope, &mut memory).await;
        dispatch::round(&coordinator, &scope, &mut memory).await;
        if polled.is_none_or(|at| at.elapsed() >= interval) {
            polled = Some(Instant::now());
            poll::round(&coordinator, &scope, &mut memory).await;
            report(&coordinator);
        }
        if !super::next_round(&scope, &wakes.index, interval).await {
            return;
        }
    }
}

/// Opens builds that are missing: of segments that became Flushed, and now and then, and when an
/// index was created, of all.
async fn open(coordinator: &Coordinator, scope: &Scope, memory: &mut Memory) {
    let wakes = coordinator.consensus().store().machine().wakes();
    let flushed = wakes.unindexed.take();
    let due = memory
        .scanned
        .is_none_or(|at| at.elapsed() >= SCAN_INTERVAL);
    let opened = match flushed {
        Some(flushed) if !due => {
            let missing = missing_of(&coordinator.state(), &flushed);
            open_these(scope, missing).await
        }
        _ => {
            memory.scanned = Some(Instant::now());
            open_all(coordinator, scope).await
        }
    };
    if let Err(error) = opened {
        tracing::info!(%error, "index builds not opened yet");
        memory.scanned = None;
    }
}

async fn open_all(coordinator: &Coordinator, scope: &Scope) -> Result<()> {
    loop {
        let missing = index_build::missing(&coordinator.state(), OPEN_SLICE);
        if missing.is_empty() {
            return Ok(());
        }
        open_these(scope, missing).await?;
    }
}

/// What is missing of some segments. Apply passes over what cannot be built.
fn missing_of(state: &State, segments: &BTreeSet<SegmentId>) -> Vec<(SegmentId, i64)> {
    let healthy = segments.iter().filter_map(|id| state.healthy_segment(*id));
    healthy
        .filter(|segment| segment.level != Level::L0)
        .flat_map(|segment| {
            state
                .indexes_of(segment.collection)
                .filter_map(|row| row.index.as_ref())
                .map(|index| (segment.id, index.index_id))
        })
        .filter(|(segment, index)| state.build_of(*segment, *index).is_none())
        .collect()
}

async fn open_these(scope: &Scope, missing: Vec<(SegmentId, i64)>) -> Result<()> {
    for slice in missing.chunks(OPEN_SLICE) {
        let count = u32::try_from(slice.len()).unwrap_or(u32::MAX);
        let first = scope.alloc_ids(count).await?;
        let builds = slice
            .iter()
            .zip(first..)
            .map(|((segment, index_id), build_id)| pb::IndexBuild {
                build_id,
                segment_id: segment.0,
                index_id: *index_id,
            })
            .collect();
        scope
            .propose(Command::OpenIndexBuilds(pb::OpenIndexBuilds { builds }))
            .await?;
        tracing::info!(count, "index builds opened");
    }
    Ok(())
}

async fn finish(
    scope: &Scope,
    build_id: i64,
    version: u32,
    result: std::result::Result<&IndexTaskInfo, String>,
) {
    let mut command = pb::FinishIndexBuild {
        build_id,
        version,
        ..Default::default()
    };
    match result {
        Ok(info) => {
            command.success = true;
            command.files.clone_from(&info.index_file_keys);
            command.serialized_bytes = info.serialized_size;
            command.memory_bytes = info.mem_size;
            tracing::info!(build = build_id, version, "index build finished");
        }
        Err(reason) => {
            tracing::warn!(build = build_id, version, reason, "index build failed");
            command.fail_reason = reason;
        }
    }
    if let Err(error) = scope.propose(Command::FinishIndexBuild(command)).await {
        tracing::info!(build = build_id, %error, "index build not ended yet");
    }
}

/// Back to where it waits, for another version after a pause.
async fn take_back(
    coordinator: &Coordinator,
    scope: &Scope,
    memory: &mut Memory,
    row: &BuildRow,
    why: &str,
) {
    tracing::info!(
        build = row.build_id,
        node = row.node_id,
        why,
        "index build taken back"
    );
    let pause = coordinator.config().policy.work.backoff_ms(row.version);
    let until = Instant::now() + Duration::from_millis(pause);
    memory.resting.insert(row.build_id, until);
    let command = Command::AssignIndexBuild(pb::AssignIndexBuild {
        build_id: row.build_id,
        node_id: 0,
        version: row.version,
    });
    if let Err(error) = scope.propose(command).await {
        tracing::info!(build = row.build_id, %error, "index build not taken back yet");
    }
}

fn report(coordinator: &Coordinator) {
    let (mut waiting, mut running) = (0, 0);
    for row in coordinator.state().open_builds() {
        match row.state() {
            BuildState::Init => waiting += 1,
            _ => running += 1,
        }
    }
    metrics::index_builds("Init", waiting);
    metrics::index_builds("InProgress", running);
}
