//! The coordinator of the fake cluster.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use quorate_rpc::proto::milvus::data::data_coord_server::DataCoord;
use quorate_rpc::proto::milvus::{common, data, index, milvus};
use quorate_rpc::proto::quorate::collection::collections_server::Collections;
use quorate_rpc::proto::quorate::node::nodes_server::Nodes;
use quorate_rpc::proto::quorate::oracle::oracle_server::Oracle;
use quorate_rpc::proto::quorate::{collection, node, oracle};
use quorate_rpc::status::{self, Code};
use tonic::{Request, Response, Status};

use super::{COLLECTION_ID, ChannelState, FakeState, PARTITION_ID};

#[derive(Clone)]
pub(super) struct FakeCoordinator {
    pub(super) state: Arc<Mutex<FakeState>>,
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not needed in these tests"))
}

#[async_trait]
impl Oracle for FakeCoordinator {
    async fn alloc_id(
        &self,
        _: Request<oracle::AllocIdRequest>,
    ) -> Result<Response<oracle::AllocIdResponse>, Status> {
        not_here()
    }

    async fn alloc_timestamp(
        &self,
        _: Request<oracle::AllocTimestampRequest>,
    ) -> Result<Response<oracle::AllocTimestampResponse>, Status> {
        let mut state = self.state.lock().unwrap();
        state.clock += 1;
        let first = state.clock;
        Ok(Response::new(oracle::AllocTimestampResponse {
            first,
            count: 1,
        }))
    }
}

#[async_trait]
impl Nodes for FakeCoordinator {
    async fn register(
        &self,
        _: Request<node::RegisterRequest>,
    ) -> Result<Response<node::RegisterResponse>, Status> {
        not_here()
    }

    async fn heartbeat(
        &self,
        _: Request<node::HeartbeatRequest>,
    ) -> Result<Response<node::HeartbeatResponse>, Status> {
        not_here()
    }

    async fn get_coverage(
        &self,
        request: Request<node::GetCoverageRequest>,
    ) -> Result<Response<node::GetCoverageResponse>, Status> {
        let request = request.into_inner();
        let state = self.state.lock().unwrap();
        let channel = state
            .channels
            .get(&request.channel)
            .ok_or_else(|| status::to_grpc(Code::ChannelNotFound, "channel not found"))?;
        let mut answer = node::GetCoverageResponse {
            ranges: channel.stored.to_proto(),
            ..Default::default()
        };
        if let Some(owner) = channel.owner.filter(|_| !state.unowned) {
            answer.node_id = owner as i64 + 1;
            answer.node_address = state.addresses[owner].clone();
            answer.assignment_epoch = channel.epoch;
        }
        Ok(Response::new(answer))
    }
}

#[async_trait]
impl Collections for FakeCoordinator {
    async fn create_collection(
        &self,
        request: Request<collection::CreateCollectionRequest>,
    ) -> Result<Response<collection::CreateCollectionResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        state.creates += 1;
        let mut schema = request.schema.unwrap();
        for (at, field) in schema.fields.iter_mut().enumerate() {
            field.field_id = 100 + at as i64;
        }
        let channels: Vec<String> = (0..request.shards).map(|n| format!("ch{n}")).collect();
        for channel in &channels {
            let fresh = ChannelState {
                owner: Some(0),
                epoch: 5,
                ..ChannelState::default()
            };
            state.channels.insert(channel.clone(), fresh);
        }
        let made = collection::Collection {
            id: COLLECTION_ID,
            name: request.name,
            schema: Some(schema),
            partitions: vec![collection::Partition {
                id: PARTITION_ID,
                name: "_default".into(),
            }],
            channels,
            ..Default::default()
        };
        state.collection = Some(made.clone());
        Ok(Response::new(collection::CreateCollectionResponse {
            collection: Some(made),
            created: true,
        }))
    }

    async fn drop_collection(
        &self,
        _: Request<collection::DropCollectionRequest>,
    ) -> Result<Response<collection::DropCollectionResponse>, Status> {
        not_here()
    }

    async fn describe_collection(
        &self,
        request: Request<collection::DescribeCollectionRequest>,
    ) -> Result<Response<collection::DescribeCollectionResponse>, Status> {
        let name = request.into_inner().name;
        let state = self.state.lock().unwrap();
        match &state.collection {
            Some(collection) if collection.name == name => {
                Ok(Response::new(collection::DescribeCollectionResponse {
                    collection: Some(collection.clone()),
                }))
            }
            _ => Err(status::to_grpc(
                Code::CollectionNotFound,
                "collection not found",
            )),
        }
    }

    async fn list_collections(
        &self,
        _: Request<collection::ListCollectionsRequest>,
    ) -> Result<Response<collection::ListCollectionsResponse>, Status> {
        not_here()
    }

    async fn create_partition(
        &self,
        _: Request<collection::CreatePartitionRequest>,
    ) -> Result<Response<collection::CreatePartitionResponse>, Status> {
        not_here()
    }

    async fn drop_partition(
        &self,
        _: Request<collection::DropPartitionRequest>,
    ) -> Result<Response<collection::DropPartitionResponse>, Status> {
        not_here()
    }
}

#[async_trait]
impl DataCoord for FakeCoordinator {
    async fn assign_segment_id(
        &self,
        request: Request<data::AssignSegmentIdRequest>,
    ) -> Result<Response<data::AssignSegmentIdResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        if state.assign_failures > 0 {
            state.assign_failures -= 1;
            return Ok(Response::new(data::AssignSegmentIdResponse {
                status: Some(status::fail(Code::ServiceNotReady, "starting")),
                ..Default::default()
            }));
        }
        let stale = state.stale_grants > 0;
        state.stale_grants = state.stale_grants.saturating_sub(1);
        let item = &request.segment_id_requests[0];
        // Split in two, as a nearly full segment and a new one.
        let first = item.count.div_ceil(2);
        let counts = [first, item.count - first];
        let granted = counts.into_iter().filter(|count| *count > 0).map(|count| {
            state.next_segment += 1;
            data::SegmentIdAssignment {
                seg_id: state.next_segment,
                channel_name: item.channel_name.clone(),
                count,
                collection_id: item.collection_id,
                partition_id: item.partition_id,
                expire_time: if stale {
                    state.clock
                } else {
                    state.clock + 1000
                },
                status: Some(status::ok()),
            }
        });
        let answer = data::AssignSegmentIdResponse {
            seg_id_assignments: granted.collect(),
            status: Some(status::ok()),
        };
        Ok(Response::new(answer))
    }

    async fn get_recovery_info_v2(
        &self,
        _: Request<data::GetRecoveryInfoRequestV2>,
    ) -> Result<Response<data::GetRecoveryInfoResponseV2>, Status> {
        let state = self.state.lock().unwrap();
        let ids = |level: data::SegmentLevel| {
            let segments = state.segments.iter();
            segments
                .filter(|segment| segment.level == level as i32)
                .map(|segment| segment.id)
                .collect()
        };
        Ok(Response::new(data::GetRecoveryInfoResponseV2 {
            status: Some(status::ok()),
            channels: vec![data::VchannelInfo {
                flushed_segment_ids: ids(data::SegmentLevel::L1),
                level_zero_segment_ids: ids(data::SegmentLevel::L0),
                ..Default::default()
            }],
            segments: Vec::new(),
        }))
    }

    async fn get_segment_info(
        &self,
        request: Request<data::GetSegmentInfoRequest>,
    ) -> Result<Response<data::GetSegmentInfoResponse>, Status> {
        let ids = request.into_inner().segment_i_ds;
        let state = self.state.lock().unwrap();
        let wanted = state.segments.iter().filter(|s| ids.contains(&s.id));
        Ok(Response::new(data::GetSegmentInfoResponse {
            status: Some(status::ok()),
            infos: wanted.cloned().collect(),
            ..Default::default()
        }))
    }

    async fn get_component_states(
        &self,
        _: Request<milvus::GetComponentStatesRequest>,
    ) -> Result<Response<milvus::ComponentStates>, Status> {
        not_here()
    }
    async fn flush(
        &self,
        _: Request<data::FlushRequest>,
    ) -> Result<Response<data::FlushResponse>, Status> {
        not_here()
    }
    async fn get_flush_state(
        &self,
        _: Request<data::GetFlushStateRequest>,
    ) -> Result<Response<milvus::GetFlushStateResponse>, Status> {
        not_here()
    }
    async fn save_binlog_paths(
        &self,
        _: Request<data::SaveBinlogPathsRequest>,
    ) -> Result<Response<common::Status>, Status> {
        not_here()
    }
    async fn get_segment_states(
        &self,
        _: Request<data::GetSegmentStatesRequest>,
    ) -> Result<Response<data::GetSegmentStatesResponse>, Status> {
        not_here()
    }
    async fn drop_virtual_channel(
        &self,
        _: Request<data::DropVirtualChannelRequest>,
    ) -> Result<Response<data::DropVirtualChannelResponse>, Status> {
        not_here()
    }
    async fn watch_channels(
        &self,
        _: Request<data::WatchChannelsRequest>,
    ) -> Result<Response<data::WatchChannelsResponse>, Status> {
        not_here()
    }
    async fn report_data_node_tt_msgs(
        &self,
        _: Request<data::ReportDataNodeTtMsgsRequest>,
    ) -> Result<Response<common::Status>, Status> {
        not_here()
    }
    async fn update_channel_checkpoint(
        &self,
        _: Request<data::UpdateChannelCheckpointRequest>,
    ) -> Result<Response<common::Status>, Status> {
        not_here()
    }

    async fn manual_compaction(
        &self,
        _: Request<milvus::ManualCompactionRequest>,
    ) -> Result<Response<milvus::ManualCompactionResponse>, Status> {
        not_here()
    }

    async fn get_compaction_state(
        &self,
        _: Request<milvus::GetCompactionStateRequest>,
    ) -> Result<Response<milvus::GetCompactionStateResponse>, Status> {
        not_here()
    }

    async fn get_compaction_state_with_plans(
        &self,
        _: Request<milvus::GetCompactionPlansRequest>,
    ) -> Result<Response<milvus::GetCompactionPlansResponse>, Status> {
        not_here()
    }

    async fn create_index(
        &self,
        _: Request<index::CreateIndexRequest>,
    ) -> Result<Response<common::Status>, Status> {
        not_here()
    }

    async fn describe_index(
        &self,
        _: Request<index::DescribeIndexRequest>,
    ) -> Result<Response<index::DescribeIndexResponse>, Status> {
        not_here()
    }

    async fn get_index_state(
        &self,
        _: Request<index::GetIndexStateRequest>,
    ) -> Result<Response<index::GetIndexStateResponse>, Status> {
        not_here()
    }

    async fn get_segment_index_state(
        &self,
        _: Request<index::GetSegmentIndexStateRequest>,
    ) -> Result<Response<index::GetSegmentIndexStateResponse>, Status> {
        not_here()
    }

    async fn get_index_infos(
        &self,
        _: Request<index::GetIndexInfoRequest>,
    ) -> Result<Response<index::GetIndexInfoResponse>, Status> {
        not_here()
    }

    async fn get_index_statistics(
        &self,
        _: Request<index::GetIndexStatisticsRequest>,
    ) -> Result<Response<index::GetIndexStatisticsResponse>, Status> {
        not_here()
    }

    async fn get_index_build_progress(
        &self,
        _: Request<index::GetIndexBuildProgressRequest>,
    ) -> Result<Response<index::GetIndexBuildProgressResponse>, Status> {
        not_here()
    }

    async fn drop_index(
        &self,
        _: Request<index::DropIndexRequest>,
    ) -> Result<Response<common::Status>, Status> {
        not_here()
    }

    async fn gc_confirm(
        &self,
        _: Request<data::GcConfirmRequest>,
    ) -> Result<Response<data::GcConfirmResponse>, Status> {
        not_here()
    }

    async fn gc_control(
        &self,
        _: Request<data::GcControlRequest>,
    ) -> Result<Response<common::Status>, Status> {
        not_here()
    }
}
