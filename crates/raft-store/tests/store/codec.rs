//! Encode and decode are inverse, and decoding never panics.

use std::collections::BTreeMap;

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    TransferLeaderError, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use proptest::prelude::*;
use quorate_raft_store::codec::*;
use quorate_raft_store::{
    Entry, EntryPayload, LogId, Member, Membership, Payload, SnapshotMeta, StoredMembership, Vote,
    log_id,
};

fn ids() -> impl Strategy<Value = LogId> {
    (any::<u64>(), any::<u64>()).prop_map(|(term, index)| log_id(term, index))
}

fn maybe_id() -> impl Strategy<Value = Option<LogId>> {
    prop::option::of(ids())
}

fn votes() -> impl Strategy<Value = Vote> {
    (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(term, node, committed)| {
        if committed {
            Vote::new_committed(term, node)
        } else {
            Vote::new(term, node)
        }
    })
}

fn memberships() -> impl Strategy<Value = Membership> {
    let voters = prop::collection::btree_set(0..9u64, 1..5);
    (prop::collection::vec(voters, 0..3), "[a-z:0-9]{0,12}").prop_map(|(configs, addr)| {
        let members: BTreeMap<u64, Member> = configs
            .iter()
            .flatten()
            .copied()
            .chain([42])
            .map(|id| {
                let member = Member {
                    peer_addr: format!("{addr}{id}"),
                    client_addr: addr.clone(),
                };
                (id, member)
            })
            .collect();
        Membership::new(configs, members).unwrap()
    })
}

fn entries() -> impl Strategy<Value = Entry> {
    let payload = prop_oneof![
        Just(EntryPayload::Blank),
        prop::collection::vec(any::<u8>(), 0..64)
            .prop_map(|bytes| EntryPayload::Normal(Payload(Bytes::from(bytes)))),
        memberships().prop_map(EntryPayload::Membership),
    ];
    (ids(), payload).prop_map(|(log_id, payload)| Entry { log_id, payload })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stored_values_round_trip(entry in entries(), vote in votes(), id in ids(), membership in memberships()) {
        prop_assert_eq!(decode_entry(&encode_entry(&entry)).unwrap(), entry);
        prop_assert_eq!(decode_vote(&encode_vote(&vote)).unwrap(), vote);
        prop_assert_eq!(decode_log_id(&encode_log_id(&id)).unwrap(), id);
        prop_assert_eq!(decode_membership(&encode_membership(&membership)).unwrap(), membership);
    }

    #[test]
    fn append_messages_round_trip(
        vote in votes(),
        prev_log_id in maybe_id(),
        entries in prop::collection::vec(entries(), 0..5),
        leader_commit in maybe_id(),
        id in ids(),
    ) {
        let request = AppendEntriesRequest { vote, prev_log_id, entries, leader_commit };
        let back = decode_append_request(&encode_append_request(&request)).unwrap();
        prop_assert_eq!(back.vote, request.vote);
        prop_assert_eq!(back.prev_log_id, request.prev_log_id);
        prop_assert_eq!(back.entries, request.entries);
        prop_assert_eq!(back.leader_commit, request.leader_commit);

        for response in [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(prev_log_id),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(vote),
        ] {
            prop_assert_eq!(decode_append_response(&encode_append_response(&response)).unwrap(), response);
        }
        for result in [
            Ok(prev_log_id),
            Err(StreamAppendError::Conflict(id)),
            Err(StreamAppendError::HigherVote(vote)),
        ] {
            prop_assert_eq!(decode_stream_append(&encode_stream_append(&result)).unwrap(), result);
        }
    }

    #[test]
    fn vote_and_transfer_messages_round_trip(
        vote in votes(),
        other in votes(),
        last_log_id in maybe_id(),
        actual in maybe_id(),
        flag in any::<bool>(),
        to in any::<u64>(),
    ) {
        let request = VoteRequest { vote, last_log_id, leadership_transfer: flag };
        prop_assert_eq!(decode_vote_request(&encode_vote_request(&request)).unwrap(), request);
        let response = VoteResponse { vote, vote_granted: flag, last_log_id };
        prop_assert_eq!(decode_vote_response(&encode_vote_response(&response)).unwrap(), response);
        let request = TransferLeaderRequest::new(vote, to, last_log_id);
        prop_assert_eq!(decode_transfer_request(&encode_transfer_request(&request)).unwrap(), request);
        for response in [
            Ok(()),
            Err(TransferLeaderError::VoteChanged { expected: vote, actual: other }),
            Err(TransferLeaderError::LogNotFlushed { expected: last_log_id, actual }),
        ] {
            prop_assert_eq!(decode_transfer_response(&encode_transfer_response(&response)).unwrap(), response);
        }
    }

    #[test]
    fn snapshot_messages_round_trip(vote in votes(), id in maybe_id(), at in maybe_id(), membership in memberships()) {
        let meta = SnapshotMeta {
            last_log_id: id,
            last_membership: StoredMembership::new(at, membership),
        };
        prop_assert_eq!(decode_snapshot_meta(&encode_snapshot_meta(&meta)).unwrap(), meta);
        let response = SnapshotResponse::new(vote);
        prop_assert_eq!(decode_snapshot_response(&encode_snapshot_response(&response)).unwrap(), response);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(noise in prop::collection::vec(any::<u8>(), 0..256), entry in entries(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut near = encode_entry(&entry).to_vec();
        let at = at.index(near.len());
        near[at] ^= 1 << bit;
        for bytes in [&noise[..], &near[..], &near[..at]] {
            let _ = decode_entry(bytes);
            let _ = decode_vote(bytes);
            let _ = decode_log_id(bytes);
            let _ = decode_membership(bytes);
            let _ = decode_append_request(bytes);
            let _ = decode_append_response(bytes);
            let _ = decode_stream_append(bytes);
            let _ = decode_vote_request(bytes);
            let _ = decode_vote_response(bytes);
            let _ = decode_transfer_request(bytes);
            let _ = decode_transfer_response(bytes);
            let _ = decode_snapshot_meta(bytes);
            let _ = decode_snapshot_response(bytes);
        }
    }
}

#[test]
fn an_unknown_kind_of_entry_is_an_error() {
    // A log id, then field 15 where the payload should be.
    let bytes = [0x0a, 0x02, 0x08, 0x01, 0x7a, 0x00];
    assert!(decode_entry(&bytes).is_err());
}

#[test]
fn a_voter_without_an_address_is_an_error() {
    // One configuration with voter 1, and no members.
    let bytes = [0x0a, 0x03, 0x0a, 0x01, 0x01];
    assert!(decode_membership(&bytes).is_err());
}
