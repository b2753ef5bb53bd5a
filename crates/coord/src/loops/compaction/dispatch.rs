//! Pending tasks to data nodes: ids of the try's own on the log first, the call second.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use quorate_meta::command::Command;
use quorate_meta::pb::{self, CompactionKind, CompactionState};
use quorate_meta::plan::schedule::{self, Slots};
use quorate_meta::{CollectionId, SegmentId, State};
use quorate_rpc::proto::milvus::data::{
    CompactionPlan, CompactionSegmentBinlogs, CompactionType, IdRange, SegmentLevel,
};
use tokio::time::Instant;

use super::{Given, Memory, PARALLEL, TRIES_MAX, fail, kind_of, plan_id};
use crate::config::Policy;
use crate::coordinator::Coordinator;
use crate::error::{CoordError, Result};
use crate::leader::Scope;
use crate::service::schema_of;
use crate::wire;

/// Rows and bytes a data node writes into one log file at most; a generous guess of how many logs
/// an output has.
const ROWS_PER_LOG: u64 = 16 << 10;
const BYTES_PER_LOG: u64 = 4 << 20;
/// Ids beyond what the guess says, and most of them for one try.
const IDS_SPARE: u64 = 64;
const IDS_MAX: u64 = 1 << 20;

pub(super) async fn round(coordinator: &Coordinator, scope: &Scope, memory: &mut Memory) {
    let policy = &coordinator.config().policy;
    memory.resting.retain(|_, until| *until > Instant::now());
    let (worn_out, chosen) = {
        let state = coordinator.state();
        let order = schedule::order(&state, scope.clock.stamp());
        if order.is_empty() {
            return;
        }
        let rows: Vec<_> = order
            .into_iter()
            .filter_map(|id| state.compaction(id))
            .collect();
        let worn_out: Vec<i64> = rows
            .iter()
            .filter(|row| row.attempt >= TRIES_MAX)
            .map(|row| plan_id(row))
            .collect();
        let mut slots = free_slots(&state, scope, policy);
        let mut chosen: Vec<(i64, i64)> = Vec::new();
        for row in rows {
            let id = plan_id(row);
            if row.attempt >= TRIES_MAX || memory.resting.contains_key(&id) {
                continue;
            }
            let Some(node) = schedule::pick(&slots, 1) else {
                break;
            };
            for slot in slots.iter_mut().filter(|slot| slot.node == node) {
                slot.free = slot.free.saturating_sub(1);
            }
            chosen.push((id, node));
        }
        (worn_out, chosen)
    };
    for id in worn_out {
        let reason = format!("given up after {TRIES_MAX} tries; see the log for what went wrong");
        fail(scope, id, reason).await;
    }
    let handed: Vec<(i64, Option<Given>)> = futures::stream::iter(chosen)
        .map(|(id, node)| async move { (id, hand_over(coordinator, scope, id, node).await) })
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    for (id, sent) in handed {
        if let Some(sent) = sent {
            memory.given.insert(id, sent);
        }
    }
}

fn free_slots(state: &State, scope: &Scope, policy: &Policy) -> Vec<Slots> {
    let mut used: BTreeMap<i64, u32> = BTreeMap::new();
    for row in state.live_compactions() {
        if row.state() == CompactionState::Executing {
            *used.entry(row.node_id).or_default() += 1;
        }
    }
    scope
        .live_nodes(policy.node_lease)
        .into_iter()
        .filter(|node| state.node(*node).is_some())
        .map(|node| Slots {
            node,
            free: policy
                .compaction
                .tasks_per_node
                .saturating_sub(used.get(&node).copied().unwrap_or(0)),
        })
        .collect()
}

/// One task to one node. `None`: not this time.
async fn hand_over(coordinator: &Coordinator, scope: &Scope, id: i64, node: i64) -> Option<Given> {
    let (mut plan, mut sent) = match read_plan(coordinator, id, node) {
        Ok(Some(read)) => read,
        Ok(None) => return None,
        Err(CoordError::Rejected(_, reason)) => {
            fail(scope, id, reason).await;
            return None;
        }
        Err(error) => {
            tracing::warn!(plan_id = id, %error, "compaction not given to a data node");
            return None;
        }
    };
    match assign(scope, &plan, sent.attempt, node).await {
        Ok((segments, logs)) => {
            plan.pre_allocated_segment_i_ds = Some(segments);
            plan.begin_log_id = logs.begin;
            plan.pre_allocated_log_i_ds = Some(logs);
        }
        Err(error) => {
            tracing::info!(plan_id = id, node, %error, "compaction not assigned yet");
            return None;
        }
    }
    sent.attempt += 1;
    let timeout = coordinator.config().policy.compaction.rpc_timeout;
    let handed = coordinator
        .data_nodes()
        .compact(&sent.address, plan, timeout)
        .await;
    match handed {
        Ok(()) => tracing::info!(
            plan_id = id,
            node,
            attempt = sent.attempt,
            "compaction given"
        ),
        // The node may have got it all the same: it is asked, and only if it does not know the
        // plan another try is made.
        Err(error) => tracing::info!(plan_id = id, node, %error, "compaction perhaps not given"),
    }
    Some(sent)
}

/// Ids for a try, and the try itself, on the log.
async fn assign(
    scope: &Scope,
    plan: &CompactionPlan,
    attempt: u32,
    node: i64,
) -> Result<(IdRange, IdRange)> {
    let (segments, logs) = ids_needed(plan);
    let first_segment = scope.alloc_ids(segments).await?;
    let first_log = scope.alloc_ids(logs).await?;
    let range = |first: i64, count: u32| pb::IdRange {
        begin: first,
        end: first + i64::from(count),
    };
    let (segment_ids, log_ids) = (range(first_segment, segments), range(first_log, logs));
    scope
        .propose(Command::AssignCompaction(pb::AssignCompaction {
            plan_id: plan.plan_id,
            node_id: node,
            attempt,
            segment_ids: Some(segment_ids),
            log_ids: Some(log_ids),
        }))
        .await?;
    let told = |range: pb::IdRange| IdRange {
        begin: range.begin,
        end: range.end,
    };
    Ok((told(segment_ids), told(log_ids)))
}

/// Segment and log ids a try may use, with room to spare: a plan that runs out of them fails.
fn ids_needed(plan: &CompactionPlan) -> (u32, u32) {
    if plan.r#type() == CompactionType::Level0DeleteCompaction {
        let targets = plan.segment_binlogs.len() as u64;
        let logs = (targets * 2 + IDS_SPARE).min(IDS_MAX);
        return (1, u32::try_from(logs).unwrap_or(u32::MAX));
    }
    let rows = u64::try_from(plan.total_rows).unwrap_or(0);
    let logs = || {
        plan.segment_binlogs
            .iter()
            .flat_map(|segment| &segment.field_binlogs)
            .flat_map(|field| &field.binlogs)
    };
    let bytes: u64 = logs()
        .map(|log| u64::try_from(log.memory_size.max(log.log_size)).unwrap_or(0))
        .sum();
    let size_max = u64::try_from(plan.max_size).unwrap_or(0).max(1);
    let rows_max = u64::try_from(plan.max_segment_rows).unwrap_or(0).max(1);
    let segments = rows.div_ceil(rows_max).max(bytes.div_ceil(size_max)) + 1;
    let fields = plan.schema.as_ref().map_or(0, |schema| schema.fields.len()) as u64 + 4;
    // A node may keep the inputs' batches, too.
    let batches = rows / ROWS_PER_LOG + bytes / BYTES_PER_LOG + logs().count() as u64 + segments;
    let logs = (batches * fields + IDS_SPARE).min(IDS_MAX);
    (
        u32::try_from(segments.min(IDS_MAX)).unwrap_or(u32::MAX),
        u32::try_from(logs).unwrap_or(u32::MAX),
    )
}

/// The plan as a data node is told it, with the files as they are now. `None`: not pending any
/// more, or the node is gone.
///
/// # Errors
/// `Rejected`: an input is gone, so that the task can't be done. A failing disk.
fn read_plan(
    coordinator: &Coordinator,
    id: i64,
    node: i64,
) -> Result<Option<(CompactionPlan, Given)>> {
    // Files and their revisions belong together: both under one lock.
    let state = coordinator.state();
    let (Some(row), Some(worker)) = (state.compaction(id), state.node(node)) else {
        return Ok(None);
    };
    let Some(plan) = row.plan.as_ref() else {
        return Ok(None);
    };
    if row.state() != CompactionState::Pending {
        return Ok(None);
    }
    let mut told = CompactionPlan {
        plan_id: id,
        // Seconds since the epoch, as in Milvus.
        start_time: i64::try_from(quorate_meta::Ts(row.started_at).ms() / 1000).unwrap_or(0),
        timeout_in_seconds: i32::try_from(plan.timeout_ms.div_ceil(1000)).unwrap_or(i32::MAX),
        r#type: match kind_of(row) {
            CompactionKind::Level0 => CompactionType::Level0DeleteCompaction,
            CompactionKind::Mix => CompactionType::MixCompaction,
            _ => CompactionType::MergeCompaction,
        }
        .into(),
        channel: plan.channel.clone(),
        max_segment_rows: plan.max_rows,
        max_size: i64::try_from(plan.max_size_bytes).unwrap_or(i64::MAX),
        ..Default::default()
    };
    let collection = state.live_collection(CollectionId(plan.collection_id));
    told.schema = collection.map(|row| schema_of(row)).transpose()?;
    let mut sent = Given {
        attempt: row.attempt,
        node,
        address: worker.address.clone(),
        inputs: BTreeMap::new(),
    };
    for input in &plan.inputs {
        let segment_id = SegmentId(input.segment_id);
        let (segment, cold) = coordinator.segment_with_files(&state, segment_id)?;
        let deltas: BTreeSet<i64> = cold
            .files
            .iter()
            .filter(|file| file.kind() == pb::LogKind::Delta)
            .map(|file| file.log_id)
            .collect();
        sent.inputs.insert(segment_id, (segment.files_rev, deltas));
        told.total_rows += segment.rows;
        told.segment_binlogs
            .push(binlogs(wire::to_segment_info(&state, segment, Some(&cold))));
    }
    for target in &plan.targets {
        // A target that was dropped needs no deletes.
        if state.healthy_segment(SegmentId(*target)).is_none() {
            continue;
        }
        let (segment, cold) = coordinator.segment_with_files(&state, SegmentId(*target))?;
        told.segment_binlogs
            .push(binlogs(wire::to_segment_info(&state, segment, Some(&cold))));
    }
    Ok(Some((told, sent)))
}

fn binlogs(info: quorate_rpc::proto::milvus::data::SegmentInfo) -> CompactionSegmentBinlogs {
    CompactionSegmentBinlogs {
        segment_id: info.id,
        level: SegmentLevel::try_from(info.level)
            .unwrap_or(SegmentLevel::Legacy)
            .into(),
        collection_id: info.collection_id,
        partition_id: info.partition_id,
        insert_channel: info.insert_channel,
        field_binlogs: info.binlogs,
        field2_statslog_paths: info.statslogs,
        deltalogs: info.deltalogs,
        is_sorted: info.is_sorted,
    }
}

#[cfg(test)]
mod tests {
    use quorate_rpc::proto::milvus::data::{Binlog, FieldBinlog};
    use quorate_rpc::proto::milvus::schema::{CollectionSchema, FieldSchema};

    use super::*;

    fn plan(kind: CompactionType, segments: usize) -> CompactionPlan {
        let segment = CompactionSegmentBinlogs {
            field_binlogs: vec![FieldBinlog {
                field_id: 100,
                binlogs: vec![Binlog {
                    memory_size: 1 << 20,
                    ..Default::default()
                }],
            }],
            ..Default::default()
        };
        CompactionPlan {
            r#type: kind.into(),
            segment_binlogs: vec![segment; segments],
            total_rows: 2500,
            max_segment_rows: 1000,
            max_size: 1 << 30,
            schema: Some(CollectionSchema {
                fields: vec![FieldSchema::default(); 3],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_try_gets_ids_for_all_it_may_write() {
        let (segments, logs) = ids_needed(&plan(CompactionType::MergeCompaction, 4));
        assert!(segments >= 3, "2500 rows make three segments of 1000");
        // Three segments with a log for each of three fields, two system fields and a stats log.
        assert!(logs >= 3 * 6, "{logs}");
        let (_, logs) = ids_needed(&plan(CompactionType::Level0DeleteCompaction, 40));
        assert!(logs >= 40);
    }
}
