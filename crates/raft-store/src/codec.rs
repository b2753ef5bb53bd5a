//! Protobuf round trips of what is stored and what is said to peers.
//!
//! Invariants: decoders are total (any bytes give `Ok` or `Err`), encoders are
//! deterministic (equal values give equal bytes), and an entry of a kind this
//! release does not know is an error, never skipped.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use prost::Message;

use crate::types::{
    Entry, EntryPayload, LogId, Member, Membership, Payload, SnapshotMeta, StoredMembership,
    TypeConfig, Vote, log_id, term_of,
};

pub(crate) mod proto {
    #![allow(missing_docs, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/quorate.raft.v1.rs"));
}

/// Why bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Not protobuf, or cut short.
    #[error("malformed message")]
    Malformed(#[from] prost::DecodeError),
    /// A part that must be there is not: damage, or a kind from a newer release.
    #[error("{0} is missing or of a kind this release does not know; upgrade this member")]
    Missing(&'static str),
    /// A membership that contradicts itself.
    #[error("invalid membership: {0}")]
    Membership(String),
}

type Result<T> = std::result::Result<T, CodecError>;

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

fn bytes_of(message: &impl Message) -> Bytes {
    Bytes::from(message.encode_to_vec())
}

fn put_id(id: &LogId) -> proto::LogId {
    proto::LogId {
        term: term_of(id),
        index: id.index,
    }
}

pub(crate) fn put_opt_id(id: &Option<LogId>) -> Option<proto::LogId> {
    id.as_ref().map(put_id)
}

fn get_id(id: proto::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub(crate) fn get_opt_id(id: Option<proto::LogId>) -> Option<LogId> {
    id.map(get_id)
}

fn put_vote(vote: &Vote) -> proto::Vote {
    proto::Vote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

fn get_vote(vote: Option<proto::Vote>) -> Result<Vote> {
    let vote = vote.ok_or(CodecError::Missing("the vote"))?;
    Ok(if vote.committed {
        Vote::new_committed(vote.term, vote.node_id)
    } else {
        Vote::new(vote.term, vote.node_id)
    })
}

fn put_membership(membership: &Membership) -> proto::Membership {
    proto::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|set| proto::VoterSet {
                node_ids: set.iter().copied().collect(),
            })
            .collect(),
        members: membership
            .nodes()
            .map(|(id, member)| proto::Member {
                node_id: *id,
                peer_addr: member.peer_addr.clone(),
                client_addr: member.client_addr.clone(),
            })
            .collect(),
    }
}

fn get_membership(membership: proto::Membership) -> Result<Membership> {
    let configs: Vec<BTreeSet<u64>> = membership
        .configs
        .into_iter()
        .map(|set| set.node_ids.into_iter().collect())
        .collect();
    let mut members = BTreeMap::new();
    for member in membership.members {
        let id = member.node_id;
        let value = Member {
            peer_addr: member.peer_addr,
            client_addr: member.client_addr,
        };
        if members.insert(id, value).is_some() {
            return Err(CodecError::Membership(format!("node {id} is listed twice")));
        }
    }
    Membership::new(configs, members).map_err(|e| CodecError::Membership(e.to_string()))
}

pub(crate) fn put_stored_membership(stored: &StoredMembership) -> proto::StoredMembership {
    proto::StoredMembership {
        log_id: put_opt_id(stored.log_id()),
        membership: Some(put_membership(stored.membership())),
    }
}

pub(crate) fn get_stored_membership(
    stored: Option<proto::StoredMembership>,
) -> Result<StoredMembership> {
    let stored = stored.ok_or(CodecError::Missing("the stored membership"))?;
    let membership = stored
        .membership
        .ok_or(CodecError::Missing("the membership"))?;
    Ok(StoredMembership::new(
        get_opt_id(stored.log_id),
        get_membership(membership)?,
    ))
}

fn put_entry(entry: &Entry) -> proto::Entry {
    use proto::entry::Payload as P;
    proto::Entry {
        log_id: Some(put_id(&entry.log_id)),
        payload: Some(match &entry.payload {
            EntryPayload::Blank => P::Blank(proto::Blank {}),
            EntryPayload::Normal(payload) => P::Normal(payload.0.clone()),
            EntryPayload::Membership(membership) => P::Membership(put_membership(membership)),
        }),
    }
}

fn get_entry(entry: proto::Entry) -> Result<Entry> {
    use proto::entry::Payload as P;
    let id = entry
        .log_id
        .ok_or(CodecError::Missing("the entry's log id"))?;
    let payload = match entry
        .payload
        .ok_or(CodecError::Missing("the entry's payload"))?
    {
        P::Blank(_) => EntryPayload::Blank,
        P::Normal(bytes) => EntryPayload::Normal(Payload(bytes)),
        P::Membership(membership) => EntryPayload::Membership(get_membership(membership)?),
    };
    Ok(Entry {
        log_id: get_id(id),
        payload,
    })
}

/// Encodes one log entry.
pub fn encode_entry(entry: &Entry) -> Bytes {
    bytes_of(&put_entry(entry))
}

/// Decodes one log entry; an unknown kind of entry is an error.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry> {
    get_entry(proto::Entry::decode(bytes)?)
}

/// Encodes a membership; equal memberships give equal bytes.
pub fn encode_membership(membership: &Membership) -> Bytes {
    bytes_of(&put_membership(membership))
}

/// Decodes a membership.
pub fn decode_membership(bytes: &[u8]) -> Result<Membership> {
    get_membership(proto::Membership::decode(bytes)?)
}

/// Encodes a log id.
pub fn encode_log_id(id: &LogId) -> Bytes {
    bytes_of(&put_id(id))
}

/// Decodes a log id.
pub fn decode_log_id(bytes: &[u8]) -> Result<LogId> {
    Ok(get_id(proto::LogId::decode(bytes)?))
}

/// Encodes a vote.
pub fn encode_vote(vote: &Vote) -> Bytes {
    bytes_of(&put_vote(vote))
}

/// Decodes a vote.
pub fn decode_vote(bytes: &[u8]) -> Result<Vote> {
    get_vote(Some(proto::Vote::decode(bytes)?))
}

/// Encodes what a leader appends on a follower.
pub fn encode_append_request(request: &AppendEntriesRequest<TypeConfig>) -> Bytes {
    bytes_of(&proto::AppendEntriesRequest {
        vote: Some(put_vote(&request.vote)),
        prev_log_id: put_opt_id(&request.prev_log_id),
        entries: request.entries.iter().map(put_entry).collect(),
        leader_commit: put_opt_id(&request.leader_commit),
    })
}

/// Decodes what a leader appends on a follower.
pub fn decode_append_request(bytes: &[u8]) -> Result<AppendEntriesRequest<TypeConfig>> {
    let request = proto::AppendEntriesRequest::decode(bytes)?;
    Ok(AppendEntriesRequest {
        vote: get_vote(request.vote)?,
        prev_log_id: get_opt_id(request.prev_log_id),
        entries: request
            .entries
            .into_iter()
            .map(get_entry)
            .collect::<Result<_>>()?,
        leader_commit: get_opt_id(request.leader_commit),
    })
}

/// Encodes a follower's answer to an append.
pub fn encode_append_response(response: &AppendEntriesResponse<TypeConfig>) -> Bytes {
    use proto::append_entries_response::Result as R;
    let result = match response {
        AppendEntriesResponse::Success => R::Success(proto::Blank {}),
        AppendEntriesResponse::PartialSuccess(id) => R::PartialSuccess(proto::Matched {
            log_id: put_opt_id(id),
        }),
        AppendEntriesResponse::Conflict => R::Conflict(proto::Conflict {}),
        AppendEntriesResponse::HigherVote(vote) => R::HigherVote(put_vote(vote)),
    };
    bytes_of(&proto::AppendEntriesResponse {
        result: Some(result),
    })
}

/// Decodes a follower's answer to an append.
pub fn decode_append_response(bytes: &[u8]) -> Result<AppendEntriesResponse<TypeConfig>> {
    use proto::append_entries_response::Result as R;
    let response = proto::AppendEntriesResponse::decode(bytes)?;
    Ok(
        match response
            .result
            .ok_or(CodecError::Missing("the append result"))?
        {
            R::Success(_) => AppendEntriesResponse::Success,
            R::PartialSuccess(m) => AppendEntriesResponse::PartialSuccess(get_opt_id(m.log_id)),
            R::Conflict(_) => AppendEntriesResponse::Conflict,
            R::HigherVote(vote) => AppendEntriesResponse::HigherVote(get_vote(Some(vote))?),
        },
    )
}

/// Encodes one result of a stream of appends.
pub fn encode_stream_append(result: &StreamAppendResult<TypeConfig>) -> Bytes {
    use proto::stream_append_result::Result as R;
    let result = match result {
        Ok(id) => R::Matched(proto::Matched {
            log_id: put_opt_id(id),
        }),
        Err(StreamAppendError::Conflict(id)) => R::Conflict(put_id(id)),
        Err(StreamAppendError::HigherVote(vote)) => R::HigherVote(put_vote(vote)),
    };
    bytes_of(&proto::StreamAppendResult {
        result: Some(result),
    })
}

/// Decodes one result of a stream of appends.
pub fn decode_stream_append(bytes: &[u8]) -> Result<StreamAppendResult<TypeConfig>> {
    use proto::stream_append_result::Result as R;
    let result = proto::StreamAppendResult::decode(bytes)?;
    Ok(
        match result
            .result
            .ok_or(CodecError::Missing("the stream result"))?
        {
            R::Matched(m) => Ok(get_opt_id(m.log_id)),
            R::Conflict(id) => Err(StreamAppendError::Conflict(get_id(id))),
            R::HigherVote(vote) => Err(StreamAppendError::HigherVote(get_vote(Some(vote))?)),
        },
    )
}

/// Encodes a candidate's request.
pub fn encode_vote_request(request: &VoteRequest<TypeConfig>) -> Bytes {
    bytes_of(&proto::VoteRequest {
        vote: Some(put_vote(&request.vote)),
        last_log_id: put_opt_id(&request.last_log_id),
        leadership_transfer: request.leadership_transfer,
    })
}

/// Decodes a candidate's request.
pub fn decode_vote_request(bytes: &[u8]) -> Result<VoteRequest<TypeConfig>> {
    let request = proto::VoteRequest::decode(bytes)?;
    Ok(VoteRequest {
        vote: get_vote(request.vote)?,
        last_log_id: get_opt_id(request.last_log_id),
        leadership_transfer: request.leadership_transfer,
    })
}

/// Encodes a voter's answer.
pub fn encode_vote_response(response: &VoteResponse<TypeConfig>) -> Bytes {
    bytes_of(&proto::VoteResponse {
        vote: Some(put_vote(&response.vote)),
        vote_granted: response.vote_granted,
        last_log_id: put_opt_id(&response.last_log_id),
    })
}

/// Decodes a voter's answer.
pub fn decode_vote_response(bytes: &[u8]) -> Result<VoteResponse<TypeConfig>> {
    let response = proto::VoteResponse::decode(bytes)?;
    Ok(VoteResponse {
        vote: get_vote(response.vote)?,
        vote_granted: response.vote_granted,
        last_log_id: get_opt_id(response.last_log_id),
    })
}

/// Encodes a leader's request to hand leadership over.
pub fn encode_transfer_request(request: &TransferLeaderRequest<TypeConfig>) -> Bytes {
    bytes_of(&proto::TransferLeaderRequest {
        from_leader: Some(put_vote(request.from_leader())),
        to_node_id: *request.to_node_id(),
        last_log_id: request.last_log_id().map(put_id),
    })
}

/// Decodes a leader's request to hand leadership over.
pub fn decode_transfer_request(bytes: &[u8]) -> Result<TransferLeaderRequest<TypeConfig>> {
    let request = proto::TransferLeaderRequest::decode(bytes)?;
    Ok(TransferLeaderRequest::new(
        get_vote(request.from_leader)?,
        request.to_node_id,
        get_opt_id(request.last_log_id),
    ))
}

/// Encodes the answer to a hand-over.
pub fn encode_transfer_response(response: &TransferLeaderResponse<TypeConfig>) -> Bytes {
    use proto::transfer_leader_response::Result as R;
    let result = match response {
        Ok(()) => R::Accepted(proto::Blank {}),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            R::VoteChanged(proto::VoteChanged {
                expected: Some(put_vote(expected)),
                actual: Some(put_vote(actual)),
            })
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            R::LogNotFlushed(proto::LogNotFlushed {
                expected: put_opt_id(expected),
                actual: put_opt_id(actual),
            })
        }
    };
    bytes_of(&proto::TransferLeaderResponse {
        result: Some(result),
    })
}

/// Decodes the answer to a hand-over.
pub fn decode_transfer_response(bytes: &[u8]) -> Result<TransferLeaderResponse<TypeConfig>> {
    use proto::transfer_leader_response::Result as R;
    let response = proto::TransferLeaderResponse::decode(bytes)?;
    Ok(
        match response
            .result
            .ok_or(CodecError::Missing("the transfer result"))?
        {
            R::Accepted(_) => Ok(()),
            R::VoteChanged(v) => Err(TransferLeaderError::VoteChanged {
                expected: get_vote(v.expected)?,
                actual: get_vote(v.actual)?,
            }),
            R::LogNotFlushed(l) => Err(TransferLeaderError::LogNotFlushed {
                expected: get_opt_id(l.expected),
                actual: get_opt_id(l.actual),
            }),
        },
    )
}

/// Encodes where a snapshot stands.
pub fn encode_snapshot_meta(meta: &SnapshotMeta) -> Bytes {
    bytes_of(&proto::SnapshotMeta {
        last_log_id: put_opt_id(&meta.last_log_id),
        last_membership: Some(put_stored_membership(&meta.last_membership)),
    })
}

/// Decodes where a snapshot stands.
pub fn decode_snapshot_meta(bytes: &[u8]) -> Result<SnapshotMeta> {
    let meta = proto::SnapshotMeta::decode(bytes)?;
    Ok(SnapshotMeta {
        last_log_id: get_opt_id(meta.last_log_id),
        last_membership: get_stored_membership(meta.last_membership)?,
    })
}

/// Encodes the answer to an installed snapshot.
pub fn encode_snapshot_response(response: &SnapshotResponse<TypeConfig>) -> Bytes {
    bytes_of(&proto::SnapshotResponse {
        vote: Some(put_vote(&response.vote)),
    })
}

/// Decodes the answer to an installed snapshot.
pub fn decode_snapshot_response(bytes: &[u8]) -> Result<SnapshotResponse<TypeConfig>> {
    let response = proto::SnapshotResponse::decode(bytes)?;
    Ok(SnapshotResponse::new(get_vote(response.vote)?))
}
