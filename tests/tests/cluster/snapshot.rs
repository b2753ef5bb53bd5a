//! A replica that fell behind the log catches up by a snapshot.

use futures::{StreamExt, TryStreamExt};
use quorate_rpc::ClientError;
use quorate_rpc::Retry;
use quorate_rpc::proto::quorate::meta::PutRequest;
use quorate_rpc::proto::quorate::meta::meta_client::MetaClient;
use quorate_tests::cluster::{Cluster, Options, until};
use rand::RngExt;

const SNAPSHOT_ENTRIES: u64 = 200;
const KEEP_ENTRIES: u64 = 50;

async fn start() -> Cluster {
    let options = Options::new(3, 0)
        .set("quorate.raft.snapshotEntries", SNAPSHOT_ENTRIES)
        .set("quorate.raft.keepEntries", KEEP_ENTRIES);
    Cluster::start(options).await
}

/// Writes annotations, a few in flight.
async fn write(cluster: &Cluster, keys: std::ops::Range<usize>, value: &[u8]) {
    let puts = futures::stream::iter(keys).map(|n| {
        let request = PutRequest {
            key: format!("k/{n}"),
            value: value.to_vec(),
            token: Vec::new(),
        };
        cluster.client().call(Retry::Idempotent, move |leader| {
            let request = request.clone();
            async move { MetaClient::new(leader).put(request).await }
        })
    });
    let done: Result<Vec<_>, ClientError> = puts.buffer_unordered(4).try_collect().await;
    done.unwrap();
}

/// Writes until the running replicas have purged the log up to behind `index`.
async fn outrun(cluster: &Cluster, stopped: usize, index: u64, value: &[u8]) {
    let mut written = 0;
    until("the log is purged behind the snapshot", async || {
        write(cluster, written..written + 100, value).await;
        written += 100;
        for replica in (0..3).filter(|replica| *replica != stopped) {
            cluster
                .status(replica)
                .await
                .filter(|status| status.purged_index > index + KEEP_ENTRIES)?;
        }
        Some(())
    })
    .await;
}

/// Waits until a replica has applied all that the leader has now.
async fn catches_up(cluster: &Cluster, replica: usize) {
    let leader = cluster.leader().await;
    let goal = cluster.status(leader).await.unwrap().applied_index;
    until("the replica has caught up", async || {
        let status = cluster.status(replica).await?;
        (status.applied_index >= goal).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_follower_behind_the_log_catches_up_by_snapshot() {
    let mut cluster = start().await;
    let follower = cluster.follower().await;
    cluster.put("before", "1").await;
    let behind = cluster.status(follower).await.unwrap().last_log_index;
    cluster.kill_replica(follower).await;
    outrun(&cluster, follower, behind, b"value").await;

    cluster.start_replica(follower);
    catches_up(&cluster, follower).await;
    let status = cluster.status(follower).await.unwrap();
    // No log reaches from where it was to where it is.
    assert!(status.snapshot_index > behind, "{status:?}");
    assert!(status.purged_index > behind, "{status:?}");
    cluster.is_equal_everywhere().await;

    // What came as a snapshot is on its disk.
    cluster.kill_replica(follower).await;
    write(&cluster, 0..10, b"after").await;
    cluster.start_replica(follower);
    catches_up(&cluster, follower).await;
    cluster.is_equal_everywhere().await;

    assert_eq!(cluster.get("k/5").await.unwrap().value, b"after");
    assert_eq!(cluster.get("before").await.unwrap().value, b"1");
}

#[tokio::test]
async fn a_follower_killed_while_it_catches_up_starts_over() {
    let mut cluster = start().await;
    let follower = cluster.follower().await;
    let behind = cluster.status(follower).await.unwrap().last_log_index;
    cluster.kill_replica(follower).await;
    // Some megabytes, so that there is something to interrupt.
    outrun(&cluster, follower, behind, &[7; 20_000]).await;
    for round in 0..8 {
        cluster.start_replica(follower);
        // From as early as can be to when the snapshot is in place.
        if round % 4 != 0 {
            until("the replica answers", async || {
                cluster.status(follower).await
            })
            .await;
        }
        // Not a wait: any moment will do, and each run tries others.
        let chance = rand::rng().random_range(0..100);
        tokio::time::sleep(std::time::Duration::from_millis(chance)).await;
        cluster.kill_replica(follower).await;
        write(&cluster, 0..40, &[round; 20_000]).await;
    }
    cluster.start_replica(follower);
    catches_up(&cluster, follower).await;
    assert!(cluster.status(follower).await.unwrap().snapshot_index > behind);
    cluster.is_equal_everywhere().await;
}

#[tokio::test]
async fn a_log_purged_everywhere_comes_back_after_a_restart_of_all() {
    let mut cluster = start().await;
    outrun(&cluster, 3, 0, b"value").await;
    cluster.put("last", "1").await;
    for index in 0..3 {
        cluster.replica(index).strike();
    }
    for index in 0..3 {
        cluster.kill_replica(index).await;
        cluster.start_replica(index);
    }
    cluster.serves().await;
    assert_eq!(cluster.get("last").await.unwrap().value, b"1");
    cluster.is_equal_everywhere().await;
    for index in 0..3 {
        assert!(cluster.status(index).await.unwrap().purged_index > 0);
    }
}
