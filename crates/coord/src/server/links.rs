//! Links to other members over gRPC.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use quorate_raft_store::{Member, NodeId};
use quorate_rpc::PeerLink;
use quorate_rpc::channel::ChannelOptions;
use quorate_rpc::peer::{PeerCall, Route};
use tonic::{Code, Status};

use crate::transport::{CallKind, Link, LinkError, Links};

/// Makes gRPC links from this member.
pub(super) struct GrpcLinks {
    cluster_id: String,
    own: NodeId,
    options: ChannelOptions,
}

impl GrpcLinks {
    pub(super) fn new(cluster_id: String, own: NodeId, options: ChannelOptions) -> Self {
        Self {
            cluster_id,
            own,
            options,
        }
    }
}

impl Links for GrpcLinks {
    fn link(&self, target: NodeId, member: &Member) -> Arc<dyn Link> {
        let route = Route {
            cluster_id: self.cluster_id.clone(),
            from: self.own,
            to: target,
        };
        Arc::new(GrpcLink(
            PeerLink::new(route, &member.peer_addr, &self.options)
                .map_err(|error| error.to_string()),
        ))
    }
}

/// A link, or why its address can't be used.
struct GrpcLink(Result<PeerLink, String>);

impl GrpcLink {
    fn peer(&self) -> Result<&PeerLink, LinkError> {
        self.0.as_ref().map_err(|reason| LinkError {
            reason: reason.clone(),
            unreachable: true,
        })
    }
}

fn failed(status: &Status) -> LinkError {
    LinkError {
        reason: status.message().to_owned(),
        unreachable: matches!(
            status.code(),
            Code::Unavailable | Code::FailedPrecondition | Code::PermissionDenied
        ),
    }
}

#[async_trait]
impl Link for GrpcLink {
    async fn call(
        &self,
        kind: CallKind,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, LinkError> {
        let kind = match kind {
            CallKind::Vote => PeerCall::Vote,
            CallKind::PreVote => PeerCall::PreVote,
            CallKind::TransferLeader => PeerCall::TransferLeader,
        };
        self.peer()?
            .call(kind, body, timeout)
            .await
            .map_err(|status| failed(&status))
    }

    async fn append(
        &self,
        mut bodies: BoxStream<'static, Bytes>,
        timeout: Duration,
    ) -> Result<BoxStream<'static, Result<Bytes, LinkError>>, LinkError> {
        // openraft paces its retries by holding back the first request. Without waiting for it, a
        // peer that cannot be reached would be tried as fast as the system refuses.
        let Some(first) = bodies.next().await else {
            return Ok(futures::stream::empty().boxed());
        };
        let bodies = futures::stream::once(std::future::ready(first))
            .chain(bodies)
            .boxed();
        let answers = self
            .peer()?
            .append_stream(bodies, timeout)
            .await
            .map_err(|status| failed(&status))?;
        Ok(answers
            .map(|answer| answer.map_err(|status| failed(&status)))
            .boxed())
    }

    async fn install_snapshot(
        &self,
        vote: Bytes,
        meta: Bytes,
        chunks: BoxStream<'static, Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, LinkError> {
        self.peer()?
            .install_snapshot(vote, meta, chunks, timeout)
            .await
            .map_err(|status| failed(&status))
    }
}
