#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use futures::stream;
use tonic::service::Routes;
use tonic::{Response, Streaming};

use super::*;
use crate::proto::quorate::peer::{
    JoinResponse, PeerResponse,
    peer_server::{Peer, PeerServer},
};
use crate::testing::{TestServer, dead_address};

const TIMEOUT: Duration = Duration::from_secs(20);

/// Answers every body with `kind:body` or, for long ones, its length; keeps what it was sent.
#[derive(Clone, Default)]
struct Echo {
    routes: Arc<Mutex<Vec<Route>>>,
    snapshot: Arc<Mutex<Vec<u8>>>,
    joined: Arc<Mutex<Option<JoinRequest>>>,
}

impl Echo {
    fn answer(&self, request: PeerRequest) -> PeerResponse {
        self.routes
            .lock()
            .unwrap()
            .push(request.route.clone().unwrap());
        let kind = request.call().as_str_name();
        let body = match request.body.len() {
            0..=64 => format!("{kind}:{}", String::from_utf8_lossy(&request.body)),
            len => format!("{kind}:{len}"),
        };
        PeerResponse { body: body.into() }
    }

    fn routes(&self) -> Routes {
        let service = PeerServer::new(self.clone()).max_decoding_message_size(MAX_DECODE_BYTES);
        Routes::new(service)
    }

    fn serve(&self) -> TestServer {
        TestServer::start(tower::layer::util::Identity::new(), self.routes())
    }
}

#[tonic::async_trait]
impl Peer for Echo {
    type AppendStream = BoxStream<'static, Result<PeerResponse, Status>>;

    async fn call(&self, request: Request<PeerRequest>) -> Result<Response<PeerResponse>, Status> {
        Ok(Response::new(self.answer(request.into_inner())))
    }

    async fn append(
        &self,
        request: Request<Streaming<PeerRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let echo = self.clone();
        let answers = request
            .into_inner()
            .map(move |request| Ok(echo.answer(request?)));
        Ok(Response::new(answers.boxed()))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<PeerResponse>, Status> {
        let mut parts = request.into_inner();
        let Some(Part::Header(header)) = parts.message().await?.and_then(|part| part.part) else {
            return Err(Status::invalid_argument("no header"));
        };
        while let Some(part) = parts.message().await? {
            if let Some(Part::Chunk(chunk)) = part.part {
                self.snapshot.lock().unwrap().extend_from_slice(&chunk);
            }
        }
        Ok(Response::new(PeerResponse { body: header.meta }))
    }

    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse {
            node_id: 3,
            ..Default::default()
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        *self.joined.lock().unwrap() = Some(request.into_inner());
        Ok(Response::new(JoinResponse {}))
    }

    async fn standing(
        &self,
        request: Request<StandingRequest>,
    ) -> Result<Response<StandingResponse>, Status> {
        Ok(Response::new(StandingResponse {
            removed: request.into_inner().last_log_index < 7,
            membership_index: 7,
        }))
    }
}

fn link(address: &str) -> PeerLink {
    let route = Route {
        cluster_id: "c".to_owned(),
        from: 1,
        to: 2,
    };
    PeerLink::new(route, address, &ChannelOptions::default()).unwrap()
}

#[tokio::test]
async fn a_call_carries_its_route_and_kind() {
    let echo = Echo::default();
    let server = echo.serve();
    let link = link(&server.address);
    let answer = link
        .call(PeerCall::Vote, "v".into(), TIMEOUT)
        .await
        .unwrap();
    assert_eq!(answer, "PEER_CALL_VOTE:v");
    assert_eq!(&echo.routes.lock().unwrap()[0], link.route());
}

#[tokio::test]
async fn appends_are_answered_in_order_and_may_be_large() {
    let server = Echo::default().serve();
    let large = Bytes::from(vec![0; 20 << 20]);
    let bodies = stream::iter(["a".into(), large, "b".into()]);
    let answers = link(&server.address)
        .append_stream(bodies.boxed(), TIMEOUT)
        .await
        .unwrap();
    let answers: Vec<Bytes> = answers.map(|answer| answer.unwrap()).collect().await;
    let expected = [
        "PEER_CALL_APPEND:a",
        "PEER_CALL_APPEND:20971520",
        "PEER_CALL_APPEND:b",
    ];
    assert_eq!(answers, expected);
}

#[tokio::test]
async fn a_snapshot_arrives_whole() {
    let echo = Echo::default();
    let server = echo.serve();
    let chunks = (0..32u8).map(|n| Bytes::from(vec![n; 300_000]));
    let expected: Vec<u8> = chunks.clone().flatten().collect();
    let answer = link(&server.address)
        .install_snapshot(
            "v".into(),
            "m".into(),
            stream::iter(chunks).boxed(),
            TIMEOUT,
        )
        .await
        .unwrap();
    assert_eq!(answer, "m");
    assert!(*echo.snapshot.lock().unwrap() == expected);
}

#[tokio::test]
async fn a_waiting_replica_is_greeted_and_joined() {
    let echo = Echo::default();
    let server = echo.serve();
    let options = ChannelOptions::default();
    let hello = hello(&server.address, &options, TIMEOUT).await.unwrap();
    assert_eq!(hello.node_id, 3);
    join(&server.address, "c".to_owned(), 3, &options, TIMEOUT)
        .await
        .unwrap();
    let joined = echo.joined.lock().unwrap().clone().unwrap();
    assert_eq!((joined.cluster_id.as_str(), joined.node_id), ("c", 3));
}

#[tokio::test]
async fn a_peer_that_is_gone_is_unavailable() {
    let status = link(&dead_address())
        .call(PeerCall::Vote, Bytes::new(), TIMEOUT)
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
}

#[tokio::test]
async fn a_link_outlives_its_connection() {
    let echo = Echo::default();
    let mut server = echo.serve();
    let link = link(&server.address);
    let body = || Bytes::from_static(b"x");
    link.call(PeerCall::Vote, body(), TIMEOUT).await.unwrap();
    server.kill();
    let _again = TestServer::start_again_at(&server.address, echo.routes());
    // The broken connection may fail one call before it is noticed.
    if link.call(PeerCall::Vote, body(), TIMEOUT).await.is_err() {
        link.call(PeerCall::Vote, body(), TIMEOUT).await.unwrap();
    }
}
