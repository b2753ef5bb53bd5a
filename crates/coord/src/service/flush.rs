//! Manual flush (`semantics.md` §4.1, §4.6).

use std::collections::HashMap;

use quorate_meta::command::Command;
use quorate_meta::model::{Level, SegmentState};
use quorate_meta::pb::{self, SealReason};
use quorate_meta::{CollectionId, Reason, SegmentId};
use quorate_rpc::proto::milvus::data::{FlushRequest, FlushResponse, GetFlushStateRequest};
use quorate_rpc::proto::milvus::milvus::GetFlushStateResponse;
use quorate_rpc::status;

use super::segment_ids;
use crate::coordinator::Coordinator;
use crate::error::{CoordError, Result};
use crate::loops::seal_of;
use crate::wire;

impl Coordinator {
    /// Seals the named, else all Growing segments of a collection and asks for everything up to a
    /// timestamp to be made durable. It promises sealing, not durability: that is what
    /// GetFlushState is asked for. An unknown collection has nothing to flush, as in Milvus.
    ///
    /// # Errors
    /// A named segment is not there, or this replica does not lead.
    pub async fn flush(&self, request: FlushRequest) -> Result<FlushResponse> {
        let scope = self.scope()?;
        let collection = CollectionId(request.collection_id);
        let named = segment_ids(&request.segment_i_ds);
        self.barrier().await?;

        // Checkpoints first: what they say is then older than the flush, never newer.
        let (channels, checkpoints) = {
            let state = self.state();
            if state.live_collection(collection).is_none() {
                return Ok(FlushResponse {
                    status: Some(status::ok()),
                    collection_id: request.collection_id,
                    db_id: request.db_id,
                    ..Default::default()
                });
            }
            for id in &named {
                let belongs = state
                    .segment(*id)
                    .is_some_and(|s| s.collection == collection);
                if !belongs {
                    return Err(CoordError::Rejected(
                        Reason::SegmentNotFound,
                        format!("segment not found[segment={id}]"),
                    ));
                }
            }
            let rows = state.channels_of(collection);
            let checkpoints: HashMap<_, _> = rows
                .iter()
                .filter_map(|row| {
                    Some((
                        row.name.clone(),
                        wire::to_position(row.checkpoint.as_ref()?),
                    ))
                })
                .collect();
            let mut names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
            // Segments may sit on channels nobody announced.
            names.extend(state.segments_of(collection).map(|s| s.channel.to_string()));
            names.sort_unstable();
            names.dedup();
            (names, checkpoints)
        };

        // No rows are granted while the seals are on their way. Names are sorted: two flushes
        // never wait for each other in a circle.
        let mut locked = Vec::with_capacity(channels.len());
        for name in &channels {
            locked.push(scope.grants.channel(name).lock_owned().await);
        }
        let flush_ts = scope.alloc_ts(1).await?;
        let mut seals = Vec::new();
        let mut before = Vec::new();
        let mut flushed = Vec::new();
        {
            let state = self.state();
            for (name, grants) in channels.iter().zip(&locked) {
                for segment in state.segments_on(name) {
                    let wanted = named.is_empty() || named.contains(&segment.id);
                    if segment.collection != collection || !wanted {
                        continue;
                    }
                    match state.effective_state(segment) {
                        SegmentState::Growing => {
                            seals.push(seal_of(segment.id, SealReason::Manual, grants, &scope));
                        }
                        SegmentState::Sealed => before.push(segment.id.0),
                        state if state.is_flush_state() && segment.level != Level::L0 => {
                            flushed.push(segment.id.0);
                        }
                        _ => {}
                    }
                }
            }
        }
        let sealed: Vec<i64> = seals.iter().map(|seal| seal.segment_id).collect();
        let ids: Vec<SegmentId> = segment_ids(&sealed);
        for grants in &mut locked {
            grants.set_sealing(ids.iter().copied(), true);
        }
        let command = Command::SealSegments(pb::SealSegments {
            seals,
            flush_ts: flush_ts.0,
            flush_channels: channels.clone(),
        });
        if let Err(error) = scope.propose(command).await {
            for grants in &mut locked {
                grants.set_sealing(ids.iter().copied(), false);
            }
            return Err(error);
        }
        drop(locked);
        scope.ticked.notify_one();
        before.extend(sealed);
        before.sort_unstable();
        Ok(FlushResponse {
            status: Some(status::ok()),
            db_id: request.db_id,
            collection_id: request.collection_id,
            segment_i_ds: before,
            flush_segment_i_ds: flushed,
            time_of_seal: i64::try_from(flush_ts.ms() / 1000).unwrap_or(i64::MAX),
            flush_ts: flush_ts.0,
            channel_cps: checkpoints,
        })
    }

    /// Whether a flush is done: every named segment is in flush state or gone, and every channel's
    /// checkpoint has passed the flush's timestamp.
    ///
    /// # Errors
    /// This replica does not lead.
    pub async fn get_flush_state(
        &self,
        request: GetFlushStateRequest,
    ) -> Result<GetFlushStateResponse> {
        let state = self.read().await?;
        let segments_done = segment_ids(&request.segment_i_ds).into_iter().all(|id| {
            state
                .healthy_segment(id)
                .is_none_or(|segment| state.effective_state(segment).is_flush_state())
        });
        let channels_done = request.flush_ts == 0
            || state
                .channels_of(CollectionId(request.collection_id))
                .iter()
                .all(|row| {
                    row.checkpoint
                        .as_ref()
                        .is_some_and(|checkpoint| checkpoint.ts >= request.flush_ts)
                });
        Ok(GetFlushStateResponse {
            status: Some(status::ok()),
            flushed: segments_done && channels_done,
        })
    }
}
