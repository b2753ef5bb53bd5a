//! Calls to data nodes, behind a trait so that the simulation can answer them.
//!
//! They are made only after the commanding entry is applied, and repeats are harmless.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use quorate_rpc::channel::{ChannelOptions, connect_lazy};
use quorate_rpc::proto::milvus::data::data_node_client::DataNodeClient;
use quorate_rpc::proto::milvus::data::{
    ChannelOperationProgressResponse, ChannelOperationsRequest, ChannelWatchInfo,
    FlushChannelsRequest, FlushSegmentsRequest,
};
use quorate_rpc::status;
use tonic::transport::Channel;

/// Why a data node did not do what it was asked; for logs, the next round is the retry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("data node {address}: {problem}")]
pub struct NodeError {
    /// Where it was called.
    pub address: String,
    /// What it said, or what the connection said.
    pub problem: String,
}

/// The data nodes.
#[async_trait]
pub trait DataNodes: Send + Sync + 'static {
    /// Asks for a watch or a release to begin.
    async fn notify_channel(
        &self,
        address: &str,
        request: ChannelOperationsRequest,
        timeout: Duration,
    ) -> Result<(), NodeError>;

    /// Asks how a watch or a release stands.
    async fn channel_progress(
        &self,
        address: &str,
        request: ChannelWatchInfo,
        timeout: Duration,
    ) -> Result<ChannelOperationProgressResponse, NodeError>;

    /// Asks for sealed segments to be flushed.
    async fn flush_segments(
        &self,
        address: &str,
        request: FlushSegmentsRequest,
        timeout: Duration,
    ) -> Result<(), NodeError>;

    /// Asks for everything up to a timestamp to be made durable.
    async fn flush_channels(
        &self,
        address: &str,
        request: FlushChannelsRequest,
        timeout: Duration,
    ) -> Result<(), NodeError>;
}

/// Data nodes over gRPC; connections are kept.
#[derive(Default)]
pub struct GrpcDataNodes {
    options: ChannelOptions,
    channels: Mutex<BTreeMap<String, Channel>>,
}

/// Connections kept; the least address goes first when there are more.
const CHANNELS_MAX: usize = 4096;

impl GrpcDataNodes {
    fn client(&self, address: &str) -> Result<DataNodeClient<Channel>, NodeError> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(DataNodeClient::new(channel.clone()));
        }
        let channel = connect_lazy(address, &self.options).map_err(|error| NodeError {
            address: address.to_owned(),
            problem: error.to_string(),
        })?;
        if channels.len() >= CHANNELS_MAX {
            channels.pop_first();
        }
        channels.insert(address.to_owned(), channel.clone());
        Ok(DataNodeClient::new(channel))
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
}
