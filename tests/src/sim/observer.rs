//! What is watched while a run goes on: that at most one replica may act as leader, that replicas
//! agree wherever they have applied the same, that none stops by itself, and that reads keep what
//! was promised.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use quorate_coord::{CoordError, Coordinator};
use quorate_meta::invariants;
use quorate_rpc::proto::quorate::admin::{ListChannelsRequest, ListSegmentsRequest};
use tokio_util::sync::CancellationToken;

use super::check::lineage;
use super::check::rows::{self, Checkpoints, Segment, Snapshot};
use super::check::view;
use super::client::{Repeat, Session};
use super::reader;
use super::replica::Cluster;
use super::workload::Shared;
use super::world::Place;

/// How often the replicas are looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Every so many looks the whole state is looked at.
const DEEP: u64 = 100;
const READ: Duration = Duration::from_millis(700);

/// Looks at the replicas from the inside.
pub(super) async fn watch(cluster: Arc<Cluster>, stop: CancellationToken) {
    let world = cluster.world.clone();
    let mut digests: BTreeMap<u64, [u8; 32]> = BTreeMap::new();
    let mut looks = 0;
    while !stop.is_cancelled() {
        tokio::time::sleep(LOOK).await;
        looks += 1;
        let mut acting = Vec::new();
        for (id, running) in cluster.all_running() {
            let coordinator = &running.coordinator;
            if let Ok(scope) = coordinator.scope()
                && scope.confirm().is_ok()
            {
                acting.push((id, scope.term));
            }
            let consensus = coordinator.consensus();
            let applied = consensus.store().applied();
            if let Some(log_id) = applied.log_id {
                let digest = *digests.entry(log_id.index).or_insert(applied.digest);
                if digest != applied.digest {
                    world.violation(format!("r{id} disagrees at applied index {}", log_id.index));
                }
            }
            let stopped = consensus
                .raft()
                .metrics()
                .borrow_watched()
                .running_state
                .clone();
            if let Err(fatal) = stopped {
                world.violation(format!("r{id} stopped by itself: {fatal}"));
            }
            if looks % DEEP == 0 {
                let state = coordinator.state();
                for problem in invariants::violations(&state) {
                    world.violation(format!("state of r{id}: {problem}"));
                }
                for problem in lineage::violations(&state) {
                    world.violation(format!("state of r{id}: {problem}"));
                }
            }
        }
        if acting.len() > 1 {
            world.violation(format!("several replicas may act as leader: {acting:?}"));
        }
    }
}

/// Reads everything again and again, as a client.
pub(super) async fn read(shared: Arc<Shared>, stop: CancellationToken) {
    let session = Session::new(shared.cluster.clone(), Place::Client(200));
    let world = shared.cluster.world.clone();
    let mut checkpoints = Checkpoints::default();
    while !stop.is_cancelled() {
        tokio::time::sleep(READ).await;
        if let Some(snapshot) = snapshot(&session, shared.main).await {
            let found = rows::snapshot(&snapshot, &shared.cluster.ledger.hold());
            for problem in found {
                world.violation(problem);
            }
        }
        for seen in reader::read(&session, shared.main)
            .await
            .unwrap_or_default()
        {
            let found = view::judge(&seen, &shared.cluster.ledger.hold());
            for problem in found {
                world.violation(problem);
            }
        }
        for (channel, ts) in channels(&session, shared.main).await.unwrap_or_default() {
            if let Some(problem) = checkpoints.read(&channel, ts) {
                world.violation(problem);
            }
        }
    }
}

/// All segments of a collection by one linearizable read.
pub(super) async fn snapshot(session: &Session, collection: i64) -> Option<Snapshot> {
    let asked_at = session.cluster.world.now_ns();
    let request = ListSegmentsRequest {
        collection_id: collection,
        include_dropped: true,
        details: true,
        ..ListSegmentsRequest::default()
    };
    let answer = session
        .ask("segments", Duration::from_secs(2), Repeat::Always, |c| {
            let request = request.clone();
            async move { list(&c, request).await }
        })
        .await;
    Some(Snapshot {
        asked_at,
        segments: answer.ok()?.value,
    })
}

async fn list(
    coordinator: &Coordinator,
    request: ListSegmentsRequest,
) -> Result<BTreeMap<i64, Segment>, CoordError> {
    let answer = coordinator.list_segments(request).await?;
    let segments = answer.segments.into_iter().filter_map(|segment| {
        let info = segment.info?;
        let first = info.binlogs.first();
        let logs = first.iter().flat_map(|field| &field.binlogs);
        let shown = Segment {
            channel: info.insert_channel.clone(),
            state: segment.state,
            rows: info.num_of_rows,
            max_rows: info.max_row_num,
            log_ids: logs.map(|log| log.log_id).collect(),
        };
        Some((info.id, shown))
    });
    Ok(segments.collect())
}

/// Checkpoints of a collection's channels.
pub(super) async fn channels(session: &Session, collection: i64) -> Option<Vec<(String, u64)>> {
    let request = ListChannelsRequest {
        collection_id: collection,
    };
    let answer = session
        .ask(
            "channels",
            Duration::from_secs(2),
            Repeat::Always,
            |c| async move { c.list_channels(request).await },
        )
        .await;
    let channels = answer.ok()?.value.channels.into_iter();
    Some(channels.map(|c| (c.name, c.checkpoint_ts)).collect())
}
