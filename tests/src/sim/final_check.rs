//! What is checked once everything is healed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate_coord::CoordError;
use quorate_meta::invariants;
use quorate_rpc::proto::quorate::admin::GetCheckRequest;
use quorate_rpc::proto::quorate::meta::{GetRequest, PutRequest};
use quorate_rpc::proto::quorate::node::GetCoverageRequest;
use quorate_rpc::proto::quorate::oracle::{AllocIdRequest, AllocTimestampRequest};
use tokio::time::Instant;

use super::check::rows::{self, Channel};
use super::check::{lineage, view};
use super::client::{Repeat, Session};
use super::data_node::STREAM;
use super::deleter::Deleter;
use super::observer;
use super::reader;
use super::replica::{Cluster, NoAnswer, client_addr};
use super::workload::{Client, KEYS, Shared};
use super::world::Place;
use super::writer::Writer;

/// One call in a healed cluster.
const CALL: Duration = Duration::from_secs(1);
/// The writers' last rows get this long to be flushed: dead data nodes' leases end, channels
/// move, grants expire.
const FLUSH: Duration = Duration::from_secs(60);
/// Replicas get this long to have applied the same.
const EQUAL: Duration = Duration::from_secs(10);
const PLACE: Place = Place::Client(300);

/// Every kind of operation works at every replica, directly or by its hint.
pub(super) async fn every_replica_serves(cluster: &Arc<Cluster>) {
    for id in cluster.ids() {
        let mut to = id;
        for hop in 0..2 {
            match one_of_each(cluster, to).await {
                Ok(()) => break,
                Err(NoAnswer::Error(CoordError::NotLeader { hint: Some(hint) })) if hop == 0 => {
                    let ids = cluster.ids();
                    to = ids
                        .into_iter()
                        .find(|id| client_addr(*id) == hint)
                        .unwrap_or(id);
                }
                Err(problem) => {
                    cluster
                        .world
                        .violation(format!("after healing r{id} does not serve: {problem:?}"));
                    break;
                }
            }
        }
    }
}

async fn one_of_each(cluster: &Arc<Cluster>, to: u64) -> Result<(), NoAnswer> {
    let key = "calm".to_owned();
    cluster
        .call(PLACE, to, "calm", CALL, |c| async move {
            c.alloc_id(AllocIdRequest { count: 1 }).await?;
            c.alloc_timestamp(AllocTimestampRequest { count: 1 })
                .await?;
            let put = PutRequest {
                key: key.clone(),
                ..PutRequest::default()
            };
            c.put(put).await?;
            c.get(GetRequest { key }).await?;
            c.list_nodes().await?;
            Ok(())
        })
        .await
        .map(|_| ())
}

/// The last rows and deletes are sent and flushed.
pub(super) async fn everything_is_stored(
    shared: &Arc<Shared>,
    writers: &[Arc<Writer>],
    deleters: &[Arc<Deleter>],
) {
    let world = &shared.cluster.world;
    let client = Client::new(shared.clone(), 300);
    for writer in writers {
        writer.ending.store(true, Ordering::Relaxed);
    }
    let deadline = Instant::now() + FLUSH;
    let mut flushed = false;
    while Instant::now() < deadline {
        let all_sent = writers.iter().all(|w| w.done.load(Ordering::Relaxed))
            && deleters.iter().all(|d| d.done.load(Ordering::Relaxed));
        if let Some((segments, flush_ts)) = client.ask_flush().await {
            for _ in 0..30 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                flushed = client.is_flushed(&segments, flush_ts).await;
                if flushed {
                    break;
                }
            }
        }
        if all_sent && flushed {
            break;
        }
    }
    for writer in writers.iter().filter(|w| !w.done.load(Ordering::Relaxed)) {
        let channel = &writer.channel;
        world.violation(format!(
            "rows of {channel} are not stored {FLUSH:?} after healing"
        ));
    }
    for deleter in deleters.iter().filter(|d| !d.done.load(Ordering::Relaxed)) {
        let channel = &deleter.channel;
        world.violation(format!(
            "deletes of {channel} are not stored {FLUSH:?} after healing"
        ));
    }
    if !flushed {
        world.violation(format!(
            "no flush came to an end in {FLUSH:?} after healing"
        ));
    }
}

/// Reads everything, compares it with what was promised, and the replicas with each other.
pub(super) async fn everything_is_there(shared: &Arc<Shared>, writers: &[Arc<Writer>]) {
    let client = Client::new(shared.clone(), 300);
    for key in 0..KEYS {
        client.read_key(key).await;
    }
    rows_and_promises(shared, &client, writers).await;
    replicas_are_equal(&shared.cluster).await;
}

async fn rows_and_promises(shared: &Arc<Shared>, client: &Client, writers: &[Arc<Writer>]) {
    let world = &shared.cluster.world;
    let session = Session::new(shared.cluster.clone(), PLACE);
    let Some(snapshot) = observer::snapshot(&session, shared.main).await else {
        world.violation("segments cannot be listed after healing".into());
        return;
    };
    let mut channels = BTreeMap::new();
    for writer in writers {
        let request = GetCoverageRequest {
            channel: writer.channel.clone(),
            stream: STREAM.to_vec(),
        };
        let answer = session
            .ask("coverage", CALL, Repeat::Always, |c| {
                let request = request.clone();
                async move { c.get_coverage(request).await }
            })
            .await;
        let ranges = answer.ok().map(|served| served.value.ranges);
        let stored = ranges.unwrap_or_default();
        let channel = Channel {
            stored: stored.iter().map(|range| (range.from, range.to)).collect(),
            made: writer.made.load(Ordering::Relaxed),
        };
        channels.insert(writer.channel.clone(), channel);
    }
    let promises = shared.cluster.ledger.hold().clone();
    let mut found = rows::snapshot(&snapshot, &promises);
    found.extend(rows::all_stored(&channels));
    match reader::read(&session, shared.main).await {
        Some(views) => {
            let judged = views.iter().flat_map(|seen| view::judge(seen, &promises));
            found.extend(judged);
        }
        None => found.push("nothing can be read after healing".into()),
    }
    for problem in found {
        world.violation(problem);
    }
    // The last ones stand for all: a flush that is done stays done.
    let every = (promises.flushed.len() / 20).max(1);
    for (segments, flush_ts) in promises.flushed.iter().step_by(every) {
        if !client.is_flushed(segments, *flush_ts).await {
            world.violation(format!(
                "the flush of {flush_ts} was done and is not any more"
            ));
        }
    }
}

/// At the same applied index: the same digest, the same rows, no broken invariant.
pub(super) async fn replicas_are_equal(cluster: &Arc<Cluster>) {
    let world = &cluster.world;
    let deadline = Instant::now() + EQUAL;
    loop {
        let applied: Vec<_> = cluster
            .all_running()
            .into_iter()
            .map(|(_, running)| running.coordinator.consensus().store().applied())
            .collect();
        if let Some(first) = applied.first()
            && applied.iter().all(|a| a.log_id == first.log_id)
        {
            if applied.iter().any(|a| a.digest != first.digest) {
                world.violation("replicas differ at the same applied index".into());
            }
            break;
        }
        if Instant::now() > deadline {
            world.violation(format!("replicas do not reach the same index in {EQUAL:?}"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let session = Session::new(cluster.clone(), PLACE);
    let marked = session
        .ask("mark", CALL * 5, Repeat::Always, |c| async move {
            c.mark_check().await
        })
        .await;
    let Some(index) = marked.ok().map(|served| served.value.index) else {
        world.violation("no check can be marked after healing".into());
        return;
    };
    let mut hashes = Vec::new();
    for (id, running) in cluster.all_running() {
        let request = GetCheckRequest {
            index,
            timeout_ms: 5000,
        };
        match running.coordinator.get_check(request).await {
            Ok(check) => {
                for problem in check.violations {
                    world.violation(format!("rows of r{id}: {problem}"));
                }
                hashes.push((check.state_hash, check.digest));
            }
            Err(error) => world.violation(format!("r{id} has no check at {index}: {error}")),
        }
        let state = running.coordinator.state();
        let mut found = invariants::violations(&state);
        found.extend(lineage::violations(&state));
        for problem in found {
            world.violation(format!("state of r{id}: {problem}"));
        }
    }
    if hashes.windows(2).any(|pair| pair[0] != pair[1]) {
        world.violation(format!("rows of the replicas differ at index {index}"));
    }
}
