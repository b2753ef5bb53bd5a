//! Compaction by hand, and how tasks stand (`semantics.md` §7).

use quorate_meta::pb::{self, CompactionRow, CompactionState as TaskState};
use quorate_meta::plan::compact::{self, Group, Planned};
use quorate_meta::{CollectionId, Reason, SegmentId, State};
use quorate_rpc::proto::milvus::common::CompactionState;
use quorate_rpc::proto::milvus::milvus::{
    CompactionMergeInfo, GetCompactionPlansRequest, GetCompactionPlansResponse,
    GetCompactionStateRequest, GetCompactionStateResponse, ManualCompactionRequest,
    ManualCompactionResponse,
};
use quorate_rpc::proto::quorate::admin::{
    Compaction, ListCompactionsRequest, ListCompactionsResponse,
};
use quorate_rpc::status;

use crate::coordinator::Coordinator;
use crate::error::{CoordError, Result};
use crate::loops::compaction::{TIMED_OUT, name_of_kind, name_of_state, policy_of, start};

/// The id of a request that found nothing to do.
const NOTHING: i64 = -1;

impl Coordinator {
    /// Compacts what can be compacted of a collection, whatever the thresholds and the switch of
    /// automatic compaction say; partition, channel and segments narrow it down (a task counts when
    /// it touches one of the segments). Deletes of level zero go first: rows they hit are removed by
    /// a later request, or by the automatic one. With nothing to do the id is -1.
    ///
    /// # Errors
    /// `ServiceUnavailable` when compaction is switched off, `CollectionNotFound` for a name nobody
    /// knows, clustering is asked for, or this replica does not lead.
    pub async fn manual_compaction(
        &self,
        request: ManualCompactionRequest,
    ) -> Result<ManualCompactionResponse> {
        let scope = self.scope()?;
        let policy = &self.config().policy;
        if !policy.compaction.enabled {
            return Err(CoordError::Disabled(
                "compaction is switched off; set dataCoord.enableCompaction".into(),
            ));
        }
        if request.major_compaction {
            return Err(CoordError::Invalid(
                "major (clustering) compaction is not supported by this release".into(),
            ));
        }
        self.barrier().await?;
        let planned = {
            let state = self.state();
            match collection_of(&state, &request)? {
                Some(collection) => {
                    let now = scope.clock.stamp();
                    wanted_groups(&state, collection, &request)
                        .flat_map(|group| {
                            let policy = policy_of(policy);
                            compact::plan_group(&state, &group, now, &policy, true).tasks
                        })
                        .filter(|task| touches(task, &request.segment_ids))
                        .collect()
                }
                None => Vec::new(),
            }
        };
        let mut response = ManualCompactionResponse {
            status: Some(status::ok()),
            compaction_id: NOTHING,
            compaction_plan_count: 0,
        };
        if planned.is_empty() {
            return Ok(response);
        }
        let trigger_id = scope.alloc_ids(1).await?;
        for task in &planned {
            match start(&scope, policy, task, trigger_id).await {
                Ok(_) => response.compaction_plan_count += 1,
                // Something changed since the plan was made, or an earlier task of this request
                // excludes it.
                Err(CoordError::Rejected(_, detail)) => {
                    tracing::info!(trigger_id, detail, "compaction not started");
                }
                Err(error) => return Err(error),
            }
        }
        if response.compaction_plan_count > 0 {
            response.compaction_id = trigger_id;
        }
        Ok(response)
    }

    /// How the tasks of a request stand. An unknown one is completed, with zeros, as in Milvus.
    ///
    /// # Errors
    /// This replica does not lead.
    pub async fn get_compaction_state(
        &self,
        request: GetCompactionStateRequest,
    ) -> Result<GetCompactionStateResponse> {
        let state = self.read().await?;
        let mut response = GetCompactionStateResponse {
            status: Some(status::ok()),
            ..Default::default()
        };
        for row in tasks_of(&state, request.compaction_id) {
            let count = match row.state() {
                TaskState::Completed => &mut response.completed_plan_no,
                TaskState::Failed if row.fail_reason.starts_with(TIMED_OUT) => {
                    &mut response.timeout_plan_no
                }
                TaskState::Failed => &mut response.failed_plan_no,
                _ => &mut response.executing_plan_no,
            };
            *count += 1;
        }
        response.state = overall(response.executing_plan_no > 0).into();
        Ok(response)
    }

    /// What became of what in the tasks of a request; -1 stands for what is not known yet.
    ///
    /// # Errors
    /// This replica does not lead.
    pub async fn get_compaction_state_with_plans(
        &self,
        request: GetCompactionPlansRequest,
    ) -> Result<GetCompactionPlansResponse> {
        let state = self.read().await?;
        let mut running = false;
        let mut merge_infos = Vec::new();
        for row in tasks_of(&state, request.compaction_id) {
            running |= matches!(row.state(), TaskState::Pending | TaskState::Executing);
            let sources = inputs_of(row);
            let targets = if row.outputs.is_empty() {
                vec![NOTHING]
            } else {
                row.outputs.clone()
            };
            merge_infos.extend(targets.into_iter().map(|target| CompactionMergeInfo {
                sources: sources.clone(),
                target,
            }));
        }
        Ok(GetCompactionPlansResponse {
            status: Some(status::ok()),
            state: overall(running).into(),
            merge_infos,
        })
    }

    /// Tasks by plan id.
    ///
    /// # Errors
    /// This replica does not lead.
    pub async fn list_compactions(
        &self,
        request: ListCompactionsRequest,
    ) -> Result<ListCompactionsResponse> {
        let state = self.read().await?;
        let compactions = state
            .compactions()
            .filter(|row| request.include_ended || row.ended_at == 0)
            .filter_map(|row| {
                let plan = row.plan.as_ref()?;
                let wanted =
                    request.collection_id == 0 || request.collection_id == plan.collection_id;
                wanted.then(|| Compaction {
                    plan_id: plan.plan_id,
                    trigger_id: plan.trigger_id,
                    kind: name_of_kind(plan.kind()).into(),
                    state: name_of_state(row.state()).into(),
                    collection_id: plan.collection_id,
                    partition_id: plan.partition_id,
                    channel: plan.channel.clone(),
                    inputs: inputs_of(row),
                    targets: plan.targets.clone(),
                    outputs: row.outputs.clone(),
                    node_id: row.node_id,
                    attempt: row.attempt,
                    started_at: row.started_at,
                    ended_at: row.ended_at,
                    fail_reason: row.fail_reason.clone(),
                })
            })
            .collect();
        Ok(ListCompactionsResponse { compactions })
    }
}

fn overall(running: bool) -> CompactionState {
    if running {
        CompactionState::Executing
    } else {
        CompactionState::Completed
    }
}

fn tasks_of(state: &State, trigger_id: i64) -> impl Iterator<Item = &CompactionRow> {
    state
        .compactions()
        .map(|row| row.as_ref())
        .filter(move |row| {
            let plan = row.plan.as_ref();
            trigger_id > 0 && plan.is_some_and(|plan| plan.trigger_id == trigger_id)
        })
}

fn inputs_of(row: &CompactionRow) -> Vec<i64> {
    let inputs = row.plan.iter().flat_map(|plan| &plan.inputs);
    inputs
        .map(|input: &pb::SegmentRev| input.segment_id)
        .collect()
}

/// The collection asked for. An unknown id has nothing to compact, as in Milvus.
fn collection_of(state: &State, request: &ManualCompactionRequest) -> Result<Option<CollectionId>> {
    if request.collection_id == 0 && !request.collection_name.is_empty() {
        let name = &request.collection_name;
        return match state.collection_named(name) {
            Some(row) => Ok(Some(CollectionId(row.id))),
            None => Err(CoordError::Rejected(
                Reason::CollectionNotFound,
                format!("collection not found[collection={name}]"),
            )),
        };
    }
    let id = CollectionId(request.collection_id);
    Ok(state.live_collection(id).map(|_| id))
}

fn wanted_groups(
    state: &State,
    collection: CollectionId,
    request: &ManualCompactionRequest,
) -> impl Iterator<Item = Group> {
    let groups = compact::groups(state).into_iter();
    groups.filter(move |group| {
        group.collection == collection
            && (request.partition_id <= 0
                || group.partition.0 < 0
                || group.partition.0 == request.partition_id)
            && (request.channel.is_empty() || *group.channel == *request.channel)
    })
}

fn touches(task: &Planned, segments: &[i64]) -> bool {
    let is_named = |id: i64| segments.contains(&id);
    segments.is_empty()
        || task.inputs.iter().any(|input| is_named(input.segment_id))
        || task.targets.iter().any(|SegmentId(id)| is_named(*id))
}
