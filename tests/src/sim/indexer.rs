//! What simulated data nodes do about index builds: newer versions take the place of older ones,
//! results are kept until they are dropped, older versions may go on writing.

use std::sync::Arc;
use std::time::Duration;

use quorate_rpc::proto::milvus::common::IndexState;
use quorate_rpc::proto::milvus::index::{CreateJobRequest, IndexTaskInfo};
use tokio_util::sync::CancellationToken;

use super::data_node::DataNode;
use super::objects::{Content, rows};

/// Builds a node works on at a time; more are refused.
const BUILDS_MAX: usize = 4;

/// One version of a build.
pub(super) struct Build {
    version: i64,
    told: IndexTaskInfo,
    over: CancellationToken,
}

impl DataNode {
    /// Takes a build; the same version again is no second one.
    pub(super) fn take_build(self: &Arc<Self>, request: CreateJobRequest) -> Result<(), String> {
        let id = request.build_id;
        let mut process = self.hold();
        let process = process.as_mut().ok_or("connection refused")?;
        if let Some(known) = process.builds.get(&id) {
            if known.version >= request.index_version {
                return Ok(());
            }
            known.over.cancel();
        } else {
            let state = i32::from(IndexState::InProgress);
            let busy = process
                .builds
                .values()
                .filter(|known| known.told.state == state);
            if busy.count() >= BUILDS_MAX {
                return Err("too many index builds".into());
            }
        }
        let goes_on = self.world.chance(300);
        let over = match goes_on {
            true => CancellationToken::new(),
            false => process.life.child_token(),
        };
        let known = Build {
            version: request.index_version,
            told: IndexTaskInfo {
                build_id: id,
                state: IndexState::InProgress.into(),
                ..IndexTaskInfo::default()
            },
            over: over.clone(),
        };
        process.builds.insert(id, known);
        let node = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = over.cancelled() => {}
                () = node.build(request) => {}
            }
        });
        Ok(())
    }

    async fn build(&self, request: CreateJobRequest) {
        let time = self
            .world
            .between(Duration::from_millis(10), Duration::from_millis(400));
        tokio::time::sleep(time).await;
        let told = match self.world.chance(50) {
            true => IndexTaskInfo {
                build_id: request.build_id,
                state: IndexState::Retry.into(),
                fail_reason: "simulated: try again".into(),
                ..IndexTaskInfo::default()
            },
            false => self.write_index(&request).await,
        };
        let mut process = self.hold();
        let known = process
            .as_mut()
            .and_then(|process| process.builds.get_mut(&request.build_id))
            .filter(|known| known.version == request.index_version);
        if let Some(known) = known {
            known.told = told;
        }
    }

    async fn write_index(&self, request: &CreateJobRequest) -> IndexTaskInfo {
        let mut told = IndexTaskInfo {
            build_id: request.build_id,
            state: IndexState::Retry.into(),
            ..IndexTaskInfo::default()
        };
        let mut found = 0;
        for path in &request.data_paths {
            let Some(Content::Rows(pieces)) = self.store.get(path).await else {
                told.fail_reason = format!("{path} is missing");
                return told;
            };
            found += rows(&pieces);
        }
        if i64::try_from(found) != Ok(request.num_rows) {
            self.world.violation(format!(
                "build {} of segment {} is told {} rows, there are {found}",
                request.build_id, request.segment_id, request.num_rows
            ));
        }
        let path = format!(
            "{}/{}/{}/{}/{}/hnsw",
            request.index_file_prefix,
            request.build_id,
            request.index_version,
            request.partition_id,
            request.segment_id
        );
        self.store.put(&path, Content::Opaque).await;
        told.state = IndexState::Finished.into();
        told.index_file_keys = vec![path];
        told.serialized_size = found * 8;
        told.mem_size = found * 8;
        told
    }

    /// How builds stand; unknown ones are left out.
    pub(super) fn build_states(&self, ids: &[i64]) -> Vec<IndexTaskInfo> {
        let process = self.hold();
        let Some(process) = process.as_ref() else {
            return Vec::new();
        };
        let known = ids.iter().filter_map(|id| process.builds.get(id));
        known.map(|build| build.told.clone()).collect()
    }

    /// Forgets builds and stops what is done for them.
    pub(super) fn drop_builds(&self, ids: &[i64]) {
        if let Some(process) = self.hold().as_mut() {
            for id in ids {
                if let Some(build) = process.builds.remove(id) {
                    build.over.cancel();
                }
            }
        }
    }
}
