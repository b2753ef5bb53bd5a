#![allow(clippy::unwrap_used)]

use super::*;
use crate::proto::quorate::oracle::{AllocIdRequest, AllocIdResponse, oracle_client::OracleClient};
use crate::status::{Code, not_applied, to_grpc, with_leader};
use crate::testing::{Answer, FakeOracle, dead_address};

fn client(endpoints: &[&str]) -> Client {
    let options = ClientOptions {
        deadline: Duration::from_secs(20),
        attempt_timeout: Duration::from_secs(10),
        backoff_initial: Duration::from_millis(2),
        ..ClientOptions::default()
    };
    Client::new(endpoints.iter().map(|&e| e.to_owned()), options).unwrap()
}

async fn alloc(leader: LeaderChannel) -> Result<Response<AllocIdResponse>, Status> {
    OracleClient::new(leader)
        .alloc_id(AllocIdRequest { count: 1 })
        .await
}

fn refusal_without_effect() -> Status {
    not_applied(to_grpc(Code::ServiceUnavailable, "election under way"))
}

fn refusal_naming(leader: &str) -> Status {
    with_leader(refusal_without_effect(), leader)
}

fn always(first: i64) -> FakeOracle {
    FakeOracle::new(move |_| Answer::First(first))
}

#[tokio::test]
async fn a_named_leader_is_followed_and_remembered() {
    let leader = always(7);
    let leading = leader.serve();
    let address = leading.address.clone();
    let follower = FakeOracle::new(move |_| Answer::Refuse(refusal_naming(&address)));
    let following = follower.serve();

    let client = client(&[&following.address]);
    for _ in 0..3 {
        let ids = client.call(Retry::IfNotApplied, alloc).await.unwrap();
        assert_eq!(ids.first, 7);
    }

    assert_eq!((follower.calls(), leader.calls()), (1, 3));
    let stats = client.stats();
    assert_eq!((stats.redirects, stats.retries), (1, 0));
    assert_eq!(stats.leader.as_deref(), Some(leading.address.as_str()));
    assert!(stats.longest_gap > Duration::ZERO);
}

#[tokio::test]
async fn each_attempt_asks_for_a_redirect_and_carries_its_deadline() {
    let oracle = always(1);
    let server = oracle.serve();
    client(&[&server.address])
        .call(Retry::Idempotent, alloc)
        .await
        .unwrap();
    let metadata = oracle.metadata(0);
    assert_eq!(metadata.get(headers::REDIRECT).unwrap(), "1");
    assert!(metadata.contains_key("grpc-timeout"));
}

#[tokio::test]
async fn replicas_that_name_each_other_cannot_keep_a_client_spinning() {
    let names: Arc<Mutex<Vec<String>>> = Arc::default();
    let oracle = |other: usize| {
        let names = names.clone();
        FakeOracle::new(move |_| Answer::Refuse(refusal_naming(&names.lock().unwrap()[other])))
    };
    let (a, b) = (oracle(1), oracle(0));
    let (serve_a, serve_b) = (a.serve(), b.serve());
    *names.lock().unwrap() = vec![serve_a.address.clone(), serve_b.address.clone()];

    let options = ClientOptions {
        backoff_initial: Duration::from_millis(50),
        ..ClientOptions::default()
    };
    let client = Client::new([serve_a.address.clone()], options).unwrap();
    let error = client
        .call_within(Duration::from_millis(400), Retry::Idempotent, alloc)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
    // Rounds of two attempts with at least 25, 50, 100 and 200 ms between them.
    assert!(a.calls() + b.calls() <= 10);
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let oracle = always(3);
    let server = oracle.serve();
    let client = client(&[&dead_address(), &server.address]);
    let ids = client.call(Retry::IfNotApplied, alloc).await.unwrap();
    assert_eq!(ids.first, 3);
    assert_eq!(client.stats().retries, 1);
}

#[tokio::test]
async fn nobody_there_is_certainly_not_applied() {
    let client = client(&[&dead_address(), &dead_address()]);
    let error = client
        .call_within(Duration::from_millis(100), Retry::Idempotent, alloc)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
    assert_eq!(error.effect(), Effect::NotApplied);
}

#[tokio::test]
async fn what_was_refused_before_proposing_is_repeated_whatever_the_call() {
    let oracle = FakeOracle::new(|call| match call {
        1..=3 => Answer::Refuse(refusal_without_effect()),
        _ => Answer::First(9),
    });
    let server = oracle.serve();
    let client = client(&[&server.address]);
    assert_eq!(
        client.call(Retry::IfNotApplied, alloc).await.unwrap().first,
        9
    );
    assert_eq!(client.stats().retries, 3);
}

#[tokio::test]
async fn an_unknown_outcome_ends_a_call_that_may_not_be_repeated() {
    let oracle = FakeOracle::new(|_| Answer::Refuse(Status::unavailable("lost the quorum")));
    let server = oracle.serve();
    let error = client(&[&server.address])
        .call(Retry::IfNotApplied, alloc)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Unknown { attempts: 1, .. }));
    assert_eq!(error.effect(), Effect::Unknown);
    assert_eq!(oracle.calls(), 1);
}

#[tokio::test]
async fn an_idempotent_call_is_repeated_after_an_unknown_outcome() {
    let oracle = FakeOracle::new(|call| match call {
        1 => Answer::Refuse(to_grpc(Code::Timeout, "not committed in time")),
        2 => Answer::Refuse(to_grpc(Code::TooManyRequests, "overloaded")),
        _ => Answer::First(4),
    });
    let server = oracle.serve();
    let client = client(&[&server.address]);
    assert_eq!(
        client.call(Retry::Idempotent, alloc).await.unwrap().first,
        4
    );
    assert_eq!(oracle.calls(), 3);
}

#[tokio::test]
async fn a_definite_answer_is_not_repeated() {
    for code in [
        Code::CollectionNotFound,
        Code::ParameterInvalid,
        Code::ServiceInternal,
        Code::UnexpectedError,
        Code::NodeNotMatch,
    ] {
        let oracle = FakeOracle::new(move |_| Answer::Refuse(to_grpc(code, "no")));
        let server = oracle.serve();
        let error = client(&[&server.address])
            .call(Retry::Idempotent, alloc)
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Refused(_)), "{code}: {error}");
        assert_eq!(error.refusal(), Some(code.grpc()));
        assert_eq!(error.to_string(), "no");
        assert_eq!(oracle.calls(), 1);
    }
}

#[tokio::test]
async fn a_refusal_does_not_hide_an_unknown_attempt_before_it() {
    let oracle = FakeOracle::new(|call| {
        Answer::Refuse(match call {
            1 => to_grpc(Code::Timeout, "not committed in time"),
            _ => to_grpc(Code::CollectionNotFound, "no such collection"),
        })
    });
    let server = oracle.serve();
    let error = client(&[&server.address])
        .call(Retry::Idempotent, alloc)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::RefusedAfterUnknown(_)));
    assert_eq!(error.effect(), Effect::Unknown);
}

#[tokio::test]
async fn a_silent_replica_costs_one_attempt() {
    let silent = FakeOracle::new(|_| Answer::Never);
    let oracle = always(5);
    let (mute, server) = (silent.serve(), oracle.serve());
    let options = ClientOptions {
        attempt_timeout: Duration::from_millis(100),
        ..ClientOptions::default()
    };
    let endpoints = [mute.address.clone(), server.address.clone()];
    let client = Client::new(endpoints, options).unwrap();
    assert_eq!(
        client.call(Retry::Idempotent, alloc).await.unwrap().first,
        5
    );
    assert_eq!((silent.calls(), oracle.calls()), (1, 1));
}

#[tokio::test]
async fn a_connection_lost_during_the_call_is_an_unknown_outcome() {
    let oracle = FakeOracle::new(|_| Answer::Never);
    let mut server = oracle.serve();
    let client = client(&[&server.address]);
    let (error, ()) = tokio::join!(client.call(Retry::IfNotApplied, alloc), async {
        oracle.next_arrival().await;
        server.kill();
    });
    assert!(matches!(
        error,
        Err(ClientError::Unknown { attempts: 1, .. })
    ));
}

#[tokio::test]
async fn a_leader_that_died_is_forgotten_and_the_next_one_found() {
    let old = always(1);
    let mut dying = old.serve();
    let new = always(2);
    let successor = new.serve();
    let client = client(&[&dying.address, &successor.address]);
    assert_eq!(
        client.call(Retry::Idempotent, alloc).await.unwrap().first,
        1
    );
    dying.kill();
    assert_eq!(
        client.call(Retry::Idempotent, alloc).await.unwrap().first,
        2
    );
    let stats = client.stats();
    assert_eq!(stats.leader.as_deref(), Some(successor.address.as_str()));
    assert!(stats.longest_gap > Duration::ZERO);
}

#[tokio::test]
async fn a_retriable_refusal_in_the_body_is_repeated() {
    use crate::status::{checked, fail, ok};
    let oracle = FakeOracle::new(|call| Answer::First(call as i64));
    let server = oracle.serve();
    client(&[&server.address])
        .call(Retry::Idempotent, |leader| async {
            let first = alloc(leader).await?.into_inner().first;
            checked(Response::new(match first {
                1 => fail(Code::ServiceNotReady, "starting"),
                _ => ok(),
            }))
        })
        .await
        .unwrap();
    assert_eq!(oracle.calls(), 2);
}

#[tokio::test]
async fn a_given_replica_is_asked_without_a_redirect() {
    let oracle = always(1);
    let server = oracle.serve();
    let client = client(&[&dead_address()]);
    alloc(client.at(&server.address).await.unwrap())
        .await
        .unwrap();
    assert!(!oracle.metadata(0).contains_key(headers::REDIRECT));

    let gone = client.at(&dead_address()).await.unwrap_err();
    assert!(matches!(gone, ClientError::Unreachable(_)), "{gone}");
    let wrong = client.at("nowhere").await.unwrap_err();
    assert!(matches!(wrong, ClientError::Address(_)), "{wrong}");
}

#[test]
fn wrong_addresses_are_named() {
    for address in [
        "",
        "localhost",
        ":13333",
        "localhost:",
        "localhost:http",
        "localhost:70000",
        "localhost:0",
        "http://localhost:1",
        "::1:13333",
        "a b:1",
        "a/b:1",
    ] {
        let error = Client::new([address.to_owned()], ClientOptions::default()).unwrap_err();
        assert!(error.to_string().contains(&format!("{address:?}")));
    }
    for address in [
        "localhost:1",
        "10.0.0.1:65535",
        "[::1]:13333",
        "a-b.example:80",
    ] {
        assert!(Client::new([address.to_owned()], ClientOptions::default()).is_ok());
    }
    assert!(Client::new([], ClientOptions::default()).is_err());
}
