//! Calls to data nodes, behind a trait so that the simulation can answer them.
//!
//! They are made only after the commanding entry is applied, and repeats are harmless.

mod grpc;
pub mod objects;

use std::time::Duration;

use async_trait::async_trait;
use quorate_rpc::proto::milvus::data::{
    ChannelOperationProgressResponse, ChannelOperationsRequest, ChannelWatchInfo, CompactionPlan,
    CompactionPlanResult, FlushChannelsRequest, FlushSegmentsRequest,
};
use quorate_rpc::proto::milvus::index::{CreateJobRequest, IndexTaskInfo};

pub use grpc::GrpcDataNodes;

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

    /// Hands over a compaction plan; the node queues it. The same plan with the same ids again is
    /// no second one, with other ids it takes the place of the earlier try.
    async fn compact(
        &self,
        address: &str,
        plan: CompactionPlan,
        timeout: Duration,
    ) -> Result<(), NodeError>;

    /// Asks how a plan stands. Nothing: the node does not know it.
    async fn compaction_state(
        &self,
        address: &str,
        plan_id: i64,
        timeout: Duration,
    ) -> Result<Vec<CompactionPlanResult>, NodeError>;

    /// Lets the node forget a plan, and stop what it still does for it.
    async fn drop_compaction(
        &self,
        address: &str,
        plan_id: i64,
        timeout: Duration,
    ) -> Result<(), NodeError>;

    /// Hands over an index build; the node queues it. A newer version of a build takes the place
    /// of an older one.
    async fn create_index_job(
        &self,
        address: &str,
        request: CreateJobRequest,
        timeout: Duration,
    ) -> Result<(), NodeError>;

    /// Asks how builds stand. One that is missing in the answer is not known to the node.
    async fn query_index_jobs(
        &self,
        address: &str,
        build_ids: Vec<i64>,
        timeout: Duration,
    ) -> Result<Vec<IndexTaskInfo>, NodeError>;

    /// Lets the node forget builds, and stop what it still does for them.
    async fn drop_index_jobs(
        &self,
        address: &str,
        build_ids: Vec<i64>,
        timeout: Duration,
    ) -> Result<(), NodeError>;
}
