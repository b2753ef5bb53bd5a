//! Reads: segments and what a reader of a collection must load. All linearizable.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use quorate_meta::model::Segment;
use quorate_meta::plan::recovery;
use quorate_meta::{CollectionId, PartitionId, Reason, SegmentId, State};
use quorate_rpc::proto::milvus::common::{SegmentState, StateCode};
use quorate_rpc::proto::milvus::data::{
    FieldBinlog, GetRecoveryInfoRequestV2, GetRecoveryInfoResponseV2, GetSegmentInfoRequest,
    GetSegmentInfoResponse, GetSegmentStatesRequest, GetSegmentStatesResponse, SegmentInfo,
    SegmentStateInfo, VchannelInfo,
};
use quorate_rpc::proto::milvus::milvus::{ComponentInfo, ComponentStates};
use quorate_rpc::status::{self, Code};

use super::segment_ids;
use crate::coordinator::Coordinator;
use crate::error::{CoordError, Result};
use crate::wire;

/// Most segments in one request.
const SEGMENTS_MAX: usize = 100_000;

impl Coordinator {
    /// Segments with their files. Any unknown one fails the call; so does a dropped one, unless
    /// unhealthy ones are asked for.
    ///
    /// # Errors
    /// `SegmentNotFound`, or this replica does not lead.
    pub async fn get_segment_info(
        &self,
        request: GetSegmentInfoRequest,
    ) -> Result<GetSegmentInfoResponse> {
        bounded(request.segment_i_ds.len())?;
        self.barrier().await?;
        let mut response = GetSegmentInfoResponse {
            status: Some(status::ok()),
            ..Default::default()
        };
        let mut checkpoints = HashMap::new();
        for id in segment_ids(&request.segment_i_ds) {
            let info = self.segment_info(id, request.include_un_healthy)?;
            if let Some(row) = self.state().channel(&info.insert_channel)
                && let Some(checkpoint) = &row.checkpoint
            {
                checkpoints.insert(row.name.clone(), wire::to_position(checkpoint));
            }
            response.infos.push(info);
        }
        response.channel_checkpoint = checkpoints;
        Ok(response)
    }

    /// One segment with its files, as this replica has applied it.
    ///
    /// # Errors
    /// `SegmentNotFound`, or the disk failed.
    pub(crate) fn segment_info(&self, id: SegmentId, unhealthy_too: bool) -> Result<SegmentInfo> {
        // The state stays locked while the disk's view is taken, so that both say the same.
        let state = self.state();
        let segment = if unhealthy_too {
            state.segment(id)
        } else {
            state.healthy_segment(id)
        };
        let segment = segment.ok_or_else(|| not_found(id))?;
        let cold = self.cold(id)?;
        let mut info = wire::to_segment_info(&state, segment, Some(&cold));
        if segment.compacted {
            // A parent that stands in for what it became has its deletes, too.
            for child in descendants(&state, id) {
                let cold = self.cold(child.id)?;
                let child = wire::to_segment_info(&state, child, Some(&cold));
                info.deltalogs.extend(child.deltalogs);
            }
            once(&mut info.deltalogs);
        }
        Ok(info)
    }

    /// A segment that is not dropped, with its files: both of the state that is given, which stays
    /// locked meanwhile.
    ///
    /// # Errors
    /// `SegmentNotFound`, or the disk failed.
    pub(crate) fn segment_with_files<'a>(
        &self,
        state: &'a State,
        id: SegmentId,
    ) -> Result<(&'a Segment, wire::ColdSegment)> {
        let segment = state.healthy_segment(id).ok_or_else(|| not_found(id))?;
        Ok((segment, self.cold(id)?))
    }

    /// The cold rows of a segment, as applied here.
    pub(crate) fn cold(&self, id: SegmentId) -> Result<wire::ColdSegment> {
        self.consensus()
            .store()
            .with_view(|view| wire::read_cold(view, id))
            .and_then(|read| read)
            .map_err(|error| {
                CoordError::Internal(format!("files of segment {id} cannot be read: {error}"))
            })
    }

    /// States of segments; an unknown one is `NotExist`, with a status of its own.
    ///
    /// # Errors
    /// This replica does not lead.
    pub async fn get_segment_states(
        &self,
        request: GetSegmentStatesRequest,
    ) -> Result<GetSegmentStatesResponse> {
        bounded(request.segment_i_ds.len())?;
        let state = self.read().await?;
        let states = segment_ids(&request.segment_i_ds)
            .into_iter()
            .map(|id| match state.segment(id) {
                Some(segment) => {
                    let info = wire::to_segment_info(&state, segment, None);
                    SegmentStateInfo {
                        segment_id: id.0,
                        state: wire::to_state(&state, segment).into(),
                        start_position: info.start_position,
                        end_position: info.dml_position,
                        status: Some(status::ok()),
                    }
                }
                None => SegmentStateInfo {
                    segment_id: id.0,
                    state: SegmentState::NotExist.into(),
                    status: Some(status::fail(
                        Code::SegmentNotFound,
                        format!("segment not found[segment={id}]"),
                    )),
                    ..Default::default()
                },
            })
            .collect();
        Ok(GetSegmentStatesResponse {
            status: Some(status::ok()),
            states,
        })
    }

    /// What a reader must load: channels with their seek positions, and segments. An unknown
    /// collection has none of either, as in Milvus.
    ///
    /// # Errors
    /// This replica does not lead.
    pub async fn get_recovery_info_v2(
        &self,
        request: GetRecoveryInfoRequestV2,
    ) -> Result<GetRecoveryInfoResponseV2> {
        let state = self.read().await?;
        let collection = CollectionId(request.collection_id);
        let mut response = GetRecoveryInfoResponseV2 {
            status: Some(status::ok()),
            ..Default::default()
        };
        if state.live_collection(collection).is_none() {
            return Ok(response);
        }
        let partitions: Vec<PartitionId> = request
            .partition_i_ds
            .iter()
            .copied()
            .filter(|id| *id >= 0)
            .map(PartitionId)
            .collect();
        for view in recovery::view(&state, collection, &partitions) {
            let row = state.channel(&view.channel);
            for id in view.flushed.iter().chain(&view.level_zero) {
                if let Some(segment) = state.segment(*id) {
                    let info = wire::to_segment_info(&state, segment, None);
                    response.segments.push(info);
                }
            }
            let ids = |ids: &[SegmentId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
            response.channels.push(VchannelInfo {
                collection_id: collection.0,
                seek_position: row
                    .and_then(|row| row.checkpoint.as_ref())
                    .map(wire::to_position),
                flushed_segment_ids: ids(&view.flushed),
                unflushed_segment_ids: ids(&view.unflushed),
                level_zero_segment_ids: ids(&view.level_zero),
                dropped_segment_ids: ids(&view.dropped),
                channel_name: view.channel,
                ..Default::default()
            });
        }
        Ok(response)
    }

    /// Whether this replica serves. Answered by every replica for itself.
    pub fn get_component_states(&self) -> ComponentStates {
        let leads = self.is_leading();
        let knows_leader = self.consensus().leader().is_some();
        let code = match (leads, knows_leader) {
            // A follower forwards, so a client that knows one address may use any.
            (true, _) | (_, true) => StateCode::Healthy,
            (false, false) => StateCode::Initializing,
        };
        let extra = BTreeMap::from([
            (
                "raft_role",
                if leads { "leader" } else { "follower" }.to_owned(),
            ),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ]);
        let info = ComponentInfo {
            node_id: i64::try_from(self.consensus().node_id()).unwrap_or(i64::MAX),
            role: "datacoord".into(),
            state_code: code.into(),
            extra_info: extra
                .into_iter()
                .map(
                    |(key, value)| quorate_rpc::proto::milvus::common::KeyValuePair {
                        key: key.into(),
                        value,
                    },
                )
                .collect(),
        };
        ComponentStates {
            state: Some(info),
            subcomponent_states: Vec::new(),
            status: Some(status::ok()),
        }
    }
}

/// What a segment became by compactions, as far as it is there, each once.
fn descendants(state: &State, id: SegmentId) -> Vec<&Segment> {
    let mut seen = BTreeSet::new();
    let mut next = vec![id];
    while let Some(id) = next.pop() {
        let children = state.children_of(id).iter().copied();
        next.extend(children.filter(|child| seen.insert(*child)));
    }
    seen.into_iter()
        .filter_map(|id| state.segment(id))
        .collect()
}

/// Leaves each log once: children of one compaction may share a delete log.
fn once(fields: &mut [FieldBinlog]) {
    let mut seen = BTreeSet::new();
    for field in fields {
        field
            .binlogs
            .retain(|log| seen.insert(log.log_path.clone()));
    }
}

fn not_found(id: SegmentId) -> CoordError {
    CoordError::Rejected(
        Reason::SegmentNotFound,
        format!("segment not found[segment={id}]"),
    )
}

pub(super) fn bounded(count: usize) -> Result<()> {
    if count > SEGMENTS_MAX {
        return Err(CoordError::Invalid(format!(
            "{count} segments in one request; at most {SEGMENTS_MAX} are possible"
        )));
    }
    Ok(())
}
