//! Builds that wait, to data nodes: the version on the log first, the call second.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use quorate_meta::command::Command;
use quorate_meta::pb::{self, BuildRow, BuildState};
use quorate_meta::plan::schedule::{self, Slots};
use quorate_meta::{CollectionId, SegmentId};
use quorate_rpc::proto::milvus::common::KeyValuePair;
use quorate_rpc::proto::milvus::index::{CreateJobRequest, IndexTaskInfo};
use quorate_rpc::proto::milvus::schema::FieldSchema;
use tokio::time::Instant;

use super::{Memory, PARALLEL, finish};
use crate::coordinator::Coordinator;
use crate::error::{CoordError, Result};
use crate::leader::Scope;
use crate::service::schema_of;
use crate::wire;

/// Where index files lie in the object store.
const FILE_PREFIX: &str = "index_files";

/// Builds that wait, to data nodes with free slots.
pub(super) async fn round(coordinator: &Coordinator, scope: &Scope, memory: &mut Memory) {
    let policy = &coordinator.config().policy;
    memory.resting.retain(|_, until| *until > Instant::now());
    let chosen: Vec<(Arc<BuildRow>, i64)> = {
        let state = coordinator.state();
        let mut used: BTreeMap<i64, u32> = BTreeMap::new();
        for row in state.open_builds() {
            if row.state() == BuildState::InProgress {
                *used.entry(row.node_id).or_default() += 1;
            }
        }
        let mut slots: Vec<Slots> = scope
            .live_nodes(policy.node_lease)
            .into_iter()
            .filter(|node| state.node(*node).is_some())
            .map(|node| Slots {
                node,
                free: policy
                    .work
                    .builds_per_node
                    .saturating_sub(used.get(&node).copied().unwrap_or(0)),
            })
            .collect();
        let mut chosen = Vec::new();
        let waiting = state
            .open_builds()
            .filter(|row| row.state() == BuildState::Init)
            .filter(|row| !memory.resting.contains_key(&row.build_id));
        for row in waiting {
            let Some(node) = schedule::pick(&slots, 1) else {
                break;
            };
            for slot in slots.iter_mut().filter(|slot| slot.node == node) {
                slot.free = slot.free.saturating_sub(1);
            }
            chosen.push((row.clone(), node));
        }
        chosen
    };
    let given: Vec<Option<(i64, i64, String)>> = futures::stream::iter(chosen)
        .map(|(row, node)| async move {
            match give(coordinator, scope, &row, node).await {
                Ok(address) => Some((row.build_id, node, address?)),
                Err(error) => {
                    tracing::info!(build = row.build_id, node, %error, "index build not given yet");
                    None
                }
            }
        })
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    for (build, node, address) in given.into_iter().flatten() {
        memory.given.insert(build, (node, address));
    }
}

/// One build to one node; its address, unless there was nothing to send.
async fn give(
    coordinator: &Coordinator,
    scope: &Scope,
    row: &BuildRow,
    node: i64,
) -> Result<Option<String>> {
    let version = row.version.saturating_add(1);
    scope
        .propose(Command::AssignIndexBuild(pb::AssignIndexBuild {
            build_id: row.build_id,
            node_id: node,
            version,
        }))
        .await?;
    let (request, address) = match job(coordinator, row, version, node)? {
        Job::Send(request, address) => (*request, address),
        Job::NoFiles => {
            finish(scope, row.build_id, version, Ok(&IndexTaskInfo::default())).await;
            return Ok(None);
        }
        Job::Gone => return Ok(None),
    };
    let timeout = coordinator.config().policy.compaction.rpc_timeout;
    let given = coordinator
        .data_nodes()
        .create_index_job(&address, request, timeout)
        .await;
    match given {
        Ok(()) => tracing::info!(
            build = row.build_id,
            segment = row.segment_id,
            node,
            version,
            "index build given"
        ),
        // It is asked, and only if it does not know the build somebody else gets it.
        Err(error) => {
            tracing::info!(build = row.build_id, node, %error, "index build perhaps not given");
        }
    }
    Ok(Some(address))
}

enum Job {
    Send(Box<CreateJobRequest>, String),
    /// The index has no files: readers compare the vectors one by one.
    NoFiles,
    /// Segment, index or node went meanwhile.
    Gone,
}

/// The job as a data node is told it.
fn job(coordinator: &Coordinator, row: &BuildRow, version: u32, node: i64) -> Result<Job> {
    let state = coordinator.state();
    let segment_id = SegmentId(row.segment_id);
    let index = state.index(row.index_id).and_then(|row| row.index.as_ref());
    let collection = state.live_collection(CollectionId(row.collection_id));
    let (Some(index), Some(collection), Some(node), Some(_)) = (
        index,
        collection,
        state.node(node),
        state.healthy_segment(segment_id),
    ) else {
        return Ok(Job::Gone);
    };
    let is_flat = index
        .index_params
        .iter()
        .any(|pair| pair.key == "index_type" && pair.value.eq_ignore_ascii_case("FLAT"));
    if is_flat {
        return Ok(Job::NoFiles);
    }
    let schema = schema_of(collection)?;
    let field = schema
        .fields
        .into_iter()
        .find(|field| field.field_id == index.field_id)
        .ok_or_else(|| {
            CoordError::Internal(format!(
                "index {} is of field {}, which collection {} has not got",
                index.name, index.field_id, row.collection_id
            ))
        })?;
    let (segment, cold) = coordinator.segment_with_files(&state, segment_id)?;
    let mut logs: Vec<&pb::BinlogRef> = cold
        .files
        .iter()
        .filter(|file| file.kind() == pb::LogKind::Insert && file.field_id == index.field_id)
        .collect();
    logs.sort_by_key(|file| file.log_id);
    let request = CreateJobRequest {
        index_file_prefix: FILE_PREFIX.into(),
        build_id: row.build_id,
        index_version: i64::from(version),
        index_id: row.index_id,
        index_name: index.name.clone(),
        index_params: pairs(&index.index_params),
        type_params: pairs(&index.type_params),
        num_rows: segment.rows,
        collection_id: segment.collection.0,
        partition_id: segment.partition.0,
        segment_id: segment.id.0,
        field_id: index.field_id,
        field_name: field.name.clone(),
        field_type: field.data_type,
        dim: dim_of(&field),
        data_paths: logs
            .iter()
            .map(|file| wire::path_of(segment, file))
            .collect(),
        data_ids: logs.iter().map(|file| file.log_id).collect(),
        field: Some(field),
        ..Default::default()
    };
    Ok(Job::Send(Box::new(request), node.address.clone()))
}

fn pairs(pairs: &[pb::KeyValue]) -> Vec<KeyValuePair> {
    pairs
        .iter()
        .map(|pair| KeyValuePair {
            key: pair.key.clone(),
            value: pair.value.clone(),
        })
        .collect()
}

fn dim_of(field: &FieldSchema) -> i64 {
    let dim = field.type_params.iter().find(|pair| pair.key == "dim");
    dim.and_then(|pair| pair.value.parse().ok()).unwrap_or(0)
}
