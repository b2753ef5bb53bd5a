//! Garbage collection (`semantics.md` §10): condemned on the log → grace → objects deleted →
//! metadata forgotten last; and objects nobody knows.
//!
//! Invariants: an object is deleted only after a quorum has confirmed, behind the decision, that
//! this replica leads; nothing is forgotten whose objects are not surely gone; ages are taken by the
//! epoch's clock, and by the wall clock only where the object store's own times are compared.

mod condemn;
mod delete;
mod indexes;
mod name;
mod orphans;

pub(crate) use orphans::Scan;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use quorate_meta::plan::gc::GcPolicy;
use quorate_meta::{CollectionId, Reason, Ts};
use tokio::time::Instant;

use crate::coordinator::Coordinator;
use crate::error::{CoordError, Result};
use crate::leader::Scope;
use crate::metrics;
use crate::outbound::objects::Objects;

/// Objects deleted behind one confirmation of leadership.
const SLICE: usize = 256;
/// Further apart, nothing is judged by its age until an operator has set the clocks right.
const CLOCKS_APART_MS_MAX: u64 = 5000;
/// A new leader looks so soon, if not sooner by its period.
const FIRST_ROUND: Duration = Duration::from_secs(60);

/// Rounds that only wait for a grace are at least so far apart.
const ROUND_MIN: Duration = Duration::from_secs(1);

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// Segments condemned.
    pub condemned: u64,
    /// Objects of segments and indexes deleted, those that were gone already included.
    pub objects: u64,
    /// Segments forgotten.
    pub segments: u64,
    /// Indexes and builds forgotten.
    pub indexes: u64,
    /// Collections of which something was forgotten.
    pub collections: u64,
    /// Orphans deleted.
    pub orphans: u64,
}

/// Collects what was dropped, round by round.
pub(super) async fn run(coordinator: Arc<Coordinator>, scope: Arc<Scope>) {
    let policy = &coordinator.config().policy.gc;
    let (interval, grace) = (policy.interval, policy.condemn_grace);
    let wakes = coordinator.consensus().store().machine().wakes().clone();
    if coordinator.objects().is_none() {
        tracing::warn!("garbage collection is off: {NO_STORE}");
        return;
    }
    let mut period = interval.min(FIRST_ROUND);
    while super::next_round(&scope, &wakes.gc, period).await {
        let mut done = Done::default();
        tokio::select! {
            biased;
            () = scope.cancel.cancelled() => return,
            outcome = collect(&coordinator, &scope, &mut done) => tell(outcome, done),
        }
        // What is condemned waits for its grace, not for a whole period.
        let waits = coordinator.state().condemned().next().is_some();
        period = match waits {
            true => interval.min(grace.max(ROUND_MIN)),
            false => interval,
        };
    }
}

/// Looks for orphans now and then. Apart from the rounds: listing a large object store takes hours,
/// and what was dropped must not wait for it.
pub(super) async fn scan(coordinator: Arc<Coordinator>, scope: Arc<Scope>) {
    if coordinator.objects().is_none() {
        return;
    }
    let policy = &coordinator.config().policy.gc;
    // Objects were listed when some earlier leader did; who becomes leader lists them once early.
    let mut pause = policy.interval;
    loop {
        let mut done = Done::default();
        let looked = async {
            tokio::time::sleep(pause).await;
            look_and_collect(&coordinator, &scope, &mut done).await
        };
        let outcome = tokio::select! {
            biased;
            () = scope.cancel.cancelled() => return,
            outcome = looked => outcome,
        };
        pause = match outcome {
            Ok(()) => policy.scan_interval,
            Err(_) => policy.interval,
        };
        tell(outcome, done);
    }
}

fn tell(outcome: Result<()>, done: Done) {
    if let Err(error) = outcome {
        tracing::info!(%error, "garbage collection did not get to its end");
    }
    if done != Done::default() {
        tracing::info!(?done, "garbage collected");
    }
}

/// A pause of this collection holds for all.
const ALL: CollectionId = CollectionId(0);
const NO_STORE: &str = "no object store is configured (quorate.objectStore.url)";

/// Why nothing is collected now; pauses of single collections aside.
pub(crate) fn obstacle(coordinator: &Coordinator, scope: &Scope) -> Option<String> {
    if coordinator.objects().is_none() {
        return Some(NO_STORE.to_owned());
    }
    if !coordinator.config().policy.gc.enabled {
        return Some("it is switched off (dataCoord.enableGarbageCollection)".to_owned());
    }
    let own = scope.clock.stamp().ms();
    let wall = coordinator.wall().now_ms();
    if own.abs_diff(wall) > CLOCKS_APART_MS_MAX {
        return Some(format!(
            "this machine's clock is {} s away from the cluster's time; set it right, or transfer \
             leadership to a replica whose clock is",
            own.abs_diff(wall) / 1000
        ));
    }
    let now = scope.clock.stamp();
    let until = coordinator.state().gc_pause(ALL, now)?;
    Some(format!(
        "it is paused for {} s more",
        until.ms_since(now).div_ceil(1000)
    ))
}

/// One round, or as much of it as is possible; `done` tells how far it came.
///
/// # Errors
/// This replica lost its leadership or its quorum, the object store failed, or collection is off.
pub(crate) async fn round(
    coordinator: &Coordinator,
    scope: &Scope,
    with_orphans: bool,
    done: &mut Done,
) -> Result<()> {
    let collected = collect(coordinator, scope, done).await;
    let orphans = match with_orphans {
        true => look_and_collect(coordinator, scope, done).await,
        false => Ok(()),
    };
    collected.and(orphans)
}

/// Collects what was dropped.
async fn collect(coordinator: &Coordinator, scope: &Scope, done: &mut Done) -> Result<()> {
    let _single = scope.gc_round.lock().await;
    let gc = Gc::of(coordinator, scope)?;
    metrics::gc_run();
    let condemned = condemn::run(&gc, done).await;
    let segments = delete::run(&gc, done).await;
    let indexes = indexes::run(&gc, done).await;
    let collections = condemn::forget_collections(&gc, done).await;
    // Each of them may fail by itself, say on one object; the others go on.
    condemned.and(segments).and(indexes).and(collections)
}

/// Collects orphans.
async fn look_and_collect(coordinator: &Coordinator, scope: &Scope, done: &mut Done) -> Result<()> {
    let _single = scope.gc_scan.lock().await;
    orphans::collect(&Gc::of(coordinator, scope)?, done).await
}

/// Looks for orphans and deletes none.
///
/// # Errors
/// As for [`round`].
pub(crate) async fn look_for_orphans(coordinator: &Coordinator, scope: &Scope) -> Result<Scan> {
    let gc = Gc::of(coordinator, scope)?;
    orphans::look(&gc).await
}

/// How long segments are kept. What time jumped at the epoch's beginning is added to every wait: a
/// leader whose clock is ahead would else take everything for old (found by the simulation).
pub(crate) fn policy_of(coordinator: &Coordinator, scope: &Scope) -> GcPolicy {
    let policy = &coordinator.config().policy.gc;
    GcPolicy {
        drop_tolerance_ms: ms(policy.drop_tolerance).saturating_add(scope.jumped_ms),
        condemn_grace_ms: ms(policy.condemn_grace).saturating_add(scope.jumped_ms),
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What every part of a round needs.
struct Gc<'a> {
    coordinator: &'a Coordinator,
    scope: &'a Scope,
    objects: Arc<dyn Objects>,
    policy: GcPolicy,
}

impl<'a> Gc<'a> {
    fn of(coordinator: &'a Coordinator, scope: &'a Scope) -> Result<Self> {
        let objects = coordinator
            .objects()
            .ok_or_else(|| refused(NO_STORE.to_owned()))?;
        Ok(Self {
            coordinator,
            scope,
            objects: objects.clone(),
            policy: policy_of(coordinator, scope),
        })
    }

    /// Confirms with a quorum that this replica leads the same term still, and that nothing
    /// forbids collecting; answers the time.
    async fn confirm(&self) -> Result<Ts> {
        self.coordinator.barrier().await?;
        self.scope.confirm()?;
        match obstacle(self.coordinator, self.scope) {
            Some(reason) => Err(refused(reason)),
            None => Ok(self.scope.clock.stamp()),
        }
    }

    /// Deletes objects, some at a time and not too many a second. Answers those it could not
    /// delete; one that was gone already counts as deleted.
    async fn delete(&self, paths: &[String], deleted: &mut u64) -> Result<Vec<String>> {
        let policy = &self.coordinator.config().policy.gc;
        let mut left = Vec::new();
        for slice in paths.chunks(SLICE) {
            let started = Instant::now();
            self.confirm().await?;
            let before = left.len();
            let deleting: Vec<_> = slice
                .iter()
                .cloned()
                .map(|path| {
                    let objects = self.objects.clone();
                    async move {
                        let result = objects.delete(&path).await;
                        (path, result)
                    }
                })
                .collect();
            let results: Vec<_> = futures::stream::iter(deleting)
                .buffer_unordered(policy.concurrency)
                .collect()
                .await;
            for (path, result) in results {
                match result {
                    Ok(()) => *deleted += 1,
                    Err(error) => {
                        tracing::info!(%error, "object not deleted yet");
                        left.push(path);
                    }
                }
            }
            metrics::objects_deleted(slice.len() - (left.len() - before));
            let share = slice.len() as f64 / f64::from(policy.deletes_per_second);
            tokio::time::sleep_until(started + Duration::from_secs_f64(share)).await;
        }
        Ok(left)
    }

    /// Paths of everything below a folder of the object store.
    async fn names_below(&self, folder: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut list = self.objects.list(folder);
        while let Some(object) = list.next().await {
            names.push(object.map_err(store_failed)?.path);
        }
        Ok(names)
    }
}

fn store_failed(error: crate::outbound::objects::ObjectsError) -> CoordError {
    CoordError::Internal(error.to_string())
}

/// Trying again at once would not help, so this is not `NotReady`.
fn refused(reason: String) -> CoordError {
    CoordError::Rejected(
        Reason::IllegalState,
        format!("nothing is collected: {reason}"),
    )
}
