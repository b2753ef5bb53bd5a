//! Calls to the coordinator, each with its deadline, all safe to repeat.

use std::time::Duration;

use quorate_binlog::RowSet;
use quorate_rpc::proto::milvus::data::data_coord_client::DataCoordClient;
use quorate_rpc::proto::milvus::data::{
    AssignSegmentIdRequest, GetRecoveryInfoRequestV2, GetRecoveryInfoResponseV2,
    GetSegmentInfoRequest, SegmentIdRequest, SegmentInfo,
};
use quorate_rpc::proto::quorate::collection::collections_client::CollectionsClient;
use quorate_rpc::proto::quorate::collection::{
    Collection, CreateCollectionRequest, CreatePartitionRequest, DescribeCollectionRequest,
    Partition,
};
use quorate_rpc::proto::quorate::node::nodes_client::NodesClient;
use quorate_rpc::proto::quorate::node::{GetCoverageRequest, Grant};
use quorate_rpc::proto::quorate::oracle::AllocTimestampRequest;
use quorate_rpc::proto::quorate::oracle::oracle_client::OracleClient;
use quorate_rpc::status;
use quorate_rpc::{Client, ClientError, LeaderChannel, MAX_DECODE_BYTES, MAX_ENCODE_BYTES, Retry};

/// Segments asked for in one call.
const SEGMENTS_PER_CALL: usize = 256;
/// The role under which segments are asked for, as Milvus's proxies do.
const ROLE: &str = "proxy";

/// The coordinator as this crate sees it.
#[derive(Debug, Clone)]
pub(crate) struct Coordinator {
    client: Client,
}

/// Who owns a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) node_id: i64,
    pub(crate) address: String,
    pub(crate) epoch: i64,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "data node {} at {}", self.node_id, self.address)
    }
}

/// What is stored of a channel, and who owns it.
#[derive(Debug, Clone)]
pub(crate) struct Coverage {
    pub(crate) stored: RowSet,
    pub(crate) owner: Option<Owner>,
}

/// Why segments were not granted.
#[derive(Debug)]
pub(crate) enum AssignError {
    /// Of the call.
    Call(ClientError),
    /// Of one item of the answer.
    Item {
        /// Whether asking again cannot help.
        fatal: bool,
        message: String,
    },
}

/// Wraps a connection into a generated client with the message limits of both sides.
macro_rules! client {
    ($client:ident, $channel:expr) => {
        $client::new($channel)
            .max_decoding_message_size(MAX_DECODE_BYTES)
            .max_encoding_message_size(MAX_ENCODE_BYTES)
    };
}
pub(crate) use client;

impl Coordinator {
    pub(crate) fn new(client: &Client) -> Coordinator {
        Coordinator {
            client: client.clone(),
        }
    }

    /// Client address of the leader, as far as known.
    pub(crate) fn leader(&self) -> Option<String> {
        self.client.stats().leader
    }

    /// A collection by name; none when there is no such collection.
    pub(crate) async fn describe(&self, name: &str) -> Result<Option<Collection>, ClientError> {
        let request = DescribeCollectionRequest {
            name: name.to_owned(),
            id: 0,
        };
        let answer = self
            .client
            .call(Retry::Idempotent, |leader: LeaderChannel| {
                let request = request.clone();
                async move {
                    client!(CollectionsClient, leader)
                        .describe_collection(request)
                        .await
                }
            })
            .await;
        match answer {
            Ok(answer) => Ok(answer.collection),
            Err(error) if error.refusal() == Some(tonic::Code::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn create(
        &self,
        request: CreateCollectionRequest,
    ) -> Result<(Option<Collection>, bool), ClientError> {
        let answer = self
            .client
            .call(Retry::Idempotent, |leader: LeaderChannel| {
                let request = request.clone();
                async move {
                    client!(CollectionsClient, leader)
                        .create_collection(request)
                        .await
                }
            })
            .await?;
        Ok((answer.collection, answer.created))
    }

    pub(crate) async fn create_partition(
        &self,
        collection_id: i64,
        name: &str,
    ) -> Result<Option<Partition>, ClientError> {
        let request = CreatePartitionRequest {
            collection_id,
            name: name.to_owned(),
        };
        let answer = self
            .client
            .call(Retry::Idempotent, |leader: LeaderChannel| {
                let request = request.clone();
                async move {
                    client!(CollectionsClient, leader)
                        .create_partition(request)
                        .await
                }
            })
            .await?;
        Ok(answer.partition)
    }

    /// What is stored of one stream on a channel (of all streams when none is given).
    pub(crate) async fn coverage(
        &self,
        deadline: Duration,
        channel: &str,
        stream: &[u8],
    ) -> Result<Coverage, ClientError> {
        let request = GetCoverageRequest {
            channel: channel.to_owned(),
            stream: stream.to_vec(),
        };
        let answer = self
            .client
            .call_within(deadline, Retry::Idempotent, |leader: LeaderChannel| {
                let request = request.clone();
                async move { client!(NodesClient, leader).get_coverage(request).await }
            })
            .await?;
        let mut stored = RowSet::new();
        for range in answer.ranges.iter().filter(|range| range.stream == stream) {
            stored.insert(&range.stream, range.from, range.to);
        }
        let owner = (answer.node_id != 0 && !answer.node_address.is_empty()).then_some(Owner {
            node_id: answer.node_id,
            address: answer.node_address,
            epoch: answer.assignment_epoch,
        });
        Ok(Coverage { stored, owner })
    }

    /// Segments for some rows of a channel: grants whose counts add up to `rows`.
    pub(crate) async fn assign(
        &self,
        deadline: Duration,
        collection_id: i64,
        partition_id: i64,
        channel: &str,
        rows: u32,
    ) -> Result<Vec<Grant>, AssignError> {
        let request = AssignSegmentIdRequest {
            node_id: 0,
            peer_role: ROLE.to_owned(),
            segment_id_requests: vec![SegmentIdRequest {
                count: rows,
                channel_name: channel.to_owned(),
                collection_id,
                partition_id,
                ..Default::default()
            }],
        };
        let answer = self
            .client
            .call_within(deadline, Retry::Idempotent, |leader: LeaderChannel| {
                let request = request.clone();
                async move {
                    let answer = client!(DataCoordClient, leader)
                        .assign_segment_id(request)
                        .await?;
                    status::checked(answer)
                }
            })
            .await
            .map_err(AssignError::Call)?;
        let mut grants = Vec::with_capacity(answer.seg_id_assignments.len());
        let mut left = rows;
        for item in answer.seg_id_assignments {
            if let Err(error) = item.status.as_ref().map_or(Ok(()), status::check) {
                return Err(AssignError::Item {
                    fatal: !error.retriable
                        && error.code().is_some_and(|code| is_final(code.grpc())),
                    message: error.to_string(),
                });
            }
            // More than was asked for is left unused; it expires by itself.
            let count = item.count.min(left);
            left -= count;
            if count > 0 {
                grants.push(Grant {
                    segment_id: item.seg_id,
                    rows: count,
                    expire_ts: item.expire_time,
                });
            }
        }
        if left > 0 {
            // The coordinator grants nothing, with success, for a collection that is not there.
            let dropped = left == rows && self.is_gone(deadline, collection_id).await;
            return Err(AssignError::Item {
                fatal: dropped,
                message: if dropped {
                    "the collection was dropped".to_owned()
                } else {
                    format!("segments for {} of {rows} rows were granted", rows - left)
                },
            });
        }
        Ok(grants)
    }

    /// Whether there surely is no such collection any more.
    async fn is_gone(&self, deadline: Duration, collection_id: i64) -> bool {
        let answer = self
            .client
            .call_within(
                deadline,
                Retry::Idempotent,
                |leader: LeaderChannel| async move {
                    let request = DescribeCollectionRequest {
                        name: String::new(),
                        id: collection_id,
                    };
                    client!(CollectionsClient, leader)
                        .describe_collection(request)
                        .await
                },
            )
            .await;
        answer.is_err_and(|error| error.refusal() == Some(tonic::Code::NotFound))
    }

    pub(crate) async fn timestamp(&self, deadline: Duration) -> Result<u64, ClientError> {
        let answer = self
            .client
            .call_within(
                deadline,
                Retry::Idempotent,
                |leader: LeaderChannel| async move {
                    client!(OracleClient, leader)
                        .alloc_timestamp(AllocTimestampRequest { count: 1 })
                        .await
                },
            )
            .await?;
        Ok(answer.first)
    }

    pub(crate) async fn recovery_info(
        &self,
        collection_id: i64,
    ) -> Result<GetRecoveryInfoResponseV2, ClientError> {
        self.client
            .call(Retry::Idempotent, |leader: LeaderChannel| async move {
                let request = GetRecoveryInfoRequestV2 {
                    collection_id,
                    ..Default::default()
                };
                let answer = client!(DataCoordClient, leader)
                    .get_recovery_info_v2(request)
                    .await?;
                status::checked(answer)
            })
            .await
    }

    /// Segments by id, with their binlogs; dropped ones too, as long as they are remembered: a
    /// segment named a moment ago may have been compacted since, and a reader may still read it.
    pub(crate) async fn segments(&self, ids: &[i64]) -> Result<Vec<SegmentInfo>, ClientError> {
        let mut infos = Vec::with_capacity(ids.len());
        for ids in ids.chunks(SEGMENTS_PER_CALL) {
            let answer = self
                .client
                .call(Retry::Idempotent, |leader: LeaderChannel| {
                    let request = GetSegmentInfoRequest {
                        segment_i_ds: ids.to_vec(),
                        include_un_healthy: true,
                        ..Default::default()
                    };
                    async move {
                        let answer = client!(DataCoordClient, leader)
                            .get_segment_info(request)
                            .await?;
                        status::checked(answer)
                    }
                })
                .await?;
            infos.extend(answer.infos);
        }
        Ok(infos)
    }
}

/// Whether a refusal is for good: the same call can only get it again.
pub(crate) fn is_final(code: tonic::Code) -> bool {
    use tonic::Code;
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::PermissionDenied
            | Code::Unauthenticated
    )
}

/// Whether a failed call would fail the same way for ever.
pub(crate) fn is_final_error(error: &ClientError) -> bool {
    matches!(error, ClientError::Address(_)) || error.refusal().is_some_and(is_final)
}
