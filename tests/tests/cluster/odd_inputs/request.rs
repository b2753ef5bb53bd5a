//! Reads, channels, and what is no request at all.

use quorate_rpc::proto::milvus::common::SegmentState;
use quorate_rpc::proto::milvus::data::data_coord_client::DataCoordClient;
use quorate_rpc::proto::milvus::data::{
    AssignSegmentIdRequest, DropVirtualChannelRequest, GetSegmentStatesRequest,
    WatchChannelsRequest,
};
use quorate_tests::ask;
use quorate_tests::cluster::call_raw;

use super::{UNKNOWN, World, is};

#[tokio::test]
async fn segment_info_fails_as_a_whole_for_an_unknown_segment() {
    let world = World::new().await;
    let segment = world.grow().await;
    for (asked, unhealthy_too) in [
        (vec![UNKNOWN], false),
        (vec![UNKNOWN], true),
        (vec![segment, UNKNOWN], false),
    ] {
        let (status, found) = world.info(&asked, unhealthy_too).await;
        assert!(
            status.reason.contains(&format!("segment={UNKNOWN}")),
            "{}",
            status.reason
        );
        is(status, 600, 47);
        assert_eq!(found, 0);
    }
    let (status, found) = world.info(&[], false).await;
    is(status, 0, 0);
    assert_eq!(found, 0);

    let request = GetSegmentStatesRequest {
        segment_i_ds: vec![segment, UNKNOWN],
        ..GetSegmentStatesRequest::default()
    };
    let answer = ask!(world.cluster, DataCoordClient.get_segment_states(request)).unwrap();
    is(answer.status.unwrap(), 0, 0);
    assert_eq!(answer.states[0].state(), SegmentState::Growing);
    assert_eq!(answer.states[1].state(), SegmentState::NotExist);
    is(answer.states[1].status.clone().unwrap(), 600, 47);
}

#[tokio::test]
async fn a_channel_is_dropped_only_by_its_owner() {
    let world = World::new().await;
    let segment = world.grow().await;
    let drop_of = |channel: &str, base| DropVirtualChannelRequest {
        base,
        channel_name: channel.to_owned(),
        ..DropVirtualChannelRequest::default()
    };
    for (channel, base) in [
        ("nowhere", world.node.base()),
        ("nowhere", None),
        (world.channel(), None),
    ] {
        let request = drop_of(channel, base);
        let answer = ask!(world.cluster, DataCoordClient.drop_virtual_channel(request)).unwrap();
        let status = answer.status.unwrap();
        assert!(
            status
                .reason
                .ends_with(&format!("channel not found[channel={channel}]")),
            "{}",
            status.reason
        );
        is(status, 500, 1);
    }
    assert_eq!(world.info(&[segment], false).await.1, 1);
    for channel in [world.channel(), ""] {
        let request = drop_of(channel, world.node.base());
        let answer = ask!(world.cluster, DataCoordClient.drop_virtual_channel(request)).unwrap();
        is(answer.status.unwrap(), 0, 0);
    }
    is(world.info(&[segment], false).await.0, 600, 47);
}

#[tokio::test]
async fn watching_again_moves_nothing() {
    let world = World::new().await;
    let before = world.cluster.channel(world.channel()).await.unwrap();
    for names in [vec![world.channel().to_owned()], vec![]] {
        let request = WatchChannelsRequest {
            collection_id: world.collection.id,
            channel_names: names,
            ..WatchChannelsRequest::default()
        };
        let answer = ask!(world.cluster, DataCoordClient.watch_channels(request)).unwrap();
        is(answer.status.unwrap(), 0, 0);
    }
    assert_eq!(
        world.cluster.channel(world.channel()).await.unwrap(),
        before
    );
}

#[tokio::test]
async fn what_is_no_request_is_refused_with_the_right_code() {
    let world = World::new().await;
    let channel = world.cluster.plain(0).await;
    let version = env!("CARGO_PKG_VERSION");
    for (path, service, method) in [
        (
            "/milvus.proto.data.DataCoord/NoSuch",
            "milvus.proto.data.DataCoord",
            "NoSuch",
        ),
        (
            "/milvus.proto.data.DataCoord/ImportV2",
            "milvus.proto.data.DataCoord",
            "ImportV2",
        ),
        (
            "/milvus.proto.index.IndexCoord/DropIndex",
            "milvus.proto.index.IndexCoord",
            "DropIndex",
        ),
    ] {
        let status = call_raw(channel.clone(), path, b"").await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unimplemented, "{status:?}");
        for says in [service, method, version] {
            assert!(status.message().contains(says), "{status:?}");
        }
    }
    let garbage = call_raw(
        channel.clone(),
        "/milvus.proto.data.DataCoord/AssignSegmentID",
        &[0xff; 9],
    )
    .await
    .unwrap_err();
    assert_eq!(garbage.code(), tonic::Code::Internal, "{garbage:?}");
    // The connection and the replica are as before.
    let request = AssignSegmentIdRequest {
        segment_id_requests: vec![world.item(1)],
        ..AssignSegmentIdRequest::default()
    };
    let answer = DataCoordClient::new(channel)
        .assign_segment_id(request)
        .await;
    assert_eq!(answer.unwrap().into_inner().seg_id_assignments.len(), 1);
}
