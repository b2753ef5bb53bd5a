//! The objects of condemned segments, and then the segments.

use quorate_meta::command::Command;
use quorate_meta::plan::gc::may_delete;
use quorate_meta::{SegmentId, State, Ts, pb};

use super::{Done, Gc, name};
use crate::error::Result;
use crate::wire;

/// Segments taken up at a time.
const BATCH: usize = 1000;
/// Segments forgotten by one command.
const SLICE: usize = 64;

/// Deletes the objects of condemned segments whose grace is over, and forgets the segments of which
/// none is left. One whose objects cannot be deleted now stays for the next round.
pub(super) async fn run(gc: &Gc<'_>, done: &mut Done) -> Result<()> {
    let mut after = SegmentId(i64::MIN);
    loop {
        let now = gc.confirm().await?;
        let due: Vec<SegmentId> = {
            let state = gc.coordinator.state();
            state
                .condemned()
                .filter(|segment| segment.id > after)
                .filter(|segment| may_delete(&state, segment, now, &gc.policy).is_ok())
                .map(|segment| segment.id)
                .take(BATCH)
                .collect()
        };
        let Some(&last) = due.last() else {
            return Ok(());
        };
        after = last;
        for slice in due.chunks(SLICE) {
            let mut gone = Vec::with_capacity(slice.len());
            for &id in slice {
                if delete_one(gc, id, now, done).await? {
                    gone.push(id.0);
                }
            }
            if gone.is_empty() {
                continue;
            }
            let count = gone.len() as u64;
            gc.scope
                .propose(Command::ForgetSegments(pb::ForgetSegments {
                    segment_ids: gone,
                }))
                .await?;
            done.segments += count;
        }
    }
}

/// Deletes what belongs to a condemned segment. False = something could not be deleted.
async fn delete_one(gc: &Gc<'_>, id: SegmentId, now: Ts, done: &mut Done) -> Result<bool> {
    let files = gc.coordinator.cold(id)?.files;
    let (mut paths, builds) = {
        let state = gc.coordinator.state();
        let Some(segment) = state.segment(id) else {
            return Ok(false);
        };
        let paths: Vec<String> = files
            .iter()
            .filter(|file| !is_held_elsewhere(&state, gc, id, file, now))
            .filter_map(|file| match file.path.as_str() {
                "" => Some(wire::canonical_path(segment, file)),
                told => {
                    let below = name::below_root(told);
                    if below.is_none() {
                        tracing::warn!(
                            segment = id.0,
                            path = told,
                            "log file is left: its path is none of ours"
                        );
                    }
                    below
                }
            })
            .collect();
        let builds: Vec<i64> = state.builds_of(id).map(|build| build.build_id).collect();
        (paths, builds)
    };
    for build in builds {
        // Whatever versions there are.
        paths.extend(gc.names_below(&format!("index_files/{build}")).await?);
    }
    Ok(gc.delete(&paths, &mut done.objects).await?.is_empty())
}

/// Whether another segment that is not past its grace too holds a delete log that was carried on.
fn is_held_elsewhere(
    state: &State,
    gc: &Gc<'_>,
    id: SegmentId,
    file: &pb::BinlogRef,
    now: Ts,
) -> bool {
    let Some(carried) = state.carried(file.log_id) else {
        return false;
    };
    carried
        .holders
        .iter()
        .map(|&holder| SegmentId(holder))
        .filter(|&holder| holder != id)
        .filter_map(|holder| state.segment(holder))
        .any(|holder| may_delete(state, holder, now, &gc.policy).is_err())
}
