//! When compactions are planned: for groups a flush or an ended task touched, for groups with
//! level-zero segments again and again, for all groups at long intervals, and when asked.

use std::collections::{BTreeMap, BTreeSet};

use quorate_meta::State;
use quorate_meta::command::Command;
use quorate_meta::model::Level;
use quorate_meta::pb::{self, CompactionState};
use quorate_meta::plan::compact::{self, CompactPolicy, Group, Planned, Skip};
use tokio::time::Instant;

use super::{age_ms, plan_id};
use crate::config::Policy;
use crate::coordinator::Coordinator;
use crate::error::{CoordError, Result};
use crate::leader::Scope;

/// Groups planned while the state is locked once.
const SLICE: usize = 64;

/// Groups to look at. A hint: the scan of all finds what it misses.
#[derive(Default)]
pub(super) struct Trigger {
    dirty: BTreeSet<Group>,
    /// Groups with level-zero segments: these become ripe as checkpoints move on.
    level0: BTreeSet<Group>,
    /// Live tasks as last seen, with their channel: when one ends, its channel is looked at.
    live: BTreeMap<i64, String>,
    scanned: Option<Instant>,
    looked: Option<Instant>,
}

impl Trigger {
    /// Plans and starts what is due.
    pub(super) async fn round(&mut self, coordinator: &Coordinator, scope: &Scope) {
        let policy = &coordinator.config().policy;
        let config = &policy.compaction;
        if !config.enabled || !config.auto {
            return;
        }
        let scan = self
            .scanned
            .is_none_or(|at| at.elapsed() >= config.scan_interval);
        self.note(coordinator, scan);
        if self
            .looked
            .is_none_or(|at| at.elapsed() >= config.level0_interval)
        {
            self.looked = Some(Instant::now());
            self.dirty.extend(self.level0.iter().cloned());
        }
        // Without data nodes nothing would run; what is held could not be dropped or merged
        // otherwise.
        if scope.live_nodes(policy.node_lease).is_empty() {
            return;
        }
        let mut left = self.rested(coordinator, scope);
        while !left.is_empty() {
            let slice: Vec<Group> = left.drain(..left.len().min(SLICE)).collect();
            for (group, tasks) in self.plan(coordinator, scope, slice) {
                if let Err(error) = start_all(coordinator, scope, &tasks).await {
                    // Another task excludes it, or the state changed since: planned again.
                    tracing::debug!(%error, channel = %group.channel, "compaction not started yet");
                    self.dirty.insert(group);
                }
            }
        }
    }

    /// Takes up what flushes, ended tasks and the clock say.
    fn note(&mut self, coordinator: &Coordinator, scan: bool) {
        let wakes = coordinator.consensus().store().machine().wakes();
        let flushed = wakes.flushed.take();
        let state = coordinator.state();
        if scan || flushed.is_none() {
            self.scanned = Some(Instant::now());
            self.dirty.extend(compact::groups(&state));
        }
        for id in flushed.unwrap_or_default() {
            if let Some(segment) = state.segment(id) {
                self.dirty.insert(Group::of(segment));
            }
        }
        let live: BTreeMap<i64, String> = state
            .live_compactions()
            .filter_map(|row| Some((plan_id(row), row.plan.as_ref()?.channel.clone())))
            .collect();
        for (id, channel) in &self.live {
            if !live.contains_key(id) {
                self.dirty.extend(groups_on(&state, channel));
            }
        }
        self.live = live;
    }

    /// Groups that are dirty and do not pause after failures.
    fn rested(&self, coordinator: &Coordinator, scope: &Scope) -> Vec<Group> {
        if self.dirty.is_empty() {
            return Vec::new();
        }
        let policy = &coordinator.config().policy;
        let failures = failures(&coordinator.state());
        let pauses = |group: &Group| {
            let key = (
                group.collection.0,
                group.partition.0,
                group.channel.to_string(),
            );
            let failed = failures.get(&key);
            failed
                .is_some_and(|(count, last)| age_ms(scope, *last) < policy.work.backoff_ms(*count))
        };
        let rested = self.dirty.iter().filter(|group| !pauses(group));
        rested.cloned().collect()
    }

    /// Plans groups, and forgets that they are dirty unless there is more to plan in them.
    fn plan(
        &mut self,
        coordinator: &Coordinator,
        scope: &Scope,
        groups: Vec<Group>,
    ) -> Vec<(Group, Vec<Planned>)> {
        let policy = policy_of(&coordinator.config().policy);
        let now = scope.clock.stamp();
        let state = coordinator.state();
        let mut planned = Vec::with_capacity(groups.len());
        for group in groups {
            if has_level0(&state, &group) {
                self.level0.insert(group.clone());
            } else {
                self.level0.remove(&group);
            }
            let plan = compact::plan_group(&state, &group, now, &policy, false);
            if !plan.skipped.iter().any(|(_, why)| *why == Skip::NextLook) {
                self.dirty.remove(&group);
            }
            if !plan.tasks.is_empty() {
                planned.push((group, plan.tasks));
            }
        }
        planned
    }
}

fn groups_on(state: &State, channel: &str) -> BTreeSet<Group> {
    state.segments_on(channel).map(Group::of).collect()
}

fn has_level0(state: &State, group: &Group) -> bool {
    state.segments_on(&group.channel).any(|segment| {
        segment.level == Level::L0
            && Group::of(segment) == *group
            && state.healthy_segment(segment.id).is_some()
    })
}

/// Failed tasks of each group since its last completed one, and when the last of them failed.
fn failures(state: &State) -> BTreeMap<(i64, i64, String), (u32, u64)> {
    let mut failures: BTreeMap<(i64, i64, String), (u32, u64)> = BTreeMap::new();
    for row in state.compactions() {
        let Some(plan) = &row.plan else { continue };
        let key = (plan.collection_id, plan.partition_id, plan.channel.clone());
        match row.state() {
            CompactionState::Failed => {
                let entry = failures.entry(key).or_default();
                *entry = (entry.0.saturating_add(1), entry.1.max(row.ended_at));
            }
            CompactionState::Completed => {
                failures.remove(&key);
            }
            _ => {}
        }
    }
    failures
}

/// Starts what was planned for a group.
async fn start_all(coordinator: &Coordinator, scope: &Scope, tasks: &[Planned]) -> Result<()> {
    let policy = &coordinator.config().policy;
    for planned in tasks {
        if coordinator.state().live_compactions().count() >= policy.compaction.tasks_max {
            return Err(CoordError::Overloaded(
                "as many compactions as the settings allow wait or run".into(),
            ));
        }
        let plan_id = start(scope, policy, planned, 0).await?;
        tracing::info!(
            plan_id,
            kind = super::name_of_kind(planned.kind),
            channel = %planned.group.channel,
            inputs = planned.inputs.len(),
            targets = planned.targets.len(),
            rows = planned.rows,
            "compaction planned"
        );
    }
    Ok(())
}

/// What the planner decides by, of the settings.
pub(crate) fn policy_of(policy: &Policy) -> CompactPolicy {
    let config = &policy.compaction;
    CompactPolicy {
        delete_ratio_permille: config.delete_ratio_permille,
        delta_bytes_max: config.delta_bytes_max,
        delta_files_max: config.delta_files_max,
        small_permille: config.small_permille,
        merge_inputs_min: config.merge_inputs.0,
        merge_inputs_max: config.merge_inputs.1,
        small_files_trigger: 10,
        leftover_permille: 1000 - config.full_permille.min(1000),
        expansion_permille: config.expansion_permille,
        max_size_bytes: policy.segment_size_bytes_max,
        max_rows: policy.segment_rows_max,
        level0_bytes_min: config.level0_bytes.0,
        level0_files_min: config.level0_files.0,
        level0_bytes_max: config.level0_bytes.1,
        level0_files_max: config.level0_files.1,
        timeout_ms: timeout_ms(policy),
    }
}

fn timeout_ms(policy: &Policy) -> u64 {
    u64::try_from(policy.compaction.timeout.as_millis()).unwrap_or(u64::MAX)
}

/// Starts a planned task: a row of the state that holds its segments. Gives the plan's id.
///
/// # Errors
/// The refusal of apply: what was planned is not as it was any more. No quorum, or leadership is
/// gone.
pub(crate) async fn start(
    scope: &Scope,
    policy: &Policy,
    planned: &Planned,
    trigger_id: i64,
) -> Result<i64> {
    let plan_id = scope.alloc_ids(1).await?;
    let expand =
        |value: u64| value.saturating_mul(u64::from(policy.compaction.expansion_permille)) / 1000;
    let capacity = policy.segment_rows_max;
    let expanded = i64::try_from(expand(u64::try_from(capacity).unwrap_or(0))).unwrap_or(i64::MAX);
    scope
        .propose(Command::StartCompaction(pb::StartCompaction {
            plan_id,
            trigger_id,
            kind: planned.kind.into(),
            collection_id: planned.group.collection.0,
            partition_id: planned.group.partition.0,
            channel: planned.group.channel.to_string(),
            inputs: planned.inputs.clone(),
            targets: planned.targets.iter().map(|id| id.0).collect(),
            // What fits into one segment with some excess is not split.
            max_rows: if planned.rows <= expanded {
                expanded
            } else {
                capacity
            },
            max_size_bytes: expand(policy.segment_size_bytes_max),
            timeout_ms: timeout_ms(policy),
            priority: planned.priority,
        }))
        .await?;
    Ok(plan_id)
}
