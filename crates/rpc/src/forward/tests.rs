#![allow(clippy::unwrap_used)]

use super::*;
use crate::proto::quorate::oracle::{AllocIdRequest, oracle_client::OracleClient};
use crate::testing::{Answer, FakeOracle, TestServer, dead_address};
use crate::unimplemented_layer;
use tonic::{Request, Response};

/// What one replica believes.
struct Belief(Mutex<Leader>);

impl Leadership for Belief {
    fn leader(&self) -> Leader {
        self.0.lock().unwrap().clone()
    }
}

struct Replica {
    oracle: FakeOracle,
    belief: Arc<Belief>,
    server: TestServer,
}

impl Replica {
    fn start(leader: Leader, answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        let oracle = FakeOracle::new(answer);
        let belief = Arc::new(Belief(Mutex::new(leader)));
        let layer = tower::ServiceBuilder::new()
            .layer(unimplemented_layer("1.2.3"))
            .layer(ForwardLayer::new(belief.clone(), ChannelOptions::default()))
            .into_inner();
        let server = TestServer::start(layer, oracle.routes());
        Self {
            oracle,
            belief,
            server,
        }
    }

    fn leading(first: i64) -> Self {
        Self::start(Leader::Here, move |_| Answer::First(first))
    }

    fn following(leader: &str) -> Self {
        Self::start(there(leader), |_| Answer::First(-1))
    }

    async fn ask(&self, request: Request<AllocIdRequest>) -> Result<i64, Status> {
        let channel = channel::connect(&self.server.address, &ChannelOptions::default())
            .await
            .unwrap();
        let answer: Response<_> = OracleClient::new(channel).alloc_id(request).await?;
        Ok(answer.into_inner().first)
    }
}

fn there(leader: &str) -> Leader {
    Leader::There {
        client_addr: leader.to_owned(),
    }
}

fn plain() -> Request<AllocIdRequest> {
    Request::new(AllocIdRequest { count: 1 })
}

fn with(key: &'static str, value: &'static str) -> Request<AllocIdRequest> {
    let mut request = plain();
    request.metadata_mut().insert(key, value.parse().unwrap());
    request
}

fn header<'a>(status: &'a Status, key: &str) -> Option<&'a str> {
    status.metadata().get(key)?.to_str().ok()
}

#[tokio::test]
async fn a_follower_forwards_a_plain_call() {
    let leader = Replica::leading(42);
    let follower = Replica::following(&leader.server.address);
    assert_eq!(follower.ask(plain()).await.unwrap(), 42);
    assert_eq!(follower.oracle.calls(), 0);
    let metadata = leader.oracle.metadata(0);
    assert_eq!(metadata.get(headers::FORWARDED).unwrap(), "1");
    assert_eq!(metadata.get("grpc-timeout").unwrap(), "30S");
}

#[tokio::test]
async fn a_refusal_by_the_leader_comes_back_as_it_is() {
    let leader = Replica::start(Leader::Here, |_| {
        Answer::Refuse(to_grpc(Code::CollectionNotFound, "no such collection: ä"))
    });
    let follower = Replica::following(&leader.server.address);
    let status = follower.ask(plain()).await.unwrap_err();
    assert_eq!(status.code(), GrpcCode::NotFound);
    assert_eq!(status.message(), "no such collection: ä");
    assert_eq!(header(&status, headers::CODE), Some("100"));
}

#[tokio::test]
async fn the_deadline_of_the_caller_goes_along() {
    let leader = Replica::start(Leader::Here, |_| Answer::Never);
    let follower = Replica::following(&leader.server.address);
    let mut request = plain();
    request.set_timeout(Duration::from_millis(300));
    follower.ask(request).await.unwrap_err();
    let kept = leader.oracle.metadata(0);
    let kept = kept.get("grpc-timeout").unwrap().to_str().unwrap();
    assert_eq!(
        parse_timeout(&HeaderValue::from_str(kept).unwrap()),
        Some(Duration::from_millis(300))
    );
}

#[tokio::test]
async fn a_caller_that_asks_is_told_where_the_leader_is() {
    let leader = Replica::leading(1);
    let follower = Replica::following(&leader.server.address);
    let status = follower
        .ask(with(headers::REDIRECT, "1"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), GrpcCode::Unavailable);
    assert_eq!(
        header(&status, headers::LEADER),
        Some(leader.server.address.as_str())
    );
    assert_eq!(header(&status, headers::NOT_APPLIED), Some("1"));
    assert_eq!(leader.oracle.calls(), 0);
}

#[tokio::test]
async fn a_forwarded_call_is_not_forwarded_again() {
    let first = Replica::following(&dead_address());
    let second = Replica::following(&first.server.address);
    *first.belief.0.lock().unwrap() = there(&second.server.address);

    let status = first.ask(plain()).await.unwrap_err();
    assert_eq!(status.code(), GrpcCode::Unavailable);
    assert!(status.message().contains("not the leader any more"));
    assert_eq!(
        header(&status, headers::LEADER),
        Some(first.server.address.as_str())
    );
    assert_eq!(header(&status, headers::NOT_APPLIED), Some("1"));
    assert_eq!(first.oracle.calls() + second.oracle.calls(), 0);
}

#[tokio::test]
async fn without_a_leader_calls_are_refused_at_once() {
    let replica = Replica::start(Leader::Unknown, |_| Answer::First(1));
    let status = replica.ask(plain()).await.unwrap_err();
    assert_eq!(status.code(), GrpcCode::Unavailable);
    assert_eq!(header(&status, headers::NOT_APPLIED), Some("1"));
    assert_eq!(header(&status, headers::LEADER), None);
    assert_eq!(replica.oracle.calls(), 0);
}

#[tokio::test]
async fn a_leader_that_is_gone_is_unavailable_without_effect() {
    let follower = Replica::following(&dead_address());
    let status = follower.ask(plain()).await.unwrap_err();
    assert_eq!(status.code(), GrpcCode::Unavailable);
    assert_eq!(header(&status, headers::NOT_APPLIED), Some("1"));
}

#[tokio::test]
async fn a_leader_lost_during_the_call_leaves_it_unknown() {
    let mut leader = Replica::start(Leader::Here, |_| Answer::Never);
    let follower = Replica::following(&leader.server.address);
    let (status, ()) = tokio::join!(follower.ask(plain()), async {
        leader.oracle.next_arrival().await;
        leader.server.kill();
    });
    let status = status.unwrap_err();
    assert_eq!(status.code(), GrpcCode::Unavailable);
    assert_eq!(header(&status, headers::NOT_APPLIED), None);
}

#[tokio::test]
async fn the_next_leader_gets_the_next_call() {
    let mut old = Replica::leading(1);
    let new = Replica::leading(2);
    let follower = Replica::following(&old.server.address);
    assert_eq!(follower.ask(plain()).await.unwrap(), 1);
    old.server.kill();
    *follower.belief.0.lock().unwrap() = there(&new.server.address);
    assert_eq!(follower.ask(plain()).await.unwrap(), 2);
}

#[tokio::test]
async fn a_stale_read_is_answered_where_it_arrives() {
    let leader = Replica::leading(1);
    let follower = Replica::following(&leader.server.address);
    let request = with(headers::READ, headers::READ_STALE);
    assert_eq!(follower.ask(request).await.unwrap(), -1);
    assert_eq!(leader.oracle.calls(), 0);
}

#[tokio::test]
async fn an_unknown_method_is_named_in_the_answer() {
    let replica = Replica::start(Leader::Unknown, |_| Answer::First(1));
    let channel = channel::connect(&replica.server.address, &ChannelOptions::default())
        .await
        .unwrap();
    for (path, service) in [
        (
            "/quorate.oracle.v1.Oracle/NoSuch",
            "quorate.oracle.v1.Oracle",
        ),
        ("/no.such.Service/NoSuch", "no.such.Service"),
    ] {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<AllocIdRequest, AllocIdRequest>::default();
        let path = http::uri::PathAndQuery::from_static(path);
        let status = grpc.unary(plain(), path, codec).await.unwrap_err();
        assert_eq!(status.code(), GrpcCode::Unimplemented);
        assert_eq!(
            status.message(),
            format!("method NoSuch of service {service} is not supported by Quorate 1.2.3")
        );
    }
}

#[test]
fn malformed_timeouts_are_no_timeouts() {
    let parse = |text: &'static str| parse_timeout(&HeaderValue::from_static(text));
    assert_eq!(parse("5S"), Some(Duration::from_secs(5)));
    assert_eq!(
        parse("99999999H"),
        Some(Duration::from_secs(359_999_996_400))
    );
    assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
    for text in ["", "S", "5", "-5S", "123456789S", "5 S", "5x", "+5S"] {
        assert_eq!(parse(text), None, "{text}");
    }
}
