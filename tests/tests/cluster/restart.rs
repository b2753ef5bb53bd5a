//! What was acknowledged survives the death of every process at once, and what is given once is
//! never given again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quorate_rpc::proto::milvus::data::data_coord_client::DataCoordClient;
use quorate_rpc::proto::milvus::data::{
    Binlog, FieldBinlog, FlushRequest, SaveBinlogPathsRequest, SegmentIdRequest,
    UpdateChannelCheckpointRequest,
};
use quorate_rpc::proto::milvus::msg::MsgPosition;
use quorate_rpc::proto::quorate::admin::{Channel, Segment};
use quorate_rpc::proto::quorate::collection::collections_client::CollectionsClient;
use quorate_rpc::proto::quorate::collection::{
    Collection, CreatePartitionRequest, DropCollectionRequest, ListCollectionsRequest,
};
use quorate_rpc::proto::quorate::meta::meta_client::MetaClient;
use quorate_rpc::proto::quorate::meta::{Annotation, ListRequest};
use quorate_rpc::proto::quorate::oracle::oracle_client::OracleClient;
use quorate_rpc::proto::quorate::oracle::{AllocIdRequest, AllocTimestampRequest};
use quorate_rpc::{Client, Retry};
use quorate_tests::ask;
use quorate_tests::cluster::{Cluster, FakeDataNode, Options, until};

/// Everything a client can see.
#[derive(Debug, PartialEq)]
struct View {
    collections: Vec<Collection>,
    segments: Vec<Segment>,
    channels: Vec<Channel>,
    annotations: Vec<Annotation>,
}

async fn view(cluster: &Cluster) -> View {
    let collections = ask!(
        cluster,
        CollectionsClient.list_collections(ListCollectionsRequest {})
    );
    let annotations = ask!(cluster, MetaClient.list(ListRequest::default()));
    View {
        collections: collections.unwrap().collections,
        segments: cluster.list_segments().await,
        channels: cluster.list_channels().await,
        annotations: annotations.unwrap().annotations,
    }
}

/// Kills all replicas at once and starts them again.
async fn lose_power(cluster: &mut Cluster) {
    for index in 0..3 {
        cluster.replica(index).strike();
    }
    for index in 0..3 {
        cluster.kill_replica(index).await;
    }
    for index in 0..3 {
        cluster.start_replica(index);
    }
    cluster.serves().await;
}

/// Segments in every state, saved logs, moved checkpoints, a dropped collection, annotations.
async fn fill(cluster: &Cluster, node: &FakeDataNode) {
    let collection = cluster.create_collection("docs", 2).await;
    let gone = cluster.create_collection("gone", 1).await;
    for channel in collection.channels.iter().chain(&gone.channels) {
        cluster.watched(channel, Some(node.id)).await;
    }
    let partition = CreatePartitionRequest {
        collection_id: collection.id,
        name: "p".to_owned(),
    };
    ask!(cluster, CollectionsClient.create_partition(partition)).unwrap();
    let item = |collection: &Collection, channel: usize| SegmentIdRequest {
        count: 100,
        channel_name: collection.channels[channel].clone(),
        collection_id: collection.id,
        partition_id: collection.partitions[0].id,
        ..SegmentIdRequest::default()
    };
    let items = vec![
        item(&collection, 0),
        item(&collection, 0),
        item(&collection, 1),
        item(&gone, 0),
    ];
    let granted = cluster.assign(items).await;
    let (saved, growing) = (granted[0].seg_id, granted[1].seg_id);
    let save = |segment: i64, log: i64, flushed: bool| SaveBinlogPathsRequest {
        base: node.base(),
        segment_id: segment,
        collection_id: collection.id,
        partition_id: collection.partitions[0].id,
        channel: collection.channels[0].clone(),
        field2_binlog_paths: vec![FieldBinlog {
            field_id: 100,
            binlogs: vec![Binlog {
                log_id: log,
                entries_num: 50,
                log_size: 400,
                ..Binlog::default()
            }],
        }],
        flushed,
        ..SaveBinlogPathsRequest::default()
    };
    for request in [save(saved, 1, true), save(growing, 2, false)] {
        let status = ask!(cluster, DataCoordClient.save_binlog_paths(request)).unwrap();
        assert_eq!(status.code, 0, "{}", status.reason);
    }
    let checkpoint = UpdateChannelCheckpointRequest {
        base: node.base(),
        v_channel: collection.channels[0].clone(),
        position: Some(MsgPosition {
            channel_name: collection.channels[0].clone(),
            msg_id: vec![9],
            timestamp: cluster.alloc_timestamps(1).await,
            ..MsgPosition::default()
        }),
        ..UpdateChannelCheckpointRequest::default()
    };
    let status = ask!(
        cluster,
        DataCoordClient.update_channel_checkpoint(checkpoint)
    );
    assert_eq!(status.unwrap().code, 0);
    let flush = FlushRequest {
        collection_id: collection.id,
        segment_i_ds: vec![granted[2].seg_id],
        ..FlushRequest::default()
    };
    ask!(cluster, DataCoordClient.flush(flush)).unwrap();
    for n in 0..20 {
        cluster.put(&format!("k/{n}"), format!("value {n}")).await;
    }
    let drop_it = DropCollectionRequest {
        name: "gone".to_owned(),
        id: 0,
    };
    ask!(cluster, CollectionsClient.drop_collection(drop_it)).unwrap();
    // What goes on by itself comes to its end.
    until("the flush ends and the dropped channel goes", async || {
        let seen = view(cluster).await;
        let flushed = seen.segments.iter().any(|s| s.state == "Flushed");
        (flushed && seen.channels.len() == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn everything_survives_the_death_of_all_replicas() {
    let options = Options::new(3, 0)
        .set("quorate.node.lease", "300s")
        .set("dataCoord.segment.maxRows", 100);
    let mut cluster = Cluster::start(options).await;
    let node = FakeDataNode::start(&cluster).await;
    fill(&cluster, &node).await;

    let mut before = view(&cluster).await;
    let states: Vec<&str> = before.segments.iter().map(|s| s.state.as_str()).collect();
    for state in ["Growing", "Sealed", "Flushed", "Dropped"] {
        assert!(states.contains(&state), "{states:?}");
    }
    for _ in 0..2 {
        let ids = cluster.alloc_ids(10).await;
        let timestamps = cluster.alloc_timestamps(10).await;
        lose_power(&mut cluster).await;
        assert!(cluster.alloc_ids(1).await >= ids + 10);
        assert!(cluster.alloc_timestamps(1).await >= timestamps + 10);
        let after = view(&cluster).await;
        assert_eq!(after, before);
        cluster.is_equal_everywhere().await;
        before = after;
    }
    // The cluster is not only remembered, it works.
    let revision = cluster.put("k/0", "new").await;
    assert!(before.annotations.iter().all(|a| a.revision < revision));
    assert_eq!(cluster.get("k/0").await.unwrap().value, b"new");
}

/// Ranges `[first, first + count)` that were given.
type Given = Vec<(u64, u64)>;

struct Taking {
    stop: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
    ids: Vec<tokio::task::JoinHandle<Given>>,
    timestamps: Vec<tokio::task::JoinHandle<Given>>,
}

impl Taking {
    fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let taken = Arc::new(AtomicU64::new(0));
        let spawn = |timestamps: bool, count: u32| {
            // Each with its own idea of who leads.
            let client = Client::new(cluster.endpoints(), quorate_rpc::ClientOptions::default());
            let (stop, taken) = (stop.clone(), taken.clone());
            tokio::spawn(take(client.unwrap(), timestamps, count, stop, taken))
        };
        Self {
            ids: [1, 7, 3000].map(|count| spawn(false, count)).into(),
            timestamps: [1, 5, 1000].map(|count| spawn(true, count)).into(),
            stop,
            taken,
        }
    }

    /// Waits until so much more was taken.
    async fn goes_on(&self) {
        let seen = self.taken.load(Ordering::Relaxed);
        until("ids and timestamps are given again", async || {
            (self.taken.load(Ordering::Relaxed) > seen + 100).then_some(())
        })
        .await;
    }

    async fn end(self) -> (Given, Given) {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = [Given::new(), Given::new()];
        for (tasks, all) in [self.ids, self.timestamps].into_iter().zip(&mut all) {
            for task in tasks {
                let given = task.await.unwrap();
                // Who asks later gets later ones; ids promise only to be new.
                all.extend(given);
            }
        }
        let [ids, timestamps] = all;
        (ids, timestamps)
    }
}

async fn take(
    client: Client,
    timestamps: bool,
    count: u32,
    stop: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
) -> Given {
    let mut given = Given::new();
    while !stop.load(Ordering::Relaxed) {
        let first = if timestamps {
            let take = client.call(Retry::Idempotent, |leader| async move {
                let request = AllocTimestampRequest { count };
                OracleClient::new(leader).alloc_timestamp(request).await
            });
            take.await.map(|answer| answer.first)
        } else {
            let take = client.call(Retry::Idempotent, |leader| async move {
                let request = AllocIdRequest { count };
                OracleClient::new(leader).alloc_id(request).await
            });
            take.await
                .map(|answer| u64::try_from(answer.first).unwrap())
        };
        // No leader for long is not this test's business.
        if let Ok(first) = first {
            if let Some((last, length)) = given.last().filter(|_| timestamps) {
                assert!(first >= last + length, "time went back");
            }
            given.push((first, u64::from(count)));
            taken.fetch_add(1, Ordering::Relaxed);
        }
    }
    given
}

#[track_caller]
fn are_disjoint(what: &str, mut given: Given) {
    given.sort_unstable();
    for pair in given.windows(2) {
        let [(a, length), (b, _)] = pair else {
            unreachable!("windows of two");
        };
        assert!(a + length <= *b, "{what}: {a} + {length} and {b}");
    }
}

#[tokio::test]
async fn ids_and_timestamps_are_never_given_twice() {
    let mut cluster = Cluster::start(Options::new(3, 0).set("quorate.ids.window", 1000)).await;
    let taking = Taking::start(&cluster);
    taking.goes_on().await;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        cluster.kill_replica(leader).await;
        taking.goes_on().await;
        cluster.start_replica(leader);
        cluster.serves().await;
        taking.goes_on().await;
    }
    lose_power(&mut cluster).await;
    taking.goes_on().await;
    // A leader that is asked to go hands over.
    let leader = cluster.leader().await;
    cluster.replica(leader).terminate();
    assert!(cluster.replica(leader).end().await.success());
    taking.goes_on().await;
    let (ids, timestamps) = taking.end().await;
    are_disjoint("ids", ids);
    are_disjoint("timestamps", timestamps);
}

/// Lines a second a leader may log about a follower that is not there: heartbeats that fail, and
/// replication that is tried again with growing pauses.
const LINES_PER_SECOND_MAX: u128 = 200;

#[tokio::test]
async fn a_follower_that_is_away_does_not_keep_the_leader_busy() {
    let mut cluster = Cluster::start(Options::new(3, 0)).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let before = cluster.replica_log(leader).lines().count();
    let started = tokio::time::Instant::now();
    cluster.kill_replica(follower).await;
    for n in 0..500 {
        cluster.put("k", n.to_string()).await;
    }
    let lines = cluster.replica_log(leader).lines().count() - before;
    let allowed = 500 + LINES_PER_SECOND_MAX * started.elapsed().as_millis() / 1000;
    assert!(lines as u128 <= allowed, "{lines} lines, {allowed} allowed");
    cluster.start_replica(follower);
    until("the follower has caught up", async || {
        let goal = cluster.status(leader).await?.applied_index;
        (cluster.status(follower).await?.applied_index >= goal).then_some(())
    })
    .await;
    cluster.is_equal_everywhere().await;
}
