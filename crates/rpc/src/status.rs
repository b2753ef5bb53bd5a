//! The one table of status codes: Milvus's numbers, whether a caller may try again, the older
//! `error_code` enum beside them, and the gRPC code used where there is no status in the body.
//!
//! Milvus's services answer gRPC OK with a [`common::Status`] in the body; our own services answer
//! with a gRPC status that carries the same number in its metadata.

use tonic::metadata::MetadataValue;

use crate::headers;
use crate::proto::milvus::common::{self, ErrorCode};
use crate::proto::milvus::{data, index, milvus};

/// Defines [`Code`] and its properties from one table.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $wire:literal, $retriable:literal, $legacy:ident, $grpc:ident;)*) => {
        /// A status code of Milvus.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i32)]
        pub enum Code {
            $($(#[$doc])* $name = $number,)*
        }

        impl Code {
            /// Every code of the table.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The code of a number, when it is in the table.
            pub fn from_number(number: i32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Milvus's name for the code.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $wire,)* }
            }

            /// Whether the same call may succeed when it is simply repeated.
            pub fn retriable(self) -> bool {
                match self { $(Self::$name => $retriable,)* }
            }

            /// The older enum that goes with the code, for clients that look only at it.
            pub fn legacy(self) -> ErrorCode {
                match self { $(Self::$name => ErrorCode::$legacy,)* }
            }

            /// The gRPC code of the same meaning.
            pub fn grpc(self) -> tonic::Code {
                match self { $(Self::$name => tonic::Code::$grpc,)* }
            }
        }
    };
}

codes! {
    /// No error.
    Success = 0, "Success", false, Success, Ok;
    /// Starting, or standing by.
    ServiceNotReady = 1, "ServiceNotReady", true, NotReadyServe, Unavailable;
    /// No leader, or no quorum.
    ServiceUnavailable = 2, "ServiceUnavailable", true, UnexpectedError, Unavailable;
    /// Not enough memory for the request.
    ServiceMemoryLimitExceeded = 3, "ServiceMemoryLimitExceeded", false, InsufficientMemoryToLoad, ResourceExhausted;
    /// Something is wrong with the service itself.
    ServiceInternal = 5, "ServiceInternal", false, UnexpectedError, Internal;
    /// The caller meant another cluster.
    ServiceCrossClusterRouting = 6, "ServiceCrossClusterRouting", false, UnexpectedError, FailedPrecondition;
    /// The disk is full.
    ServiceDiskLimitExceeded = 7, "ServiceDiskLimitExceeded", false, DiskQuotaExhausted, ResourceExhausted;
    /// Overloaded: a queue is at its limit.
    TooManyRequests = 8, "ServiceRateLimit", true, RateLimit, ResourceExhausted;
    /// A quota forbids the request.
    ServiceQuotaExceeded = 9, "ServiceQuotaExceeded", false, ForceDeny, ResourceExhausted;
    /// The method, or this use of it, is not supported.
    ServiceUnimplemented = 10, "ServiceUnimplemented", false, UnexpectedError, Unimplemented;
    /// Not enough nodes or memory just now.
    ServiceResourceInsufficient = 12, "ServiceResourceInsufficient", true, UnexpectedError, ResourceExhausted;
    /// No such collection.
    CollectionNotFound = 100, "CollectionNotFound", false, CollectionNotExists, NotFound;
    /// There are as many collections as there may be.
    CollectionNumLimitExceeded = 102, "CollectionNumLimitExceeded", false, UnexpectedError, ResourceExhausted;
    /// The schema breaks a rule.
    CollectionIllegalSchema = 105, "CollectionIllegalSchema", false, UnexpectedError, InvalidArgument;
    /// The collection exists with another schema.
    CollectionSchemaMismatch = 109, "CollectionSchemaMismatch", false, UnexpectedError, AlreadyExists;
    /// No such partition.
    PartitionNotFound = 200, "PartitionNotFound", false, MetaFailed, NotFound;
    /// A limit on objects of a kind is reached.
    GeneralCapacityExceeded = 250, "GeneralCapacityExceeded", false, UnexpectedError, ResourceExhausted;
    /// No such channel, or the caller does not own it.
    ChannelNotFound = 500, "ChannelNotFound", false, UnexpectedError, NotFound;
    /// A channel of the collection is missing.
    ChannelLack = 501, "ChannelLack", false, MetaFailed, NotFound;
    /// The channel has no position to start from, or no owner.
    ChannelNotAvailable = 503, "ChannelNotAvailable", false, NoReplicaAvailable, FailedPrecondition;
    /// No such segment.
    SegmentNotFound = 600, "SegmentNotFound", false, SegmentNotFound, NotFound;
    /// A segment of that id exists and is another one.
    SegmentReduplicate = 603, "SegmentReduplicate", false, UnexpectedError, AlreadyExists;
    /// No such index.
    IndexNotFound = 700, "IndexNotFound", false, IndexNotExist, NotFound;
    /// No such node.
    NodeNotFound = 901, "NodeNotFound", false, UnexpectedError, NotFound;
    /// The node's lease has ended.
    NodeOffline = 902, "NodeOffline", false, UnexpectedError, FailedPrecondition;
    /// No node is there.
    NodeLack = 903, "NodeLack", false, UnexpectedError, FailedPrecondition;
    /// The caller meant another node.
    NodeNotMatch = 904, "NodeNotMatch", false, NodeIdNotMatch, FailedPrecondition;
    /// The node cannot be used.
    NodeNotAvailable = 905, "NodeNotAvailable", false, NoReplicaAvailable, FailedPrecondition;
    /// Reading or writing an object failed.
    IoFailed = 1001, "IoFailed", false, UnexpectedError, Internal;
    /// A parameter breaks a rule.
    ParameterInvalid = 1100, "ParameterInvalid", false, IllegalArgument, InvalidArgument;
    /// A parameter is missing.
    ParameterMissing = 1101, "ParameterMissing", false, UnexpectedError, InvalidArgument;
    /// A parameter or message is too large.
    ParameterTooLarge = 1102, "ParameterTooLarge", false, UnexpectedError, InvalidArgument;
    /// No such metric.
    MetricNotFound = 1200, "MetricNotFound", false, UnexpectedError, NotFound;
    /// The caller went away.
    Canceled = 10000, "Canceled", false, UnexpectedError, Cancelled;
    /// No outcome in time: it may have been applied. Retriable here, unlike in Milvus, because
    /// whatever answers it is safe to repeat.
    Timeout = 10001, "Timeout", true, UnexpectedError, DeadlineExceeded;
    /// Everything that has no code of its own.
    UnexpectedError = 65535, "Unexpected", false, UnexpectedError, FailedPrecondition;
}

impl Code {
    /// The number on the wire.
    pub fn number(self) -> i32 {
        self as i32
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name(), self.number())
    }
}

/// A refusal as it came over the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (code {code})")]
pub struct DomainError {
    /// The number; newer servers may send some that are not in the table.
    pub code: i32,
    /// What the server says.
    pub reason: String,
    /// Whether the server says that the call may be repeated.
    pub retriable: bool,
}

impl DomainError {
    /// Whether the refusal has this code.
    pub fn is(&self, code: Code) -> bool {
        self.code == code.number()
    }

    /// The code, when it is in the table.
    pub fn code(&self) -> Option<Code> {
        Code::from_number(self.code)
    }
}

/// Success, which is the empty message.
pub fn ok() -> common::Status {
    common::Status::default()
}

/// A refusal for the body of a reply of a Milvus service.
pub fn fail(code: Code, reason: impl Into<String>) -> common::Status {
    let reason = reason.into();
    common::Status {
        error_code: code.legacy().into(),
        code: code.number(),
        retriable: code.retriable(),
        detail: reason.clone(),
        reason,
        ..Default::default()
    }
}

/// What the status in the body of a reply means.
///
/// ```
/// use quorate_rpc::status::{Code, check, fail, ok};
///
/// assert!(check(&ok()).is_ok());
/// let error = check(&fail(Code::SegmentNotFound, "segment not found[segment=7]")).unwrap_err();
/// assert!(error.is(Code::SegmentNotFound) && !error.retriable);
/// ```
pub fn check(status: &common::Status) -> Result<(), DomainError> {
    let code = match (status.code, status.error_code) {
        (0, 0) => return Ok(()),
        // Some answers of Milvus set the older enum alone.
        (0, _) => Code::UnexpectedError.number(),
        (code, _) => code,
    };
    let reason = if status.reason.is_empty() {
        Code::from_number(code).map_or_else(|| "no reason given".to_owned(), |c| c.to_string())
    } else {
        status.reason.clone()
    };
    Err(DomainError {
        code,
        reason,
        retriable: status.retriable,
    })
}

/// A reply with a status in its body.
pub trait Answer {
    /// The status; none counts as success, as an empty one does.
    fn status(&self) -> Option<&common::Status>;
}

impl Answer for common::Status {
    fn status(&self) -> Option<&common::Status> {
        Some(self)
    }
}

macro_rules! answers {
    ($($message:path),* $(,)?) => {
        $(impl Answer for $message {
            fn status(&self) -> Option<&common::Status> {
                self.status.as_ref()
            }
        })*
    };
}

answers! {
    data::AssignSegmentIdResponse,
    data::ChannelOperationProgressResponse,
    data::CompactionStateResponse,
    data::DropVirtualChannelResponse,
    data::FlushResponse,
    data::GcConfirmResponse,
    data::GetRecoveryInfoResponseV2,
    data::GetSegmentInfoResponse,
    data::GetSegmentStatesResponse,
    data::WatchChannelsResponse,
    index::DescribeIndexResponse,
    index::GetIndexBuildProgressResponse,
    index::GetIndexInfoResponse,
    index::GetIndexStateResponse,
    index::GetIndexStatisticsResponse,
    index::GetSegmentIndexStateResponse,
    index::QueryJobsResponse,
    milvus::ComponentStates,
    milvus::GetCompactionPlansResponse,
    milvus::GetCompactionStateResponse,
    milvus::GetFlushStateResponse,
    milvus::ManualCompactionResponse,
}

/// Turns a refusal in the body of a reply into a gRPC status, so that a
/// [`Client`](crate::Client) sees it and repeats the call when the refusal is retriable.
pub fn checked<T: Answer>(
    response: tonic::Response<T>,
) -> Result<tonic::Response<T>, tonic::Status> {
    match response.get_ref().status().map_or(Ok(()), check) {
        Ok(()) => Ok(response),
        Err(error) => Err(from_domain(&error, response.metadata())),
    }
}

/// The gRPC status of a refusal; a code that is not in the table counts by its retriable flag.
fn from_domain(error: &DomainError, metadata: &tonic::metadata::MetadataMap) -> tonic::Status {
    let grpc = match error.code() {
        Some(code) => code.grpc(),
        None if error.retriable => tonic::Code::Unavailable,
        None => tonic::Code::FailedPrecondition,
    };
    let mut status = tonic::Status::with_metadata(grpc, error.reason.clone(), metadata.clone());
    status
        .metadata_mut()
        .insert(headers::CODE, MetadataValue::from(error.code));
    status
}

/// A refusal of one of our own services: the gRPC code of `code`, and its number in the metadata.
pub fn to_grpc(code: Code, reason: impl Into<String>) -> tonic::Status {
    let mut status = tonic::Status::new(code.grpc(), reason);
    status
        .metadata_mut()
        .insert(headers::CODE, MetadataValue::from(code.number()));
    status
}

/// The refusal in a gRPC status made by [`to_grpc`]; none when it carries no number, because it
/// comes from the transport or from another server.
pub fn from_grpc(status: &tonic::Status) -> Option<DomainError> {
    let number = status.metadata().get(headers::CODE)?.to_str().ok()?;
    let code: i32 = number.parse().ok()?;
    Some(DomainError {
        code,
        reason: status.message().to_owned(),
        retriable: Code::from_number(code).is_some_and(Code::retriable),
    })
}

/// Marks a refusal as made before anything was proposed: the call surely had no effect.
pub fn not_applied(mut status: tonic::Status) -> tonic::Status {
    status
        .metadata_mut()
        .insert(headers::NOT_APPLIED, MetadataValue::from_static("1"));
    status
}

/// Names the leader in a refusal, so that the caller can go there.
pub fn with_leader(mut status: tonic::Status, client_address: &str) -> tonic::Status {
    // An address that cannot be a header value is no address; the caller searches by itself.
    if let Ok(value) = client_address.parse() {
        status.metadata_mut().insert(headers::LEADER, value);
    }
    status
}

#[cfg(test)]
mod tests;
