//! Any replica can be asked: a follower forwards a plain client, and redirects one that wants it.

use quorate_rpc::headers;
use quorate_rpc::proto::milvus::common::StateCode;
use quorate_rpc::proto::milvus::data::data_coord_client::DataCoordClient;
use quorate_rpc::proto::milvus::data::{
    AssignSegmentIdRequest, GetRecoveryInfoRequestV2, GetSegmentInfoRequest, SegmentIdRequest,
};
use quorate_rpc::proto::milvus::milvus::GetComponentStatesRequest;
use quorate_rpc::proto::quorate::admin::ListSegmentsRequest;
use quorate_rpc::proto::quorate::admin::admin_client::AdminClient;
use quorate_rpc::proto::quorate::collection::ListCollectionsRequest;
use quorate_rpc::proto::quorate::collection::collections_client::CollectionsClient;
use quorate_rpc::proto::quorate::meta::meta_client::MetaClient;
use quorate_rpc::proto::quorate::meta::{GetRequest, PutRequest};
use quorate_rpc::proto::quorate::oracle::AllocTimestampRequest;
use quorate_rpc::proto::quorate::oracle::oracle_client::OracleClient;
use quorate_tests::cluster::{Cluster, Options, call_raw, until};
use tonic::Request;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};

/// Every replica knows who leads.
async fn leader_is_known(cluster: &Cluster) -> usize {
    let leader = cluster.leader().await;
    let address = cluster.ports(leader).client.to_string();
    for index in 0..3 {
        until("every replica knows the leader", async || {
            let status = cluster.status(index).await?;
            (status.leader_client_address == address).then_some(())
        })
        .await;
    }
    leader
}

#[tokio::test]
async fn a_plain_client_gets_the_same_answer_at_every_replica() {
    let cluster = Cluster::start(Options::new(3, 0)).await;
    leader_is_known(&cluster).await;
    let collection = cluster.create_collection("docs", 2).await;
    let mut segments = Vec::new();
    let mut last = 0;
    for index in 0..3 {
        let channel = cluster.plain(index).await;
        let request = AssignSegmentIdRequest {
            segment_id_requests: vec![SegmentIdRequest {
                count: 10,
                channel_name: collection.channels[index % 2].clone(),
                collection_id: collection.id,
                partition_id: collection.partitions[0].id,
                ..SegmentIdRequest::default()
            }],
            ..AssignSegmentIdRequest::default()
        };
        let answer = DataCoordClient::new(channel.clone())
            .assign_segment_id(request)
            .await
            .unwrap()
            .into_inner();
        segments.push(answer.seg_id_assignments[0].seg_id);
        let put = PutRequest {
            key: "who".to_owned(),
            value: index.to_string().into_bytes(),
            token: Vec::new(),
        };
        MetaClient::new(channel.clone()).put(put).await.unwrap();
        let timestamp = OracleClient::new(channel)
            .alloc_timestamp(AllocTimestampRequest { count: 1 })
            .await
            .unwrap()
            .into_inner()
            .first;
        assert!(timestamp > last);
        last = timestamp;
    }
    // Two shards: the third call was served out of a segment of the first.
    assert_eq!(segments[0], segments[2]);
    segments.truncate(2);

    let mut answers = Vec::new();
    for index in 0..3 {
        let channel = cluster.plain(index).await;
        let mut data_coord = DataCoordClient::new(channel.clone());
        let info = GetSegmentInfoRequest {
            segment_i_ds: segments.clone(),
            ..GetSegmentInfoRequest::default()
        };
        let recovery = GetRecoveryInfoRequestV2 {
            collection_id: collection.id,
            ..GetRecoveryInfoRequestV2::default()
        };
        let value = GetRequest {
            key: "who".to_owned(),
        };
        answers.push((
            data_coord
                .get_segment_info(info)
                .await
                .unwrap()
                .into_inner(),
            data_coord
                .get_recovery_info_v2(recovery)
                .await
                .unwrap()
                .into_inner(),
            CollectionsClient::new(channel.clone())
                .list_collections(ListCollectionsRequest {})
                .await
                .unwrap()
                .into_inner(),
            AdminClient::new(channel.clone())
                .list_segments(ListSegmentsRequest::default())
                .await
                .unwrap()
                .into_inner(),
            MetaClient::new(channel)
                .get(value)
                .await
                .unwrap()
                .into_inner(),
        ));
    }
    assert_eq!(answers[0].0.infos.len(), 2);
    assert_eq!(answers[0].4.annotation.as_ref().unwrap().value, b"2");
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[1], answers[2]);
}

#[tokio::test]
async fn a_follower_redirects_a_client_that_asks_for_it() {
    let cluster = Cluster::start(Options::new(3, 0)).await;
    let leader = leader_is_known(&cluster).await;
    let address = cluster.ports(leader).client.to_string();
    for index in 0..3 {
        let mut request = Request::new(AllocTimestampRequest { count: 1 });
        let yes = tonic::metadata::MetadataValue::from_static("1");
        request.metadata_mut().insert(headers::REDIRECT, yes);
        let mut client = OracleClient::new(cluster.plain(index).await);
        let answer = client.alloc_timestamp(request).await;
        if index == leader {
            let answer = answer.unwrap();
            assert!(answer.metadata().contains_key(headers::APPLIED));
            assert!(answer.metadata().contains_key(headers::EPOCH));
            continue;
        }
        let refusal = answer.unwrap_err();
        assert_eq!(refusal.code(), tonic::Code::Unavailable, "{refusal:?}");
        let named = refusal.metadata().get(headers::LEADER).unwrap();
        assert_eq!(named.to_str().unwrap(), address);
        assert!(refusal.metadata().contains_key(headers::NOT_APPLIED));
        assert!(refusal.message().contains(&address), "{refusal:?}");
    }
}

#[tokio::test]
async fn every_replica_answers_for_itself() {
    let cluster = Cluster::start(Options::new(3, 0)).await;
    leader_is_known(&cluster).await;
    let mut ids = Vec::new();
    for index in 0..3 {
        let channel = cluster.plain(index).await;
        let states = DataCoordClient::new(channel.clone())
            .get_component_states(GetComponentStatesRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!(states.status.unwrap().code, 0);
        let state = states.state.unwrap();
        assert_eq!(state.state_code(), StateCode::Healthy);
        ids.push(state.node_id);

        let health = HealthClient::new(channel.clone())
            .check(HealthCheckRequest::default())
            .await
            .unwrap();
        assert_eq!(health.get_ref().status(), ServingStatus::Serving);

        let services = list_services(channel.clone()).await;
        for service in [
            "milvus.proto.data.DataCoord",
            "quorate.admin.v1.Admin",
            "quorate.collection.v1.Collections",
            "quorate.meta.v1.Meta",
            "quorate.node.v1.Nodes",
            "quorate.oracle.v1.Oracle",
        ] {
            assert!(
                services.iter().any(|found| found.name == service),
                "{service} in {services:?}"
            );
        }
        let unknown = call_raw(channel, "/milvus.proto.data.DataCoord/NoSuch", b"").await;
        let unknown = unknown.unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::Unimplemented);
        assert!(unknown.message().contains("NoSuch"), "{unknown:?}");
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3]);
}

async fn list_services(channel: tonic::transport::Channel) -> Vec<ServiceResponse> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    match answer.message_response.unwrap() {
        MessageResponse::ListServicesResponse(list) => list.service,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_command_line_gives_scripts_the_same_answer_everywhere() {
    let cluster = Cluster::start(Options::new(3, 0)).await;
    leader_is_known(&cluster).await;
    cluster.create_collection("docs", 2).await;
    let endpoints = cluster.endpoints();
    for what in ["collections", "segments", "channels"] {
        let mut answers = Vec::new();
        for endpoint in &endpoints {
            let args = [what, "list", "--endpoints", endpoint.as_str()];
            answers.push(cluster.json(&args).await);
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{what}");
    }
}
