//! What clients ask: decode → command or read → reply. Each method is a plain function of
//! [`Coordinator`](crate::Coordinator); the gRPC traits in [`grpc`] only carry them.

mod admin;
mod assign;
mod collections;
mod compaction;
mod flush;
mod gc;
pub(crate) mod grpc;
mod index;
mod info;
mod members;
mod meta;
mod nodes;
mod save;

pub(crate) use admin::hex;

use prost::Message;
use quorate_meta::model::SegmentState;
use quorate_meta::pb::{ChannelRow, CollectionRow};
use quorate_meta::{SegmentId, State};
use quorate_rpc::proto::milvus::data::{ChannelWatchInfo, ChannelWatchState, VchannelInfo};
use quorate_rpc::proto::milvus::schema::CollectionSchema;

use crate::error::{CoordError, Result};
use crate::wire;

/// The schema of a collection.
///
/// # Errors
/// It cannot be decoded; it was checked when it was stored.
pub(crate) fn schema_of(row: &CollectionRow) -> Result<CollectionSchema> {
    CollectionSchema::decode(row.schema.as_ref()).map_err(|error| {
        CoordError::Internal(format!(
            "schema of collection {} is damaged: {error}",
            row.id
        ))
    })
}

/// A channel operation for a data node: what it needs to go on where the last owner stopped.
pub(crate) fn watch_info(
    state: &State,
    row: &ChannelRow,
    collection: Option<&CollectionRow>,
    wanted: ChannelWatchState,
) -> ChannelWatchInfo {
    let mut vchan = VchannelInfo {
        collection_id: row.collection_id,
        channel_name: row.name.clone(),
        seek_position: row.checkpoint.as_ref().map(wire::to_position),
        ..Default::default()
    };
    for segment in state.unflushed_on(&row.name) {
        if state.effective_state(segment) != SegmentState::Dropped {
            vchan.unflushed_segment_ids.push(segment.id.0);
            vchan
                .unflushed_segments
                .push(wire::to_segment_info(state, segment, None));
        }
    }
    ChannelWatchInfo {
        vchan: Some(vchan),
        state: wanted.into(),
        schema: collection.and_then(|row| schema_of(row).ok()),
        op_id: row.op_id,
        assignment_epoch: row.assignment_epoch,
        ..Default::default()
    }
}

/// Ids of a request as segments.
fn segment_ids(ids: &[i64]) -> Vec<SegmentId> {
    ids.iter().copied().map(SegmentId).collect()
}
