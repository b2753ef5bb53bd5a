//! `milvus.proto.data.DataNode`: what the coordinator asks of us.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quorate_rpc::proto::milvus::common::{MsgBase, Status as Answer};
use quorate_rpc::proto::milvus::data::data_node_server::DataNode;
use quorate_rpc::proto::milvus::data::{
    ChannelOperationProgressResponse, ChannelOperationsRequest, ChannelWatchInfo, CompactionPlan,
    CompactionStateRequest, CompactionStateResponse, DropCompactionPlanRequest,
    FlushChannelsRequest, FlushSegmentsRequest,
};
use quorate_rpc::proto::milvus::milvus::{ComponentStates, GetComponentStatesRequest};
use quorate_rpc::status::{self, Code};
use tonic::{Request, Response, Status};

use super::component_states;
use crate::node::Node;
use crate::operation;
use crate::worker::compaction::Refusal;

pub(crate) struct DataNodeService {
    node: Arc<Node>,
}

impl DataNodeService {
    pub fn new(node: Arc<Node>) -> DataNodeService {
        DataNodeService { node }
    }

    /// A request meant for another node, or for us as we were before we were expired.
    fn check_target(&self, base: Option<&MsgBase>) -> Result<(), Answer> {
        let target = base.map_or(0, |base| base.target_id);
        let own = self.node.node_id();
        if target == 0 || target == own {
            return Ok(());
        }
        Err(status::fail(
            Code::NodeNotMatch,
            format!("node not match[expectedNodeID={target}][actualNodeID={own}]"),
        ))
    }

    fn flush_segments(&self, request: &FlushSegmentsRequest) -> Result<(), Answer> {
        self.check_target(request.base.as_ref())?;
        let channel = &request.channel_name;
        let Some(own) = self.node.channel(channel) else {
            return Err(channel_not_found(channel));
        };
        tracing::info!(%channel, segments = ?request.segment_i_ds, "flush asked for");
        own.lock().channel.flush_segments(&request.segment_i_ds);
        self.node.schedule(&own);
        Ok(())
    }

    fn flush_channels(&self, request: &FlushChannelsRequest) -> Result<(), Answer> {
        self.check_target(request.base.as_ref())?;
        let mut missing = None;
        for channel in &request.channels {
            match self.node.channel(channel) {
                Some(own) => {
                    own.lock().channel.flush_upto(request.flush_ts);
                    self.node.schedule(&own);
                }
                None => missing = Some(channel),
            }
        }
        tracing::info!(channels = ?request.channels, flush_ts = request.flush_ts, "flush of channels asked for");
        missing.map_or(Ok(()), |channel| Err(channel_not_found(channel)))
    }
}

fn refused(refusal: &Refusal) -> Answer {
    let code = match refusal {
        Refusal::Stopping => Code::ServiceNotReady,
        Refusal::TooMany { .. } => Code::TooManyRequests,
        Refusal::Outdated { .. } | Refusal::Plan(_) => Code::ParameterInvalid,
    };
    status::fail(code, refusal.to_string())
}

fn channel_not_found(channel: &str) -> Answer {
    status::fail(
        Code::ChannelNotFound,
        format!("channel not found[channel={channel}]"),
    )
}

fn answer(result: Result<(), Answer>) -> Result<Response<Answer>, Status> {
    Ok(Response::new(result.err().unwrap_or_else(status::ok)))
}

#[tonic::async_trait]
impl DataNode for DataNodeService {
    async fn get_component_states(
        &self,
        _request: Request<GetComponentStatesRequest>,
    ) -> Result<Response<ComponentStates>, Status> {
        Ok(Response::new(component_states(&self.node, "datanode")))
    }

    async fn flush_segments(
        &self,
        request: Request<FlushSegmentsRequest>,
    ) -> Result<Response<Answer>, Status> {
        answer(DataNodeService::flush_segments(self, request.get_ref()))
    }

    async fn flush_channels(
        &self,
        request: Request<FlushChannelsRequest>,
    ) -> Result<Response<Answer>, Status> {
        answer(DataNodeService::flush_channels(self, request.get_ref()))
    }

    async fn notify_channel_operation(
        &self,
        request: Request<ChannelOperationsRequest>,
    ) -> Result<Response<Answer>, Status> {
        if self.node.stopping.load(Ordering::Acquire) {
            return answer(Err(status::fail(
                Code::ServiceNotReady,
                "the data node is stopping",
            )));
        }
        let mut refused = None;
        for info in request.into_inner().infos {
            if let Err(reason) = operation::notify(&self.node, info) {
                refused = Some(status::fail(Code::ParameterInvalid, reason));
            }
        }
        answer(refused.map_or(Ok(()), Err))
    }

    async fn check_channel_operation_progress(
        &self,
        request: Request<ChannelWatchInfo>,
    ) -> Result<Response<ChannelOperationProgressResponse>, Status> {
        Ok(Response::new(operation::progress(
            &self.node,
            request.get_ref(),
        )))
    }

    async fn compaction_v2(
        &self,
        request: Request<CompactionPlan>,
    ) -> Result<Response<Answer>, Status> {
        if self.node.stopping.load(Ordering::Acquire) {
            return answer(Err(refused(&Refusal::Stopping)));
        }
        let taken = self.node.compactions.start(request.get_ref());
        answer(taken.map_err(|refusal| refused(&refusal)))
    }

    async fn get_compaction_state(
        &self,
        request: Request<CompactionStateRequest>,
    ) -> Result<Response<CompactionStateResponse>, Status> {
        Ok(Response::new(CompactionStateResponse {
            status: Some(status::ok()),
            results: self.node.compactions.results(request.get_ref().plan_id),
        }))
    }

    async fn drop_compaction_plan(
        &self,
        request: Request<DropCompactionPlanRequest>,
    ) -> Result<Response<Answer>, Status> {
        self.node.compactions.drop_plan(request.get_ref().plan_id);
        answer(Ok(()))
    }
}
