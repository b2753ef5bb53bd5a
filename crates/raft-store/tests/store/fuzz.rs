//! Bytes from disks and peers, changed at random: nothing panics, and what carries a checksum is
//! refused.

use std::sync::Arc;
use std::time::Duration;

use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use proptest::prelude::*;
use quorate_raft_store::codec::*;
use quorate_raft_store::{MemDisk, SnapshotMeta, StoredMembership, Vote, log_id, open_mem};

use crate::fixture::{Kv, apply, history, members, normal, open_disk};

fn decode_all(bytes: &[u8]) {
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

/// One message of each kind that has something in it.
fn messages() -> Vec<Vec<u8>> {
    let vote = Vote::new_committed(7, 2);
    let at = Some(log_id(7, 1 << 40));
    let membership = match members(3, 4, &[1, 2, 300]).payload {
        quorate_raft_store::EntryPayload::Membership(membership) => membership,
        _ => unreachable!("members() makes a membership"),
    };
    vec![
        encode_entry(&members(3, 4, &[1, 2])).to_vec(),
        encode_append_request(&AppendEntriesRequest {
            vote,
            prev_log_id: at,
            entries: vec![normal(7, 8, "key=value"), members(7, 9, &[1, 2])],
            leader_commit: at,
        })
        .to_vec(),
        encode_stream_append(&Err(StreamAppendError::HigherVote(vote))).to_vec(),
        encode_vote_request(&VoteRequest {
            vote,
            last_log_id: at,
            leadership_transfer: true,
        })
        .to_vec(),
        encode_vote_response(&VoteResponse {
            vote,
            vote_granted: true,
            last_log_id: at,
        })
        .to_vec(),
        encode_transfer_request(&TransferLeaderRequest::new(vote, 9, at)).to_vec(),
        encode_transfer_response(&Err(TransferLeaderError::LogNotFlushed {
            expected: at,
            actual: None,
        }))
        .to_vec(),
        encode_snapshot_meta(&SnapshotMeta {
            last_log_id: at,
            last_membership: StoredMembership::new(at, membership),
        })
        .to_vec(),
    ]
}

/// Changes to bytes: flips, then a cut or a repetition of a part.
#[derive(Clone, Debug)]
struct Change {
    flips: Vec<(prop::sample::Index, u8)>,
    cut: Option<prop::sample::Index>,
    insert: Vec<u8>,
    at: prop::sample::Index,
}

fn changes() -> impl Strategy<Value = Change> {
    (
        prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 0..4),
        prop::option::of(any::<prop::sample::Index>()),
        prop::collection::vec(any::<u8>(), 0..12),
        any::<prop::sample::Index>(),
    )
        .prop_map(|(flips, cut, insert, at)| Change {
            flips,
            cut,
            insert,
            at,
        })
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        for (at, bits) in &self.flips {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
        }
        let at = self.at.index(bytes.len() + 1);
        bytes.splice(at..at, self.insert.iter().copied());
        if let Some(cut) = &self.cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// The chunks of a small snapshot.
async fn chunks() -> Vec<Vec<u8>> {
    let (_log, mut source) = open_disk(&MemDisk::new());
    apply(&mut source, history()).await;
    let mut builder = source.get_snapshot_builder().await;
    let snapshot = builder.build_snapshot().await.unwrap().snapshot;
    let mut reader = snapshot.reader(150);
    std::iter::from_fn(|| reader.next_chunk().unwrap())
        .map(|chunk| chunk.to_vec())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_message_makes_no_decoder_panic(change in changes(), noise in prop::collection::vec(any::<u8>(), 0..256)) {
        decode_all(&noise);
        for mut message in messages() {
            change.apply(&mut message);
            decode_all(&message);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_snapshot_chunk_is_refused(change in changes(), which in any::<prop::sample::Index>(), noise in prop::collection::vec(any::<u8>(), 0..64)) {
        block_on(async {
            let chunks = chunks().await;
            let which = which.index(chunks.len());
            let disk = MemDisk::new();
            let (_log, target) = open_mem(&disk, Arc::<Kv>::default(), Duration::ZERO).unwrap();
            let mut staging = target.stage().unwrap();
            for chunk in &chunks[..which] {
                staging.push_chunk(chunk).unwrap();
            }
            assert!(staging.push_chunk(&noise).is_err());
            let mut changed = chunks[which].clone();
            change.apply(&mut changed);
            assert_eq!(staging.push_chunk(&changed).is_err(), changed != chunks[which]);
        });
    }
}
