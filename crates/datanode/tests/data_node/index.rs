//! Index builds as the coordinator asks for them.

use quorate_binlog::{LogPath, LogStore, insert};
use quorate_datanode::Config;
use quorate_rpc::proto::milvus::common::{IndexState, KeyValuePair, StateCode};
use quorate_rpc::proto::milvus::index::index_node_client::IndexNodeClient;
use quorate_rpc::proto::milvus::index::{CreateJobRequest, DropJobsRequest, QueryJobsRequest};
use quorate_rpc::proto::milvus::milvus::GetComponentStatesRequest;
use quorate_rpc::status;

use crate::fixture::{Fixture, columns};

const LOG: LogPath = LogPath::Insert {
    collection: 1,
    partition: 2,
    segment: 3,
    field: 102,
    log_id: 7,
};

async fn store_log(store: &LogStore) {
    let [_, _, vectors] = columns(0..25);
    let log = insert::encode(LOG, &vectors, (1, 1)).unwrap();
    store.put(&log).await.unwrap();
}

#[tokio::test]
async fn an_index_is_built_and_forgotten_when_it_is_asked_for() {
    let f = Fixture::start(Config::default()).await;
    store_log(&f.store).await;
    let mut client = IndexNodeClient::new(f.connection.clone());
    let states = client
        .get_component_states(GetComponentStatesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(states.state.unwrap().state_code(), StateCode::Healthy);

    let param = |key: &str, value: &str| KeyValuePair {
        key: key.into(),
        value: value.into(),
    };
    let job = CreateJobRequest {
        build_id: 9,
        index_version: 1,
        collection_id: 1,
        partition_id: 2,
        segment_id: 3,
        field_id: 102,
        data_paths: vec![LOG.to_string()],
        num_rows: 25,
        index_params: vec![param("index_type", "HNSW"), param("metric_type", "L2")],
        type_params: vec![param("dim", "4")],
        ..Default::default()
    };
    let answer = client.create_job(job).await.unwrap();
    status::check(answer.get_ref()).unwrap();

    let query = QueryJobsRequest {
        cluster_id: "by-dev".into(),
        build_i_ds: vec![9, 10],
    };
    let asking = async {
        loop {
            let answer = client.query_jobs(query.clone()).await.unwrap().into_inner();
            assert_eq!(answer.cluster_id, "by-dev");
            assert_eq!(answer.index_infos[1].state(), IndexState::None);
            match answer.index_infos[0].state() {
                IndexState::InProgress => tokio::task::yield_now().await,
                _ => return answer.index_infos[0].clone(),
            }
        }
    };
    let asking = tokio::time::timeout(std::time::Duration::from_secs(60), asking);
    let info = asking.await.expect("the job ends");
    assert_eq!(info.state(), IndexState::Finished, "{}", info.fail_reason);
    let file = f.folder.path().join(&info.index_file_keys[0]);
    assert_eq!(std::fs::metadata(file).unwrap().len(), info.serialized_size);

    let drop_jobs = DropJobsRequest {
        cluster_id: "by-dev".into(),
        build_i_ds: vec![9],
    };
    let answer = client.drop_jobs(drop_jobs).await.unwrap();
    status::check(answer.get_ref()).unwrap();
    let answer = client.query_jobs(query).await.unwrap().into_inner();
    assert_eq!(answer.index_infos[0].state(), IndexState::None);
}
