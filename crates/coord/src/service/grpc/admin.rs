//! What operators ask, over gRPC.

use quorate_rpc::proto::quorate::admin::{self, admin_server::Admin};
use tonic::{Request, Response};

use super::{Answer, Services};
use crate::service::members;

#[tonic::async_trait]
impl Admin for Services {
    async fn status(&self, _: Request<admin::StatusRequest>) -> Answer<admin::StatusResponse> {
        Ok(Response::new(self.host.status()))
    }

    async fn init(&self, request: Request<admin::InitRequest>) -> Answer<admin::InitResponse> {
        let cluster_id = self.host.init(request.into_inner().members).await?;
        Ok(Response::new(admin::InitResponse { cluster_id }))
    }

    async fn list_segments(
        &self,
        request: Request<admin::ListSegmentsRequest>,
    ) -> Answer<admin::ListSegmentsResponse> {
        ours!(self, request, list_segments)
    }

    async fn list_channels(
        &self,
        request: Request<admin::ListChannelsRequest>,
    ) -> Answer<admin::ListChannelsResponse> {
        ours!(self, request, list_channels)
    }

    async fn list_nodes(
        &self,
        _: Request<admin::ListNodesRequest>,
    ) -> Answer<admin::ListNodesResponse> {
        let answer = self.host.coordinator()?.list_nodes().await;
        answer.map(Response::new).map_err(|error| error.to_grpc())
    }

    async fn list_compactions(
        &self,
        request: Request<admin::ListCompactionsRequest>,
    ) -> Answer<admin::ListCompactionsResponse> {
        ours!(self, request, list_compactions)
    }

    async fn add_member(
        &self,
        request: Request<admin::AddMemberRequest>,
    ) -> Answer<admin::AddMemberResponse> {
        let added = members::add(&self.host, request.into_inner()).await;
        added.map(Response::new)
    }

    async fn promote_member(
        &self,
        request: Request<admin::PromoteMemberRequest>,
    ) -> Answer<admin::PromoteMemberResponse> {
        let promoted = members::promote(&self.host, request.into_inner()).await;
        promoted.map(Response::new)
    }

    async fn remove_member(
        &self,
        request: Request<admin::RemoveMemberRequest>,
    ) -> Answer<admin::RemoveMemberResponse> {
        let removed = members::remove(&self.host, request.into_inner()).await;
        removed.map(Response::new)
    }

    async fn transfer_leader(
        &self,
        request: Request<admin::TransferLeaderRequest>,
    ) -> Answer<admin::TransferLeaderResponse> {
        let handed = members::transfer(&self.host, request.into_inner()).await;
        handed.map(Response::new)
    }

    async fn plan_gc(
        &self,
        request: Request<admin::PlanGcRequest>,
    ) -> Answer<admin::PlanGcResponse> {
        ours!(self, request, plan_gc)
    }

    async fn run_gc(&self, request: Request<admin::RunGcRequest>) -> Answer<admin::RunGcResponse> {
        ours!(self, request, run_gc)
    }

    async fn pause_gc(
        &self,
        request: Request<admin::PauseGcRequest>,
    ) -> Answer<admin::PauseGcResponse> {
        ours!(self, request, pause_gc)
    }

    async fn resume_gc(
        &self,
        request: Request<admin::ResumeGcRequest>,
    ) -> Answer<admin::ResumeGcResponse> {
        ours!(self, request, resume_gc)
    }

    async fn mark_check(
        &self,
        _: Request<admin::MarkCheckRequest>,
    ) -> Answer<admin::MarkCheckResponse> {
        let answer = self.host.coordinator()?.mark_check().await;
        answer.map(Response::new).map_err(|error| error.to_grpc())
    }

    async fn get_check(
        &self,
        request: Request<admin::GetCheckRequest>,
    ) -> Answer<admin::GetCheckResponse> {
        ours!(self, request, get_check)
    }
}
