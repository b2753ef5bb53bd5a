//! Calls to the data node that owns a channel, and what their failures mean to a writer.

use std::time::Duration;

use quorate_rpc::channel::{self, ChannelOptions};
use quorate_rpc::headers;
use quorate_rpc::proto::quorate::node::rows_client::RowsClient;
use quorate_rpc::proto::quorate::node::{
    DeleteRequest, DeleteResponse, InsertRequest, InsertResponse, SyncRequest, SyncResponse,
};
use quorate_rpc::{MAX_DECODE_BYTES, MAX_ENCODE_BYTES};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::coordinator::{Owner, client};

/// How long one insert or delete may take.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// Why a data node did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The timestamp is behind the channel's time tick: take new segments and a new timestamp.
    Late(String),
    /// Its buffers are full: try again later.
    Busy(String),
    /// It is not the owner, or not there: look the owner up again.
    Lost(String),
    /// The request is wrong; repeating it cannot help.
    Refused(String),
}

/// A connection to the owner of a channel, opened by the first call.
#[derive(Debug, Clone)]
pub(crate) struct OwnerConnection {
    pub(crate) owner: Owner,
    rows: RowsClient<Channel>,
}

impl OwnerConnection {
    pub(crate) fn new(owner: Owner) -> Result<OwnerConnection, Denied> {
        let channel = channel::connect_lazy(&owner.address, &ChannelOptions::default())
            .map_err(|error| Denied::Lost(error.to_string()))?;
        Ok(OwnerConnection {
            owner,
            rows: client!(RowsClient, channel),
        })
    }

    pub(crate) async fn insert(&self, request: InsertRequest) -> Result<InsertResponse, Denied> {
        let mut rows = self.rows.clone();
        let call = rows.insert(timed(request, WRITE_DEADLINE));
        answered(WRITE_DEADLINE, call).await
    }

    pub(crate) async fn delete(&self, request: DeleteRequest) -> Result<DeleteResponse, Denied> {
        let mut rows = self.rows.clone();
        let call = rows.delete(timed(request, WRITE_DEADLINE));
        answered(WRITE_DEADLINE, call).await
    }

    /// Has the owner store all it has taken of a channel.
    pub(crate) async fn sync(
        &self,
        channel: &str,
        deadline: Duration,
    ) -> Result<SyncResponse, Denied> {
        let request = SyncRequest {
            channels: vec![channel.to_owned()],
        };
        let mut rows = self.rows.clone();
        let call = rows.sync(timed(request, deadline));
        answered(deadline, call).await
    }
}

fn timed<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

/// The node may hang, so the deadline is kept on this side too.
async fn answered<T>(
    deadline: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Denied> {
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(denied(&status)),
        Err(_) => Err(Denied::Lost(format!("no answer within {deadline:.1?}"))),
    }
}

fn denied(status: &Status) -> Denied {
    let message = match status.message() {
        "" => status.code().description().to_lowercase(),
        message => message.to_owned(),
    };
    match status.code() {
        Code::FailedPrecondition if status.metadata().contains_key(headers::LATE) => {
            Denied::Late(message)
        }
        Code::ResourceExhausted => Denied::Busy(message),
        Code::InvalidArgument
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::PermissionDenied
        | Code::Unauthenticated => Denied::Refused(message),
        // Everything else may be different at the next attempt: another owner, another start.
        _ => Denied::Lost(message),
    }
}
