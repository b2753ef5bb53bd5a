//! Collections and partitions. A drop is one tombstone; a loop rewrites the rows in slices.

use super::{Ctx, Reason, channel, compaction, reject};
use crate::command::Outcome;
use crate::id::CollectionId;
use crate::pb;
use crate::state::{Change, Delta, Event, State};

/// Most partitions of a collection, as in Milvus.
pub const PARTITIONS_MAX: usize = 4096;
/// Most channels of a collection.
pub const CHANNELS_MAX: usize = 64;

fn reply(id: i64) -> pb::Reply {
    pb::Reply {
        id,
        ..Default::default()
    }
}

pub(super) fn create(
    state: &State,
    ctx: Ctx,
    cmd: &pb::CreateCollection,
    out: &mut Delta,
) -> Outcome {
    if cmd.name.is_empty() || cmd.channels.is_empty() || cmd.channels.len() > CHANNELS_MAX {
        return reject(
            Reason::Invalid,
            format!("a collection needs a name and 1 to {CHANNELS_MAX} channels"),
        );
    }
    if let Some(existing) = state.collection_named(&cmd.name) {
        if existing.schema == cmd.schema && existing.channels.len() == cmd.channels.len() {
            return Outcome::Already(reply(existing.id));
        }
        return reject(
            Reason::Exists,
            format!("collection {} exists with another definition", cmd.name),
        );
    }
    if state.collection(CollectionId(cmd.id)).is_some()
        || cmd
            .channels
            .iter()
            .any(|name| state.channel(name).is_some())
    {
        return reject(Reason::Exists, format!("collection id {} is taken", cmd.id));
    }
    if cmd.id >= state.id_bound() || cmd.default_partition_id >= state.id_bound() {
        return reject(
            Reason::Invalid,
            format!("collection id {} was never handed out", cmd.id),
        );
    }
    out.changes.push(Change::Collection(pb::CollectionRow {
        id: cmd.id,
        name: cmd.name.clone(),
        schema: cmd.schema.clone(),
        partitions: vec![pb::PartitionRow {
            id: cmd.default_partition_id,
            name: "_default".into(),
            created_at: ctx.now.0,
            dropped_at: 0,
        }],
        channels: cmd.channels.clone(),
        created_at: ctx.now.0,
        dropped_at: 0,
        row_size_bytes: cmd.row_size_bytes,
        past_partition_ids: Vec::new(),
    }));
    for name in &cmd.channels {
        out.put_channel(channel::new_row(name, cmd.id, ctx.now, None));
    }
    Outcome::Done(reply(cmd.id))
}

pub(super) fn drop_collection(
    state: &State,
    ctx: Ctx,
    cmd: &pb::DropCollection,
    out: &mut Delta,
) -> Outcome {
    let Some(row) = state.live_collection(CollectionId(cmd.id)) else {
        return Outcome::already();
    };
    let mut row = pb::CollectionRow::clone(row);
    row.dropped_at = ctx.now.0;
    for name in &row.channels {
        if let Some(channel) = state.channel(name).filter(|row| row.dropped_at == 0) {
            out.put_channel(channel::entombed(channel, ctx.now));
        }
    }
    compaction::cancel(state, ctx, out, "the collection was dropped", |plan| {
        plan.collection_id == cmd.id
    });
    out.changes.push(Change::Collection(row));
    out.events.push(Event::Dropped(CollectionId(cmd.id)));
    Outcome::Done(reply(cmd.id))
}

pub(super) fn create_partition(
    state: &State,
    ctx: Ctx,
    cmd: &pb::CreatePartition,
    out: &mut Delta,
) -> Outcome {
    let Some(row) = state.live_collection(CollectionId(cmd.collection_id)) else {
        return no_collection(cmd.collection_id);
    };
    if cmd.name.is_empty() {
        return reject(Reason::Invalid, "a partition needs a name");
    }
    if let Some(existing) = live_partition(row, &cmd.name) {
        return Outcome::Already(reply(existing.id));
    }
    let live = row.partitions.iter().filter(|p| p.dropped_at == 0).count();
    if live >= PARTITIONS_MAX {
        return reject(
            Reason::OverLimit,
            format!("a collection has at most {PARTITIONS_MAX} partitions"),
        );
    }
    if cmd.id >= state.id_bound() || row.partitions.iter().any(|p| p.id == cmd.id) {
        return reject(
            Reason::Invalid,
            format!("partition id {} was never handed out or is taken", cmd.id),
        );
    }
    let mut row = pb::CollectionRow::clone(row);
    row.partitions.push(pb::PartitionRow {
        id: cmd.id,
        name: cmd.name.clone(),
        created_at: ctx.now.0,
        dropped_at: 0,
    });
    out.changes.push(Change::Collection(row));
    Outcome::Done(reply(cmd.id))
}

pub(super) fn drop_partition(
    state: &State,
    ctx: Ctx,
    cmd: &pb::DropPartition,
    out: &mut Delta,
) -> Outcome {
    let Some(row) = state.live_collection(CollectionId(cmd.collection_id)) else {
        return no_collection(cmd.collection_id);
    };
    let Some(id) = live_partition(row, &cmd.name).map(|partition| partition.id) else {
        return Outcome::already();
    };
    if cmd.name == "_default" {
        return reject(Reason::Invalid, "the default partition cannot be dropped");
    }
    let mut row = pb::CollectionRow::clone(row);
    for partition in &mut row.partitions {
        if partition.id == id {
            partition.dropped_at = ctx.now.0;
        }
    }
    compaction::cancel(state, ctx, out, "the partition was dropped", |plan| {
        plan.collection_id == row.id && plan.partition_id == id
    });
    out.events.push(Event::Dropped(CollectionId(row.id)));
    out.changes.push(Change::Collection(row));
    Outcome::Done(reply(id))
}

fn live_partition<'a>(row: &'a pb::CollectionRow, name: &str) -> Option<&'a pb::PartitionRow> {
    row.partitions
        .iter()
        .find(|partition| partition.dropped_at == 0 && partition.name == name)
}

pub(super) fn no_collection(id: i64) -> Outcome {
    reject(
        Reason::CollectionNotFound,
        format!("collection not found[collection={id}]"),
    )
}
