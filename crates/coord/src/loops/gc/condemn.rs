//! What becomes of the metadata: condemning segments nothing needs any more, and forgetting
//! collections and partitions of which nothing is left.

use std::collections::BTreeSet;

use quorate_meta::command::Command;
use quorate_meta::plan::gc::may_condemn;
use quorate_meta::{CollectionId, SegmentId, State, pb};

use super::{Done, Gc};
use crate::error::Result;

/// Segments looked at under one lock of the state.
const PAGE: usize = 10_000;
/// Segments condemned by one command.
const SLICE: usize = 1000;

/// Condemns dropped segments whose time has come. From that entry on no reader's view has them.
pub(super) async fn run(gc: &Gc<'_>, done: &mut Done) -> Result<()> {
    let now = gc.confirm().await?;
    let mut after = SegmentId(i64::MIN);
    loop {
        let mut due = Vec::new();
        let mut looked_at = 0;
        {
            let state = gc.coordinator.state();
            for segment in state.segments_after(after).take(PAGE) {
                looked_at += 1;
                after = segment.id;
                if segment.condemned_at.is_zero()
                    && may_condemn(&state, segment, now, &gc.policy).is_ok()
                {
                    due.push(segment.id.0);
                }
            }
        }
        for slice in due.chunks(SLICE) {
            gc.scope
                .propose(Command::CondemnSegments(pb::CondemnSegments {
                    segment_ids: slice.to_vec(),
                }))
                .await?;
            done.condemned += slice.len() as u64;
        }
        if looked_at < PAGE {
            return Ok(());
        }
    }
}

/// Forgets dropped collections and partitions of which nothing is left.
pub(super) async fn forget_collections(gc: &Gc<'_>, done: &mut Done) -> Result<()> {
    gc.confirm().await?;
    let collection_ids: Vec<i64> = {
        let state = gc.coordinator.state();
        state
            .tombstoned_collections()
            .filter(|row| is_empty(&state, row))
            .map(|row| row.id)
            .take(SLICE)
            .collect()
    };
    if collection_ids.is_empty() {
        return Ok(());
    }
    let count = collection_ids.len() as u64;
    gc.scope
        .propose(Command::ForgetCollections(pb::ForgetCollections {
            collection_ids,
        }))
        .await?;
    done.collections += count;
    Ok(())
}

/// Whether a dropped collection, or a dropped partition of a live one, has nothing left. Apply
/// checks it again.
fn is_empty(state: &State, row: &pb::CollectionRow) -> bool {
    let id = CollectionId(row.id);
    if row.dropped_at == 0 {
        let used: BTreeSet<i64> = state
            .segments_of(id)
            .map(|segment| segment.partition.0)
            .collect();
        return row
            .partitions
            .iter()
            .any(|partition| partition.dropped_at != 0 && !used.contains(&partition.id));
    }
    state.segments_of(id).next().is_none()
        && state
            .channels()
            .all(|channel| channel.collection_id != row.id)
        && state.dropped_indexes().all(|index| {
            index
                .index
                .as_ref()
                .is_none_or(|index| index.collection_id != row.id)
        })
}
