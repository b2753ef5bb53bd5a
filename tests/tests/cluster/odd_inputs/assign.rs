//! AssignSegmentID.

use quorate_rpc::proto::milvus::common::SegmentState;
use quorate_rpc::proto::milvus::data::SegmentIdRequest;

use super::{CAPACITY, UNKNOWN, World, is};

#[tokio::test]
async fn assign_answers_odd_items_as_the_real_one_does() {
    let world = World::new().await;
    let cluster = &world.cluster;
    assert!(cluster.assign(vec![]).await.is_empty());
    assert!(cluster.assign(vec![world.item(0)]).await.is_empty());
    let unknown = SegmentIdRequest {
        collection_id: UNKNOWN,
        ..world.item(1)
    };
    assert!(cluster.assign(vec![unknown.clone()]).await.is_empty());

    let partition = SegmentIdRequest {
        partition_id: UNKNOWN,
        ..world.item(1)
    };
    let channel = SegmentIdRequest {
        channel_name: "nowhere".to_owned(),
        ..world.item(1)
    };
    for odd in [partition, channel] {
        let granted = cluster.assign(vec![odd.clone()]).await;
        assert_eq!(granted.len(), 1, "{odd:?}");
        is(granted[0].status.clone().unwrap(), 0, 0);
        let segment = cluster.segment(granted[0].seg_id).await;
        assert_eq!(segment.partition_id, odd.partition_id);
        assert_eq!(segment.insert_channel, odd.channel_name);
        assert_eq!(segment.state(), SegmentState::Growing);
    }

    // The good ones of a mixed request are served, in their order.
    let mixed = vec![world.item(3), unknown, world.item(0), world.item(4)];
    let granted = cluster.assign(mixed).await;
    let counts: Vec<u32> = granted.iter().map(|grant| grant.count).collect();
    assert_eq!(counts, [3, 4]);
}

#[tokio::test]
async fn a_count_above_the_capacity_is_split_over_segments() {
    let world = World::new().await;
    let granted = world.cluster.assign(vec![world.item(250)]).await;
    let mut counts: Vec<u32> = granted.iter().map(|grant| grant.count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [50, CAPACITY, CAPACITY]);
    let mut ids: Vec<i64> = granted.iter().map(|grant| grant.seg_id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    for grant in &granted {
        assert!(grant.expire_time > 0);
        assert_eq!(grant.channel_name, world.channel());
    }

    // More segments than one call opens: that item is refused by itself.
    let granted = world
        .cluster
        .assign(vec![world.item(u32::MAX), world.item(1)])
        .await;
    assert_eq!(granted.len(), 2);
    is(granted[0].status.clone().unwrap(), 1100, 5);
    assert_eq!((granted[0].seg_id, granted[0].count), (0, 0));
    is(granted[1].status.clone().unwrap(), 0, 0);
}

#[tokio::test]
async fn a_dropped_collection_gets_no_assignment_and_its_segments_are_gone_at_once() {
    let world = World::new().await;
    let segment = world.grow().await;
    assert_eq!(world.info(&[segment], false).await.1, 1);
    world.drop_collection().await;
    assert!(world.cluster.assign(vec![world.item(1)]).await.is_empty());

    is(world.info(&[segment], false).await.0, 600, 47);
    let (status, found) = world.info(&[segment], true).await;
    is(status, 0, 0);
    assert_eq!(found, 1);
    let dropped = world.cluster.segment(segment).await;
    assert_eq!(dropped.state(), SegmentState::Dropped);
    assert!(dropped.dropped_at > 0);
    assert!(world.flush_state(&[segment], 1).await);
}
