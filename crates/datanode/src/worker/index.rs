//! Index builds: read the vectors of a segment, build an index, store it.
//!
//! A job is known by its build id; its version grows with every attempt of the coordinator. What
//! is known here does not survive the node: a coordinator that asks for a build we do not know
//! gives it to somebody anew, under a new version and thus another path.
//!
//! Invariants:
//! - There is one job a build: the one of the highest version asked for.
//! - A job that was dropped or replaced, and one of a node that stops, changes nothing here any
//!   more. An object it has stored nevertheless is known to nobody and is collected as such.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use quorate_binlog::{IndexPath, LogStore};
use quorate_rpc::proto::milvus::common::IndexState;
use quorate_rpc::proto::milvus::index::{CreateJobRequest, IndexTaskInfo};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::job::{Failure, Stored};

mod job;

/// Ended jobs that are remembered until they are dropped; beyond it the oldest is forgotten.
const ENDED_MAX: usize = 1024;

/// Why a job is not taken in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// As many as allowed are queued or running.
    Full(String),
    /// The request makes no sense, or is an old one.
    Invalid(String),
}

/// The index builds of a data node.
pub(crate) struct IndexJobs {
    store: LogStore,
    /// One for each job that may run at a time.
    permits: Arc<Semaphore>,
    /// Most jobs that are queued or running.
    live_max: usize,
    tasks: TaskTracker,
    stop: CancellationToken,
    jobs: Mutex<Jobs>,
}

#[derive(Default)]
struct Jobs {
    by_build: BTreeMap<i64, Job>,
    /// Build and version of jobs in the order they ended; some may be gone already.
    ended: VecDeque<(i64, i64)>,
}

struct Job {
    version: i64,
    current_index_version: i32,
    store_version: i64,
    outcome: Option<Result<Stored, Failure>>,
    cancel: CancellationToken,
}

impl Job {
    fn info(&self, build_id: i64) -> IndexTaskInfo {
        let info = IndexTaskInfo {
            build_id,
            current_index_version: self.current_index_version,
            index_store_version: self.store_version,
            ..Default::default()
        };
        match &self.outcome {
            None => IndexTaskInfo {
                state: IndexState::InProgress.into(),
                ..info
            },
            Some(Ok(stored)) => IndexTaskInfo {
                state: IndexState::Finished.into(),
                index_file_keys: vec![stored.location.clone()],
                serialized_size: stored.serialized_bytes,
                mem_size: stored.memory_bytes,
                ..info
            },
            Some(Err(failure)) => IndexTaskInfo {
                state: match failure {
                    Failure::Final(_) => IndexState::Failed,
                    Failure::Again(_) => IndexState::Retry,
                }
                .into(),
                fail_reason: failure.reason().to_owned(),
                ..info
            },
        }
    }
}

impl IndexJobs {
    /// Jobs over the objects of `store`: `at_once` run, `queued` more may wait. They end with
    /// `stop`.
    pub fn new(
        store: LogStore,
        at_once: usize,
        queued: usize,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Arc<IndexJobs> {
        Arc::new(IndexJobs {
            store,
            permits: Arc::new(Semaphore::new(at_once)),
            live_max: at_once + queued,
            tasks,
            stop,
            jobs: Mutex::default(),
        })
    }

    /// Takes a job in; it is worked on in the background. Asking again changes nothing; a higher
    /// version of a build replaces the lower one.
    pub fn create(self: &Arc<Self>, request: CreateJobRequest) -> Result<(), Refusal> {
        let (build, version) = (request.build_id, request.index_version);
        let path = target(&request)?;
        let cancel = self.stop.child_token();
        let mut jobs = self.lock();
        match jobs.by_build.get(&build) {
            Some(known) if known.version == version => return Ok(()),
            Some(known) if known.version > version => {
                return Err(Refusal::Invalid(format!(
                    "index build {build} is at version {} already, {version} is an old request",
                    known.version
                )));
            }
            _ => {}
        }
        let live = jobs
            .by_build
            .iter()
            .filter(|(id, job)| **id != build && job.outcome.is_none())
            .count();
        if live >= self.live_max {
            return Err(Refusal::Full(format!(
                "{live} index builds are queued or running, as many as allowed; try again later"
            )));
        }
        let job = Job {
            version,
            current_index_version: request.current_index_version,
            store_version: request.store_version,
            outcome: None,
            cancel: cancel.clone(),
        };
        if let Some(replaced) = jobs.by_build.insert(build, job) {
            replaced.cancel.cancel();
            tracing::info!(
                build,
                version,
                replaced = replaced.version,
                "index build replaced"
            );
        }
        drop(jobs);
        self.tasks
            .spawn(Arc::clone(self).run(request, path, cancel));
        Ok(())
    }

    /// What is known of these builds; nothing of those not known.
    pub fn query(&self, builds: &[i64]) -> Vec<IndexTaskInfo> {
        let jobs = self.lock();
        builds
            .iter()
            .map(|build| match jobs.by_build.get(build) {
                Some(job) => job.info(*build),
                None => IndexTaskInfo {
                    build_id: *build,
                    state: IndexState::None.into(),
                    fail_reason: format!("index build {build} is not known here"),
                    ..Default::default()
                },
            })
            .collect()
    }

    /// Forgets jobs, and ends those that run.
    pub fn drop_jobs(&self, builds: &[i64]) {
        let mut jobs = self.lock();
        for build in builds {
            if let Some(job) = jobs.by_build.remove(build) {
                job.cancel.cancel();
            }
        }
    }

    async fn run(
        self: Arc<Self>,
        request: CreateJobRequest,
        path: IndexPath,
        cancel: CancellationToken,
    ) {
        let started = Instant::now();
        let working = job::work(&self.store, &self.permits, &request, &path, &cancel);
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            outcome = working => outcome,
        };
        let (build, version) = (request.build_id, request.index_version);
        let elapsed_ms = started.elapsed().as_millis() as u64;
        match &outcome {
            Ok(stored) => tracing::info!(
                build,
                version,
                segment = request.segment_id,
                rows = stored.rows,
                bytes = stored.serialized_bytes,
                elapsed_ms,
                "index built"
            ),
            Err(failure) => tracing::warn!(
                build,
                version,
                segment = request.segment_id,
                reason = failure.reason(),
                again = matches!(failure, Failure::Again(_)),
                elapsed_ms,
                "index build failed"
            ),
        }
        self.end(build, version, &cancel, outcome);
    }

    fn end(
        &self,
        build: i64,
        version: i64,
        cancel: &CancellationToken,
        outcome: Result<Stored, Failure>,
    ) {
        let mut jobs = self.lock();
        // It is cancelled under the lock, so this one is still the job of the build.
        if cancel.is_cancelled() {
            return;
        }
        let Some(job) = jobs.by_build.get_mut(&build) else {
            return;
        };
        job.outcome = Some(outcome);
        jobs.ended.push_back((build, version));
        while jobs.ended.len() > ENDED_MAX {
            let Some((build, version)) = jobs.ended.pop_front() else {
                return;
            };
            let known = jobs.by_build.get(&build);
            if known.is_some_and(|job| job.version == version && job.outcome.is_some()) {
                jobs.by_build.remove(&build);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the index of a request is to be stored.
fn target(request: &CreateJobRequest) -> Result<IndexPath, Refusal> {
    let prefix = request.index_file_prefix.trim_end_matches('/');
    if !prefix.is_empty() && prefix.rsplit('/').next() != Some("index_files") {
        return Err(Refusal::Invalid(format!(
            "index files are stored below index_files, not below {:?}",
            request.index_file_prefix
        )));
    }
    if request.build_id <= 0 {
        return Err(Refusal::Invalid(format!(
            "{} is no build id",
            request.build_id
        )));
    }
    IndexPath::new(
        request.build_id,
        request.index_version,
        request.partition_id,
        request.segment_id,
        quorate_index::INDEX_FILE,
    )
    .map_err(|error| Refusal::Invalid(error.to_string()))
}

#[cfg(test)]
mod tests;
