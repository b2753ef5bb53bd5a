//! SaveBinlogPaths: log files, positions and the change of state that comes with them, in one
//! entry (`semantics.md` §4.3, `architecture.md` §5).

use std::collections::BTreeMap;

use super::compaction::cancel_holders;
use super::segment::{dropped, no_segment};
use super::{Ctx, Reason, changed, collection::no_collection, reject};
use crate::command::Outcome;
use crate::id::{CollectionId, PartitionId, SegmentId};
use crate::model::channel::owned_by;
use crate::model::{Level, Segment, SegmentState};
use crate::pb;
use crate::ranges::RangeSet;
use crate::state::{Change, Delta, Event, State};
use crate::time::Ts;

pub(super) fn save_binlogs(
    state: &State,
    ctx: Ctx,
    cmd: &pb::SaveBinlogs,
    out: &mut Delta,
) -> Outcome {
    if let Some(refusal) = refuse_stranger(state, cmd) {
        return refusal;
    }
    let segment = match target(state, ctx, cmd) {
        Ok(segment) => segment,
        Err(outcome) => return outcome,
    };
    if !cmd.refs.is_empty() && segment.files_rev != cmd.files_rev {
        return reject(
            Reason::FilesChanged,
            format!(
                "segment {}: files are at revision {}, not {}",
                segment.id, segment.files_rev, cmd.files_rev
            ),
        );
    }
    if cmd.added_rows > 0 && segment.state.is_flush_state() && segment.level != Level::L0 {
        return reject(
            Reason::IllegalState,
            format!(
                "segment {} is flushed; it takes no more insert logs",
                segment.id
            ),
        );
    }
    let coverage = match cover(state, cmd) {
        Ok(coverage) => coverage,
        Err(refusal) => return refusal,
    };

    let before = state.segment(segment.id);
    let mut after = segment.clone();
    add_files(&mut after, cmd, out);
    move_positions(state, &mut after, cmd, out);
    end_growth(ctx, &mut after, cmd, out);
    if after.state == SegmentState::Dropped {
        cancel_holders(state, ctx, out, &[after.id]);
    }
    if before.is_none() && after.state == SegmentState::Flushed {
        out.events.push(Event::Flushed(after.id));
    }
    for ((channel, stream), stored) in coverage {
        out.changes.push(Change::Coverage {
            channel,
            stream,
            stored,
        });
    }
    if before != Some(&after) {
        out.put_segment(after);
    }
    changed(out)
}

/// Only the node a channel is assigned to may save; an empty channel skips the check, as in Milvus.
fn refuse_stranger(state: &State, cmd: &pb::SaveBinlogs) -> Option<Outcome> {
    if cmd.channel.is_empty() {
        return None;
    }
    let owned = state
        .channel(&cmd.channel)
        .is_some_and(|row| owned_by(row, cmd.node_id, cmd.assignment_epoch));
    (!owned).then(|| {
        reject(
            Reason::ChannelNotFound,
            format!(
                "for node {}: channel not found[channel={}]",
                cmd.node_id, cmd.channel
            ),
        )
    })
}

/// The segment to save to: the stored one, or a fresh level-zero one.
fn target(state: &State, ctx: Ctx, cmd: &pb::SaveBinlogs) -> Result<Segment, Outcome> {
    if let Some(segment) = state.segment(SegmentId(cmd.segment_id)) {
        if state.effective_state(segment) == SegmentState::Dropped {
            // Milvus answers success and ignores the save. Rows named by ordinal would then count
            // as stored with their writer; it must learn that they are not.
            return Err(if cmd.row_ranges.is_empty() {
                Outcome::already()
            } else {
                no_segment(cmd.segment_id)
            });
        }
        return Ok(segment.clone());
    }
    if cmd.level != Level::L0 as u32 {
        return Err(no_segment(cmd.segment_id));
    }
    let Some(collection) = state.live_collection(CollectionId(cmd.collection_id)) else {
        return Err(no_collection(cmd.collection_id));
    };
    if state.partition_dropped(collection, PartitionId(cmd.partition_id)) {
        // Nothing is left to delete from: as for a segment that is dropped.
        return Err(Outcome::already());
    }
    if cmd.segment_id >= state.id_bound() {
        return Err(reject(
            Reason::Invalid,
            format!("segment id {} was never handed out", cmd.segment_id),
        ));
    }
    Ok(Segment {
        id: SegmentId(cmd.segment_id),
        collection: CollectionId(cmd.collection_id),
        partition: PartitionId(cmd.partition_id),
        channel: state.shared_name(&cmd.channel),
        state: SegmentState::Flushed,
        level: Level::L0,
        rows: 0,
        max_rows: 0,
        seal_rows: 0,
        max_size_bytes: 0,
        last_expire: Ts::ZERO,
        opened_at: ctx.now,
        sealed_at: ctx.now,
        dropped_at: Ts::ZERO,
        seal_reason: 0,
        files_rev: 0,
        size_bytes: 0,
        insert_files: 0,
        files: 0,
        delta_rows: 0,
        delta_bytes: 0,
        delta_files: 0,
        start: Ts::ZERO,
        dml: Ts::ZERO,
        condemned_at: Ts::ZERO,
        compacted_from: false,
        compacted: false,
    })
}

type Coverage = BTreeMap<(String, bytes::Bytes), RangeSet>;

/// The coverage with the saved rows added; refused when one of them is stored already.
fn cover(state: &State, cmd: &pb::SaveBinlogs) -> Result<Coverage, Outcome> {
    let mut coverage = Coverage::new();
    for range in &cmd.row_ranges {
        let stored = coverage
            .entry((cmd.channel.clone(), range.stream.clone()))
            .or_insert_with(|| {
                state
                    .coverage_of(&cmd.channel)
                    .and_then(|streams| streams.get(&range.stream))
                    .cloned()
                    .unwrap_or_default()
            });
        if stored.overlaps(range.from, range.to) {
            return Err(reject(
                Reason::RowsStored,
                format!(
                    "segment {}: rows {} to {} of channel {} are stored already, in part or whole",
                    cmd.segment_id, range.from, range.to, cmd.channel
                ),
            ));
        }
        stored.insert(range.from, range.to);
    }
    Ok(coverage)
}

fn add_files(segment: &mut Segment, cmd: &pb::SaveBinlogs, out: &mut Delta) {
    let mut brought_rows = false;
    for file in &cmd.refs {
        segment.count_file(file);
        brought_rows |= file.kind() == pb::LogKind::Insert;
        out.changes.push(Change::Binlog(segment.id, file.clone()));
    }
    if brought_rows {
        segment.insert_files = segment.insert_files.saturating_add(1);
        segment.rows = segment.rows.saturating_add(cmd.added_rows.max(0));
    }
    if !cmd.refs.is_empty() {
        segment.files_rev += 1;
    }
}

/// Start positions are set once, checkpoints only move forward. A save may name other segments of
/// the channel, too.
fn move_positions(state: &State, segment: &mut Segment, cmd: &pb::SaveBinlogs, out: &mut Delta) {
    let starts = cmd.start_positions.iter().map(|entry| (entry, true));
    let ends = cmd.checkpoints.iter().map(|entry| (entry, false));
    for (entry, is_start) in starts.chain(ends) {
        let Some(position) = &entry.position else {
            continue;
        };
        let id = SegmentId(entry.segment_id);
        let moved = if id == segment.id {
            move_one(segment, position, is_start)
        } else if let Some(other) = state.healthy_segment(id)
            && *other.channel == *segment.channel
        {
            let mut other = other.clone();
            let moved = move_one(&mut other, position, is_start);
            if moved {
                out.put_segment(other);
            }
            moved
        } else {
            false
        };
        if moved {
            out.changes.push(Change::Position {
                segment: id,
                is_start,
                position: position.clone(),
            });
        }
    }
}

fn move_one(segment: &mut Segment, position: &pb::Position, is_start: bool) -> bool {
    let ts = Ts(position.ts);
    if is_start {
        let first = segment.start.is_zero() && !ts.is_zero();
        if first {
            segment.start = ts;
        }
        first
    } else {
        let forward = ts > segment.dml;
        if forward {
            segment.dml = ts;
        }
        forward
    }
}

/// The final save: `flushed` makes a segment Flushing (never the dispatch of the flush: that would
/// acknowledge data that is not durable), and an empty one Dropped.
fn end_growth(ctx: Ctx, segment: &mut Segment, cmd: &pb::SaveBinlogs, out: &mut Delta) {
    if cmd.dropped {
        *segment = dropped(segment, ctx.now);
    } else if cmd.flushed && segment.state.may_become(SegmentState::Flushing) {
        if segment.rows == 0 {
            *segment = dropped(segment, ctx.now);
        } else {
            segment.state = SegmentState::Flushing;
            if segment.sealed_at.is_zero() {
                segment.sealed_at = ctx.now;
            }
            out.events.push(Event::SegmentFlushing(segment.id));
        }
    }
}
