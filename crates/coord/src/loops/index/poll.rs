//! Builds in progress: data nodes are asked how they stand.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use quorate_binlog::IndexPath;
use quorate_meta::pb::{BuildRow, BuildState};
use quorate_rpc::proto::milvus::common::IndexState;
use quorate_rpc::proto::milvus::index::IndexTaskInfo;

use super::{Memory, PARALLEL, finish, take_back};
use crate::coordinator::Coordinator;
use crate::leader::Scope;

/// How a build stands with its node.
enum Standing<'a> {
    Runs,
    Finished(&'a IndexTaskInfo),
    Failed(String),
    /// Somebody has to do it again.
    Lost(String),
}

/// Asks the nodes how their builds stand.
pub(super) async fn round(coordinator: &Coordinator, scope: &Scope, memory: &mut Memory) {
    let timeout = coordinator.config().policy.compaction.rpc_timeout;
    let (by_node, orphaned) = under_way(coordinator);
    for row in &orphaned {
        take_back(coordinator, scope, memory, row, "its data node is gone").await;
    }
    let answers: Vec<_> = futures::stream::iter(by_node)
        .map(|(address, rows)| async move {
            let ids = rows.iter().map(|row| row.build_id).collect();
            let answer = coordinator
                .data_nodes()
                .query_index_jobs(&address, ids, timeout)
                .await;
            (rows, answer)
        })
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    for (rows, answer) in answers {
        let told = match answer {
            Ok(told) => told,
            Err(error) => {
                tracing::debug!(%error, "index builds: no answer");
                continue;
            }
        };
        for row in rows {
            match standing(&row, &told) {
                Standing::Runs => {}
                Standing::Finished(info) => {
                    finish(scope, row.build_id, row.version, Ok(info)).await;
                }
                Standing::Failed(reason) => {
                    finish(scope, row.build_id, row.version, Err(reason)).await;
                }
                Standing::Lost(why) => take_back(coordinator, scope, memory, &row, &why).await,
            }
        }
    }
    drop_ended(coordinator, memory).await;
}

type ByAddress = BTreeMap<String, Vec<Arc<BuildRow>>>;

/// Builds in progress by their node's address, and those whose node is gone.
fn under_way(coordinator: &Coordinator) -> (ByAddress, Vec<Arc<BuildRow>>) {
    let state = coordinator.state();
    let mut by_node: ByAddress = BTreeMap::new();
    let mut orphaned = Vec::new();
    for row in state.open_builds() {
        if row.state() != BuildState::InProgress {
            continue;
        }
        match state.node(row.node_id) {
            Some(node) => by_node
                .entry(node.address.clone())
                .or_default()
                .push(row.clone()),
            None => orphaned.push(row.clone()),
        }
    }
    (by_node, orphaned)
}

fn standing<'a>(row: &BuildRow, told: &'a [IndexTaskInfo]) -> Standing<'a> {
    let Some(info) = told.iter().find(|info| info.build_id == row.build_id) else {
        return Standing::Lost("its data node does not know it".into());
    };
    match info.state() {
        IndexState::Finished if info.index_file_keys.is_empty() => {
            Standing::Failed("its data node names no index files".into())
        }
        IndexState::Finished if info.index_file_keys.iter().all(|key| is_of(row, key)) => {
            Standing::Finished(info)
        }
        // Of an earlier version, most likely: the node was not reached with this one.
        IndexState::Finished => {
            Standing::Lost("its data node names files that are not of this build's version".into())
        }
        IndexState::Failed => Standing::Failed(info.fail_reason.clone()),
        IndexState::None | IndexState::Retry => Standing::Lost(info.fail_reason.clone()),
        IndexState::Unissued | IndexState::InProgress => Standing::Runs,
    }
}

/// Whether a file is one this version of the build may have made.
fn is_of(row: &BuildRow, key: &str) -> bool {
    IndexPath::parse(key).is_ok_and(|path| {
        path.build() == row.build_id
            && path.version() == i64::from(row.version)
            && path.partition() == row.partition_id
            && path.segment() == row.segment_id
    })
}

/// Lets nodes forget builds that ended, that nobody wants any more, or that are done elsewhere.
/// Once, whatever comes of it: they forget old ones by themselves.
async fn drop_ended(coordinator: &Coordinator, memory: &mut Memory) {
    let mut over: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    {
        let state = coordinator.state();
        let running: BTreeMap<i64, i64> = state
            .open_builds()
            .filter(|row| row.state() == BuildState::InProgress)
            .map(|row| (row.build_id, row.node_id))
            .collect();
        memory.given.retain(|build, (node, address)| {
            let runs = running.get(build) == Some(node);
            if !runs && state.node(*node).is_some() {
                over.entry(address.clone()).or_default().push(*build);
            }
            runs
        });
    }
    let timeout = coordinator.config().policy.compaction.rpc_timeout;
    futures::stream::iter(over)
        .for_each_concurrent(PARALLEL, |(address, builds)| async move {
            let dropped = coordinator
                .data_nodes()
                .drop_index_jobs(&address, builds, timeout)
                .await;
            if let Err(error) = dropped {
                tracing::debug!(%error, "data node not told that index builds are over");
            }
        })
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> BuildRow {
        BuildRow {
            build_id: 9,
            version: 2,
            partition_id: 3,
            segment_id: 4,
            ..Default::default()
        }
    }

    fn finished(files: &[&str]) -> Vec<IndexTaskInfo> {
        vec![IndexTaskInfo {
            build_id: 9,
            state: IndexState::Finished.into(),
            index_file_keys: files.iter().map(|file| (*file).to_owned()).collect(),
            ..Default::default()
        }]
    }

    #[test]
    fn files_of_this_version_finish_a_build() {
        let told = finished(&["root/index_files/9/2/3/4/index"]);
        assert!(matches!(standing(&row(), &told), Standing::Finished(_)));
    }

    #[test]
    fn files_of_another_version_segment_or_build_do_not() {
        for file in [
            "index_files/9/1/3/4/index",
            "index_files/9/2/3/5/index",
            "index_files/8/2/3/4/index",
            "index",
        ] {
            let told = finished(&[file]);
            assert!(
                matches!(standing(&row(), &told), Standing::Lost(_)),
                "{file}"
            );
        }
        let told = finished(&[]);
        assert!(matches!(standing(&row(), &told), Standing::Failed(_)));
    }

    #[test]
    fn a_build_the_node_does_not_know_is_lost() {
        assert!(matches!(standing(&row(), &[]), Standing::Lost(_)));
    }
}
