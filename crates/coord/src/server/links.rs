//! Links to other members over gRPC.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use quorate_raft_store::{Member, NodeId};
use quorate_rpc::PeerLink;
use quorate_rpc::channel::ChannelOptions;
use quorate_rpc::peer::{PeerCall, Route};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::transport::{CallKind, Link, LinkError, Links};

/// How often the same refusal is logged: openraft tries again many times a second.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(60);

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
        Arc::new(GrpcLink {
            target,
            address: member.peer_addr.clone(),
            peer: PeerLink::new(route, &member.peer_addr, &self.options)
                .map_err(|error| error.to_string()),
            refusal: Arc::default(),
        })
    }
}

/// A link, or why its address can't be used.
struct GrpcLink {
    target: NodeId,
    address: String,
    peer: Result<PeerLink, String>,
    refusal: Arc<Mutex<Option<(String, Instant)>>>,
}

impl GrpcLink {
    fn peer(&self) -> Result<&PeerLink, LinkError> {
        self.peer.as_ref().map_err(|reason| LinkError {
            reason: reason.clone(),
            unreachable: true,
        })
    }

    /// Says in the log, once in a while, that the other side refuses this replica or the other way
    /// round: nothing gets better by itself then.
    fn failed(&self, status: &Status) -> LinkError {
        let refusal = match quorate_rpc::tls::explain_status(status) {
            Some(meaning) => Some(meaning),
            None if status.code() == Code::PermissionDenied => {
                Some(format!("it refused this replica: {}", status.message()))
            }
            None => None,
        };
        if let Some(refusal) = refusal {
            let mut last = self.refusal.lock();
            let is_new = last.as_ref().is_none_or(|(message, at)| {
                *message != refusal || at.elapsed() >= REFUSAL_LOG_INTERVAL
            });
            if is_new {
                tracing::warn!(
                    peer = self.target,
                    address = self.address,
                    "cannot talk to a peer: {refusal}"
                );
                *last = Some((refusal, Instant::now()));
            }
        }
        failed(status)
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
            .map_err(|status| self.failed(&status))
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
            .map_err(|status| self.failed(&status))?;
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
            .map_err(|status| self.failed(&status))
    }
}
