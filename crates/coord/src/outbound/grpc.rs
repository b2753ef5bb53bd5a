//! Data nodes over gRPC.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use quorate_rpc::channel::{ChannelOptions, connect_lazy};
use quorate_rpc::proto::milvus::data::data_node_client::DataNodeClient;
use quorate_rpc::proto::milvus::data::{
    ChannelOperationProgressResponse, ChannelOperationsRequest, ChannelWatchInfo, CompactionPlan,
    CompactionPlanResult, CompactionStateRequest, DropCompactionPlanRequest, FlushChannelsRequest,
    FlushSegmentsRequest,
};
use quorate_rpc::proto::milvus::index::index_node_client::IndexNodeClient;
use quorate_rpc::proto::milvus::index::{
    CreateJobRequest, DropJobsRequest, IndexTaskInfo, QueryJobsRequest,
};
use quorate_rpc::status;
use tonic::transport::Channel;

use super::{DataNodes, NodeError};

/// Connections kept; the least address goes first when there are more.
const CHANNELS_MAX: usize = 4096;

/// Data nodes over gRPC; connections are kept.
#[derive(Default)]
pub struct GrpcDataNodes {
    options: ChannelOptions,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl GrpcDataNodes {
    fn channel(&self, address: &str) -> Result<Channel, NodeError> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = connect_lazy(address, &self.options).map_err(|error| NodeError {
            address: address.to_owned(),
            problem: error.to_string(),
        })?;
        if channels.len() >= CHANNELS_MAX {
            channels.pop_first();
        }
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    fn client(&self, address: &str) -> Result<DataNodeClient<Channel>, NodeError> {
        // Results of compactions list every file they wrote.
        Ok(DataNodeClient::new(self.channel(address)?)
            .max_decoding_message_size(quorate_rpc::channel::MAX_DECODE_BYTES)
            .max_encoding_message_size(quorate_rpc::channel::MAX_ENCODE_BYTES))
    }

    fn index_client(&self, address: &str) -> Result<IndexNodeClient<Channel>, NodeError> {
        Ok(IndexNodeClient::new(self.channel(address)?)
            .max_decoding_message_size(quorate_rpc::channel::MAX_DECODE_BYTES)
            .max_encoding_message_size(quorate_rpc::channel::MAX_ENCODE_BYTES))
    }
}

async fn call<T>(
    address: &str,
    timeout: Duration,
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, NodeError>
where
    T: status::Answer,
{
    let fail = |problem: String| NodeError {
        address: address.to_owned(),
        problem,
    };
    let response = tokio::time::timeout(timeout, answer)
        .await
        .map_err(|_| fail(format!("no answer within {timeout:?}")))?
        .and_then(status::checked)
        .map_err(|status| fail(status.message().to_owned()))?;
    Ok(response.into_inner())
}

#[async_trait]
impl DataNodes for GrpcDataNodes {
    async fn notify_channel(
        &self,
        address: &str,
        request: ChannelOperationsRequest,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        let mut client = self.client(address)?;
        call(address, timeout, client.notify_channel_operation(request)).await?;
        Ok(())
    }

    async fn channel_progress(
        &self,
        address: &str,
        request: ChannelWatchInfo,
        timeout: Duration,
    ) -> Result<ChannelOperationProgressResponse, NodeError> {
        let mut client = self.client(address)?;
        call(
            address,
            timeout,
            client.check_channel_operation_progress(request),
        )
        .await
    }

    async fn flush_segments(
        &self,
        address: &str,
        request: FlushSegmentsRequest,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        let mut client = self.client(address)?;
        call(address, timeout, client.flush_segments(request)).await?;
        Ok(())
    }

    async fn flush_channels(
        &self,
        address: &str,
        request: FlushChannelsRequest,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        let mut client = self.client(address)?;
        call(address, timeout, client.flush_channels(request)).await?;
        Ok(())
    }

    async fn compact(
        &self,
        address: &str,
        plan: CompactionPlan,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        let mut client = self.client(address)?;
        call(address, timeout, client.compaction_v2(plan)).await?;
        Ok(())
    }

    async fn compaction_state(
        &self,
        address: &str,
        plan_id: i64,
        timeout: Duration,
    ) -> Result<Vec<CompactionPlanResult>, NodeError> {
        let mut client = self.client(address)?;
        let request = CompactionStateRequest {
            base: None,
            plan_id,
        };
        let answer = call(address, timeout, client.get_compaction_state(request)).await?;
        Ok(answer.results)
    }

    async fn drop_compaction(
        &self,
        address: &str,
        plan_id: i64,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        let mut client = self.client(address)?;
        let request = DropCompactionPlanRequest { plan_id };
        call(address, timeout, client.drop_compaction_plan(request)).await?;
        Ok(())
    }

    async fn create_index_job(
        &self,
        address: &str,
        request: CreateJobRequest,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        let mut client = self.index_client(address)?;
        call(address, timeout, client.create_job(request)).await?;
        Ok(())
    }

    async fn query_index_jobs(
        &self,
        address: &str,
        build_ids: Vec<i64>,
        timeout: Duration,
    ) -> Result<Vec<IndexTaskInfo>, NodeError> {
        let mut client = self.index_client(address)?;
        let request = QueryJobsRequest {
            cluster_id: String::new(),
            build_i_ds: build_ids,
        };
        let answer = call(address, timeout, client.query_jobs(request)).await?;
        Ok(answer.index_infos)
    }

    async fn drop_index_jobs(
        &self,
        address: &str,
        build_ids: Vec<i64>,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        let mut client = self.index_client(address)?;
        let request = DropJobsRequest {
            cluster_id: String::new(),
            build_i_ds: build_ids,
        };
        call(address, timeout, client.drop_jobs(request)).await?;
        Ok(())
    }
}
