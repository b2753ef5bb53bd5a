//! Garbage collection in the metadata (`semantics.md` §10): condemned on the log first, forgotten
//! last; the objects go in between.

use std::collections::{BTreeMap, BTreeSet};

use super::segment::dropped;
use super::{Ctx, Reason, changed, reject};
use crate::command::Outcome;
use crate::id::{CollectionId, PartitionId, SegmentId};
use crate::model::{Segment, SegmentState};
use crate::pb;
use crate::plan::gc::needed;
use crate::state::{Change, Delta, Event, State};
use crate::time::Ts;

/// Most pauses of garbage collection at a time.
pub const PAUSES_MAX: usize = 1000;

/// From this entry on no reader's view contains these segments. Those something still needs are
/// passed over; when that is all of them, the answer is a refusal.
pub(super) fn condemn(
    state: &State,
    ctx: Ctx,
    cmd: &pb::CondemnSegments,
    out: &mut Delta,
) -> Outcome {
    let mut needed_one = None;
    let mut seen = BTreeSet::new();
    for &id in &cmd.segment_ids {
        let Some(segment) = state.segment(SegmentId(id)) else {
            continue;
        };
        if !segment.condemned_at.is_zero() || !seen.insert(id) {
            continue;
        }
        if let Err(wait) = needed(state, segment) {
            needed_one = Some((id, wait));
            continue;
        }
        let mut segment: Segment = if segment.state == SegmentState::Dropped {
            segment.clone()
        } else {
            dropped(segment, state.dropped_at(segment))
        };
        segment.condemned_at = ctx.now.max(Ts(1));
        out.put_segment(segment);
    }
    match needed_one {
        Some((id, wait)) if out.is_empty() => reject(
            Reason::IllegalState,
            format!("segment {id} cannot be condemned: {wait}"),
        ),
        _ => {
            if !out.is_empty() {
                out.events.push(Event::Gc);
            }
            changed(out)
        }
    }
}

/// Forgets condemned segments with all that belongs to them. The others named are passed over.
pub(super) fn forget_segments(state: &State, cmd: &pb::ForgetSegments, out: &mut Delta) -> Outcome {
    let ids: BTreeSet<SegmentId> = cmd
        .segment_ids
        .iter()
        .map(|&id| SegmentId(id))
        .filter(|&id| {
            state
                .segment(id)
                .is_some_and(|segment| !segment.condemned_at.is_zero())
        })
        .collect();
    let mut lineage = BTreeSet::new();
    let mut carried: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for &id in &ids {
        out.changes.extend(
            state
                .builds_of(id)
                .map(|build| Change::ForgetBuild(build.build_id)),
        );
        if !state.parents_of(id).is_empty() {
            lineage.insert(id);
        }
        // A child that has lost a parent can never be undone, so it forgets the others, too.
        lineage.extend(state.children_of(id));
        for log_id in state.lineage.carried_by(id) {
            carried
                .entry(log_id)
                .or_insert_with(|| {
                    let row = state.carried(log_id);
                    row.map(|row| row.holders.clone()).unwrap_or_default()
                })
                .retain(|holder| *holder != id.0);
        }
        out.changes.push(Change::ForgetSegment(id));
    }
    out.changes
        .extend(lineage.into_iter().map(Change::ForgetLineage));
    for (log_id, holders) in carried {
        out.changes.push(if holders.is_empty() {
            Change::ForgetCarried(log_id)
        } else {
            let file = state.carried(log_id).and_then(|row| row.file.clone());
            Change::Carried(log_id, pb::CarriedRow { file, holders })
        });
    }
    if !out.is_empty() {
        out.events.push(Event::Gc);
    }
    changed(out)
}

/// Forgets dropped collections of which nothing is left, and, of live ones, dropped partitions of
/// which no segment is left.
pub(super) fn forget_collections(
    state: &State,
    cmd: &pb::ForgetCollections,
    out: &mut Delta,
) -> Outcome {
    let ids: BTreeSet<CollectionId> = cmd
        .collection_ids
        .iter()
        .map(|&id| CollectionId(id))
        .collect();
    for id in ids {
        let Some(row) = state.collection(id) else {
            continue;
        };
        if row.dropped_at != 0 {
            let empty = state.segments_of(id).next().is_none()
                && state.channels_of(id).is_empty()
                && !state.indexes.by_collection.contains_key(&id);
            if empty {
                out.changes.push(Change::ForgetCollection(id));
            }
            continue;
        }
        if row.partitions.iter().all(|p| p.dropped_at == 0) {
            continue;
        }
        let used: BTreeSet<PartitionId> = state
            .segments_of(id)
            .map(|segment| segment.partition)
            .collect();
        let mut kept = pb::CollectionRow::clone(row);
        let (kept_rows, past) = kept
            .partitions
            .into_iter()
            .partition(|p| p.dropped_at == 0 || used.contains(&PartitionId(p.id)));
        kept.partitions = kept_rows;
        let past: Vec<pb::PartitionRow> = past;
        kept.past_partition_ids.extend(past.iter().map(|p| p.id));
        if kept.partitions.len() < row.partitions.len() {
            out.changes.push(Change::Collection(kept));
        }
    }
    changed(out)
}

/// Nothing is collected of a collection (0 = all) for a while. Pauses that are over go.
pub(super) fn pause(state: &State, ctx: Ctx, cmd: &pb::PauseGc, out: &mut Delta) -> Outcome {
    let row = pb::GcPauseRow {
        ticket: cmd.ticket.clone(),
        collection_id: cmd.collection_id,
        until: cmd.until,
    };
    let key = (cmd.collection_id, cmd.ticket.clone());
    if state.gc_pauses.get(&key) == Some(&row) || Ts(cmd.until) <= ctx.now {
        return Outcome::already();
    }
    let over: Vec<_> = state
        .gc_pauses()
        .filter(|pause| Ts(pause.until) <= ctx.now)
        .collect();
    if !state.gc_pauses.contains_key(&key) && state.gc_pauses.len() - over.len() >= PAUSES_MAX {
        return reject(
            Reason::OverLimit,
            format!("at most {PAUSES_MAX} pauses of garbage collection at a time; resume some"),
        );
    }
    for pause in over {
        out.changes.push(Change::ForgetGcPause {
            collection: pause.collection_id,
            ticket: pause.ticket.clone(),
        });
    }
    out.changes.push(Change::GcPause(row));
    out.events.push(Event::Gc);
    Outcome::done()
}

/// Ends pauses: those with this ticket (empty = any) of this collection (0 = any).
pub(super) fn resume(state: &State, cmd: &pb::ResumeGc, out: &mut Delta) -> Outcome {
    for pause in state.gc_pauses() {
        let ticket = cmd.ticket.is_empty() || cmd.ticket == pause.ticket;
        let collection = cmd.collection_id == 0 || cmd.collection_id == pause.collection_id;
        if ticket && collection {
            out.changes.push(Change::ForgetGcPause {
                collection: pause.collection_id,
                ticket: pause.ticket.clone(),
            });
        }
    }
    if !out.is_empty() {
        out.events.push(Event::Gc);
    }
    changed(out)
}
