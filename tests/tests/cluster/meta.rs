//! Annotations: a linearizable register per key.

use quorate_rpc::proto::quorate::meta::compare_and_set_request::Expected;
use quorate_rpc::proto::quorate::meta::meta_client::MetaClient;
use quorate_rpc::proto::quorate::meta::{
    CompareAndSetRequest, CompareAndSetResponse, GetRequest, ListRequest, PutRequest,
};
use quorate_tests::ask;
use quorate_tests::cluster::{Cluster, Options};

async fn swap(
    cluster: &Cluster,
    key: &str,
    expected: Expected,
    new_value: Option<&str>,
    token: &[u8],
) -> CompareAndSetResponse {
    let request = CompareAndSetRequest {
        key: key.to_owned(),
        expected: Some(expected),
        new_value: new_value.map(|value| value.as_bytes().to_vec()),
        token: token.to_vec(),
    };
    ask!(cluster, MetaClient.compare_and_set(request)).unwrap()
}

#[tokio::test]
async fn a_key_is_a_register() {
    let cluster = Cluster::start(Options::new(1, 0)).await;
    assert_eq!(cluster.get("k").await, None);
    let absent = Expected::Revision(0);
    let made = swap(&cluster, "k", absent.clone(), Some("1"), b"").await;
    assert!(made.swapped);
    let first = made.current.unwrap();
    assert_eq!(cluster.get("k").await.unwrap(), first);
    let late = swap(&cluster, "k", absent, Some("2"), b"").await;
    assert!(!late.swapped);
    assert_eq!(late.current.unwrap(), first);

    let second = cluster.put("k", "2").await;
    assert!(second > first.revision);
    let stale = Expected::Revision(first.revision);
    assert!(!swap(&cluster, "k", stale, Some("3"), b"").await.swapped);
    let by_value = Expected::Value(b"2".to_vec());
    let third = swap(&cluster, "k", by_value, Some("3"), b"").await;
    assert!(third.swapped);
    let revision = third.current.unwrap().revision;
    assert!(revision > second);
    let gone = swap(&cluster, "k", Expected::Revision(revision), None, b"").await;
    assert!(gone.swapped && gone.current.is_none());
    assert_eq!(cluster.get("k").await, None);
}

#[tokio::test]
async fn listing_goes_page_by_page_and_keeps_to_its_prefix() {
    let cluster = Cluster::start(Options::new(1, 0)).await;
    for key in ["a", "p/1", "p/2", "p/3", "p0", "z"] {
        cluster.put(key, key).await;
    }
    let list = async |prefix: &str, limit, after: &str| {
        let request = ListRequest {
            prefix: prefix.to_owned(),
            limit,
            after: after.to_owned(),
        };
        let answer = ask!(cluster, MetaClient.list(request)).unwrap();
        let keys: Vec<String> = answer.annotations.into_iter().map(|a| a.key).collect();
        (keys, answer.more)
    };
    assert_eq!(list("", 0, "").await.0.len(), 6);
    let (page, more) = list("p/", 2, "").await;
    assert_eq!(
        (page.as_slice(), more),
        (&["p/1".to_owned(), "p/2".to_owned()][..], true)
    );
    let (page, more) = list("p/", 2, "p/2").await;
    assert_eq!((page.as_slice(), more), (&["p/3".to_owned()][..], false));
    assert_eq!(list("nothing", 0, "").await, (Vec::new(), false));
    // A place before the prefix or behind it is no reason for other keys.
    assert_eq!(list("p/", 0, "a").await.0.len(), 3);
    assert_eq!(list("p/", 0, "z").await.0.len(), 0);
}

#[tokio::test]
async fn a_token_gets_the_same_answer_again_also_from_the_next_leader() {
    let mut cluster = Cluster::start(Options::new(3, 0)).await;
    let put = |value: &str| PutRequest {
        key: "k".to_owned(),
        value: value.as_bytes().to_vec(),
        token: b"put-token-0123456789".to_vec(),
    };
    let revision = ask!(cluster, MetaClient.put(put("1"))).unwrap().revision;
    let token = b"cas-token-0123456789";
    let expected = Expected::Revision(revision);
    let swapped = swap(&cluster, "k", expected.clone(), Some("2"), token).await;
    assert!(swapped.swapped);
    cluster.put("k", "3").await;

    let again = async |cluster: &Cluster| {
        let repeated = ask!(cluster, MetaClient.put(put("1"))).unwrap();
        assert_eq!(repeated.revision, revision);
        let repeated = swap(cluster, "k", expected.clone(), Some("2"), token).await;
        assert_eq!(repeated, swapped);
        // Repeating it wrote nothing.
        assert_eq!(cluster.get("k").await.unwrap().value, b"3");
    };
    again(&cluster).await;
    let leader = cluster.leader().await;
    cluster.kill_replica(leader).await;
    again(&cluster).await;
    cluster.start_replica(leader);
    cluster.serves().await;
    again(&cluster).await;
    cluster.is_equal_everywhere().await;
}

#[tokio::test]
async fn what_is_beyond_a_limit_is_refused_and_changes_nothing() {
    let cluster = Cluster::start(Options::new(1, 0)).await;
    let good = PutRequest {
        key: "k".to_owned(),
        value: vec![7; 64 << 10],
        token: vec![1; 64],
    };
    let bad = [
        PutRequest {
            key: String::new(),
            ..good.clone()
        },
        PutRequest {
            key: "k".repeat(513),
            ..good.clone()
        },
        PutRequest {
            value: vec![7; (64 << 10) + 1],
            ..good.clone()
        },
        PutRequest {
            token: vec![1; 15],
            ..good.clone()
        },
        PutRequest {
            token: vec![1; 65],
            ..good.clone()
        },
    ];
    for request in bad {
        let error = ask!(cluster, MetaClient.put(request.clone())).unwrap_err();
        assert_eq!(
            error.refusal(),
            Some(tonic::Code::InvalidArgument),
            "{error}"
        );
        let swap = CompareAndSetRequest {
            key: request.key,
            expected: Some(Expected::Revision(0)),
            new_value: Some(request.value),
            token: request.token,
        };
        let error = ask!(cluster, MetaClient.compare_and_set(swap)).unwrap_err();
        assert_eq!(
            error.refusal(),
            Some(tonic::Code::InvalidArgument),
            "{error}"
        );
    }
    let nothing_expected = CompareAndSetRequest {
        key: "k".to_owned(),
        expected: None,
        new_value: Some(b"1".to_vec()),
        token: Vec::new(),
    };
    let error = ask!(cluster, MetaClient.compare_and_set(nothing_expected)).unwrap_err();
    assert_eq!(error.refusal(), Some(tonic::Code::InvalidArgument));
    let request = ListRequest::default();
    let all = ask!(cluster, MetaClient.list(request)).unwrap();
    assert!(all.annotations.is_empty());

    ask!(cluster, MetaClient.put(good.clone())).unwrap();
    let request = GetRequest {
        key: "k".to_owned(),
    };
    let read = ask!(cluster, MetaClient.get(request)).unwrap();
    assert_eq!(read.annotation.unwrap().value, good.value);
    let longest = PutRequest {
        key: "k".repeat(512),
        token: Vec::new(),
        ..good
    };
    ask!(cluster, MetaClient.put(longest)).unwrap();
}
