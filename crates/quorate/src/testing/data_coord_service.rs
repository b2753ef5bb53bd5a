//! Milvus's service of the fake replicas.

use quorate_rpc::proto::milvus::milvus as component;
use quorate_rpc::proto::milvus::{common, data, index};
use quorate_rpc::status::Code;
use tonic::Request;

use super::{FakeReplica, Reply, not_faked, ok};

#[tonic::async_trait]
impl data::data_coord_server::DataCoord for FakeReplica {
    async fn flush(&self, request: Request<data::FlushRequest>) -> Reply<data::FlushResponse> {
        ok(data::FlushResponse {
            collection_id: request.into_inner().collection_id,
            segment_i_ds: vec![100],
            flush_ts: 5 << 18,
            ..Default::default()
        })
    }

    async fn get_flush_state(
        &self,
        _: Request<data::GetFlushStateRequest>,
    ) -> Reply<component::GetFlushStateResponse> {
        let mut state = self.state.lock().unwrap();
        state.flush_polls += 1;
        ok(component::GetFlushStateResponse {
            flushed: state.flush_polls >= state.flush_completes_at,
            ..Default::default()
        })
    }

    async fn get_component_states(
        &self,
        _: Request<component::GetComponentStatesRequest>,
    ) -> Reply<component::ComponentStates> {
        not_faked()
    }

    async fn assign_segment_id(
        &self,
        _: Request<data::AssignSegmentIdRequest>,
    ) -> Reply<data::AssignSegmentIdResponse> {
        not_faked()
    }

    async fn save_binlog_paths(
        &self,
        _: Request<data::SaveBinlogPathsRequest>,
    ) -> Reply<common::Status> {
        not_faked()
    }

    async fn get_segment_info(
        &self,
        _: Request<data::GetSegmentInfoRequest>,
    ) -> Reply<data::GetSegmentInfoResponse> {
        not_faked()
    }

    async fn get_segment_states(
        &self,
        _: Request<data::GetSegmentStatesRequest>,
    ) -> Reply<data::GetSegmentStatesResponse> {
        not_faked()
    }

    async fn get_recovery_info_v2(
        &self,
        _: Request<data::GetRecoveryInfoRequestV2>,
    ) -> Reply<data::GetRecoveryInfoResponseV2> {
        not_faked()
    }

    async fn drop_virtual_channel(
        &self,
        _: Request<data::DropVirtualChannelRequest>,
    ) -> Reply<data::DropVirtualChannelResponse> {
        not_faked()
    }

    async fn watch_channels(
        &self,
        _: Request<data::WatchChannelsRequest>,
    ) -> Reply<data::WatchChannelsResponse> {
        not_faked()
    }

    async fn report_data_node_tt_msgs(
        &self,
        _: Request<data::ReportDataNodeTtMsgsRequest>,
    ) -> Reply<common::Status> {
        not_faked()
    }

    async fn update_channel_checkpoint(
        &self,
        _: Request<data::UpdateChannelCheckpointRequest>,
    ) -> Reply<common::Status> {
        not_faked()
    }

    async fn manual_compaction(
        &self,
        _: Request<component::ManualCompactionRequest>,
    ) -> Reply<component::ManualCompactionResponse> {
        let nothing = self.state.lock().unwrap().compaction_ends_at == 0;
        ok(component::ManualCompactionResponse {
            compaction_id: if nothing { -1 } else { 7 },
            compaction_plan_count: if nothing { 0 } else { 2 },
            ..Default::default()
        })
    }

    async fn get_compaction_state(
        &self,
        _: Request<component::GetCompactionStateRequest>,
    ) -> Reply<component::GetCompactionStateResponse> {
        let mut state = self.state.lock().unwrap();
        state.compaction_polls += 1;
        let ended = state.compaction_polls >= state.compaction_ends_at;
        let (kind, plans) = match ended {
            true => (common::CompactionState::Completed, (0, 2)),
            false => (common::CompactionState::Executing, (2, 0)),
        };
        ok(component::GetCompactionStateResponse {
            state: kind as i32,
            executing_plan_no: plans.0,
            completed_plan_no: plans.1,
            ..Default::default()
        })
    }

    async fn get_compaction_state_with_plans(
        &self,
        _: Request<component::GetCompactionPlansRequest>,
    ) -> Reply<component::GetCompactionPlansResponse> {
        ok(component::GetCompactionPlansResponse {
            merge_infos: vec![component::CompactionMergeInfo {
                sources: vec![100, 101],
                target: 300,
            }],
            ..Default::default()
        })
    }

    async fn create_index(
        &self,
        request: Request<index::CreateIndexRequest>,
    ) -> Reply<common::Status> {
        let request = request.into_inner();
        self.state.lock().unwrap().index = Some(index::IndexInfo {
            collection_id: request.collection_id,
            field_id: request.field_id,
            index_name: "v".to_owned(),
            index_id: 9,
            index_params: request.index_params,
            total_rows: 10,
            ..Default::default()
        });
        ok(quorate_rpc::status::ok())
    }

    async fn describe_index(
        &self,
        _: Request<index::DescribeIndexRequest>,
    ) -> Reply<index::DescribeIndexResponse> {
        let mut state = self.state.lock().unwrap();
        state.index_polls += 1;
        let complete = state.index_polls >= state.index_completes_at;
        let found = state.index.clone().map(|info| index::IndexInfo {
            indexed_rows: if complete { 10 } else { 5 },
            state: match complete {
                true => common::IndexState::Finished as i32,
                false => common::IndexState::InProgress as i32,
            },
            ..info
        });
        let status = match &found {
            Some(_) => quorate_rpc::status::ok(),
            None => quorate_rpc::status::fail(Code::IndexNotFound, "index not found"),
        };
        ok(index::DescribeIndexResponse {
            status: Some(status),
            index_infos: found.into_iter().collect(),
        })
    }

    async fn drop_index(&self, _: Request<index::DropIndexRequest>) -> Reply<common::Status> {
        self.state.lock().unwrap().index = None;
        ok(quorate_rpc::status::ok())
    }

    async fn get_index_state(
        &self,
        _: Request<index::GetIndexStateRequest>,
    ) -> Reply<index::GetIndexStateResponse> {
        not_faked()
    }

    async fn get_segment_index_state(
        &self,
        _: Request<index::GetSegmentIndexStateRequest>,
    ) -> Reply<index::GetSegmentIndexStateResponse> {
        not_faked()
    }

    async fn get_index_infos(
        &self,
        _: Request<index::GetIndexInfoRequest>,
    ) -> Reply<index::GetIndexInfoResponse> {
        ok(index::GetIndexInfoResponse::default())
    }

    async fn get_index_statistics(
        &self,
        _: Request<index::GetIndexStatisticsRequest>,
    ) -> Reply<index::GetIndexStatisticsResponse> {
        not_faked()
    }

    async fn get_index_build_progress(
        &self,
        _: Request<index::GetIndexBuildProgressRequest>,
    ) -> Reply<index::GetIndexBuildProgressResponse> {
        not_faked()
    }

    async fn gc_confirm(
        &self,
        _: Request<data::GcConfirmRequest>,
    ) -> Reply<data::GcConfirmResponse> {
        not_faked()
    }

    async fn gc_control(&self, _: Request<data::GcControlRequest>) -> Reply<common::Status> {
        not_faked()
    }
}
