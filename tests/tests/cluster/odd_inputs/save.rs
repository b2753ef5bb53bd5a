//! SaveBinlogPaths.

use quorate_rpc::proto::milvus::common::SegmentState;
use quorate_rpc::proto::milvus::data::{CheckPoint, FieldBinlog, SaveBinlogPathsRequest};
use quorate_tests::cluster::{FakeDataNode, until};

use super::{UNKNOWN, World, insert_log, is, position};

#[tokio::test]
async fn a_save_is_taken_only_from_the_owner_of_the_channel() {
    let world = World::new().await;
    let segment = world.grow().await;
    let stranger = FakeDataNode::start(&world.cluster).await;
    let from_nobody = SaveBinlogPathsRequest {
        base: None,
        ..world.save_log(segment, 1, 10)
    };
    let from_a_stranger = SaveBinlogPathsRequest {
        base: stranger.base(),
        ..world.save_log(segment, 1, 10)
    };
    let elsewhere = SaveBinlogPathsRequest {
        channel: "nowhere".to_owned(),
        ..world.save_log(segment, 1, 10)
    };
    // Ownership is looked at first, whatever else is wrong.
    let unknown = SaveBinlogPathsRequest {
        base: None,
        ..world.save_log(UNKNOWN, 1, 10)
    };
    let bad_path = SaveBinlogPathsRequest {
        field2_binlog_paths: vec![insert_log("abc".to_owned(), 10)],
        base: None,
        ..world.save(segment)
    };
    let old_assignment = SaveBinlogPathsRequest {
        assignment_epoch: 77,
        ..world.save_log(segment, 1, 10)
    };
    for request in [
        from_nobody,
        from_a_stranger,
        elsewhere,
        unknown,
        bad_path,
        old_assignment,
    ] {
        let said = format!(
            "for node {}: channel not found[channel={}]",
            request.base.as_ref().map_or(0, |base| base.source_id),
            request.channel
        );
        let status = world.saved(request).await;
        assert_eq!(status.reason, said);
        is(status, 500, 1);
    }
    assert_eq!(world.cluster.segment(segment).await.num_of_rows, 0);
}

#[tokio::test]
async fn a_save_names_logs_of_its_own_segment() {
    let world = World::new().await;
    let segment = world.grow().await;
    let other = world.grow().await;
    let (collection, partition) = (world.collection.id, world.collection.partitions[0].id);
    let good = format!("files/insert_log/{collection}/{partition}/{segment}/100/1");
    let with = |paths: Vec<FieldBinlog>| SaveBinlogPathsRequest {
        field2_binlog_paths: paths,
        ..world.save(segment)
    };
    let of_another = format!("files/insert_log/{collection}/{partition}/{other}/100/1");
    for bad in [
        of_another,
        "abc".to_owned(),
        good.replace("/100/1", "/100/x"),
    ] {
        // The good log beside a bad one is not taken either.
        let request = with(vec![
            insert_log(good.clone(), 10),
            insert_log(bad.clone(), 10),
        ]);
        let status = world.saved(request).await;
        assert_eq!(
            status.reason,
            format!(
                "the segment path doesn't match the segmentID, segmentID {segment}, path {bad}"
            )
        );
        is(status, 65535, 1);
    }
    let negative = world.saved(with(vec![insert_log(good.clone(), -1)])).await;
    is(negative, 1100, 5);
    let after = world.cluster.segment(segment).await;
    assert_eq!((after.num_of_rows, after.binlogs.len()), (0, 0));

    // An unknown segment is unknown, and a dropped one takes anything, before paths are looked at.
    let unknown = SaveBinlogPathsRequest {
        segment_id: UNKNOWN,
        ..with(vec![insert_log(good.clone(), 10)])
    };
    is(world.saved(unknown).await, 600, 47);
    is(world.saved(world.save(UNKNOWN)).await, 600, 47);
    let dropping = SaveBinlogPathsRequest {
        dropped: true,
        ..world.save(other)
    };
    is(world.saved(dropping).await, 0, 0);
    let late = SaveBinlogPathsRequest {
        segment_id: other,
        ..with(vec![insert_log("abc".to_owned(), 10)])
    };
    is(world.saved(late).await, 0, 0);
    assert_eq!(
        world.cluster.segment(other).await.state(),
        SegmentState::Dropped
    );
}

#[tokio::test]
async fn the_same_save_twice_counts_once() {
    let world = World::new().await;
    let segment = world.grow().await;
    let request = SaveBinlogPathsRequest {
        check_points: vec![CheckPoint {
            segment_id: segment,
            position: Some(position(world.channel(), 7)),
            num_of_rows: 10,
        }],
        ..world.save_log(segment, 1, 10)
    };
    for _ in 0..2 {
        is(world.saved(request.clone()).await, 0, 0);
        let after = world.cluster.segment(segment).await;
        assert_eq!(after.num_of_rows, 10);
        assert_eq!(after.binlogs[0].binlogs.len(), 1);
        assert_eq!(after.dml_position.unwrap().timestamp, 7);
    }
    // A position that lies behind is passed over; the log it comes with is not.
    let behind = SaveBinlogPathsRequest {
        check_points: vec![CheckPoint {
            segment_id: segment,
            position: Some(position(world.channel(), 3)),
            num_of_rows: 1,
        }],
        ..world.save_log(segment, 2, 5)
    };
    is(world.saved(behind).await, 0, 0);
    let after = world.cluster.segment(segment).await;
    assert_eq!(after.num_of_rows, 15);
    assert_eq!(after.dml_position.unwrap().timestamp, 7);

    // The same log with other content is another file under the same name.
    let status = world.saved(world.save_log(segment, 1, 11)).await;
    assert!(
        status.reason.contains("log 1 of field 100"),
        "{}",
        status.reason
    );
    is(status, 65535, 1);
    let mut twice = world.save_log(segment, 3, 5);
    let again = world.save_log(segment, 3, 6).field2_binlog_paths;
    twice.field2_binlog_paths.extend(again);
    is(world.saved(twice).await, 65535, 1);
    assert_eq!(world.cluster.segment(segment).await.num_of_rows, 15);
}

#[tokio::test]
async fn a_flushed_segment_takes_repeats_and_nothing_new() {
    let world = World::new().await;
    let segment = world.grow().await;
    let last = SaveBinlogPathsRequest {
        flushed: true,
        ..world.save_log(segment, 1, 10)
    };
    is(world.saved(last.clone()).await, 0, 0);
    let flushed = async |segment| {
        until("the segment is flushed", async || {
            let state = world.cluster.segment(segment).await.state();
            (state == SegmentState::Flushed).then_some(())
        })
        .await;
    };
    flushed(segment).await;
    is(world.saved(last).await, 0, 0);
    is(world.saved(world.save(segment)).await, 0, 0);
    assert_ne!(world.saved(world.save_log(segment, 2, 5)).await.code, 0);
    let after = world.cluster.segment(segment).await;
    assert_eq!(after.num_of_rows, 10);
    assert_eq!(after.state(), SegmentState::Flushed);

    // A save that names no channel is not asked whose it is, as in Milvus.
    let other = world.grow().await;
    let channelless = SaveBinlogPathsRequest {
        channel: String::new(),
        base: None,
        ..world.save_log(other, 3, 4)
    };
    is(world.saved(channelless).await, 0, 0);
    assert_eq!(world.cluster.segment(other).await.num_of_rows, 4);

    // The end of a segment that never got a row is its drop.
    let empty = world.grow().await;
    let end = SaveBinlogPathsRequest {
        flushed: true,
        ..world.save(empty)
    };
    is(world.saved(end).await, 0, 0);
    assert_eq!(
        world.cluster.segment(empty).await.state(),
        SegmentState::Dropped
    );
}
