//! Whether an object may be deleted, by the metadata as the replica that has applied most has it
//! and by the object's age in simulated time: no object of a live segment, index or try goes, and
//! none that nobody knows before its tolerance.

use std::time::Duration;

use quorate_coord::{Coordinator, wire};
use quorate_meta::model::SegmentState;
use quorate_meta::pb::BuildState;
use quorate_meta::{SegmentId, State, pb};

use crate::sim::replica::Cluster;

/// Clocks may differ by this much unnoticed.
const CLOCKS_APART: Duration = Duration::from_millis(5500);

/// An object's name, understood.
enum Name {
    Log { segment: SegmentId, log_id: i64 },
    Index { build: i64, version: u32 },
}

fn understand(path: &str) -> Option<Name> {
    let parts: Vec<&str> = path.split('/').collect();
    let number = |at: usize| parts.get(at).and_then(|part| part.parse::<i64>().ok());
    match *parts.first()? {
        "index_files" => Some(Name::Index {
            build: number(1)?,
            version: u32::try_from(number(2)?).ok()?,
        }),
        "insert_log" | "stats_log" | "delta_log" => Some(Name::Log {
            segment: SegmentId(number(3)?),
            log_id: number(parts.len() - 1)?,
        }),
        _ => None,
    }
}

/// What is wrong with the deletion of an object that was last written so long ago.
pub(in crate::sim) fn judge(cluster: &Cluster, path: &str, age: Duration) -> Vec<String> {
    let newest = cluster
        .all_running()
        .into_iter()
        .max_by_key(|(_, running)| {
            let applied = running.coordinator.consensus().store().applied();
            applied.log_id.map(|id| id.index)
        });
    let (Some(name), Some((_, running))) = (understand(path), newest) else {
        return vec!["nobody understands its name".into()];
    };
    let tolerance = cluster.config.policy.gc.missing_tolerance;
    let is_young = age < tolerance.saturating_sub(CLOCKS_APART);
    let problem = match name {
        Name::Log { segment, log_id } => log(&running.coordinator, segment, log_id, is_young),
        Name::Index { build, version } => {
            index(&running.coordinator.state(), build, version, is_young)
        }
    };
    problem
        .map(|problem| format!("{problem}; it is {age:?} old"))
        .into_iter()
        .collect()
}

fn holds(range: Option<&pb::IdRange>, id: i64) -> bool {
    range.is_some_and(|range| (range.begin..range.end).contains(&id))
}

fn log(coordinator: &Coordinator, id: SegmentId, log_id: i64, is_young: bool) -> Option<String> {
    let state = coordinator.state();
    let mut tries = state.live_compactions();
    let tried = tries.find(|task| {
        holds(task.segment_ids.as_ref(), id.0) || holds(task.log_ids.as_ref(), log_id)
    });
    if let Some(task) = tried {
        let plan = task.plan.as_ref().map_or(0, |plan| plan.plan_id);
        return Some(format!("it is of the running try of plan {plan}"));
    }
    let is_live = |id: SegmentId| {
        let segment = state.segment(id);
        segment.is_some_and(|s| state.effective_state(s) != SegmentState::Dropped)
    };
    if let Some(carried) = state.carried(log_id)
        && let Some(holder) = carried.holders.iter().find(|id| is_live(SegmentId(**id)))
    {
        return Some(format!("segment {holder} took it over"));
    }
    let files = match state.segment(id) {
        Some(_) => coordinator
            .consensus()
            .store()
            .with_view(|view| wire::read_cold(view, id))
            .and_then(|read| read)
            .map(|cold| cold.files)
            .unwrap_or_default(),
        None => Vec::new(),
    };
    let is_named = files.iter().any(|file| file.log_id == log_id);
    match state.segment(id) {
        Some(_) if is_named && is_live(id) => Some(format!("segment {id} is live and names it")),
        Some(segment) if is_named && segment.condemned_at.is_zero() => {
            Some(format!("segment {id} is not condemned"))
        }
        Some(_) if is_named => None,
        _ => is_young.then(|| "nobody knows it, and its tolerance is not over".to_owned()),
    }
}

fn index(state: &State, build: i64, version: u32, is_young: bool) -> Option<String> {
    let young = is_young.then(|| "nobody knows it, and its tolerance is not over".to_owned());
    let Some(row) = state.build(build) else {
        return young;
    };
    let segment = state.segment(SegmentId(row.segment_id));
    let is_wanted = segment.is_some_and(|segment| {
        let mut live = state.indexes_of(segment.collection);
        state.effective_state(segment) != SegmentState::Dropped
            && live.any(|index| {
                index
                    .index
                    .as_ref()
                    .is_some_and(|i| i.index_id == row.index_id)
            })
    });
    // One that waits for its next version has given up the last one.
    let is_current = version == row.version && row.state() != BuildState::Init;
    match (is_wanted, is_current) {
        (true, true) => Some(format!(
            "build {build} of segment {} names it",
            row.segment_id
        )),
        (true, false) => young,
        (false, _) => None,
    }
}
