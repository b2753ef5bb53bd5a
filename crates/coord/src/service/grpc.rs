//! The gRPC traits. They carry calls to the functions beside them and errors back: domain refusals
//! of Milvus's services as a status in the body, everything else as gRPC errors.

use std::sync::Arc;

use quorate_rpc::proto::milvus::data::{self, data_coord_server::DataCoord};
use quorate_rpc::proto::milvus::{common, index, milvus};
use quorate_rpc::proto::quorate::collection::{self, collections_server::Collections};
use quorate_rpc::proto::quorate::meta::{self, meta_server::Meta};
use quorate_rpc::proto::quorate::node::{self, nodes_server::Nodes};
use quorate_rpc::proto::quorate::oracle::{self, oracle_server::Oracle};
use tonic::{Request, Response, Status};

use crate::server::Host;

type Answer<T> = Result<Response<T>, Status>;

/// All client-facing services of a replica.
#[derive(Clone)]
pub(crate) struct Services {
    host: Arc<Host>,
}

impl Services {
    /// Services of this host.
    pub(crate) fn new(host: Arc<Host>) -> Self {
        Self { host }
    }
}

/// A method of our own services: errors travel as gRPC errors.
macro_rules! ours {
    ($self:ident, $request:ident, $method:ident) => {{
        let coordinator = $self.host.coordinator()?;
        let answer = coordinator.$method($request.into_inner()).await;
        answer.map(Response::new).map_err(|error| error.to_grpc())
    }};
}

/// A method of Milvus's: domain refusals are gRPC OK with a status in the body.
macro_rules! milvuss {
    ($self:ident, $request:ident, $method:ident, |$status:ident| $body:expr) => {{
        let coordinator = $self.host.coordinator()?;
        match coordinator.$method($request.into_inner()).await {
            Ok(answer) => Ok(Response::new(answer)),
            Err(error) if error.is_transport() => Err(error.to_grpc()),
            Err(error) => {
                let $status = error.to_body();
                Ok(Response::new($body))
            }
        }
    }};
    ($self:ident, $request:ident, $method:ident, $message:ty) => {
        milvuss!($self, $request, $method, |status| <$message>::from_status(
            status
        ))
    };
}

mod admin;

/// Replies that hold a status.
trait FromStatus {
    fn from_status(status: common::Status) -> Self;
}

macro_rules! from_status {
    ($($message:ty),* $(,)?) => {
        $(impl FromStatus for $message {
            fn from_status(status: common::Status) -> Self {
                Self { status: Some(status), ..Default::default() }
            }
        })*
    };
}

from_status! {
    data::AssignSegmentIdResponse,
    data::FlushResponse,
    data::GcConfirmResponse,
    data::GetRecoveryInfoResponseV2,
    data::GetSegmentInfoResponse,
    data::GetSegmentStatesResponse,
    index::DescribeIndexResponse,
    index::GetIndexBuildProgressResponse,
    index::GetIndexInfoResponse,
    index::GetIndexStateResponse,
    index::GetIndexStatisticsResponse,
    index::GetSegmentIndexStateResponse,
    milvus::GetCompactionPlansResponse,
    milvus::GetCompactionStateResponse,
    milvus::GetFlushStateResponse,
    milvus::ManualCompactionResponse,
}

#[tonic::async_trait]
impl DataCoord for Services {
    async fn get_component_states(
        &self,
        _: Request<milvus::GetComponentStatesRequest>,
    ) -> Answer<milvus::ComponentStates> {
        Ok(Response::new(self.host.component_states()))
    }

    async fn assign_segment_id(
        &self,
        request: Request<data::AssignSegmentIdRequest>,
    ) -> Answer<data::AssignSegmentIdResponse> {
        milvuss!(
            self,
            request,
            assign_segment_id,
            data::AssignSegmentIdResponse
        )
    }

    async fn flush(&self, request: Request<data::FlushRequest>) -> Answer<data::FlushResponse> {
        milvuss!(self, request, flush, data::FlushResponse)
    }

    async fn get_flush_state(
        &self,
        request: Request<data::GetFlushStateRequest>,
    ) -> Answer<milvus::GetFlushStateResponse> {
        milvuss!(
            self,
            request,
            get_flush_state,
            milvus::GetFlushStateResponse
        )
    }

    async fn save_binlog_paths(
        &self,
        request: Request<data::SaveBinlogPathsRequest>,
    ) -> Answer<common::Status> {
        milvuss!(self, request, save_binlog_paths, |status| status)
    }

    async fn get_segment_info(
        &self,
        request: Request<data::GetSegmentInfoRequest>,
    ) -> Answer<data::GetSegmentInfoResponse> {
        milvuss!(
            self,
            request,
            get_segment_info,
            data::GetSegmentInfoResponse
        )
    }

    async fn get_segment_states(
        &self,
        request: Request<data::GetSegmentStatesRequest>,
    ) -> Answer<data::GetSegmentStatesResponse> {
        milvuss!(
            self,
            request,
            get_segment_states,
            data::GetSegmentStatesResponse
        )
    }

    async fn get_recovery_info_v2(
        &self,
        request: Request<data::GetRecoveryInfoRequestV2>,
    ) -> Answer<data::GetRecoveryInfoResponseV2> {
        milvuss!(
            self,
            request,
            get_recovery_info_v2,
            data::GetRecoveryInfoResponseV2
        )
    }

    async fn drop_virtual_channel(
        &self,
        request: Request<data::DropVirtualChannelRequest>,
    ) -> Answer<data::DropVirtualChannelResponse> {
        milvuss!(self, request, drop_virtual_channel, |status| {
            data::DropVirtualChannelResponse {
                status: Some(status),
            }
        })
    }

    async fn watch_channels(
        &self,
        request: Request<data::WatchChannelsRequest>,
    ) -> Answer<data::WatchChannelsResponse> {
        milvuss!(self, request, watch_channels, |status| {
            data::WatchChannelsResponse {
                status: Some(status),
            }
        })
    }

    async fn report_data_node_tt_msgs(
        &self,
        request: Request<data::ReportDataNodeTtMsgsRequest>,
    ) -> Answer<common::Status> {
        milvuss!(self, request, report_data_node_tt_msgs, |status| status)
    }

    async fn update_channel_checkpoint(
        &self,
        request: Request<data::UpdateChannelCheckpointRequest>,
    ) -> Answer<common::Status> {
        milvuss!(self, request, update_channel_checkpoint, |status| status)
    }

    async fn manual_compaction(
        &self,
        request: Request<milvus::ManualCompactionRequest>,
    ) -> Answer<milvus::ManualCompactionResponse> {
        milvuss!(
            self,
            request,
            manual_compaction,
            milvus::ManualCompactionResponse
        )
    }

    async fn get_compaction_state(
        &self,
        request: Request<milvus::GetCompactionStateRequest>,
    ) -> Answer<milvus::GetCompactionStateResponse> {
        milvuss!(
            self,
            request,
            get_compaction_state,
            milvus::GetCompactionStateResponse
        )
    }

    async fn get_compaction_state_with_plans(
        &self,
        request: Request<milvus::GetCompactionPlansRequest>,
    ) -> Answer<milvus::GetCompactionPlansResponse> {
        milvuss!(
            self,
            request,
            get_compaction_state_with_plans,
            milvus::GetCompactionPlansResponse
        )
    }

    async fn create_index(
        &self,
        request: Request<index::CreateIndexRequest>,
    ) -> Answer<common::Status> {
        milvuss!(self, request, create_index, |status| status)
    }

    async fn describe_index(
        &self,
        request: Request<index::DescribeIndexRequest>,
    ) -> Answer<index::DescribeIndexResponse> {
        milvuss!(self, request, describe_index, index::DescribeIndexResponse)
    }

    async fn get_index_state(
        &self,
        request: Request<index::GetIndexStateRequest>,
    ) -> Answer<index::GetIndexStateResponse> {
        milvuss!(self, request, get_index_state, index::GetIndexStateResponse)
    }

    async fn get_segment_index_state(
        &self,
        request: Request<index::GetSegmentIndexStateRequest>,
    ) -> Answer<index::GetSegmentIndexStateResponse> {
        milvuss!(
            self,
            request,
            get_segment_index_state,
            index::GetSegmentIndexStateResponse
        )
    }

    async fn get_index_infos(
        &self,
        request: Request<index::GetIndexInfoRequest>,
    ) -> Answer<index::GetIndexInfoResponse> {
        milvuss!(self, request, get_index_infos, index::GetIndexInfoResponse)
    }

    async fn get_index_statistics(
        &self,
        request: Request<index::GetIndexStatisticsRequest>,
    ) -> Answer<index::GetIndexStatisticsResponse> {
        milvuss!(
            self,
            request,
            get_index_statistics,
            index::GetIndexStatisticsResponse
        )
    }

    async fn get_index_build_progress(
        &self,
        request: Request<index::GetIndexBuildProgressRequest>,
    ) -> Answer<index::GetIndexBuildProgressResponse> {
        milvuss!(
            self,
            request,
            get_index_build_progress,
            index::GetIndexBuildProgressResponse
        )
    }

    async fn drop_index(
        &self,
        request: Request<index::DropIndexRequest>,
    ) -> Answer<common::Status> {
        milvuss!(self, request, drop_index, |status| status)
    }

    async fn gc_confirm(
        &self,
        request: Request<data::GcConfirmRequest>,
    ) -> Answer<data::GcConfirmResponse> {
        milvuss!(self, request, gc_confirm, data::GcConfirmResponse)
    }

    async fn gc_control(&self, request: Request<data::GcControlRequest>) -> Answer<common::Status> {
        milvuss!(self, request, gc_control, |status| status)
    }
}

#[tonic::async_trait]
impl Oracle for Services {
    async fn alloc_id(
        &self,
        request: Request<oracle::AllocIdRequest>,
    ) -> Answer<oracle::AllocIdResponse> {
        ours!(self, request, alloc_id)
    }

    async fn alloc_timestamp(
        &self,
        request: Request<oracle::AllocTimestampRequest>,
    ) -> Answer<oracle::AllocTimestampResponse> {
        ours!(self, request, alloc_timestamp)
    }
}

#[tonic::async_trait]
impl Collections for Services {
    async fn create_collection(
        &self,
        request: Request<collection::CreateCollectionRequest>,
    ) -> Answer<collection::CreateCollectionResponse> {
        ours!(self, request, create_collection)
    }

    async fn drop_collection(
        &self,
        request: Request<collection::DropCollectionRequest>,
    ) -> Answer<collection::DropCollectionResponse> {
        ours!(self, request, drop_collection)
    }

    async fn describe_collection(
        &self,
        request: Request<collection::DescribeCollectionRequest>,
    ) -> Answer<collection::DescribeCollectionResponse> {
        ours!(self, request, describe_collection)
    }

    async fn list_collections(
        &self,
        _: Request<collection::ListCollectionsRequest>,
    ) -> Answer<collection::ListCollectionsResponse> {
        let answer = self.host.coordinator()?.list_collections().await;
        answer.map(Response::new).map_err(|error| error.to_grpc())
    }

    async fn create_partition(
        &self,
        request: Request<collection::CreatePartitionRequest>,
    ) -> Answer<collection::CreatePartitionResponse> {
        ours!(self, request, create_partition)
    }

    async fn drop_partition(
        &self,
        request: Request<collection::DropPartitionRequest>,
    ) -> Answer<collection::DropPartitionResponse> {
        ours!(self, request, drop_partition)
    }
}

#[tonic::async_trait]
impl Nodes for Services {
    async fn register(
        &self,
        request: Request<node::RegisterRequest>,
    ) -> Answer<node::RegisterResponse> {
        ours!(self, request, register)
    }

    async fn heartbeat(
        &self,
        request: Request<node::HeartbeatRequest>,
    ) -> Answer<node::HeartbeatResponse> {
        ours!(self, request, heartbeat)
    }

    async fn get_coverage(
        &self,
        request: Request<node::GetCoverageRequest>,
    ) -> Answer<node::GetCoverageResponse> {
        ours!(self, request, get_coverage)
    }
}

#[tonic::async_trait]
impl Meta for Services {
    async fn put(&self, request: Request<meta::PutRequest>) -> Answer<meta::PutResponse> {
        ours!(self, request, put)
    }

    async fn get(&self, request: Request<meta::GetRequest>) -> Answer<meta::GetResponse> {
        ours!(self, request, get)
    }

    async fn compare_and_set(
        &self,
        request: Request<meta::CompareAndSetRequest>,
    ) -> Answer<meta::CompareAndSetResponse> {
        ours!(self, request, compare_and_set)
    }

    async fn list(&self, request: Request<meta::ListRequest>) -> Answer<meta::ListResponse> {
        ours!(self, request, list)
    }
}
