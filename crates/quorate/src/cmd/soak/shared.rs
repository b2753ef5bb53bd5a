//! What the tasks of a soak share: the model, counts, and whether it has failed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::model::Model;
use crate::context::Context;

/// Shared by all tasks; cheap to clone.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) context: Context,
    /// Ends the random part: time is over, or something is wrong.
    pub(super) stop: CancellationToken,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    model: Model,
    counts: BTreeMap<&'static str, u64>,
    violations: Vec<String>,
}

impl Shared {
    pub(super) fn new(context: Context) -> Self {
        Self {
            context,
            stop: CancellationToken::new(),
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the model, or notes something in it.
    pub(super) fn model<T>(&self, act: impl FnOnce(&mut Model) -> T) -> T {
        act(&mut self.state().model)
    }

    pub(super) fn count(&self, what: &'static str, how_many: u64) {
        *self.state().counts.entry(what).or_default() += how_many;
    }

    pub(super) fn counted(&self, what: &'static str) -> u64 {
        self.state().counts.get(what).copied().unwrap_or(0)
    }

    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.state().counts.clone()
    }

    /// Something is wrong: it is said at once, and the random part ends.
    pub(super) fn violation(&self, what: String) {
        eprintln!("WRONG: {what}");
        self.state().violations.push(what);
        self.stop.cancel();
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// Sleeps, unless the random part ends first; whether it goes on.
    pub(super) async fn pause(&self, time: std::time::Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = self.stop.cancelled() => false,
        }
    }
}
