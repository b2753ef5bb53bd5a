//! Odd and wrong input to Milvus's write path: what the real DataCoord answers, we answer.

use quorate_rpc::proto::milvus::common::SegmentStats;
use quorate_rpc::proto::milvus::common::{SegmentState, Status};
use quorate_rpc::proto::milvus::data::data_coord_client::DataCoordClient;
use quorate_rpc::proto::milvus::data::{
    AssignSegmentIdRequest, Binlog, CheckPoint, DropVirtualChannelRequest, FieldBinlog,
    FlushRequest, GetFlushStateRequest, GetSegmentInfoRequest, GetSegmentStatesRequest,
    ReportDataNodeTtMsgsRequest, SaveBinlogPathsRequest, SegmentIdRequest,
    UpdateChannelCheckpointRequest, WatchChannelsRequest,
};
use quorate_rpc::proto::milvus::msg::{DataNodeTtMsg, MsgPosition};
use quorate_rpc::proto::quorate::collection::Collection;
use quorate_rpc::proto::quorate::collection::DropCollectionRequest;
use quorate_rpc::proto::quorate::collection::collections_client::CollectionsClient;
use quorate_tests::ask;
use quorate_tests::cluster::{Cluster, FakeDataNode, Options, call_raw, until};

/// Nothing has this id.
const UNKNOWN: i64 = 400_000_000_191_459_445;
/// Rows a segment holds here.
const CAPACITY: u32 = 100;

/// One replica, a data node that does nothing by itself, a collection whose channel it owns.
struct World {
    cluster: Cluster,
    node: FakeDataNode,
    collection: Collection,
}

impl World {
    async fn new() -> Self {
        let options = Options::new(1, 0)
            .set("quorate.node.lease", "300s")
            .set("dataCoord.segment.maxRows", CAPACITY);
        let cluster = Cluster::start(options).await;
        let node = FakeDataNode::start(&cluster).await;
        let collection = cluster.create_collection("docs", 1).await;
        cluster
            .watched(&collection.channels[0], Some(node.id))
            .await;
        Self {
            cluster,
            node,
            collection,
        }
    }

    fn channel(&self) -> &str {
        &self.collection.channels[0]
    }

    fn item(&self, count: u32) -> SegmentIdRequest {
        SegmentIdRequest {
            count,
            channel_name: self.channel().to_owned(),
            collection_id: self.collection.id,
            partition_id: self.collection.partitions[0].id,
            ..SegmentIdRequest::default()
        }
    }

    /// A new Growing segment.
    async fn grow(&self) -> i64 {
        let granted = self.cluster.assign(vec![self.item(CAPACITY)]).await;
        granted[0].seg_id
    }

    fn save(&self, segment: i64) -> SaveBinlogPathsRequest {
        SaveBinlogPathsRequest {
            base: self.node.base(),
            segment_id: segment,
            collection_id: self.collection.id,
            partition_id: self.collection.partitions[0].id,
            channel: self.channel().to_owned(),
            ..SaveBinlogPathsRequest::default()
        }
    }

    /// A save with one insert log.
    fn save_log(&self, segment: i64, log: i64, rows: i64) -> SaveBinlogPathsRequest {
        let (collection, partition) = (self.collection.id, self.collection.partitions[0].id);
        let path = format!("files/insert_log/{collection}/{partition}/{segment}/100/{log}");
        SaveBinlogPathsRequest {
            field2_binlog_paths: vec![insert_log(path, rows)],
            ..self.save(segment)
        }
    }

    async fn saved(&self, request: SaveBinlogPathsRequest) -> Status {
        ask!(self.cluster, DataCoordClient.save_binlog_paths(request)).unwrap()
    }

    async fn drop_collection(&self) {
        let request = DropCollectionRequest {
            name: self.collection.name.clone(),
            id: 0,
        };
        let answer = ask!(self.cluster, CollectionsClient.drop_collection(request));
        assert!(answer.unwrap().dropped);
    }

    async fn checkpoint(&self, request: UpdateChannelCheckpointRequest) -> Status {
        let answer = ask!(
            self.cluster,
            DataCoordClient.update_channel_checkpoint(request)
        );
        answer.unwrap()
    }

    fn move_to(&self, ts: u64) -> UpdateChannelCheckpointRequest {
        UpdateChannelCheckpointRequest {
            base: self.node.base(),
            v_channel: self.channel().to_owned(),
            position: Some(position(self.channel(), ts)),
            ..UpdateChannelCheckpointRequest::default()
        }
    }

    async fn checkpoint_ts(&self) -> u64 {
        let channel = self.cluster.channel(self.channel()).await.unwrap();
        channel.checkpoint_ts
    }

    async fn flush_state(&self, segments: &[i64], flush_ts: u64) -> bool {
        let request = GetFlushStateRequest {
            segment_i_ds: segments.to_vec(),
            flush_ts,
            collection_id: self.collection.id,
            ..GetFlushStateRequest::default()
        };
        let answer = ask!(self.cluster, DataCoordClient.get_flush_state(request)).unwrap();
        is(answer.status.unwrap(), 0, 0);
        answer.flushed
    }

    async fn info(&self, segments: &[i64], unhealthy_too: bool) -> (Status, usize) {
        let request = GetSegmentInfoRequest {
            segment_i_ds: segments.to_vec(),
            include_un_healthy: unhealthy_too,
            ..GetSegmentInfoRequest::default()
        };
        let answer = ask!(self.cluster, DataCoordClient.get_segment_info(request)).unwrap();
        (answer.status.unwrap(), answer.infos.len())
    }

    /// The time tick of the owner, with the rows a segment holds.
    async fn tick(&self, ts: u64, segment: i64, rows: i64) -> Status {
        let request = ReportDataNodeTtMsgsRequest {
            base: self.node.base(),
            msgs: vec![DataNodeTtMsg {
                base: self.node.base(),
                channel_name: self.channel().to_owned(),
                timestamp: ts,
                segments_stats: vec![SegmentStats {
                    segment_id: segment,
                    num_rows: rows,
                }],
            }],
        };
        ask!(
            self.cluster,
            DataCoordClient.report_data_node_tt_msgs(request)
        )
        .unwrap()
    }
}

fn insert_log(path: String, rows: i64) -> FieldBinlog {
    FieldBinlog {
        field_id: 100,
        binlogs: vec![Binlog {
            entries_num: rows,
            log_path: path,
            log_size: 8 * rows,
            ..Binlog::default()
        }],
    }
}

fn position(channel: &str, ts: u64) -> MsgPosition {
    MsgPosition {
        channel_name: channel.to_owned(),
        msg_id: vec![1],
        timestamp: ts,
        ..MsgPosition::default()
    }
}

/// The two numbers of a Milvus status.
#[track_caller]
fn is(status: Status, code: i32, error_code: i32) {
    assert_eq!(
        (status.code, status.error_code),
        (code, error_code),
        "{}",
        status.reason
    );
    assert_eq!(status.reason.is_empty(), code == 0, "{}", status.reason);
}

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
            "/milvus.proto.data.DataCoord/ManualCompaction",
            "milvus.proto.data.DataCoord",
            "ManualCompaction",
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
