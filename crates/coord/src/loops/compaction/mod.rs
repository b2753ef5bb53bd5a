//! Compaction: plans tasks, gives them to data nodes, puts their results into the state
//! (`architecture.md` §6, `semantics.md` §7).
//!
//! A task is a row of the state, written before any data node hears of it. What this loop remembers
//! beside is a hint: a successor finds the live tasks in the state and asks their nodes.

mod dispatch;
mod finish;
mod result;
mod trigger;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quorate_meta::command::Command;
use quorate_meta::pb::{self, CompactionKind, CompactionState};
use quorate_meta::{SegmentId, Ts};
use tokio::time::Instant;

use crate::config::Policy;
use crate::coordinator::Coordinator;
use crate::leader::Scope;
use crate::metrics;

pub(crate) use trigger::{policy_of, start};

/// Calls to data nodes at a time.
const PARALLEL: usize = 16;
/// Tries of a task before it is given up.
const TRIES_MAX: u32 = 5;
/// Ended tasks forgotten by one command.
const FORGET_SLICE: usize = 256;
/// Begins the reason of a task that ran too long; GetCompactionState counts these by themselves.
pub(crate) const TIMED_OUT: &str = "timed out";

/// What a task's inputs were like when their file lists were read for a data node.
#[derive(Debug)]
struct Given {
    attempt: u32,
    node: i64,
    address: String,
    /// By segment: the revision of its files, and its delete logs.
    inputs: BTreeMap<SegmentId, (u64, BTreeSet<i64>)>,
}

/// What this leader remembers of tasks, by plan id.
#[derive(Default)]
struct Memory {
    /// What was given to data nodes.
    given: BTreeMap<i64, Given>,
    /// Tasks that were taken back, and until when they pause.
    resting: BTreeMap<i64, Instant>,
}

pub(super) async fn run(coordinator: Arc<Coordinator>, scope: Arc<Scope>) {
    let wakes = coordinator.consensus().store().machine().wakes().clone();
    let interval = coordinator.config().policy.compaction.check_interval;
    let mut trigger = trigger::Trigger::default();
    let mut memory = Memory::default();
    let mut polled: Option<Instant> = None;
    loop {
        trigger.round(&coordinator, &scope).await;
        dispatch::round(&coordinator, &scope, &mut memory).await;
        if polled.is_none_or(|at| at.elapsed() >= interval) {
            polled = Some(Instant::now());
            finish::round(&coordinator, &scope, &mut memory).await;
            forget(&coordinator, &scope).await;
            report(&coordinator);
        }
        if !super::next_round(&scope, &wakes.compaction, interval).await {
            return;
        }
    }
}

/// How long since a timestamp of the state.
fn age_ms(scope: &Scope, since: u64) -> u64 {
    scope.clock.stamp().ms_since(Ts(since))
}

async fn fail(scope: &Scope, plan_id: i64, reason: String) {
    tracing::warn!(plan_id, reason, "compaction failed");
    let command = Command::FailCompaction(pb::FailCompaction { plan_id, reason });
    if let Err(error) = scope.propose(command).await {
        tracing::info!(plan_id, %error, "compaction not ended yet");
    }
}

/// Back to pending, for another try after a pause. It gets fresh ids then, so that whatever the
/// node still writes lies elsewhere.
async fn take_back(
    scope: &Scope,
    policy: &Policy,
    memory: &mut Memory,
    row: &pb::CompactionRow,
    reason: &str,
) {
    let plan_id = plan_id(row);
    let pause = Duration::from_millis(policy.work.backoff_ms(row.attempt));
    memory.resting.insert(plan_id, Instant::now() + pause);
    tracing::info!(plan_id, node = row.node_id, reason, "compaction taken back");
    let command = Command::AssignCompaction(pb::AssignCompaction {
        plan_id,
        node_id: 0,
        attempt: row.attempt,
        segment_ids: None,
        log_ids: None,
    });
    if let Err(error) = scope.propose(command).await {
        tracing::info!(plan_id, %error, "compaction not taken back yet");
    }
}

fn plan_id(row: &pb::CompactionRow) -> i64 {
    row.plan.as_ref().map_or(0, |plan| plan.plan_id)
}

fn kind_of(row: &pb::CompactionRow) -> CompactionKind {
    row.plan
        .as_ref()
        .map_or(CompactionKind::Unspecified, pb::StartCompaction::kind)
}

async fn forget(coordinator: &Coordinator, scope: &Scope) {
    let keep = coordinator.config().policy.compaction.keep_ended;
    let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
    loop {
        let plan_ids: Vec<i64> = {
            let state = coordinator.state();
            state
                .compactions()
                .filter(|row| row.ended_at != 0 && age_ms(scope, row.ended_at) >= keep_ms)
                .map(|row| plan_id(row))
                .take(FORGET_SLICE)
                .collect()
        };
        if plan_ids.is_empty() {
            return;
        }
        let command = Command::ForgetCompactions(pb::ForgetCompactions { plan_ids });
        if let Err(error) = scope.propose(command).await {
            tracing::info!(%error, "ended compactions not forgotten yet");
            return;
        }
    }
}

fn report(coordinator: &Coordinator) {
    let mut counts: BTreeMap<(CompactionKind, CompactionState), usize> = BTreeMap::new();
    for kind in [
        CompactionKind::Merge,
        CompactionKind::Mix,
        CompactionKind::Level0,
    ] {
        counts.insert((kind, CompactionState::Pending), 0);
        counts.insert((kind, CompactionState::Executing), 0);
    }
    for row in coordinator.state().live_compactions() {
        *counts.entry((kind_of(row), row.state())).or_default() += 1;
    }
    for ((kind, state), count) in counts {
        metrics::compactions(name_of_kind(kind), name_of_state(state), count);
    }
}

/// The name of a kind of task, for people, metrics and the admin service.
pub(crate) fn name_of_kind(kind: CompactionKind) -> &'static str {
    match kind {
        CompactionKind::Unspecified => "unknown",
        CompactionKind::Merge => "merge",
        CompactionKind::Mix => "mix",
        CompactionKind::Level0 => "level0",
    }
}

/// The name of a task's state, for people, metrics and the admin service.
pub(crate) fn name_of_state(state: CompactionState) -> &'static str {
    match state {
        CompactionState::Unspecified => "unknown",
        CompactionState::Pending => "pending",
        CompactionState::Executing => "executing",
        CompactionState::Completed => "completed",
        CompactionState::Failed => "failed",
    }
}
