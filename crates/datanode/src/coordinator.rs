//! Calls to the coordinator, each with a deadline, and what their answers mean to us.

use std::time::Duration;

use quorate_rpc::proto::milvus::common::{MsgBase, MsgType};
use quorate_rpc::proto::milvus::data::data_coord_client::DataCoordClient;
use quorate_rpc::proto::milvus::data::{
    ReportDataNodeTtMsgsRequest, SaveBinlogPathsRequest, UpdateChannelCheckpointRequest,
};
use quorate_rpc::proto::quorate::node::nodes_client::NodesClient;
use quorate_rpc::proto::quorate::node::{
    GetCoverageRequest, GetCoverageResponse, HeartbeatRequest, RegisterRequest, RegisterResponse,
};
use quorate_rpc::proto::quorate::oracle::oracle_client::OracleClient;
use quorate_rpc::proto::quorate::oracle::{AllocIdRequest, AllocTimestampRequest};
use quorate_rpc::status::{self, Code, DomainError};
use quorate_rpc::{
    ChannelOptions, Client, ClientError, ClientOptions, ClientTls, ConnectError, Effect, Retry,
};

/// Deadline of calls made every tick: the next tick tries again anyway.
const TICK_CALL_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub(crate) struct Coordinator {
    client: Client,
    timeout: Duration,
}

/// How the coordinator took a save.
#[derive(Debug)]
pub(crate) enum SaveAnswer {
    /// Taken, now or by an earlier attempt.
    Saved,
    /// Refused for good. With `maybe_applied` an earlier attempt got no answer and may have been
    /// taken: what it names must be left alone.
    Refused {
        error: DomainError,
        maybe_applied: bool,
    },
    /// Not known: the same save is to be sent again.
    Open {
        error: ClientError,
        maybe_applied: bool,
    },
}

impl Coordinator {
    pub fn new(
        addresses: &[String],
        tls: Option<ClientTls>,
        timeout: Duration,
    ) -> Result<Coordinator, ConnectError> {
        let options = ClientOptions {
            deadline: timeout,
            channel: ChannelOptions {
                tls,
                ..ChannelOptions::default()
            },
            ..ClientOptions::default()
        };
        Ok(Coordinator {
            client: Client::new(addresses.iter().cloned(), options)?,
            timeout,
        })
    }

    pub async fn register(
        &self,
        address: &str,
        session: &str,
    ) -> Result<RegisterResponse, ClientError> {
        let request = RegisterRequest {
            address: address.to_owned(),
            session: session.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        self.client
            .call(Retry::Idempotent, |leader| {
                let request = request.clone();
                async move { NodesClient::new(leader).register(request).await }
            })
            .await
    }

    /// False: the node was expired.
    pub async fn heartbeat(&self, request: HeartbeatRequest) -> Result<bool, ClientError> {
        let answer = self
            .client
            .call(Retry::Idempotent, |leader| {
                let request = request.clone();
                async move { NodesClient::new(leader).heartbeat(request).await }
            })
            .await;
        match answer {
            Ok(_) => Ok(true),
            Err(error) if error.refusal() == Some(tonic::Code::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub async fn coverage(&self, channel: &str) -> Result<GetCoverageResponse, ClientError> {
        self.client
            .call(Retry::Idempotent, |leader| {
                let request = GetCoverageRequest {
                    channel: channel.to_owned(),
                    stream: Vec::new(),
                };
                async move {
                    NodesClient::new(leader)
                        .max_decoding_message_size(quorate_rpc::MAX_DECODE_BYTES)
                        .get_coverage(request)
                        .await
                }
            })
            .await
    }

    /// First of `count` fresh ids.
    pub async fn alloc_ids(&self, count: u32) -> Result<i64, ClientError> {
        let answer = self
            .client
            .call(Retry::Idempotent, |leader| async move {
                let request = AllocIdRequest { count };
                OracleClient::new(leader).alloc_id(request).await
            })
            .await?;
        Ok(answer.first)
    }

    /// A fresh timestamp, above all that were given out before.
    pub async fn alloc_timestamp(&self) -> Result<u64, ClientError> {
        let answer = self
            .client
            .call_within(TICK_CALL_TIMEOUT, Retry::Idempotent, |leader| async move {
                let request = AllocTimestampRequest { count: 1 };
                OracleClient::new(leader).alloc_timestamp(request).await
            })
            .await?;
        Ok(answer.first)
    }

    pub async fn save(&self, request: &SaveBinlogPathsRequest) -> SaveAnswer {
        let answer = self
            .client
            .call_within(self.timeout, Retry::Idempotent, |leader| {
                let request = request.clone();
                async move {
                    let reply = DataCoordClient::new(leader)
                        .max_encoding_message_size(quorate_rpc::MAX_ENCODE_BYTES)
                        .save_binlog_paths(request)
                        .await?;
                    status::checked(reply)
                }
            })
            .await;
        match answer {
            Ok(_) => SaveAnswer::Saved,
            Err(error) => {
                let maybe_applied = error.effect() == Effect::Unknown;
                match definite_refusal(&error) {
                    Some(error) => SaveAnswer::Refused {
                        error,
                        maybe_applied,
                    },
                    None => SaveAnswer::Open {
                        error,
                        maybe_applied,
                    },
                }
            }
        }
    }

    pub async fn report_ticks(
        &self,
        request: &ReportDataNodeTtMsgsRequest,
    ) -> Result<(), ClientError> {
        self.client
            .call_within(TICK_CALL_TIMEOUT, Retry::Idempotent, |leader| {
                let request = request.clone();
                async move {
                    let reply = DataCoordClient::new(leader)
                        .report_data_node_tt_msgs(request)
                        .await?;
                    status::checked(reply)
                }
            })
            .await
            .map(drop)
    }

    pub async fn update_checkpoints(
        &self,
        request: &UpdateChannelCheckpointRequest,
    ) -> Result<(), ClientError> {
        self.client
            .call_within(TICK_CALL_TIMEOUT, Retry::Idempotent, |leader| {
                let request = request.clone();
                async move {
                    let reply = DataCoordClient::new(leader)
                        .update_channel_checkpoint(request)
                        .await?;
                    status::checked(reply)
                }
            })
            .await
            .map(drop)
    }
}

/// A refusal that the same request would only get again.
fn definite_refusal(error: &ClientError) -> Option<DomainError> {
    let code = error.refusal()?;
    let status = error.status()?;
    if let Some(domain) = status::from_grpc(status) {
        return (!domain.retriable).then_some(domain);
    }
    matches!(
        code,
        tonic::Code::InvalidArgument
            | tonic::Code::FailedPrecondition
            | tonic::Code::NotFound
            | tonic::Code::OutOfRange
            | tonic::Code::AlreadyExists
    )
    .then(|| DomainError {
        code: Code::UnexpectedError.number(),
        reason: status.message().to_owned(),
        retriable: false,
    })
}

/// Header of a message from this node.
pub(crate) fn base(kind: MsgType, node_id: i64, timestamp: u64) -> MsgBase {
    MsgBase {
        msg_type: kind.into(),
        source_id: node_id,
        timestamp,
        ..MsgBase::default()
    }
}
