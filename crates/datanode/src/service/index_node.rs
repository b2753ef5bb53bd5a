//! `milvus.proto.index.IndexNode`: index builds the coordinator asks for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quorate_rpc::proto::milvus::common::Status as Answer;
use quorate_rpc::proto::milvus::index::index_node_server::IndexNode;
use quorate_rpc::proto::milvus::index::{
    CreateJobRequest, DropJobsRequest, QueryJobsRequest, QueryJobsResponse,
};
use quorate_rpc::proto::milvus::milvus::{ComponentStates, GetComponentStatesRequest};
use quorate_rpc::status::{self, Code};
use tonic::{Request, Response, Status};

use super::component_states;
use crate::node::Node;
use crate::worker::index::Refusal;

pub(crate) struct IndexNodeService {
    node: Arc<Node>,
}

impl IndexNodeService {
    pub fn new(node: Arc<Node>) -> IndexNodeService {
        IndexNodeService { node }
    }

    fn create(&self, request: CreateJobRequest) -> Answer {
        if self.node.stopping.load(Ordering::Acquire) {
            return status::fail(Code::ServiceNotReady, "the data node is stopping");
        }
        match self.node.index_jobs.create(request) {
            Ok(()) => status::ok(),
            Err(Refusal::Full(reason)) => status::fail(Code::TooManyRequests, reason),
            Err(Refusal::Invalid(reason)) => status::fail(Code::ParameterInvalid, reason),
        }
    }
}

#[tonic::async_trait]
impl IndexNode for IndexNodeService {
    async fn get_component_states(
        &self,
        _request: Request<GetComponentStatesRequest>,
    ) -> Result<Response<ComponentStates>, Status> {
        Ok(Response::new(component_states(&self.node, "indexnode")))
    }

    async fn create_job(
        &self,
        request: Request<CreateJobRequest>,
    ) -> Result<Response<Answer>, Status> {
        Ok(Response::new(self.create(request.into_inner())))
    }

    async fn query_jobs(
        &self,
        request: Request<QueryJobsRequest>,
    ) -> Result<Response<QueryJobsResponse>, Status> {
        let request = request.into_inner();
        Ok(Response::new(QueryJobsResponse {
            status: Some(status::ok()),
            cluster_id: request.cluster_id,
            index_infos: self.node.index_jobs.query(&request.build_i_ds),
        }))
    }

    async fn drop_jobs(
        &self,
        request: Request<DropJobsRequest>,
    ) -> Result<Response<Answer>, Status> {
        self.node
            .index_jobs
            .drop_jobs(&request.get_ref().build_i_ds);
        Ok(Response::new(status::ok()))
    }
}
