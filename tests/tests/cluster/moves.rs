//! Channels and the data nodes that own them.

use std::path::PathBuf;

use quorate_tests::cluster::{Cluster, Options, until};

fn sample() -> PathBuf {
    PathBuf::from("data/sample.parquet")
}

/// A node that died is given up soon.
fn options(replicas: usize) -> Options {
    Options::new(replicas, 2).set("quorate.node.lease", "3s")
}

/// The id under which a data node is registered now.
async fn id_of(cluster: &Cluster, index: usize) -> Option<i64> {
    let address = cluster.data_node_address(index).to_string();
    let nodes = cluster.list_nodes().await;
    nodes
        .into_iter()
        .filter(|node| node.address == address)
        .map(|node| node.id)
        .max()
}

#[tokio::test]
async fn channels_spread_and_move_when_their_node_dies() {
    let mut cluster = Cluster::start(options(3)).await;
    let collection = cluster.create_collection("docs", 4).await;
    let mut owned = std::collections::BTreeMap::new();
    for name in &collection.channels {
        let channel = cluster.watched(name, None).await;
        *owned.entry(channel.node_id).or_insert(0) += 1;
    }
    assert_eq!(owned.values().copied().collect::<Vec<_>>(), [2, 2]);

    let before = cluster.list_channels().await;
    let (dead, alive) = (
        id_of(&cluster, 0).await.unwrap(),
        id_of(&cluster, 1).await.unwrap(),
    );
    cluster.kill_data_node(0).await;
    for old in &before {
        let new = cluster.watched(&old.name, Some(alive)).await;
        if old.node_id == dead {
            assert!(new.assignment_epoch > old.assignment_epoch);
        } else {
            assert_eq!(new.assignment_epoch, old.assignment_epoch);
        }
    }
    until("the dead node is forgotten", async || {
        let nodes = cluster.list_nodes().await;
        nodes.iter().all(|node| node.id != dead).then_some(())
    })
    .await;

    // It comes back as somebody else, and what is new goes to it: it has the fewest.
    cluster.start_data_node(0);
    cluster.serves().await;
    let again = id_of(&cluster, 0).await.unwrap();
    assert!(again > alive && again != dead);
    let more = cluster.create_collection("more", 2).await;
    for name in &more.channels {
        cluster.watched(name, Some(again)).await;
    }
    cluster.is_equal_everywhere().await;
}

#[tokio::test]
async fn without_data_nodes_channels_wait_for_one() {
    let mut cluster = Cluster::start(options(1)).await;
    let collection = cluster.create_collection("docs", 2).await;
    for name in &collection.channels {
        cluster.watched(name, None).await;
    }
    for index in 0..2 {
        cluster.kill_data_node(index).await;
    }
    until("nobody owns a channel", async || {
        let channels = cluster.list_channels().await;
        let free = |state: &str, node: i64| state == "Standby" && node == 0;
        channels
            .iter()
            .all(|channel| free(&channel.state, channel.node_id))
            .then_some(())
    })
    .await;
    cluster.start_data_node(1);
    for name in &collection.channels {
        let channel = cluster.watched(name, None).await;
        assert_eq!(
            channel.node_address,
            cluster.data_node_address(1).to_string()
        );
    }
}

#[tokio::test]
async fn rows_that_died_with_their_node_are_sent_again_and_stored_once() {
    // Nothing is written out before it is asked for, so what a node took dies with it.
    let options = options(3)
        .set("dataCoord.segment.maxRows", 100_000)
        .data_node_arg("--sync-interval-ms", 3_600_000)
        .data_node_arg("--segment-sync-mib", 1024);
    let mut cluster = Cluster::start(options).await;
    let file = sample().display().to_string();
    let args = [
        "ingest",
        &file,
        "--collection",
        "docs",
        "--create",
        "--rate",
        "400",
        "--batch",
        "20",
        "--stall-timeout",
        "120",
    ];
    let victim = id_of(&cluster, 0).await.unwrap();
    let report = {
        let cluster = &mut cluster;
        let endpoints = cluster.endpoints();
        let ingest = tokio::spawn(ingest(endpoints, args.map(ToOwned::to_owned).to_vec()));
        until("the first node holds rows", async || {
            let nodes = cluster.list_nodes().await;
            let node = nodes.iter().find(|node| node.id == victim)?;
            (node.buffered_rows >= 100).then_some(())
        })
        .await;
        cluster.kill_data_node(0).await;
        ingest.await.unwrap()
    };
    assert_eq!(report["rows"], 3000, "{report:#}");
    assert!(
        report["rows_sent_again"].as_u64().unwrap() >= 100,
        "{report:#}"
    );
    assert!(report["owner_changes"].as_u64().unwrap() >= 1, "{report:#}");
    cluster.start_data_node(0);
    cluster.serves().await;

    let flushed = cluster
        .json(&["flush", "--collection", "docs", "--wait"])
        .await;
    assert_eq!(flushed[0]["complete"], true, "{flushed:#}");
    let verified = cluster
        .json(&["verify", &file, "--collection", "docs"])
        .await;
    assert_eq!(verified["ok"], true, "{verified:#}");
    assert_eq!(verified["rows_found"], 3000, "{verified:#}");

    // Running it again finds everything there.
    let again = ingest(cluster.endpoints(), args.map(ToOwned::to_owned).to_vec()).await;
    assert_eq!(again["rows_already_stored"], 3000, "{again:#}");
    assert_eq!(again["rows_accepted"], 0, "{again:#}");
    cluster.is_equal_everywhere().await;
}

/// Runs an ingest to its end, which must be a good one.
async fn ingest(endpoints: Vec<String>, mut args: Vec<String>) -> serde_json::Value {
    args.extend(["-o".to_owned(), "json".to_owned()]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let variables = [("QUORATE_ENDPOINTS", endpoints.join(","))];
    let output = quorate_tests::cluster::run(&args, &variables).await;
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}
