//! Files of dropped indexes, and then their metadata.

use std::collections::{BTreeMap, BTreeSet};

use quorate_meta::command::Command;
use quorate_meta::{CollectionId, State, Ts, pb};

use super::{Done, Gc};
use crate::error::Result;

/// Builds taken up at a time.
const BATCH: usize = 256;

/// Deletes the files of dropped indexes that are old enough, forgets their builds, and the indexes
/// when no build is left. A build whose files cannot be deleted stays for the next round.
pub(super) async fn run(gc: &Gc<'_>, done: &mut Done) -> Result<()> {
    loop {
        let now = gc.confirm().await?;
        let (builds, indexes) = due(gc, now);
        if builds.is_empty() && indexes.is_empty() {
            return Ok(());
        }
        let mut gone = Vec::new();
        for build in &builds {
            let paths = gc.names_below(&format!("index_files/{build}")).await?;
            if gc.delete(&paths, &mut done.objects).await?.is_empty() {
                gone.push(*build);
            }
        }
        let stuck = gone.len() < builds.len();
        if gone.is_empty() && indexes.is_empty() {
            return Ok(());
        }
        let count = (gone.len() + indexes.len()) as u64;
        gc.scope
            .propose(Command::ForgetIndexes(pb::ForgetIndexes {
                build_ids: gone,
                index_ids: indexes,
            }))
            .await?;
        done.indexes += count;
        if stuck {
            return Ok(());
        }
    }
}

/// Builds of dropped indexes, some of them, and dropped indexes without any.
fn due(gc: &Gc<'_>, now: Ts) -> (Vec<i64>, Vec<i64>) {
    let state = gc.coordinator.state();
    let dropped: BTreeSet<i64> = state
        .dropped_indexes()
        .filter(|row| is_due(&state, row, now, gc.policy.drop_tolerance_ms))
        .filter_map(|row| Some(row.index.as_ref()?.index_id))
        .collect();
    if dropped.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let mut left: BTreeMap<i64, usize> = BTreeMap::new();
    let mut builds = Vec::new();
    for build in state.builds() {
        if dropped.contains(&build.index_id) {
            *left.entry(build.index_id).or_default() += 1;
            if builds.len() < BATCH {
                builds.push(build.build_id);
            }
        }
    }
    let indexes = dropped
        .into_iter()
        .filter(|id| !left.contains_key(id))
        .collect();
    (builds, indexes)
}

fn is_due(state: &State, row: &pb::IndexRow, now: Ts, tolerance_ms: u64) -> bool {
    let Some(index) = &row.index else {
        return false;
    };
    let collection = CollectionId(index.collection_id);
    // An index of a collection that is forgotten has no time of its own: long ago.
    let dropped_at = match row.dropped_at {
        0 => state.collection(collection).map_or(0, |row| row.dropped_at),
        at => at,
    };
    now.ms_since(Ts(dropped_at)) >= tolerance_ms && state.gc_pause(collection, now).is_none()
}
