//! The data nodes as a replica calls them: every call may get lost, on its way or on the way back.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use quorate_coord::outbound::{DataNodes, NodeError};
use quorate_rpc::proto::milvus::data::{
    ChannelOperationProgressResponse, ChannelOperationsRequest, ChannelWatchInfo, CompactionPlan,
    CompactionPlanResult, FlushChannelsRequest, FlushSegmentsRequest,
};
use quorate_rpc::proto::milvus::index::{CreateJobRequest, IndexTaskInfo};
use quorate_rpc::status;
use tokio_util::sync::CancellationToken;

use super::data_node::DataNode;
use super::replica::Cluster;
use super::trap::Point;
use super::world::Place;

/// The data nodes as one run of a replica reaches them.
pub(super) struct SimDataNodes {
    pub(super) cluster: Arc<Cluster>,
    pub(super) own: u64,
    pub(super) life: CancellationToken,
}

impl SimDataNodes {
    async fn call<T>(
        &self,
        address: &str,
        what: &'static str,
        timeout: Duration,
        work: impl FnOnce(&Arc<DataNode>) -> Result<T, String> + Send,
    ) -> Result<T, NodeError> {
        let fail = |problem: &str| NodeError {
            address: address.to_owned(),
            problem: problem.to_owned(),
        };
        let mut nodes = self.cluster.data_nodes.iter();
        let node = nodes.find(|node| node.address == address);
        let node = node.ok_or_else(|| fail("no such host"))?;
        let world = &self.cluster.world;
        let (own, place) = (Place::Replica(self.own), Place::DataNode(node.number));
        let exchange = async {
            if !world.carry(own, place, what).await {
                futures::future::pending::<()>().await;
            }
            let answer = if node.is_up() {
                work(node)
            } else {
                Err("connection refused".to_owned())
            };
            self.cluster
                .springs_at(Point::Called(what), self.own, node.number);
            if !world.carry(place, own, what).await {
                futures::future::pending::<()>().await;
            }
            answer
        };
        tokio::select! {
            biased;
            () = self.life.cancelled() => Err(fail("this replica has crashed")),
            answer = tokio::time::timeout(timeout, exchange) => match answer {
                Ok(answer) => answer.map_err(|problem| fail(&problem)),
                Err(_) => Err(fail("no answer")),
            }
        }
    }
}

#[async_trait]
impl DataNodes for SimDataNodes {
    async fn notify_channel(
        &self,
        address: &str,
        request: ChannelOperationsRequest,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        let fails = self.cluster.world.chance(30);
        self.call(address, "channel operation", timeout, |node| {
            for info in &request.infos {
                node.notify(info, fails);
            }
            Ok(())
        })
        .await
    }

    async fn channel_progress(
        &self,
        address: &str,
        request: ChannelWatchInfo,
        timeout: Duration,
    ) -> Result<ChannelOperationProgressResponse, NodeError> {
        self.call(address, "channel progress", timeout, |node| {
            Ok(ChannelOperationProgressResponse {
                status: Some(status::ok()),
                op_id: request.op_id,
                state: node.progress(&request).into(),
                progress: 50,
            })
        })
        .await
    }

    async fn flush_segments(
        &self,
        address: &str,
        request: FlushSegmentsRequest,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        self.call(address, "flush segments", timeout, |node| {
            node.flush_segments(&request)
        })
        .await
    }

    async fn flush_channels(
        &self,
        address: &str,
        request: FlushChannelsRequest,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        self.call(address, "flush channels", timeout, |node| {
            node.flush_channels(&request)
        })
        .await
    }

    async fn compact(
        &self,
        address: &str,
        plan: CompactionPlan,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        self.call(address, "compact", timeout, |node| node.take_plan(plan))
            .await
    }

    async fn compaction_state(
        &self,
        address: &str,
        plan_id: i64,
        timeout: Duration,
    ) -> Result<Vec<CompactionPlanResult>, NodeError> {
        self.call(address, "compaction state", timeout, |node| {
            Ok(node.plan_results(plan_id))
        })
        .await
    }

    async fn drop_compaction(
        &self,
        address: &str,
        plan_id: i64,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        self.call(address, "drop compaction", timeout, |node| {
            node.drop_plan(plan_id);
            Ok(())
        })
        .await
    }

    async fn create_index_job(
        &self,
        address: &str,
        request: CreateJobRequest,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        self.call(address, "create index job", timeout, |node| {
            node.take_build(request)
        })
        .await
    }

    async fn query_index_jobs(
        &self,
        address: &str,
        build_ids: Vec<i64>,
        timeout: Duration,
    ) -> Result<Vec<IndexTaskInfo>, NodeError> {
        self.call(address, "query index jobs", timeout, |node| {
            Ok(node.build_states(&build_ids))
        })
        .await
    }

    async fn drop_index_jobs(
        &self,
        address: &str,
        build_ids: Vec<i64>,
        timeout: Duration,
    ) -> Result<(), NodeError> {
        self.call(address, "drop index jobs", timeout, |node| {
            node.drop_builds(&build_ids);
            Ok(())
        })
        .await
    }
}
