//! The type configuration Quorate gives openraft, and short names for its types.
//!
//! Invariant: standard-mode leader ids, so that a term alone names a leader.

use std::fmt;

use bytes::Bytes;
use openraft::type_config::alias;
use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::runtime::Runtime;

/// A member's number; never used again once its folder is lost.
pub type NodeId = u64;

/// Where a member is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Address for the other members.
    pub peer_addr: String,
    /// Address for clients.
    pub client_addr: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {}, client {}", self.peer_addr, self.client_addr)
    }
}

/// What a normal log entry carries; opaque to this crate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload(pub Bytes);

/// What applying an entry answers; opaque to this crate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply(pub Bytes);

macro_rules! opaque_bytes {
    ($name:ident, $what:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($what, " of {} bytes"), self.0.len())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.0.iter())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Vec::<u8>::deserialize(deserializer).map(|bytes| Self(bytes.into()))
            }
        }
    };
}

opaque_bytes!(Payload, "payload");
opaque_bytes!(Reply, "reply");

openraft::declare_raft_types!(
    /// openraft's types as this crate sets them; production and simulation share them.
    pub TypeConfig:
        D = Payload,
        R = Reply,
        NodeId = NodeId,
        Node = Member,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = Runtime,
);

/// A candidate or leader: term and node.
pub type LeaderId = alias::LeaderIdOf<TypeConfig>;
/// A position in the log: term and index.
pub type LogId = alias::LogIdOf<TypeConfig>;
/// A vote cast, and whether a quorum granted it.
pub type Vote = alias::VoteOf<TypeConfig>;
/// A log entry.
pub type Entry = alias::EntryOf<TypeConfig>;
/// What an entry holds: nothing, a payload or a membership.
pub type EntryPayload = openraft::EntryPayload<Payload, NodeId, Member>;
/// Voters and learners.
pub type Membership = openraft::Membership<NodeId, Member>;
/// A membership and the entry that set it.
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
/// Where a snapshot stands.
pub type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
/// A Raft node on this crate's storage.
pub type Raft<M> = openraft::Raft<TypeConfig, crate::StateStore<M>>;

/// The log id of `index` written by the leader of `term`.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, 0).to_committed(), index)
}

/// The term in which `id` was written.
pub fn term_of(id: &LogId) -> u64 {
    id.committed_leader_id().term
}
