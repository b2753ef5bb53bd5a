//! Executing tasks: data nodes are asked how they stand, and what they made takes the inputs' place
//! in one command.

use std::sync::Arc;

use futures::StreamExt;
use quorate_meta::command::Command;
use quorate_meta::model::Segment;
use quorate_meta::pb::{self, CompactionKind, CompactionRow, CompactionState};
use quorate_meta::{Reason, SegmentId};
use quorate_rpc::proto::milvus::data::{CompactionPlanResult, CompactionTaskState};

use super::{
    Given, Memory, PARALLEL, TIMED_OUT, age_ms, fail, kind_of, plan_id, result, take_back,
};
use crate::coordinator::Coordinator;
use crate::error::CoordError;
use crate::leader::Scope;
use crate::{metrics, wire};

/// Tries against inputs whose files keep changing.
const READS_MAX: usize = 5;

/// How a task stands.
enum Standing {
    /// It goes on, or nobody knows: asked again next time.
    Runs,
    /// The data node has not got it, or something else than was asked for.
    Lost(&'static str),
    /// The data node gave up.
    Failed(String),
    Done(CompactionPlanResult),
}

pub(super) async fn round(coordinator: &Coordinator, scope: &Scope, memory: &mut Memory) {
    let policy = &coordinator.config().policy;
    let standings: Vec<(Arc<CompactionRow>, Standing)> =
        futures::stream::iter(executing(coordinator))
            .map(|(row, address)| async move {
                let standing = ask(coordinator, scope, &row, address).await;
                (row, standing)
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
    for (row, standing) in standings {
        let id = plan_id(&row);
        let lost = match standing {
            Standing::Runs => None,
            Standing::Lost(why) => Some(why),
            Standing::Failed(reason) => {
                fail(scope, id, reason).await;
                None
            }
            Standing::Done(told) => {
                finish(coordinator, scope, &row, &told, memory.given.get(&id)).await
            }
        };
        if let Some(why) = lost {
            take_back(scope, policy, memory, &row, why).await;
        }
    }
    drop_ended(coordinator, memory).await;
}

/// Executing tasks, each with the address of its node while that is registered.
fn executing(coordinator: &Coordinator) -> Vec<(Arc<CompactionRow>, Option<String>)> {
    let state = coordinator.state();
    state
        .live_compactions()
        .filter(|row| row.state() == CompactionState::Executing)
        .map(|row| {
            let node = state.node(row.node_id);
            (row.clone(), node.map(|node| node.address.clone()))
        })
        .collect()
}

/// Lets nodes forget what they were given and what ended, was cancelled by a drop, or is done
/// elsewhere. Once, whatever comes of it: they forget old plans by themselves.
async fn drop_ended(coordinator: &Coordinator, memory: &mut Memory) {
    let mut over = Vec::new();
    {
        let state = coordinator.state();
        memory.given.retain(|id, sent| {
            let runs = state.compaction(*id).is_some_and(|row| {
                row.state() == CompactionState::Executing && row.node_id == sent.node
            });
            if !runs && state.node(sent.node).is_some() {
                over.push((*id, sent.address.clone()));
            }
            runs
        });
    }
    let timeout = coordinator.config().policy.compaction.rpc_timeout;
    futures::stream::iter(over)
        .for_each_concurrent(PARALLEL, |(id, address)| async move {
            let dropped = coordinator
                .data_nodes()
                .drop_compaction(&address, id, timeout)
                .await;
            if let Err(error) = dropped {
                tracing::debug!(plan_id = id, %error, "data node not told that a plan is over");
            }
        })
        .await;
}

async fn ask(
    coordinator: &Coordinator,
    scope: &Scope,
    row: &CompactionRow,
    address: Option<String>,
) -> Standing {
    let Some(address) = address else {
        return Standing::Lost("its data node is gone");
    };
    let standing = ask_node(coordinator, row, &address).await;
    // The time a task waits for a slot is not its own, and a result that is there counts.
    let limit_ms = row.plan.as_ref().map_or(0, |plan| plan.timeout_ms);
    match standing {
        Standing::Runs if age_ms(scope, row.assigned_at) > limit_ms => Standing::Failed(format!(
            "{TIMED_OUT}: no result within {limit_ms} ms on data node {}",
            row.node_id
        )),
        standing => standing,
    }
}

async fn ask_node(coordinator: &Coordinator, row: &CompactionRow, address: &str) -> Standing {
    let id = plan_id(row);
    let timeout = coordinator.config().policy.compaction.rpc_timeout;
    let answer = coordinator
        .data_nodes()
        .compaction_state(address, id, timeout)
        .await;
    let told = match answer {
        Ok(results) => results.into_iter().find(|told| told.plan_id == id),
        Err(error) => {
            // Sending it elsewhere at once would do the work twice (Milvus #38313).
            tracing::debug!(plan_id = id, %error, "compaction: no answer");
            return Standing::Runs;
        }
    };
    let Some(told) = told else {
        return Standing::Lost("its data node does not know it");
    };
    match told.state() {
        CompactionTaskState::Completed if is_of_this_try(row, &told) => Standing::Done(told),
        CompactionTaskState::Completed => {
            Standing::Lost("its data node has a result with ids that were not given to this try")
        }
        CompactionTaskState::Failed => Standing::Failed(match told.fail_reason.as_str() {
            "" => format!("data node {} failed; see its log", row.node_id),
            reason => format!("data node {}: {reason}", row.node_id),
        }),
        CompactionTaskState::Timeout => {
            Standing::Failed(format!("{TIMED_OUT} on data node {}", row.node_id))
        }
        _ => Standing::Runs,
    }
}

/// Whether the ids in a result are of the range this try was given: a node may still know an
/// earlier one.
fn is_of_this_try(row: &CompactionRow, told: &CompactionPlanResult) -> bool {
    let within = |range: Option<&pb::IdRange>, id: i64| {
        range.is_some_and(|range| (range.begin..range.end).contains(&id))
    };
    let is_level0 = kind_of(row) == CompactionKind::Level0;
    told.segments.iter().all(|segment| {
        let logs = [
            &segment.insert_logs,
            &segment.field2_statslog_paths,
            &segment.deltalogs,
            &segment.bm25logs,
        ];
        let mut log_ids = logs
            .into_iter()
            .flatten()
            .flat_map(|field| &field.binlogs)
            .map(|binlog| {
                let tail = binlog.log_path.rsplit('/').next().unwrap_or_default();
                tail.parse().unwrap_or(binlog.log_id)
            });
        (is_level0 || within(row.segment_ids.as_ref(), segment.segment_id))
            && log_ids.all(|id| within(row.log_ids.as_ref(), id))
    })
}

/// Why a result is not put into the state.
enum Refusal {
    /// What the data node read is not known any more, or not what is needed: it does it again.
    Again(&'static str),
    /// It makes no sense.
    Bad(String),
    /// Not now.
    Later(String),
}

/// Puts a result into the state, or fails the task. Why it must be done again, if it must.
async fn finish(
    coordinator: &Coordinator,
    scope: &Scope,
    row: &CompactionRow,
    told: &CompactionPlanResult,
    sent: Option<&Given>,
) -> Option<&'static str> {
    let id = plan_id(row);
    let sent = sent.filter(|sent| sent.attempt == row.attempt);
    for _ in 0..READS_MAX {
        let command = match command(coordinator, row, told, sent) {
            Ok(command) => command,
            Err(Refusal::Again(why)) => return Some(why),
            Err(Refusal::Bad(why)) => {
                let reason = format!("result of data node {}: {why}", row.node_id);
                fail(scope, id, reason).await;
                return None;
            }
            Err(Refusal::Later(why)) => {
                tracing::warn!(plan_id = id, why, "compaction not finished yet");
                return None;
            }
        };
        let outputs = command.outputs.len();
        match scope.propose(Command::FinishCompaction(command)).await {
            Ok(_) => {
                let took_ms = age_ms(scope, row.started_at);
                metrics::compacted(super::name_of_kind(kind_of(row)), took_ms);
                tracing::info!(plan_id = id, outputs, took_ms, "compaction finished");
                return None;
            }
            // Deletes reached an input meanwhile: they are read and travel along.
            Err(CoordError::Rejected(Reason::FilesChanged, _)) => {}
            Err(CoordError::Rejected(reason, detail)) if reason != Reason::Fenced => {
                fail(scope, id, detail).await;
                return None;
            }
            Err(error) => {
                tracing::info!(plan_id = id, %error, "compaction not finished yet");
                return None;
            }
        }
    }
    tracing::info!(
        plan_id = id,
        "compaction not finished yet: its inputs keep changing"
    );
    None
}

/// The command that puts a result into the state, with the inputs' files as they are now.
fn command(
    coordinator: &Coordinator,
    row: &CompactionRow,
    told: &CompactionPlanResult,
    sent: Option<&Given>,
) -> Result<pb::FinishCompaction, Refusal> {
    let Some(plan) = row.plan.as_ref() else {
        return Err(Refusal::Bad("the task has no plan".into()));
    };
    let is_level0 = kind_of(row) == CompactionKind::Level0;
    let mut command = pb::FinishCompaction {
        plan_id: plan.plan_id,
        attempt: row.attempt,
        ..Default::default()
    };
    // Files and their revisions belong together: both under one lock.
    let state = coordinator.state();
    for input in &plan.inputs {
        let id = SegmentId(input.segment_id);
        let Some(segment) = state.healthy_segment(id) else {
            return Err(Refusal::Bad(format!(
                "input segment {id} was dropped meanwhile"
            )));
        };
        command.inputs.push(pb::SegmentRev {
            segment_id: id.0,
            files_rev: segment.files_rev,
        });
        let read = sent.and_then(|sent| sent.inputs.get(&id));
        let unchanged = read.map_or(input.files_rev, |(rev, _)| *rev) == segment.files_rev;
        if unchanged {
            continue;
        }
        // Deletes that came after the files were read.
        let Some((_, known)) = read.filter(|_| !is_level0) else {
            return Err(Refusal::Again(
                "an input changed, and what was read of it is not known",
            ));
        };
        let cold = coordinator
            .cold(id)
            .map_err(|error| Refusal::Later(error.to_string()))?;
        let refs: Vec<pb::BinlogRef> = cold
            .files
            .into_iter()
            .filter(|file| file.kind() == pb::LogKind::Delta && !known.contains(&file.log_id))
            .map(|file| with_path(segment, file))
            .collect();
        if !refs.is_empty() {
            command.carried.push(pb::CompactionDeltas {
                segment_id: id.0,
                refs,
            });
        }
    }
    if is_level0 {
        command.deltas = result::deltas(&state, plan, told).map_err(Refusal::Bad)?;
    } else {
        command.outputs = result::outputs(plan, told).map_err(Refusal::Bad)?;
    }
    Ok(command)
}

/// A file that passes to another segment says where it lies.
fn with_path(segment: &Segment, mut file: pb::BinlogRef) -> pb::BinlogRef {
    if file.path.is_empty() {
        file.path = wire::canonical_path(segment, &file);
    }
    file
}

#[cfg(test)]
mod tests {
    use quorate_rpc::proto::milvus::data::{Binlog, CompactionSegment, FieldBinlog};

    use super::*;

    fn told(segment_id: i64, path: &str) -> CompactionPlanResult {
        CompactionPlanResult {
            segments: vec![CompactionSegment {
                segment_id,
                insert_logs: vec![FieldBinlog {
                    field_id: 100,
                    binlogs: vec![Binlog {
                        log_path: path.into(),
                        ..Default::default()
                    }],
                }],
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_result_of_an_earlier_try_is_told_by_its_ids() {
        let row = CompactionRow {
            segment_ids: Some(pb::IdRange { begin: 10, end: 12 }),
            log_ids: Some(pb::IdRange { begin: 20, end: 30 }),
            ..Default::default()
        };
        assert!(is_of_this_try(&row, &told(11, "insert_log/1/2/11/100/29")));
        assert!(!is_of_this_try(&row, &told(12, "insert_log/1/2/12/100/29")));
        assert!(!is_of_this_try(&row, &told(11, "insert_log/1/2/11/100/30")));
    }
}
