//! A data node with its coordinator, and a writer's calls.

use std::time::Duration;

use quorate_binlog::{ColumnData, LogPath, LogStore};
use quorate_datanode::{Config, DataNode};
use quorate_rpc::proto::milvus::common::KeyValuePair;
use quorate_rpc::proto::milvus::data::data_node_client::DataNodeClient;
use quorate_rpc::proto::milvus::data::{
    ChannelOperationProgressResponse, ChannelOperationsRequest, ChannelWatchInfo,
    ChannelWatchState, FieldBinlog, FlushChannelsRequest, FlushSegmentsRequest, VchannelInfo,
};
use quorate_rpc::proto::milvus::schema::{CollectionSchema, DataType, FieldSchema};
use quorate_rpc::proto::quorate::node::rows_client::RowsClient;
use quorate_rpc::proto::quorate::node::{
    DeleteRequest, DeleteResponse, Grant, InsertRequest, InsertResponse, RowBatch, SyncRequest,
    SyncResponse,
};
use quorate_rpc::proto::quorate::row::RowRange;
use quorate_rpc::{ChannelOptions, channel, status};
use tonic::Status;
use tonic::transport::Channel;

use crate::coordinator::{self, Coordinator};

pub const CHANNEL: &str = "dml_0_77v0";
pub const COLLECTION: i64 = 77;
pub const PARTITION: i64 = 78;
pub const STREAM: &[u8] = b"one file";

pub struct Fixture {
    pub coordinator: Coordinator,
    pub node: Option<DataNode>,
    pub store: LogStore,
    pub folder: tempfile::TempDir,
    pub connection: Channel,
    _running: coordinator::Running,
}

/// Nothing is synced by itself; ticks come fast.
pub fn quiet() -> Config {
    Config {
        tick_interval: Duration::from_millis(20),
        sync_interval: Duration::from_secs(3600),
        segment_sync_bytes: 1 << 30,
        coordinator_timeout: Duration::from_millis(300),
        object_store_timeout: Duration::from_secs(5),
        ..Config::default()
    }
}

impl Fixture {
    pub async fn start(config: Config) -> Fixture {
        let running = coordinator::start().await;
        let folder = tempfile::tempdir().unwrap();
        let object_store = folder.path().display().to_string();
        let node = DataNode::start(Config {
            coordinators: vec![running.address.to_string()],
            object_store: object_store.clone(),
            ..config
        })
        .await
        .unwrap();
        let address = node.local_addr().to_string();
        Fixture {
            coordinator: running.coordinator.clone(),
            connection: channel::connect(&address, &ChannelOptions::default())
                .await
                .unwrap(),
            store: LogStore::open(&object_store, Duration::from_secs(5)).unwrap(),
            node: Some(node),
            folder,
            _running: running,
        }
    }

    /// A node that watches the channel under epoch 1.
    pub async fn watching(config: Config) -> Fixture {
        let fixture = Fixture::start(config).await;
        fixture.watch(1, 1).await;
        fixture
    }

    pub fn node(&self) -> DataNodeClient<Channel> {
        DataNodeClient::new(self.connection.clone())
    }

    pub async fn notify(&self, info: ChannelWatchInfo) {
        let request = ChannelOperationsRequest { infos: vec![info] };
        let answer = self.node().notify_channel_operation(request).await.unwrap();
        status::check(answer.get_ref()).unwrap();
    }

    pub async fn progress(&self, info: ChannelWatchInfo) -> ChannelOperationProgressResponse {
        let answer = self.node().check_channel_operation_progress(info).await;
        answer.unwrap().into_inner()
    }

    /// Asks for the progress of an operation until it is over.
    pub async fn outcome(&self, info: &ChannelWatchInfo) -> ChannelWatchState {
        let asking = async {
            loop {
                let progress = self.progress(info.clone()).await;
                assert_eq!(progress.op_id, info.op_id);
                match progress.state() {
                    ChannelWatchState::ToWatch | ChannelWatchState::ToRelease => {
                        tokio::task::yield_now().await;
                    }
                    state => return state,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), asking)
            .await
            .expect("the operation ends")
    }

    pub async fn watch(&self, epoch: i64, op_id: i64) {
        let info = operation(ChannelWatchState::ToWatch, epoch, op_id);
        self.notify(info.clone()).await;
        assert_eq!(self.outcome(&info).await, ChannelWatchState::WatchSuccess);
    }

    pub async fn insert_at(
        &self,
        timestamp: u64,
        epoch: i64,
        segment: i64,
        rows: std::ops::Range<u64>,
    ) -> Result<InsertResponse, Status> {
        let request = InsertRequest {
            collection_id: COLLECTION,
            channel: CHANNEL.into(),
            assignment_epoch: epoch,
            timestamp,
            batches: vec![batch(segment, rows, timestamp + (1000 << 18))],
        };
        let mut client = RowsClient::new(self.connection.clone());
        client
            .insert(request)
            .await
            .map(tonic::Response::into_inner)
    }

    /// Inserts with a fresh timestamp, again when a tick has overtaken it; (accepted, skipped).
    pub async fn insert(
        &self,
        segment: i64,
        rows: std::ops::Range<u64>,
    ) -> Result<(u64, u64), Status> {
        loop {
            let timestamp = self.coordinator.timestamp();
            match self.insert_at(timestamp, 1, segment, rows.clone()).await {
                Ok(answer) => return Ok((answer.accepted_rows, answer.skipped_rows)),
                Err(error) if error.metadata().contains_key("quorate-late") => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub async fn delete(&self, partition_id: i64, keys: Vec<i64>) -> DeleteResponse {
        loop {
            let request = DeleteRequest {
                collection_id: COLLECTION,
                partition_id,
                channel: CHANNEL.into(),
                assignment_epoch: 1,
                timestamp: self.coordinator.timestamp(),
                primary_keys: Some(ColumnData::Int64(keys.clone()).to_proto(100)),
            };
            match RowsClient::new(self.connection.clone())
                .delete(request)
                .await
            {
                Ok(answer) => return answer.into_inner(),
                Err(error) if error.metadata().contains_key("quorate-late") => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub async fn sync(&self) -> Result<SyncResponse, Status> {
        let request = SyncRequest {
            channels: vec![CHANNEL.into()],
        };
        let mut client = RowsClient::new(self.connection.clone());
        client.sync(request).await.map(tonic::Response::into_inner)
    }

    pub async fn flush_segments(&self, segments: &[i64]) {
        let request = FlushSegmentsRequest {
            collection_id: COLLECTION,
            segment_i_ds: segments.to_vec(),
            channel_name: CHANNEL.into(),
            ..Default::default()
        };
        let answer = self.node().flush_segments(request).await.unwrap();
        status::check(answer.get_ref()).unwrap();
    }

    pub async fn flush_channel(&self, flush_ts: u64) {
        let request = FlushChannelsRequest {
            flush_ts,
            channels: vec![CHANNEL.into()],
            ..Default::default()
        };
        let answer = self.node().flush_channels(request).await.unwrap();
        status::check(answer.get_ref()).unwrap();
    }

    /// All values of a field named by a save, read from the object store.
    pub async fn read(&self, field: &FieldBinlog) -> ColumnData {
        let path = LogPath::parse(&field.binlogs[0].log_path).unwrap();
        self.store.read_insert(&path).await.unwrap().column
    }

    /// Files in the object store.
    pub fn files(&self) -> usize {
        fn count(folder: &std::path::Path) -> usize {
            std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .map(|path| if path.is_dir() { count(&path) } else { 1 })
                .sum()
        }
        count(self.folder.path())
    }
}

pub fn operation(state: ChannelWatchState, epoch: i64, op_id: i64) -> ChannelWatchInfo {
    ChannelWatchInfo {
        vchan: Some(VchannelInfo {
            collection_id: COLLECTION,
            channel_name: CHANNEL.into(),
            ..Default::default()
        }),
        state: state.into(),
        schema: Some(schema()),
        op_id,
        assignment_epoch: epoch,
        ..Default::default()
    }
}

fn schema() -> CollectionSchema {
    let field = |id, name: &str, data_type: DataType| FieldSchema {
        field_id: id,
        name: name.into(),
        data_type: data_type.into(),
        is_primary_key: id == 100,
        type_params: vec![KeyValuePair {
            key: "dim".into(),
            value: "4".into(),
        }],
        ..Default::default()
    };
    CollectionSchema {
        name: "docs".into(),
        fields: vec![
            field(100, "id", DataType::Int64),
            field(101, "text", DataType::VarChar),
            field(102, "vector", DataType::FloatVector),
        ],
        ..Default::default()
    }
}

pub fn columns(rows: std::ops::Range<u64>) -> [ColumnData; 3] {
    [
        ColumnData::Int64(rows.clone().map(|row| 10_000 + row as i64).collect()),
        ColumnData::VarChar(rows.clone().map(|row| format!("text {row}")).collect()),
        ColumnData::FloatVector {
            dim: 4,
            data: rows.flat_map(|row| [row as f32; 4]).collect(),
        },
    ]
}

fn batch(segment: i64, rows: std::ops::Range<u64>, expire_ts: u64) -> RowBatch {
    let count = (rows.end - rows.start) as u32;
    RowBatch {
        partition_id: PARTITION,
        rows: count,
        columns: columns(rows.clone())
            .iter()
            .zip(100..)
            .map(|(column, id)| column.to_proto(id))
            .collect(),
        ordinals: vec![RowRange {
            stream: STREAM.to_vec(),
            from: rows.start,
            to: rows.end,
        }],
        grants: vec![Grant {
            segment_id: segment,
            rows: count,
            expire_ts,
        }],
    }
}
