//! A drop is seen at once by everybody, and what it leaves behind goes away by itself.

use quorate_rpc::proto::milvus::common::SegmentState;
use quorate_rpc::proto::milvus::data::GetRecoveryInfoRequestV2;
use quorate_rpc::proto::milvus::data::SegmentIdRequest;
use quorate_rpc::proto::milvus::data::data_coord_client::DataCoordClient;
use quorate_rpc::proto::quorate::collection::collections_client::CollectionsClient;
use quorate_rpc::proto::quorate::collection::{
    CreatePartitionRequest, DescribeCollectionRequest, DropPartitionRequest,
};
use quorate_tests::ask;
use quorate_tests::cluster::{Cluster, Options, run, until};

#[tokio::test]
async fn a_collection_dropped_under_load_is_gone_at_once() {
    let options = Options::new(3, 2)
        .set("dataCoord.segment.maxRows", 200)
        .data_node_arg("--sync-interval-ms", 500);
    let cluster = Cluster::start(options).await;
    let file = "data/sample.parquet".to_owned();
    let variables = [("QUORATE_ENDPOINTS", cluster.endpoints().join(","))];
    let ingest = {
        let (file, variables) = (file.clone(), variables.clone());
        tokio::spawn(async move {
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
                "60",
            ];
            run(&args, &variables).await
        })
    };
    until("rows are stored", async || {
        let segments = cluster.list_segments().await;
        let stored = segments.iter().filter(|segment| segment.files > 0);
        (stored.count() >= 2).then_some(())
    })
    .await;
    let old = cluster.json(&["collections", "show", "docs"]).await;
    let dropped = cluster.json(&["collections", "drop", "docs"]).await;
    assert_eq!(dropped["dropped"], true);

    // At once, whatever is still to be tidied up.
    let segments = cluster.list_segments().await;
    assert!(segments.len() >= 2);
    for segment in &segments {
        assert_eq!(segment.state, "Dropped", "{segment:?}");
        assert!(segment.info.as_ref().unwrap().dropped_at > 0);
    }
    let shown = cluster.cli(&["collections", "show", "docs"]).await;
    assert_eq!(shown.status.code(), Some(1));
    let again = cluster.json(&["collections", "drop", "docs"]).await;
    assert_eq!(again["dropped"], false);

    // The name is free at once, too.
    let new = cluster.create_collection("docs", 2).await;
    assert_ne!(new.id, old["id"].as_i64().unwrap());
    assert!(!old["channels"].as_array().unwrap().is_empty());
    for channel in &new.channels {
        assert!(
            !old["channels"]
                .as_array()
                .unwrap()
                .contains(&channel.as_str().into())
        );
    }

    // The writer is told, and does not write into the new one.
    let ended = ingest.await.unwrap();
    let error = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{error}");
    assert!(
        error.lines().last().unwrap().starts_with("error: "),
        "{error}"
    );

    until("the old channels are gone", async || {
        let channels = cluster.list_channels().await;
        channels
            .iter()
            .all(|channel| channel.collection_id == new.id)
            .then_some(())
    })
    .await;
    for channel in &new.channels {
        cluster.watched(channel, None).await;
    }
    let segments = cluster.list_segments().await;
    assert!(segments.iter().all(|segment| segment.state == "Dropped"));
    cluster.is_equal_everywhere().await;
}

#[tokio::test]
async fn a_dropped_partition_takes_its_segments_with_it_and_no_others() {
    let cluster = Cluster::start(Options::new(1, 1).set("dataCoord.segment.maxRows", 100)).await;
    let collection = cluster.create_collection("docs", 1).await;
    let create = CreatePartitionRequest {
        collection_id: collection.id,
        name: "p".to_owned(),
    };
    let partition = ask!(cluster, CollectionsClient.create_partition(create.clone()))
        .unwrap()
        .partition
        .unwrap();
    let item = |partition_id: i64| SegmentIdRequest {
        count: 100,
        channel_name: collection.channels[0].clone(),
        collection_id: collection.id,
        partition_id,
        ..SegmentIdRequest::default()
    };
    let kept = collection.partitions[0].id;
    let granted = cluster
        .assign(vec![item(kept), item(partition.id), item(partition.id)])
        .await;
    let ids: Vec<i64> = granted.iter().map(|grant| grant.seg_id).collect();
    let states = async || {
        let mut states = Vec::new();
        for id in &ids {
            states.push(cluster.segment(*id).await.state());
        }
        states
    };

    let drop_it = |name: &str| DropPartitionRequest {
        collection_id: collection.id,
        name: name.to_owned(),
    };
    let refused = ask!(
        cluster,
        CollectionsClient.drop_partition(drop_it("_default"))
    );
    assert_eq!(
        refused.unwrap_err().refusal(),
        Some(tonic::Code::InvalidArgument)
    );
    for dropped in [true, false] {
        let answer = ask!(cluster, CollectionsClient.drop_partition(drop_it("p"))).unwrap();
        assert_eq!(answer.dropped, dropped);
        assert_eq!(
            states().await,
            [
                SegmentState::Growing,
                SegmentState::Dropped,
                SegmentState::Dropped
            ]
        );
    }
    // Nothing is granted there any more; elsewhere it is.
    let granted = cluster.assign(vec![item(partition.id), item(kept)]).await;
    let good: Vec<_> = granted.iter().filter(|grant| grant.seg_id != 0).collect();
    assert_eq!(good.len(), 1, "{granted:?}");
    assert_eq!(good[0].partition_id, kept);

    // The name is free; who has it now is another partition.
    let again = ask!(cluster, CollectionsClient.create_partition(create)).unwrap();
    assert!(again.created);
    assert_ne!(again.partition.unwrap().id, partition.id);
    let described = DescribeCollectionRequest {
        name: "docs".to_owned(),
        id: 0,
    };
    let described = ask!(cluster, CollectionsClient.describe_collection(described))
        .unwrap()
        .collection
        .unwrap();
    assert_eq!(described.partitions.len(), 2);
    let recovery = GetRecoveryInfoRequestV2 {
        collection_id: collection.id,
        ..GetRecoveryInfoRequestV2::default()
    };
    let recovery = ask!(cluster, DataCoordClient.get_recovery_info_v2(recovery)).unwrap();
    let channel = &recovery.channels[0];
    assert!(!channel.unflushed_segment_ids.contains(&ids[1]));
    assert!(!channel.flushed_segment_ids.contains(&ids[1]));
    cluster.is_equal_everywhere().await;
}
