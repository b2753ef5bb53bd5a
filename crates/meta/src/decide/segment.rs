//! Opening, sealing and ending segments (`semantics.md` §2 to §4).

use super::{Ctx, Reason, changed, collection::no_collection, reject};
use crate::command::Outcome;
use crate::id::{CollectionId, PartitionId, SegmentId};
use crate::model::{Level, Segment, SegmentState};
use crate::pb;
use crate::state::{Delta, Event, State};
use crate::time::Ts;

pub(super) fn no_segment(id: i64) -> Outcome {
    reject(
        Reason::SegmentNotFound,
        format!("segment not found[segment={id}]"),
    )
}

/// A new Growing segment. The channel need not be watched yet, nor known: the real DataCoord 2.3.5
/// takes any channel and partition of a known collection.
pub(super) fn open(state: &State, ctx: Ctx, cmd: &pb::OpenSegment, out: &mut Delta) -> Outcome {
    let id = SegmentId(cmd.id);
    let Some(row) = state.live_collection(CollectionId(cmd.collection_id)) else {
        return no_collection(cmd.collection_id);
    };
    if state.partition_dropped(row, PartitionId(cmd.partition_id)) {
        return reject(
            Reason::PartitionNotFound,
            format!("partition not found[partition={}]", cmd.partition_id),
        );
    }
    if let Some(channel) = state.channel(&cmd.channel)
        && (channel.dropped_at != 0 || channel.collection_id != cmd.collection_id)
    {
        return reject(
            Reason::ChannelNotFound,
            format!("channel not found[channel={}]", cmd.channel),
        );
    }
    if let Some(existing) = state.segment(id) {
        let same = existing.collection.0 == cmd.collection_id
            && existing.partition.0 == cmd.partition_id
            && *existing.channel == *cmd.channel;
        return if same {
            Outcome::already()
        } else {
            reject(Reason::Exists, format!("segment id {id} is taken"))
        };
    }
    if cmd.id >= state.id_bound() || cmd.max_rows <= 0 || cmd.channel.is_empty() {
        return reject(
            Reason::Invalid,
            format!("segment {id}: its id was never handed out, or it has no capacity or channel"),
        );
    }
    out.put_segment(Segment {
        id,
        collection: CollectionId(cmd.collection_id),
        partition: PartitionId(cmd.partition_id),
        channel: state.shared_name(&cmd.channel),
        state: SegmentState::Growing,
        level: Level::L1,
        rows: 0,
        max_rows: cmd.max_rows,
        seal_rows: cmd.seal_rows,
        max_size_bytes: cmd.max_size_bytes,
        last_expire: Ts::ZERO,
        opened_at: ctx.now,
        sealed_at: Ts::ZERO,
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
    });
    Outcome::done()
}

/// Seals Growing segments; the others named are passed over. A manual flush also leaves its
/// timestamp on the channels, in this one entry.
pub(super) fn seal(state: &State, ctx: Ctx, cmd: &pb::SealSegments, out: &mut Delta) -> Outcome {
    for seal in &cmd.seals {
        let Some(segment) = state.healthy_segment(SegmentId(seal.segment_id)) else {
            continue;
        };
        if segment.state != SegmentState::Growing {
            continue;
        }
        let mut segment = segment.clone();
        segment.state = SegmentState::Sealed;
        segment.sealed_at = ctx.now;
        segment.seal_reason = u8::try_from(seal.reason).unwrap_or_default();
        segment.last_expire = segment.last_expire.max(Ts(seal.last_expire_ts));
        out.put_segment(segment);
    }
    for name in &cmd.flush_channels {
        if let Some(channel) = state.channel(name)
            && channel.dropped_at == 0
            && channel.flush_ts < cmd.flush_ts
        {
            let mut channel = pb::ChannelRow::clone(channel);
            channel.flush_ts = cmd.flush_ts;
            out.put_channel(channel);
        }
    }
    changed(out)
}

/// The last step of a flush: Flushing → Flushed.
pub(super) fn finish_flush(state: &State, cmd: &pb::FinishFlush, out: &mut Delta) -> Outcome {
    let Some(segment) = state.healthy_segment(SegmentId(cmd.segment_id)) else {
        return Outcome::already();
    };
    match segment.state {
        SegmentState::Flushing => {
            let mut segment = segment.clone();
            segment.state = SegmentState::Flushed;
            out.events.push(Event::Flushed(segment.id));
            out.put_segment(segment);
            Outcome::done()
        }
        SegmentState::Flushed => Outcome::already(),
        state => reject(
            Reason::IllegalState,
            format!("segment {} is {}, not Flushing", segment.id, state.name()),
        ),
    }
}

/// Writes into segments' own rows that they are dropped, which a tombstone above them said before.
pub(super) fn rewrite_dropped(state: &State, cmd: &pb::RewriteDropped, out: &mut Delta) -> Outcome {
    for &id in &cmd.segment_ids {
        let Some(segment) = state.segment(SegmentId(id)) else {
            continue;
        };
        if segment.state != SegmentState::Dropped
            && state.effective_state(segment) == SegmentState::Dropped
        {
            out.put_segment(dropped(segment, state.dropped_at(segment)));
        }
    }
    changed(out)
}

/// The segment, dropped. DroppedAt is set by the change of state itself (Milvus #48902).
pub(super) fn dropped(segment: &Segment, at: Ts) -> Segment {
    let mut segment = segment.clone();
    segment.state = SegmentState::Dropped;
    segment.dropped_at = at;
    segment
}
