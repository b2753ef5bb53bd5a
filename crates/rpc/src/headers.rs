//! Names of the metadata keys of the protocol between clients and replicas.

/// Request: the caller wants to be told where the leader is rather than be forwarded.
pub const REDIRECT: &str = "quorate-redirect";
/// Request: a follower has forwarded this call already; it must not be forwarded again.
pub const FORWARDED: &str = "quorate-forwarded";
/// Request: the consistency the caller asks for; see [`READ_STALE`].
pub const READ: &str = "quorate-read";
/// Value of [`READ`]: any replica may answer from its own state.
pub const READ_STALE: &str = "stale";
/// Reply or refusal: the client address of the leader.
pub const LEADER: &str = "quorate-leader";
/// Reply: log index applied by the replica when it answered.
pub const APPLIED: &str = "quorate-applied";
/// Reply: epoch (Raft term) under which the replica answered.
pub const EPOCH: &str = "quorate-epoch";
/// Refusal: the call surely had no effect, so even a call that is not idempotent may be repeated.
pub const NOT_APPLIED: &str = "quorate-not-applied";
/// Refusal: number of the [`Code`](crate::status::Code).
pub const CODE: &str = "quorate-code";
/// Refusal of a data node: the timestamp is not above the channel's time tick; take a new one.
pub const LATE: &str = "quorate-late";
