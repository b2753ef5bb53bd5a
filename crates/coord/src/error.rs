//! What can go wrong with a call, and how a client is told.

use quorate_meta::Reason;
use quorate_rpc::proto::milvus::common;
use quorate_rpc::status::{self, Code};

/// Why a call was not answered as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoordError {
    /// Another replica leads, or none.
    #[error("this replica does not lead; {}", hint.as_deref().map_or("no leader is known".to_owned(), |leader| format!("ask {leader}")))]
    NotLeader {
        /// Client address of the leader, where known.
        hint: Option<String>,
    },
    /// The leader is still starting, or its lease ran out.
    #[error("leader is not ready: {0}; try again")]
    NotReady(String),
    /// Too much is waiting already.
    #[error("overloaded: {0}; try again later")]
    Overloaded(String),
    /// The command may or may not have been carried out.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// A rule of the domain says no.
    #[error("{1}")]
    Rejected(Reason, String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// No such index, with the name that was asked for.
    #[error("index not found[indexName={0}]")]
    IndexNotFound(String),
    /// Switched off by the settings.
    #[error("{0}")]
    Disabled(String),
    /// Something is broken here.
    #[error("internal error: {0}")]
    Internal(String),
}

impl CoordError {
    /// The Milvus code for this error.
    pub fn code(&self) -> Code {
        match self {
            Self::NotLeader { .. } | Self::NotReady(_) => Code::ServiceNotReady,
            Self::Overloaded(_) => Code::TooManyRequests,
            Self::Unknown(_) => Code::Timeout,
            Self::Invalid(_) => Code::ParameterInvalid,
            Self::Internal(_) => Code::ServiceInternal,
            Self::IndexNotFound(_) => Code::IndexNotFound,
            Self::Disabled(_) => Code::ServiceUnavailable,
            Self::Rejected(reason, _) => match reason {
                Reason::CollectionNotFound => Code::CollectionNotFound,
                Reason::PartitionNotFound => Code::PartitionNotFound,
                Reason::ChannelNotFound => Code::ChannelNotFound,
                Reason::SegmentNotFound => Code::SegmentNotFound,
                Reason::NodeNotFound => Code::NodeNotFound,
                Reason::Invalid | Reason::Exists => Code::ParameterInvalid,
                Reason::OverLimit => Code::ServiceQuotaExceeded,
                Reason::Fenced | Reason::FilesChanged => Code::ServiceNotReady,
                Reason::RowsStored | Reason::IllegalState => Code::UnexpectedError,
            },
        }
    }

    /// Whether the leader must be looked for again: such errors travel as gRPC errors everywhere,
    /// so that clients and forwarders go elsewhere.
    pub fn is_transport(&self) -> bool {
        matches!(
            self,
            Self::NotLeader { .. } | Self::NotReady(_) | Self::Unknown(_)
        )
    }

    /// As a gRPC status, for our own services.
    pub fn to_grpc(&self) -> tonic::Status {
        let text = self.to_string();
        match self {
            Self::NotLeader { hint } => {
                let refusal = status::not_applied(tonic::Status::unavailable(text));
                match hint {
                    Some(leader) => status::with_leader(refusal, leader),
                    None => refusal,
                }
            }
            Self::NotReady(_) => status::not_applied(tonic::Status::unavailable(text)),
            Self::Overloaded(_) => status::not_applied(status::to_grpc(self.code(), text)),
            Self::Unknown(_) => tonic::Status::deadline_exceeded(text),
            Self::Rejected(Reason::Exists, _) => tonic::Status::already_exists(text),
            _ => status::to_grpc(self.code(), text),
        }
    }

    /// As a Milvus status body. Domain refusals are gRPC OK with such a body, as in Milvus.
    pub fn to_body(&self) -> common::Status {
        status::fail(self.code(), self.to_string())
    }
}

/// Results of the coordinator.
pub type Result<T> = std::result::Result<T, CoordError>;
