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

/// A round of garbage collection began.
pub(crate) fn gc_run() {
    counter!("milvus_datacoord_gc_run_count").increment(1);
}

/// Objects of segments, indexes and orphans were deleted.
pub(crate) fn objects_deleted(count: usize) {
    counter!("quorate_gc_objects_deleted_total").increment(count as u64);
}

/// Compaction tasks of a kind in a state.
pub(crate) fn compactions(kind: &'static str, state: &'static str, count: usize) {
    gauge!("milvus_datacoord_compaction_task_num",
        "compaction_type" => kind, "type" => kind, "status" => state, "state" => state)
    .set(count as f64);
}

/// A compaction was finished, so long after it was planned.
pub(crate) fn compacted(kind: &'static str, took_ms: u64) {
    histogram!("milvus_datacoord_compaction_latency",
        "compaction_type" => kind, "type" => kind, "compaction_stage" => "total")
    .record(took_ms as f64);
}

/// CreateIndex was answered.
pub(crate) fn index_requested(status: &'static str) {
    counter!("milvus_datacoord_index_req_count", "status" => "total").increment(1);
    counter!("milvus_datacoord_index_req_count", "status" => status).increment(1);
}

/// Index builds in a state.
pub(crate) fn index_builds(state: &'static str, count: usize) {
    gauge!("milvus_datacoord_task_count", "task_type" => "Index", "task_state" => state)
        .set(count as f64);
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
