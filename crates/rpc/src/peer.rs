//! The calling side of the protocol between replicas. Bodies are opaque: the Raft storage crate
//! encodes and decodes them.
//!
//! A link has three connections, so that a long append or a snapshot on its way never holds up a
//! heartbeat or a vote.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::channel::{self, ChannelOptions, ConnectError, MAX_DECODE_BYTES, MAX_ENCODE_BYTES};
use crate::proto::quorate::peer::{
    HelloRequest, HelloResponse, JoinRequest, PeerRequest, SnapshotHeader, SnapshotPart,
    StandingRequest, StandingResponse, peer_client::PeerClient, snapshot_part::Part,
};
pub use crate::proto::quorate::peer::{PeerCall, Route};

/// From one replica to another. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub struct PeerLink {
    route: Route,
    calls: PeerClient<Channel>,
    appends: PeerClient<Channel>,
    snapshots: PeerClient<Channel>,
}

impl PeerLink {
    /// A link to the peer address `host:port` of the replica `route.to`. The connections are
    /// opened by their first use, and again after they broke.
    pub fn new(
        route: Route,
        address: &str,
        options: &ChannelOptions,
    ) -> Result<Self, ConnectError> {
        Ok(Self {
            route,
            calls: client(address, options)?,
            appends: client(address, options)?,
            snapshots: client(address, options)?,
        })
    }

    /// Who calls whom.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// One short call: a vote, a heartbeat, a transfer of leadership.
    pub async fn call(
        &self,
        kind: PeerCall,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, Status> {
        let request = with_timeout(request(&self.route, kind, body), timeout);
        let mut client = self.calls.clone();
        Ok(in_time(timeout, client.call(request))
            .await?
            .into_inner()
            .body)
    }

    /// Opens a pipeline of appends: the answers come in the order of the requests. `timeout` is
    /// for opening it; the caller watches over the answers.
    pub fn append_stream(
        &self,
        bodies: BoxStream<'static, Bytes>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Bytes, Status>>, Status>> {
        let route = self.route.clone();
        let requests = Appends { route, bodies };
        let mut client = self.appends.clone();
        async move {
            let answers = in_time(timeout, client.append(requests))
                .await?
                .into_inner();
            Ok(answers
                .map(|answer| answer.map(|answer| answer.body))
                .boxed())
        }
        .boxed()
    }

    /// Sends a whole snapshot and waits until the other replica has it in place.
    pub fn install_snapshot(
        &self,
        vote: Bytes,
        meta: Bytes,
        chunks: BoxStream<'static, Bytes>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, Status>> {
        let header = Part::Header(SnapshotHeader {
            route: Some(self.route.clone()),
            vote,
            meta,
        });
        let parts = Parts {
            header: Some(header),
            chunks,
        };
        let mut client = self.snapshots.clone();
        async move {
            let answer = client.install_snapshot(with_timeout(parts, timeout));
            Ok(in_time(timeout, answer).await?.into_inner().body)
        }
        .boxed()
    }
}

/// Appends on their way. A named type: with a boxed or mapped stream in its place the compiler
/// does not see that the call's future is `Send`.
struct Appends {
    route: Route,
    bodies: BoxStream<'static, Bytes>,
}

impl Stream for Appends {
    type Item = PeerRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PeerRequest>> {
        let body = std::task::ready!(self.bodies.poll_next_unpin(cx));
        Poll::Ready(body.map(|body| request(&self.route, PeerCall::Append, body)))
    }
}

/// A snapshot on its way: the header, then the chunks. A named type for the same reason.
struct Parts {
    header: Option<Part>,
    chunks: BoxStream<'static, Bytes>,
}

impl Stream for Parts {
    type Item = SnapshotPart;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<SnapshotPart>> {
        let part = match self.header.take() {
            Some(header) => Some(header),
            None => std::task::ready!(self.chunks.poll_next_unpin(cx)).map(Part::Chunk),
        };
        Poll::Ready(part.map(|part| SnapshotPart { part: Some(part) }))
    }
}

/// Asks who listens at a peer address.
pub async fn hello(
    address: &str,
    options: &ChannelOptions,
    timeout: Duration,
) -> Result<HelloResponse, Status> {
    let mut client = once(address, options)?;
    let request = with_timeout(HelloRequest {}, timeout);
    Ok(in_time(timeout, client.hello(request)).await?.into_inner())
}

/// Tells a waiting replica which cluster it now belongs to, and its node id there.
pub async fn join(
    address: &str,
    cluster_id: String,
    node_id: u64,
    options: &ChannelOptions,
    timeout: Duration,
) -> Result<(), Status> {
    let mut client = once(address, options)?;
    let request = JoinRequest {
        cluster_id,
        node_id,
    };
    in_time(timeout, client.join(with_timeout(request, timeout))).await?;
    Ok(())
}

/// Asks a member whether the asking replica is one still.
pub async fn standing(
    address: &str,
    request: StandingRequest,
    options: &ChannelOptions,
    timeout: Duration,
) -> Result<StandingResponse, Status> {
    let mut client = once(address, options)?;
    let answer = client.standing(with_timeout(request, timeout));
    Ok(in_time(timeout, answer).await?.into_inner())
}

fn once(address: &str, options: &ChannelOptions) -> Result<PeerClient<Channel>, Status> {
    client(address, options).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn client(address: &str, options: &ChannelOptions) -> Result<PeerClient<Channel>, ConnectError> {
    Ok(PeerClient::new(channel::connect_lazy(address, options)?)
        .max_decoding_message_size(MAX_DECODE_BYTES)
        .max_encoding_message_size(MAX_ENCODE_BYTES))
}

fn request(route: &Route, kind: PeerCall, body: Bytes) -> PeerRequest {
    PeerRequest {
        route: Some(route.clone()),
        call: kind.into(),
        body,
    }
}

fn with_timeout<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// Also covers the time a connection takes to open, which a `grpc-timeout` does not.
async fn in_time<T>(
    timeout: Duration,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    tokio::time::timeout(timeout, answer)
        .await
        .unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(format!(
                "no answer from the peer in {timeout:.1?}"
            )))
        })
}

#[cfg(test)]
mod tests;
