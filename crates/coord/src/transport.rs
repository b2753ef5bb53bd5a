//! openraft's network on top of a link that carries opaque bytes between members: gRPC in
//! production, simulated messages in the simulation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory};
use quorate_raft_store::codec;
use quorate_raft_store::{Member, NodeId, SnapshotData, SnapshotMeta, TypeConfig, Vote};

/// Why a message got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct LinkError {
    /// For logs.
    pub reason: String,
    /// Nobody is there: worth a pause before the next try.
    pub unreachable: bool,
}

/// What a short call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// RequestVote.
    Vote,
    /// The same without a change of term.
    PreVote,
    /// Hand leadership over.
    TransferLeader,
}

/// A way to one other member.
#[async_trait]
pub trait Link: Send + Sync + 'static {
    /// One short call.
    async fn call(
        &self,
        kind: CallKind,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, LinkError>;

    /// A pipeline of appends; answers come in the order of the requests.
    async fn append(
        &self,
        bodies: BoxStream<'static, Bytes>,
        timeout: Duration,
    ) -> Result<BoxStream<'static, Result<Bytes, LinkError>>, LinkError>;

    /// A whole snapshot.
    async fn install_snapshot(
        &self,
        vote: Bytes,
        meta: Bytes,
        chunks: BoxStream<'static, Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, LinkError>;
}

/// Makes links.
pub trait Links: Send + Sync + 'static {
    /// A link to a member. Connections are opened by their first use.
    fn link(&self, target: NodeId, member: &Member) -> Arc<dyn Link>;
}

/// openraft's factory of connections.
#[derive(Clone)]
pub struct Network {
    links: Arc<dyn Links>,
    chunk_bytes: usize,
    snapshot_timeout: Duration,
}

impl Network {
    /// A network over these links.
    pub fn new(links: Arc<dyn Links>) -> Self {
        Self {
            links,
            chunk_bytes: 256 << 10,
            snapshot_timeout: Duration::from_secs(600),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Connection {
        Connection {
            link: self.links.link(target, node),
            chunk_bytes: self.chunk_bytes,
            snapshot_timeout: self.snapshot_timeout,
        }
    }
}

/// A connection to one member.
pub struct Connection {
    link: Arc<dyn Link>,
    chunk_bytes: usize,
    snapshot_timeout: Duration,
}

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

fn rpc_error(error: &LinkError) -> RPCError<TypeConfig> {
    if error.unreachable {
        RPCError::Unreachable(Unreachable::new(error))
    } else {
        RPCError::Network(NetworkError::new(error))
    }
}

fn malformed(error: &codec::CodecError) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(error))
}

/// Whether the entries of a request go on right behind the one it says comes before them.
///
/// openraft may purge its log under a replication that it has given up but that goes on: what
/// that one reads then begins behind a gap. The follower would stop at it (found by the
/// simulation, seeds 313 and 328).
fn follows_its_predecessor(request: &AppendEntriesRequest<TypeConfig>) -> bool {
    let next = request
        .prev_log_id
        .map_or(0, |id| id.index.saturating_add(1));
    request
        .entries
        .first()
        .is_none_or(|first| first.log_id.index == next)
}

fn log_was_purged() -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(&LinkError {
        reason: "the log was purged while it was being sent; the follower needs newer entries or \
                 a snapshot"
            .to_owned(),
        unreachable: false,
    }))
}

impl NetBackoff<TypeConfig> for Connection {
    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

impl NetVote<TypeConfig> for Connection {
    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        self.ask(CallKind::Vote, &rpc, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        self.ask(CallKind::PreVote, &rpc, &option).await
    }
}

impl Connection {
    async fn ask(
        &self,
        kind: CallKind,
        rpc: &VoteRequest<TypeConfig>,
        option: &RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let body = codec::encode_vote_request(rpc);
        let answer = self
            .link
            .call(kind, body, option.hard_ttl())
            .await
            .map_err(|error| rpc_error(&error))?;
        codec::decode_vote_response(&answer).map_err(|error| malformed(&error))
    }
}

impl NetTransferLeader<TypeConfig> for Connection {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        let body = codec::encode_transfer_request(&req);
        let answer = self
            .link
            .call(CallKind::TransferLeader, body, option.hard_ttl())
            .await
            .map_err(|error| rpc_error(&error))?;
        codec::decode_transfer_response(&answer).map_err(|error| malformed(&error))
    }
}

impl NetStreamAppend<TypeConfig> for Connection {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> futures::future::BoxFuture<
        's,
        RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<TypeConfig>>>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let purged = Arc::new(AtomicBool::new(false));
            let found = purged.clone();
            let bodies = input.scan((), move |(), request| {
                let whole = follows_its_predecessor(&request);
                found.fetch_or(!whole, Ordering::Relaxed);
                std::future::ready(whole.then(|| codec::encode_append_request(&request)))
            });
            let answers = self
                .link
                .append(bodies.boxed(), option.hard_ttl())
                .await
                .map_err(|error| rpc_error(&error))?;
            let answers = answers.map(|answer| {
                let body = answer.map_err(|error| rpc_error(&error))?;
                codec::decode_stream_append(&body).map_err(|error| malformed(&error))
            });
            // An error, not an end: after an end openraft would send the same again.
            let ended = futures::stream::once(async move {
                purged
                    .load(Ordering::Relaxed)
                    .then(|| Err(log_was_purged()))
            });
            let ended = ended.filter_map(std::future::ready);
            Ok(answers.chain(ended).boxed())
        })
    }
}

impl NetSnapshot<TypeConfig> for Connection {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let meta: SnapshotMeta = snapshot.meta.clone();
        // Reading stops at the first error; the receiver misses the last chunk and refuses it all.
        let reader = snapshot.snapshot.reader(self.chunk_bytes);
        let chunks = futures::stream::unfold(reader, |mut reader| async move {
            match reader.next_chunk() {
                Ok(Some(chunk)) => Some((chunk, reader)),
                Ok(None) => None,
                Err(error) => {
                    tracing::error!(%error, "snapshot cannot be read; sending it stops");
                    None
                }
            }
        });
        let sending = self.link.install_snapshot(
            codec::encode_vote(&vote),
            codec::encode_snapshot_meta(&meta),
            chunks.boxed(),
            self.snapshot_timeout,
        );
        tokio::select! {
            biased;
            answer = sending => {
                let answer = answer.map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))?;
                codec::decode_snapshot_response(&answer)
                    .map_err(|error| StreamingError::Network(NetworkError::new(&error)))
            }
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_raft_store::types::log_id;
    use quorate_raft_store::{Entry, EntryPayload};

    use super::*;

    fn request(prev: Option<u64>, first: Option<u64>) -> AppendEntriesRequest<TypeConfig> {
        AppendEntriesRequest {
            vote: Vote::new(1, 1),
            prev_log_id: prev.map(|index| log_id(1, index)),
            entries: first
                .map(|index| Entry {
                    log_id: log_id(1, index),
                    payload: EntryPayload::Blank,
                })
                .into_iter()
                .collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn a_gap_behind_the_predecessor_is_noticed() {
        assert!(follows_its_predecessor(&request(Some(240), Some(241))));
        assert!(follows_its_predecessor(&request(Some(240), None)));
        assert!(follows_its_predecessor(&request(None, Some(0))));
        assert!(!follows_its_predecessor(&request(Some(240), Some(260))));
        assert!(!follows_its_predecessor(&request(None, Some(5))));
    }
}
