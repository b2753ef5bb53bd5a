//! Channels: who owns them, how far they are durable, and their end (`semantics.md` §4.5, §4.7, §5).

use std::collections::BTreeSet;

use super::compaction;
use super::segment::dropped;
use super::{Ctx, Reason, changed, reject};
use crate::command::Outcome;
use crate::id::CollectionId;
use crate::model::{SegmentState, channel as life};
use crate::pb::{self, ChannelState};
use crate::state::{Change, Delta, State};
use crate::time::Ts;

/// A fresh channel: in the buffer, its checkpoint at the start position.
pub(super) fn new_row(
    name: &str,
    collection: i64,
    created: Ts,
    start: Option<&pb::Position>,
) -> pb::ChannelRow {
    let start = pb::Position {
        channel: name.to_owned(),
        // Never empty: an empty message id means "no position" on the wire.
        msg_id: start
            .map(|position| position.msg_id.clone())
            .filter(|id| !id.is_empty())
            .unwrap_or_else(|| bytes::Bytes::from_static(&[1])),
        msg_group: String::new(),
        ts: created.0,
    };
    pb::ChannelRow {
        name: name.to_owned(),
        collection_id: collection,
        checkpoint: Some(start.clone()),
        start: Some(start),
        ..Default::default()
    }
}

/// The channel with a tombstone; its checkpoint passes everything, so that nobody waits for it.
pub(super) fn entombed(row: &pb::ChannelRow, now: Ts) -> pb::ChannelRow {
    let mut row = row.clone();
    row.dropped_at = now.0;
    if let Some(checkpoint) = &mut row.checkpoint {
        checkpoint.ts = u64::MAX;
    }
    row
}

fn no_channel(name: &str) -> Outcome {
    reject(
        Reason::ChannelNotFound,
        format!("channel not found[channel={name}]"),
    )
}

/// Channels as RootCoord announces them. A channel known anywhere stays where it is. A collection
/// nobody created here is taken over as RootCoord describes it.
pub(super) fn watch(state: &State, ctx: Ctx, cmd: &pb::WatchChannels, out: &mut Delta) -> Outcome {
    let id = CollectionId(cmd.collection_id);
    let mut collection = match state.collection(id) {
        Some(row) if row.dropped_at != 0 => {
            return super::collection::no_collection(cmd.collection_id);
        }
        Some(row) => pb::CollectionRow::clone(row),
        None if cmd.schema.is_empty() => {
            return super::collection::no_collection(cmd.collection_id);
        }
        None => {
            let created_at = if cmd.create_ts == 0 {
                ctx.now.0
            } else {
                cmd.create_ts
            };
            pb::CollectionRow {
                id: cmd.collection_id,
                // Names belong to RootCoord. Ours must only be unique: nobody can create this one.
                name: format!("#{}", cmd.collection_id),
                schema: cmd.schema.clone(),
                created_at,
                row_size_bytes: cmd.row_size_bytes,
                ..Default::default()
            }
        }
    };
    let created = if cmd.create_ts == 0 {
        ctx.now
    } else {
        Ts(cmd.create_ts)
    };
    let mut fresh = BTreeSet::new();
    for name in &cmd.channels {
        match state.channel(name) {
            Some(row) if row.collection_id != cmd.collection_id => {
                return reject(
                    Reason::Exists,
                    format!("channel {name} belongs to collection {}", row.collection_id),
                );
            }
            Some(_) => {}
            None if name.is_empty() => return reject(Reason::Invalid, "a channel needs a name"),
            None => {
                fresh.insert(name);
            }
        }
    }
    if fresh.is_empty() {
        return Outcome::already();
    }
    for name in fresh {
        let start = cmd.start_positions.iter().find(|p| p.channel == *name);
        out.put_channel(new_row(name, cmd.collection_id, created, start));
        if !collection.channels.contains(name) {
            collection.channels.push(name.clone());
        }
    }
    out.changes.push(Change::Collection(collection));
    Outcome::done()
}

/// Gives channels in the buffer to data nodes. Each assignment is a new epoch: writes of earlier
/// owners are refused from here on. Channels that can't be assigned any more are passed over.
pub(super) fn assign(state: &State, cmd: &pb::AssignChannels, out: &mut Delta) -> Outcome {
    let mut seen = BTreeSet::new();
    for assignment in &cmd.assignments {
        let Some(row) = state.channel(&assignment.channel) else {
            continue;
        };
        let free = row.state() == ChannelState::Standby && row.dropped_at == 0;
        if !free || state.node(assignment.node_id).is_none() || !seen.insert(&assignment.channel) {
            continue;
        }
        let mut row = pb::ChannelRow::clone(row);
        row.set_state(ChannelState::ToWatch);
        row.node_id = assignment.node_id;
        row.op_id = assignment.op_id;
        row.assignment_epoch += 1;
        out.put_channel(row);
    }
    changed(out)
}

/// The operation under way succeeded or failed. The result of another operation is ignored.
pub(super) fn step(state: &State, cmd: &pb::StepChannel, out: &mut Delta) -> Outcome {
    let Some(row) = state.channel(&cmd.channel) else {
        return Outcome::already();
    };
    if row.op_id != cmd.op_id {
        return Outcome::already();
    }
    let Some(next) = life::step(row.state(), cmd.success) else {
        return Outcome::already();
    };
    let mut row = pb::ChannelRow::clone(row);
    row.set_state(next);
    if next == ChannelState::Standby {
        orphan(&mut row);
    }
    out.put_channel(row);
    Outcome::done()
}

/// Takes the owner off a channel and remembers who it was.
pub(super) fn orphan(row: &mut pb::ChannelRow) {
    row.set_state(ChannelState::Standby);
    row.last_node_id = row.node_id;
    row.node_id = 0;
    row.op_id = 0;
}

/// Asks the owner to give a channel back.
pub(super) fn release(state: &State, cmd: &pb::ReleaseChannel, out: &mut Delta) -> Outcome {
    let Some(row) = state.channel(&cmd.channel) else {
        return Outcome::already();
    };
    if !matches!(
        row.state(),
        ChannelState::ToWatch | ChannelState::Watching | ChannelState::Watched
    ) {
        return Outcome::already();
    }
    let mut row = pb::ChannelRow::clone(row);
    row.set_state(ChannelState::ToRelease);
    row.op_id = cmd.op_id;
    out.put_channel(row);
    Outcome::done()
}

/// Forgets a dropped channel nobody owns any more. Refused while a segment of it is not yet
/// rewritten as dropped: the tombstone is what tells readers so.
pub(super) fn remove(state: &State, cmd: &pb::RemoveChannel, out: &mut Delta) -> Outcome {
    let Some(row) = state.channel(&cmd.channel) else {
        return Outcome::already();
    };
    if row.dropped_at == 0 || row.state() != ChannelState::Standby {
        return reject(
            Reason::IllegalState,
            format!("channel {} is not dropped, or still owned", cmd.channel),
        );
    }
    if state.segments_on(&cmd.channel).next().is_some() {
        return reject(
            Reason::IllegalState,
            format!("channel {} still has segments to rewrite", cmd.channel),
        );
    }
    for stream in state
        .coverage_of(&cmd.channel)
        .into_iter()
        .flat_map(|s| s.keys())
    {
        out.changes.push(Change::ForgetCoverage {
            channel: cmd.channel.clone(),
            stream: stream.clone(),
        });
    }
    out.changes.push(Change::ForgetChannel(cmd.channel.clone()));
    Outcome::done()
}

/// Checkpoints move forward only. Channels of another owner, unknown ones and nil positions are
/// filtered. Sealed segments without rows whose reservations a checkpoint has passed are dropped.
pub(super) fn update_checkpoints(
    state: &State,
    ctx: Ctx,
    cmd: &pb::UpdateCheckpoints,
    out: &mut Delta,
) -> Outcome {
    let mut seen = BTreeSet::new();
    for position in &cmd.positions {
        let Some(row) = state.channel(&position.channel) else {
            continue;
        };
        let current = row
            .checkpoint
            .as_ref()
            .map_or(0, |checkpoint| checkpoint.ts);
        let ours = life::owned_by(row, cmd.node_id, 0);
        if position.msg_id.is_empty() || !ours || position.ts <= current || !seen.insert(&row.name)
        {
            continue;
        }
        let mut moved = pb::ChannelRow::clone(row);
        moved.checkpoint = Some(position.clone());
        out.put_channel(moved);
        for segment in state.unflushed_on(&position.channel) {
            let empty = segment.state == SegmentState::Sealed && segment.rows == 0;
            if empty && !segment.last_expire.is_zero() && segment.last_expire < Ts(position.ts) {
                out.put_segment(dropped(segment, ctx.now));
            }
        }
    }
    changed(out)
}

/// The channel of a dropped collection: its segments are dropped with it, in one entry.
pub(super) fn drop_virtual(
    state: &State,
    ctx: Ctx,
    cmd: &pb::DropVirtualChannel,
    out: &mut Delta,
) -> Outcome {
    let Some(row) = state.channel(&cmd.channel) else {
        return reject(
            Reason::ChannelNotFound,
            format!(
                "for node {}: channel not found[channel={}]",
                cmd.node_id, cmd.channel
            ),
        );
    };
    if row.dropped_at != 0 {
        return Outcome::already();
    }
    if !life::owned_by(row, cmd.node_id, 0) {
        return no_channel(&cmd.channel).for_node(cmd.node_id);
    }
    out.put_channel(entombed(row, ctx.now));
    compaction::cancel(state, ctx, out, "the channel was dropped", |plan| {
        plan.channel == row.name
    });
    out.events.push(crate::state::Event::Dropped(CollectionId(
        row.collection_id,
    )));
    Outcome::done()
}

impl Outcome {
    fn for_node(self, node: i64) -> Self {
        match self {
            Outcome::Rejected(reason, detail) => {
                Outcome::Rejected(reason, format!("for node {node}: {detail}"))
            }
            other => other,
        }
    }
}
