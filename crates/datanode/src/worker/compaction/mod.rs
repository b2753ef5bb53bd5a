//! Compaction: plans of the coordinator, carried out on log files.
//!
//! A plan only ever writes new objects, under ids that were handed out for it. Nothing is decided
//! here: the coordinator takes the result or drops it, and then, as after a failure or a stop, the
//! objects are ones that nobody knows, which garbage collection removes.
//!
//! Invariants:
//! - A plan is carried out once for each range of ids; asking again changes nothing.
//! - A newer range for the same plan ends the older try.
//! - Plans that run or wait are bounded, and so are the results that are kept.

mod job;
mod level0;
mod merge;
mod output;
mod read;

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::FutureExt;
use quorate_binlog::LogStore;
use quorate_rpc::proto::milvus::data::{
    CompactionPlan, CompactionPlanResult, CompactionSegment, CompactionTaskState,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use job::{Job, Kind};

pub(crate) use job::PlanError;
pub(crate) use output::store_group;

/// Results kept for plans nobody has dropped; beyond it the oldest goes.
const RESULTS_MAX: usize = 256;

/// Why a plan is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the data node is stopping")]
    Stopping,
    #[error("too many compactions: {running} of {limit} plans run or wait here; try again later")]
    TooMany { running: usize, limit: usize },
    #[error(
        "compaction plan {plan_id}: ids from {begin} belong to an older try than the one from {known} that is known here"
    )]
    Outdated {
        plan_id: i64,
        begin: i64,
        known: i64,
    },
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// The plans of this node.
pub(crate) struct Compactions {
    store: LogStore,
    /// Plans that may run or wait.
    limit: usize,
    running: Arc<Semaphore>,
    plans: Mutex<Plans>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Default)]
struct Plans {
    by_id: BTreeMap<i64, Entry>,
    /// Plans that have ended, oldest first.
    ended: VecDeque<i64>,
    last_try: u64,
}

struct Entry {
    try_number: u64,
    /// Begin and end of the log ids, then of the segment ids: what tells tries of a plan apart.
    ids: [i64; 4],
    cancel: CancellationToken,
    result: CompactionPlanResult,
}

impl Entry {
    fn is_live(&self) -> bool {
        self.result.state() == CompactionTaskState::Executing
    }
}

impl Compactions {
    /// `at_once` plans run, `queued` more may wait; all end with `stop`.
    pub fn new(
        store: LogStore,
        at_once: usize,
        queued: usize,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Arc<Compactions> {
        Arc::new(Compactions {
            store,
            limit: at_once + queued,
            running: Arc::new(Semaphore::new(at_once)),
            plans: Mutex::default(),
            tasks,
            stop,
        })
    }

    /// Takes a plan on; it is carried out in the background.
    pub fn start(self: &Arc<Compactions>, plan: &CompactionPlan) -> Result<(), Refusal> {
        let job = Job::parse(plan)?;
        if self.stop.is_cancelled() {
            return Err(Refusal::Stopping);
        }
        let plan_id = job.plan_id;
        let ids = [
            job.log_ids.start,
            job.log_ids.end,
            job.segment_ids.start,
            job.segment_ids.end,
        ];
        let cancel = self.stop.child_token();
        let try_number = {
            let mut plans = self.plans();
            match plans.by_id.get(&plan_id) {
                Some(known) if known.ids == ids => return Ok(()),
                // Ids only grow: a lower one comes with a message that was long under way.
                Some(known) if known.ids[0] > ids[0] => {
                    return Err(Refusal::Outdated {
                        plan_id,
                        begin: ids[0],
                        known: known.ids[0],
                    });
                }
                _ => {}
            }
            plans.remove(plan_id);
            let running = plans.by_id.values().filter(|entry| entry.is_live()).count();
            if running >= self.limit {
                return Err(Refusal::TooMany {
                    running,
                    limit: self.limit,
                });
            }
            plans.last_try += 1;
            let try_number = plans.last_try;
            let entry = Entry {
                try_number,
                ids,
                cancel: cancel.clone(),
                result: CompactionPlanResult {
                    plan_id,
                    state: CompactionTaskState::Executing.into(),
                    channel: plan.channel.clone(),
                    r#type: plan.r#type,
                    ..Default::default()
                },
            };
            plans.by_id.insert(plan_id, entry);
            try_number
        };
        tracing::info!(
            plan_id,
            kind = plan.r#type().as_str_name(),
            channel = %plan.channel,
            segments = plan.segment_binlogs.len(),
            "compaction taken on"
        );
        let compactions = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {
                    tracing::info!(plan_id, "compaction cancelled");
                }
                () = compactions.carry_out(&job, try_number) => {}
            }
        });
        Ok(())
    }

    /// Results of a plan, or of all plans with id 0. A plan nobody knows has none.
    pub fn results(&self, plan_id: i64) -> Vec<CompactionPlanResult> {
        let plans = self.plans();
        let asked = plans.by_id.iter();
        asked
            .filter(|(id, _)| plan_id == 0 || **id == plan_id)
            .map(|(_, entry)| entry.result.clone())
            .collect()
    }

    /// Forgets a plan, and ends it if it runs.
    pub fn drop_plan(&self, plan_id: i64) {
        if self.plans().remove(plan_id) {
            tracing::debug!(plan_id, "compaction plan dropped");
        }
    }

    async fn carry_out(&self, job: &Job, try_number: u64) {
        let started = Instant::now();
        let work = async {
            let _permit = self
                .running
                .acquire()
                .await
                .map_err(|error| PlanError::Internal(error.to_string()))?;
            run(&self.store, job).await
        };
        // A panic is a fault of ours; it must not leave the plan running for ever.
        let work = AssertUnwindSafe(work).catch_unwind();
        let (state, segments, reason) = match tokio::time::timeout(job.timeout, work).await {
            Ok(Ok(Ok(segments))) => (CompactionTaskState::Completed, segments, String::new()),
            Ok(Ok(Err(error))) => (CompactionTaskState::Failed, Vec::new(), describe(&error)),
            Ok(Err(_)) => {
                let reason = "internal: the compaction panicked".to_owned();
                (CompactionTaskState::Failed, Vec::new(), reason)
            }
            Err(_) => {
                let reason = format!("not done within {} s", job.timeout.as_secs());
                (CompactionTaskState::Timeout, Vec::new(), reason)
            }
        };
        let elapsed_ms = started.elapsed().as_millis() as u64;
        let plan_id = job.plan_id;
        if state == CompactionTaskState::Completed {
            let rows: i64 = segments.iter().map(|segment| segment.num_of_rows).sum();
            let outputs = segments.len();
            tracing::info!(plan_id, outputs, rows, elapsed_ms, "compaction done");
        } else {
            tracing::warn!(plan_id, elapsed_ms, %reason, "compaction failed");
        }
        self.plans().end(plan_id, try_number, |result| {
            result.set_state(state);
            result.segments = segments;
            result.fail_reason = reason;
        });
    }

    fn plans(&self) -> MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plans {
    /// Whether it was there.
    fn remove(&mut self, plan_id: i64) -> bool {
        let Some(entry) = self.by_id.remove(&plan_id) else {
            return false;
        };
        entry.cancel.cancel();
        self.ended.retain(|id| *id != plan_id);
        true
    }

    /// Notes how a try ended, unless it has been replaced or dropped.
    fn end(&mut self, plan_id: i64, try_number: u64, note: impl FnOnce(&mut CompactionPlanResult)) {
        let Some(entry) = self.by_id.get_mut(&plan_id) else {
            return;
        };
        if entry.try_number != try_number {
            return;
        }
        note(&mut entry.result);
        self.ended.push_back(plan_id);
        if self.ended.len() > RESULTS_MAX
            && let Some(oldest) = self.ended.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }
}

/// Carries a plan out on a store and answers its outputs.
pub(crate) async fn carry_out_plan(
    store: &LogStore,
    plan: &CompactionPlan,
) -> Result<Vec<CompactionSegment>, PlanError> {
    run(store, &Job::parse(plan)?).await
}

async fn run(store: &LogStore, job: &Job) -> Result<Vec<CompactionSegment>, PlanError> {
    match job.kind {
        Kind::Rewrite => merge::run(store, job).await,
        Kind::LevelZero => level0::run(store, job).await,
    }
}

/// An error with its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
