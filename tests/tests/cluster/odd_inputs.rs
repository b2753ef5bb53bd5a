//! Odd and wrong input to Milvus's write path: what the real DataCoord answers, we answer.

mod assign;
mod flush;
mod request;
mod save;

use quorate_rpc::proto::milvus::common::{SegmentStats, Status};
use quorate_rpc::proto::milvus::data::data_coord_client::DataCoordClient;
use quorate_rpc::proto::milvus::data::{
    Binlog, FieldBinlog, GetFlushStateRequest, GetSegmentInfoRequest, ReportDataNodeTtMsgsRequest,
    SaveBinlogPathsRequest, SegmentIdRequest, UpdateChannelCheckpointRequest,
};
use quorate_rpc::proto::milvus::msg::{DataNodeTtMsg, MsgPosition};
use quorate_rpc::proto::quorate::collection::collections_client::CollectionsClient;
use quorate_rpc::proto::quorate::collection::{Collection, DropCollectionRequest};
use quorate_tests::ask;
use quorate_tests::cluster::{Cluster, FakeDataNode, Options};

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
