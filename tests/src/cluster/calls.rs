//! Calls that many tests make, in one line each.

use quorate_rpc::Client;
use quorate_rpc::proto::milvus::common::KeyValuePair;
use quorate_rpc::proto::milvus::data::data_coord_client::DataCoordClient;
use quorate_rpc::proto::milvus::data::{
    AssignSegmentIdRequest, GetSegmentInfoRequest, SegmentIdAssignment, SegmentIdRequest,
    SegmentInfo,
};
use quorate_rpc::proto::milvus::schema::{CollectionSchema, DataType, FieldSchema};
use quorate_rpc::proto::quorate::admin::admin_client::AdminClient;
use quorate_rpc::proto::quorate::admin::{
    Channel, ListChannelsRequest, ListNodesRequest, ListSegmentsRequest, Node, Segment,
    StatusRequest, StatusResponse,
};
use quorate_rpc::proto::quorate::collection::collections_client::CollectionsClient;
use quorate_rpc::proto::quorate::collection::{Collection, CreateCollectionRequest};
use quorate_rpc::proto::quorate::meta::meta_client::MetaClient;
use quorate_rpc::proto::quorate::meta::{Annotation, GetRequest, PutRequest};
use quorate_rpc::proto::quorate::oracle::oracle_client::OracleClient;
use quorate_rpc::proto::quorate::oracle::{AllocIdRequest, AllocTimestampRequest};

use super::{Cluster, STATUS_TIMEOUT, until};

/// Calls a method of the leader through our own client, which follows it: `ask!(cluster,
/// MetaClient.put(request))`. The result is the client's.
#[macro_export]
macro_rules! ask {
    ($cluster:expr, $client:ident.$method:ident($request:expr)) => {{
        let request = $request;
        $cluster
            .client()
            .call(quorate_rpc::Retry::Idempotent, |leader| {
                let request = request.clone();
                async move { $client::new(leader).$method(request).await }
            })
            .await
    }};
}

/// What a replica says of itself; none when it does not answer.
pub(super) async fn status(client: &Client, address: &str) -> Option<StatusResponse> {
    let ask = async {
        let replica = client.at(address).await.ok()?;
        let answer = AdminClient::new(replica).status(StatusRequest {}).await;
        answer.ok().map(tonic::Response::into_inner)
    };
    tokio::time::timeout(STATUS_TIMEOUT, ask).await.ok()?
}

/// A key of 8 bytes and a vector of 4 dimensions.
pub fn small_schema() -> CollectionSchema {
    let field = |name: &str, data_type: DataType| FieldSchema {
        name: name.to_owned(),
        data_type: data_type.into(),
        ..FieldSchema::default()
    };
    CollectionSchema {
        fields: vec![
            FieldSchema {
                is_primary_key: true,
                ..field("id", DataType::Int64)
            },
            FieldSchema {
                type_params: vec![KeyValuePair {
                    key: "dim".to_owned(),
                    value: "4".to_owned(),
                }],
                ..field("v", DataType::FloatVector)
            },
        ],
        ..CollectionSchema::default()
    }
}

impl Cluster {
    /// Creates a collection of [`small_schema`].
    pub async fn create_collection(&self, name: &str, shards: u32) -> Collection {
        let request = CreateCollectionRequest {
            name: name.to_owned(),
            schema: Some(small_schema()),
            shards,
        };
        ask!(self, CollectionsClient.create_collection(request))
            .expect("a good collection is created")
            .collection
            .expect("the answer names it")
    }

    /// Asks for segments.
    pub async fn assign(&self, items: Vec<SegmentIdRequest>) -> Vec<SegmentIdAssignment> {
        let request = AssignSegmentIdRequest {
            segment_id_requests: items,
            ..AssignSegmentIdRequest::default()
        };
        let answer =
            ask!(self, DataCoordClient.assign_segment_id(request)).expect("the call is answered");
        assert_eq!(answer.status.map(|status| status.code), Some(0));
        answer.seg_id_assignments
    }

    /// A segment with its files, dropped or not.
    pub async fn segment(&self, id: i64) -> SegmentInfo {
        let request = GetSegmentInfoRequest {
            segment_i_ds: vec![id],
            include_un_healthy: true,
            ..GetSegmentInfoRequest::default()
        };
        let answer =
            ask!(self, DataCoordClient.get_segment_info(request)).expect("the call is answered");
        answer
            .infos
            .into_iter()
            .next()
            .expect("the segment is known")
    }

    /// All segments with their files, dropped ones too, by id.
    pub async fn list_segments(&self) -> Vec<Segment> {
        let request = ListSegmentsRequest {
            include_dropped: true,
            details: true,
            ..ListSegmentsRequest::default()
        };
        let answer = ask!(self, AdminClient.list_segments(request)).expect("the call is answered");
        assert!(!answer.more);
        answer.segments
    }

    /// All channels, by name.
    pub async fn list_channels(&self) -> Vec<Channel> {
        let request = ListChannelsRequest::default();
        ask!(self, AdminClient.list_channels(request))
            .expect("the call is answered")
            .channels
    }

    /// One channel.
    pub async fn channel(&self, name: &str) -> Option<Channel> {
        let channels = self.list_channels().await;
        channels.into_iter().find(|channel| channel.name == name)
    }

    /// Registered data nodes; none when nobody answers.
    pub async fn list_nodes(&self) -> Vec<Node> {
        ask!(self, AdminClient.list_nodes(ListNodesRequest {}))
            .map(|answer| answer.nodes)
            .unwrap_or_default()
    }

    /// Waits until a channel is watched, by this node if one is named.
    pub async fn watched(&self, name: &str, node: Option<i64>) -> Channel {
        until("the channel is watched", async || {
            self.channel(name).await.filter(|channel| {
                channel.state == "Watched" && node.is_none_or(|node| channel.node_id == node)
            })
        })
        .await
    }

    /// Writes an annotation; its revision.
    pub async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> u64 {
        let request = PutRequest {
            key: key.to_owned(),
            value: value.into(),
            token: Vec::new(),
        };
        ask!(self, MetaClient.put(request))
            .expect("a good annotation is written")
            .revision
    }

    /// Reads an annotation.
    pub async fn get(&self, key: &str) -> Option<Annotation> {
        let request = GetRequest {
            key: key.to_owned(),
        };
        ask!(self, MetaClient.get(request))
            .expect("the call is answered")
            .annotation
    }

    /// Takes ids; the first of them.
    pub async fn alloc_ids(&self, count: u32) -> i64 {
        ask!(self, OracleClient.alloc_id(AllocIdRequest { count }))
            .expect("ids are given")
            .first
    }

    /// Takes timestamps; the first of them.
    pub async fn alloc_timestamps(&self, count: u32) -> u64 {
        ask!(
            self,
            OracleClient.alloc_timestamp(AllocTimestampRequest { count })
        )
        .expect("timestamps are given")
        .first
    }
}
