//! The called side of the protocol between replicas. Every call says who it is from, who it is for
//! and of which cluster; anybody else's is refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use quorate_raft_store::{SnapshotMeta, codec};
use quorate_rpc::peer::{PeerCall, Route};
use quorate_rpc::proto::quorate::peer::peer_server::Peer;
use quorate_rpc::proto::quorate::peer::{
    HelloRequest, HelloResponse, JoinRequest, JoinResponse, PeerRequest, PeerResponse,
    SnapshotPart, StandingRequest, StandingResponse, snapshot_part::Part,
};
use quorate_rpc::tls::Caller;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::host::Host;
use super::replica::Replica;

/// How often the same refusal is logged: a stray peer tries again many times a second.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The service on the peers' port.
pub(super) struct PeerService {
    host: Arc<Host>,
    refusals: Arc<Refusals>,
}

/// Says in the log which peers are refused and why, each refusal once in a while.
#[derive(Default)]
struct Refusals {
    last: Mutex<Option<(String, Instant)>>,
}

impl Refusals {
    /// `node` is who it says it is; 0 when it did not say.
    fn note(&self, refusal: &Status, node: u64) {
        let mut last = self.last.lock();
        let is_new = last.as_ref().is_none_or(|(message, at)| {
            message != refusal.message() || at.elapsed() >= REFUSAL_LOG_INTERVAL
        });
        if is_new {
            tracing::warn!(node, "refused a peer: {}", refusal.message());
            *last = Some((refusal.message().to_owned(), Instant::now()));
        }
    }

    fn check(&self, route: Option<&Route>, replica: &Replica) -> Result<(), Status> {
        let node = route.map_or(0, |route| route.from);
        check_route(route, replica).inspect_err(|refusal| self.note(refusal, node))
    }
}

impl PeerService {
    pub(super) fn new(host: Arc<Host>) -> Self {
        Self {
            host,
            refusals: Arc::default(),
        }
    }

    /// What every call goes through first: with TLS, callers show a replica's certificate.
    pub(super) fn gate(
        &self,
        secured: bool,
    ) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone + Send + Sync + 'static {
        let refusals = self.refusals.clone();
        move |request: Request<()>| {
            let refusal = match request.extensions().get::<Caller>() {
                _ if !secured => None,
                Some(caller) => caller.refusal(),
                None => Some("the caller is not known".to_owned()),
            };
            match refusal {
                None => Ok(request),
                Some(reason) => {
                    let status = Status::permission_denied(reason);
                    refusals.note(&status, 0);
                    Err(status)
                }
            }
        }
    }

    fn admit(&self, route: Option<&Route>) -> Result<Arc<Replica>, Status> {
        let replica = self.host.replica().ok_or_else(|| {
            Status::unavailable("this replica belongs to no cluster yet; `quorate init` forms one")
        })?;
        self.refusals.check(route, &replica)?;
        Ok(replica)
    }
}

fn check_route(route: Option<&Route>, replica: &Replica) -> Result<(), Status> {
    let own = replica.identity();
    let route = route.ok_or_else(|| Status::permission_denied("a peer call without a route"))?;
    if route.cluster_id != own.cluster_id {
        return Err(Status::permission_denied(format!(
            "this is cluster {}, not {}; check the peer addresses",
            own.cluster_id, route.cluster_id
        )));
    }
    if route.to != own.node_id {
        return Err(Status::permission_denied(format!(
            "this is node {}, not {}; was its folder replaced?",
            own.node_id, route.to
        )));
    }
    Ok(())
}

fn malformed(error: &codec::CodecError) -> Status {
    Status::invalid_argument(format!("peer message cannot be decoded: {error}"))
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("raft: {error}"))
}

fn answer(body: Bytes) -> Result<Response<PeerResponse>, Status> {
    Ok(Response::new(PeerResponse { body }))
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn call(&self, request: Request<PeerRequest>) -> Result<Response<PeerResponse>, Status> {
        let request = request.into_inner();
        let replica = self.admit(request.route.as_ref())?;
        let raft = replica.coordinator().consensus().raft();
        match request.call() {
            kind @ (PeerCall::Vote | PeerCall::PreVote) => {
                if !replica.may_vote() {
                    return Err(Status::unavailable(
                        "this voter has just started; a lease it gave before may still run",
                    ));
                }
                let vote =
                    codec::decode_vote_request(&request.body).map_err(|error| malformed(&error))?;
                let granted = if kind == PeerCall::Vote {
                    raft.vote(vote).await
                } else {
                    raft.pre_vote(vote).await
                };
                answer(codec::encode_vote_response(&granted.map_err(stopped)?))
            }
            PeerCall::TransferLeader => {
                let transfer = codec::decode_transfer_request(&request.body)
                    .map_err(|error| malformed(&error))?;
                let taken = raft.handle_transfer_leader(transfer).await;
                answer(codec::encode_transfer_response(&taken.map_err(stopped)?))
            }
            PeerCall::Append | PeerCall::Unspecified => {
                Err(Status::invalid_argument("no such peer call"))
            }
        }
    }

    type AppendStream = BoxStream<'static, Result<PeerResponse, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<PeerRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let replica = self
            .host
            .replica()
            .ok_or_else(|| Status::unavailable("this replica belongs to no cluster yet"))?;
        let raft = replica.coordinator().consensus().raft().clone();
        let refusals = self.refusals.clone();
        // The first bad message ends the pipeline, and the sender is told why.
        let (end, ended) = oneshot::channel();
        let requests = request.into_inner().scan(Some(end), move |end, message| {
            let decoded = message.and_then(|message| {
                refusals.check(message.route.as_ref(), &replica)?;
                replica.note_leader();
                codec::decode_append_request(&message.body).map_err(|error| malformed(&error))
            });
            let item = match (end.is_some(), decoded) {
                (false, _) => None,
                (true, Ok(request)) => Some(request),
                (true, Err(error)) => {
                    tracing::debug!(%error, "append pipeline ends");
                    // The sender may have gone.
                    let _ = end.take().map(|end| end.send(error));
                    None
                }
            };
            futures::future::ready(item)
        });
        let answers = raft.stream_append(requests.boxed()).map(|result| {
            let result = result.map_err(stopped)?;
            Ok(PeerResponse {
                body: codec::encode_stream_append(&result),
            })
        });
        let reason = futures::stream::once(ended)
            .filter_map(|reason| futures::future::ready(reason.ok().map(Err)));
        let answers = answers.chain(reason);
        Ok(Response::new(answers.boxed()))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<PeerResponse>, Status> {
        let mut parts = request.into_inner();
        let Some(Part::Header(header)) = next_part(&mut parts).await? else {
            return Err(Status::invalid_argument(
                "a snapshot starts with its header",
            ));
        };
        let replica = self.admit(header.route.as_ref())?;
        let vote = codec::decode_vote(&header.vote).map_err(|error| malformed(&error))?;
        let meta: SnapshotMeta =
            codec::decode_snapshot_meta(&header.meta).map_err(|error| malformed(&error))?;
        let consensus = replica.coordinator().consensus();
        let broken = |error: std::io::Error| Status::data_loss(format!("snapshot: {error}"));
        let mut staging = consensus.store().stage().map_err(broken)?;
        while let Some(part) = next_part(&mut parts).await? {
            let Part::Chunk(chunk) = part else {
                return Err(Status::invalid_argument("a snapshot has one header"));
            };
            staging.push_chunk(&chunk).map_err(broken)?;
        }
        let data = staging.finish(meta.clone()).map_err(broken)?;
        let snapshot = openraft::Snapshot {
            meta,
            snapshot: data,
        };
        let installed = consensus.raft().install_full_snapshot(vote, snapshot).await;
        answer(codec::encode_snapshot_response(
            &installed.map_err(stopped)?,
        ))
    }

    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        let identity = self.host.identity();
        let formed = self.host.replica().is_some_and(|r| r.is_initialized());
        Ok(Response::new(HelloResponse {
            // An id that was given but never put to use counts as none.
            cluster_id: identity
                .as_ref()
                .filter(|_| formed)
                .map_or(String::new(), |own| own.cluster_id.clone()),
            node_id: identity.map_or(0, |own| own.node_id),
            client_address: self.host.config().client_addr(),
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        if request.cluster_id.is_empty() || request.node_id == 0 {
            return Err(Status::invalid_argument(
                "join needs a cluster id and a node id",
            ));
        }
        self.host.join(&request.cluster_id, request.node_id).await?;
        Ok(Response::new(JoinResponse {}))
    }

    async fn standing(
        &self,
        request: Request<StandingRequest>,
    ) -> Result<Response<StandingResponse>, Status> {
        let request = request.into_inner();
        let replica = self.admit(request.route.as_ref())?;
        let asking = request.route.as_ref().map_or(0, |route| route.from);
        let position = (request.last_log_term, request.last_log_index);
        let consensus = replica.coordinator().consensus();
        let (removed, membership_index) = consensus.removed_since(asking, position);
        Ok(Response::new(StandingResponse {
            removed,
            membership_index,
        }))
    }
}

async fn next_part(parts: &mut Streaming<SnapshotPart>) -> Result<Option<Part>, Status> {
    match parts.message().await? {
        None => Ok(None),
        Some(SnapshotPart { part: Some(part) }) => Ok(Some(part)),
        Some(SnapshotPart { part: None }) => {
            Err(Status::invalid_argument("a snapshot part without content"))
        }
    }
}
