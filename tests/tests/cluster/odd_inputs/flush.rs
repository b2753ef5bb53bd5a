//! Flush, GetFlushState, time ticks and checkpoints.

use quorate_rpc::proto::milvus::common::{SegmentState, SegmentStats};
use quorate_rpc::proto::milvus::data::data_coord_client::DataCoordClient;
use quorate_rpc::proto::milvus::data::{
    FlushRequest, ReportDataNodeTtMsgsRequest, UpdateChannelCheckpointRequest,
};
use quorate_rpc::proto::milvus::msg::{DataNodeTtMsg, MsgPosition};
use quorate_tests::ask;
use quorate_tests::cluster::until;

use super::{UNKNOWN, World, is, position};

#[tokio::test]
async fn checkpoints_only_move_forward() {
    let world = World::new().await;
    let start = world.checkpoint_ts().await;
    assert!(start > 0);
    let nil = UpdateChannelCheckpointRequest {
        position: None,
        ..world.move_to(start + 10)
    };
    let empty = UpdateChannelCheckpointRequest {
        position: Some(MsgPosition {
            msg_id: Vec::new(),
            ..position(world.channel(), start + 10)
        }),
        ..world.move_to(start + 10)
    };
    for bad in [nil, empty] {
        let status = world.checkpoint(bad).await;
        assert_eq!(
            status.reason,
            format!("channelCP is nil, vChannel={}", world.channel())
        );
        is(status, 65535, 1);
    }
    let elsewhere = UpdateChannelCheckpointRequest {
        v_channel: "nowhere".to_owned(),
        ..world.move_to(start + 10)
    };
    is(world.checkpoint(elsewhere).await, 0, 0);
    let from_a_stranger = UpdateChannelCheckpointRequest {
        base: None,
        ..world.move_to(start + 10)
    };
    is(world.checkpoint(from_a_stranger).await, 0, 0);
    assert_eq!(world.checkpoint_ts().await, start);

    is(world.checkpoint(world.move_to(start + 10)).await, 0, 0);
    assert_eq!(world.checkpoint_ts().await, start + 10);
    is(world.checkpoint(world.move_to(start + 5)).await, 0, 0);
    is(world.checkpoint(world.move_to(start + 10)).await, 0, 0);
    assert_eq!(world.checkpoint_ts().await, start + 10);
}

#[tokio::test]
async fn flush_answers_odd_requests() {
    let world = World::new().await;
    let (first, second) = (world.grow().await, world.grow().await);
    let flush = async |collection: i64, segments: Vec<i64>| {
        let request = FlushRequest {
            collection_id: collection,
            segment_i_ds: segments,
            ..FlushRequest::default()
        };
        ask!(world.cluster, DataCoordClient.flush(request)).unwrap()
    };
    let unknown = flush(UNKNOWN, vec![]).await;
    is(unknown.status.unwrap(), 0, 0);
    assert!(unknown.segment_i_ds.is_empty());

    let refused = flush(world.collection.id, vec![first, UNKNOWN]).await;
    is(refused.status.unwrap(), 600, 47);
    assert_eq!(
        world.cluster.segment(first).await.state(),
        SegmentState::Growing
    );

    let one = flush(world.collection.id, vec![second]).await;
    assert_eq!(one.segment_i_ds, [second]);
    assert_eq!(
        world.cluster.segment(first).await.state(),
        SegmentState::Growing
    );
    assert_eq!(
        world.cluster.segment(second).await.state(),
        SegmentState::Sealed
    );

    let all = flush(world.collection.id, vec![]).await;
    is(all.status.unwrap(), 0, 0);
    assert_eq!(all.segment_i_ds, [first, second]);
    assert!(all.flush_ts > one.flush_ts);
    assert!(all.time_of_seal > 0);
    assert!(all.channel_cps.contains_key(world.channel()));

    // Sealed is not flushed; what nobody knows, or what needs nothing, is.
    assert!(!world.flush_state(&[first], 0).await);
    assert!(world.flush_state(&[], 0).await);
    assert!(world.flush_state(&[UNKNOWN], 0).await);
    assert!(!world.flush_state(&[], u64::MAX - 1).await);
    assert!(!world.flush_state(&[], all.flush_ts).await);
    is(world.checkpoint(world.move_to(all.flush_ts)).await, 0, 0);
    assert!(world.flush_state(&[], all.flush_ts).await);
}

#[tokio::test]
async fn a_time_tick_of_a_stranger_changes_nothing() {
    let world = World::new().await;
    let segment = world.grow().await;
    let sealed = FlushRequest {
        collection_id: world.collection.id,
        ..FlushRequest::default()
    };
    ask!(world.cluster, DataCoordClient.flush(sealed)).unwrap();
    let far = world.cluster.alloc_timestamps(1).await + ((3600 * 1000) << 18);
    let nobody = ReportDataNodeTtMsgsRequest {
        base: None,
        msgs: vec![DataNodeTtMsg {
            base: None,
            channel_name: world.channel().to_owned(),
            timestamp: far,
            segments_stats: vec![SegmentStats {
                segment_id: segment,
                num_rows: 5,
            }],
        }],
    };
    let answer = ask!(
        world.cluster,
        DataCoordClient.report_data_node_tt_msgs(nobody)
    );
    is(answer.unwrap(), 0, 0);
    // The owner's own tick, with a segment nobody knows in it.
    is(world.tick(1, UNKNOWN, 5).await, 0, 0);
    assert!(world.node.flushes().is_empty());
    is(world.tick(far, segment, 5).await, 0, 0);
    until("the flush is dispatched", async || {
        world.node.flushes().contains(&segment).then_some(())
    })
    .await;
    // Dispatched is not durable.
    assert!(!world.flush_state(&[segment], 0).await);
}
