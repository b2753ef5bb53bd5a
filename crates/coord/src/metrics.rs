//! Names of metrics, in one place. Names and labels follow Milvus where it has them.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

/// An entry with this many commands was proposed and answered.
pub(crate) fn proposed(commands: usize, took: Duration) {
    histogram!("milvus_datacoord_raft_propose_latency_ms").record(took.as_secs_f64() * 1e3);
    histogram!("quorate_entry_commands").record(commands as f64);
}

/// AssignSegmentID was answered.
pub(crate) fn assigned(took: Duration) {
    histogram!("milvus_datacoord_assign_segment_latency").record(took.as_secs_f64() * 1e3);
}

/// A segment was sealed.
pub(crate) fn sealed(reason: &'static str) {
    counter!("milvus_datacoord_seal_total", "reason" => reason).increment(1);
}

/// A write of a node that does not own the channel was refused.
pub(crate) fn fenced(method: &'static str) {
    counter!("milvus_datacoord_fenced_requests_total", "method" => method).increment(1);
}

/// Election won to first request served.
pub(crate) fn leader_ready(took: Duration) {
    histogram!("milvus_datacoord_leader_ready_seconds").record(took.as_secs_f64());
}

/// Where Raft stands on this replica.
pub(crate) struct RaftGauges {
    /// This replica.
    pub node_id: u64,
    /// 1 leader, 0 follower, 2 learner.
    pub role: f64,
    /// Current term.
    pub term: u64,
    /// Last committed entry.
    pub committed: u64,
    /// Last applied entry.
    pub applied: u64,
}

/// Publishes where Raft stands.
pub(crate) fn raft(gauges: &RaftGauges) {
    let node = gauges.node_id.to_string();
    gauge!("milvus_datacoord_raft_role", "node_id" => node.clone()).set(gauges.role);
    gauge!("milvus_datacoord_raft_term", "node_id" => node.clone()).set(gauges.term as f64);
    gauge!("milvus_datacoord_raft_commit_index", "node_id" => node.clone())
        .set(gauges.committed as f64);
    gauge!("milvus_datacoord_raft_apply_lag", "node_id" => node)
        .set(gauges.committed.saturating_sub(gauges.applied) as f64);
}

/// Publishes how much there is.
pub(crate) fn counts(nodes: usize, collections: usize, states: &[(&'static str, usize)]) {
    gauge!("milvus_datacoord_datanode_num").set(nodes as f64);
    gauge!("milvus_datacoord_collection_num").set(collections as f64);
    for (state, count) in states {
        gauge!("milvus_datacoord_segment_num", "state" => *state, "segment_state" => *state)
            .set(*count as f64);
    }
}
