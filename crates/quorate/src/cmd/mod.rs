//! One module per command family. Each has its arguments and `run`, which asks the cluster and
//! builds the answer.

pub(crate) mod bench;
pub(crate) mod certs;
pub(crate) mod channels;
pub(crate) mod check;
pub(crate) mod collections;
pub(crate) mod compact;
pub(crate) mod compactions;
pub(crate) mod datanode;
pub(crate) mod delete;
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod flush;
pub(crate) mod gc;
pub(crate) mod index;
pub(crate) mod ingest;
pub(crate) mod init;
pub(crate) mod inventory;
pub(crate) mod member;
pub(crate) mod meta;
pub(crate) mod nodes;
pub(crate) mod partitions;
pub(crate) mod search;
pub(crate) mod segments;
pub(crate) mod server;
pub(crate) mod soak;
mod source;
pub(crate) mod status;
pub(crate) mod verify;

use quorate_rpc::proto::milvus::data::data_coord_client::DataCoordClient;
use quorate_rpc::proto::quorate::admin::admin_client::AdminClient;
use quorate_rpc::proto::quorate::collection::collections_client::CollectionsClient;
use quorate_rpc::proto::quorate::collection::{Collection, DescribeCollectionRequest};
use quorate_rpc::{Client, ClientError, LeaderChannel, MAX_DECODE_BYTES, Retry};
use tonic::Request;

use crate::error::CliError;

fn admin(leader: LeaderChannel) -> AdminClient<LeaderChannel> {
    AdminClient::new(leader).max_decoding_message_size(MAX_DECODE_BYTES)
}

fn collections_client(leader: LeaderChannel) -> CollectionsClient<LeaderChannel> {
    CollectionsClient::new(leader).max_decoding_message_size(MAX_DECODE_BYTES)
}

fn data_coord(leader: LeaderChannel) -> DataCoordClient<LeaderChannel> {
    DataCoordClient::new(leader).max_decoding_message_size(MAX_DECODE_BYTES)
}

/// A collection given by name, or by id when it is a number: no name begins with a digit.
fn name_or_id(text: &str) -> (String, i64) {
    match text.parse() {
        Ok(id) => (String::new(), id),
        Err(_) => (text.to_owned(), 0),
    }
}

/// Looks up a collection by name or id.
async fn describe(client: &Client, name: &str) -> Result<Collection, CliError> {
    let (name_asked, id) = name_or_id(name);
    let request = DescribeCollectionRequest {
        name: name_asked,
        id,
    };
    let reply = client
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move {
                collections_client(leader)
                    .describe_collection(request)
                    .await
            }
        })
        .await;
    let missing = || CliError::failed(anyhow::anyhow!("there is no collection {name}"));
    match reply {
        Ok(reply) => reply.collection.ok_or_else(missing),
        Err(error) if error.refusal() == Some(tonic::Code::NotFound) => {
            Err(missing().hint("quorate collections list shows what there is"))
        }
        Err(error) => Err(error.into()),
    }
}

/// The id of a collection given by name or id; 0, which means all, when none is given. An id is
/// taken as it is, so that what is left of a dropped collection can be looked at.
async fn collection_id(client: &Client, name: Option<&str>) -> Result<i64, CliError> {
    match name.map(name_or_id) {
        None => Ok(0),
        Some((name, _)) if !name.is_empty() => Ok(describe(client, &name).await?.id),
        Some((_, id)) => Ok(id),
    }
}

/// A request with a deadline of its own.
fn within<T>(message: T, timeout: std::time::Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// A refusal of one given replica as an error of the command.
fn refused(status: tonic::Status) -> CliError {
    match status.code() {
        tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => {
            CliError::unavailable(ClientError::Refused(status))
        }
        _ => ClientError::Refused(status).into(),
    }
}

/// A collection that cannot be used; unavailable when the cluster could not be asked for it.
fn collection_error(error: quorate_ingest::CollectionError) -> CliError {
    match &error {
        quorate_ingest::CollectionError::Coordinator { source, .. }
            if source.refusal().is_none() =>
        {
            CliError::unavailable(error)
        }
        _ => CliError::failed(error),
    }
}
