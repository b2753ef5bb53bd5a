//! Hashes over every row at marked log indexes, for comparing replicas (`quorate check --full`).

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use quorate_meta::State;
use quorate_meta::invariants;
use quorate_raft_store::{Commit, View};
use tokio::sync::watch;

/// Results kept.
const KEPT: usize = 16;

/// What a replica found at a marked index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// The index of the marker.
    pub index: u64,
    /// Rolling digest there.
    pub digest: [u8; 32],
    /// Hash over every row, or why it could not be had.
    pub state_hash: Result<[u8; 32], String>,
    /// Rows hashed.
    pub rows: u64,
    /// Broken invariants.
    pub violations: Vec<String>,
}

/// The results of this replica.
#[derive(Debug)]
pub struct Checks {
    results: watch::Sender<BTreeMap<u64, Arc<CheckResult>>>,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            results: watch::Sender::new(BTreeMap::new()),
        }
    }
}

impl Checks {
    /// Takes a view right behind the entry just committed and hashes it elsewhere.
    pub(crate) fn start(
        self: &Arc<Self>,
        index: u64,
        digest: [u8; 32],
        commit: &mut Commit<'_>,
    ) -> io::Result<()> {
        let results = self.clone();
        commit.fork_view(Box::new(move |view| {
            results.put(scan(index, digest, view));
        }))
    }

    fn put(&self, result: CheckResult) {
        self.results.send_modify(|results| {
            results.insert(result.index, Arc::new(result));
            while results.len() > KEPT {
                results.pop_first();
            }
        });
    }

    /// Waits for the result at an index; `None` when it does not come in time.
    pub async fn wait(&self, index: u64, timeout: Duration) -> Option<Arc<CheckResult>> {
        let mut results = self.results.subscribe();
        let found = results.wait_for(|results| results.contains_key(&index));
        let found = tokio::time::timeout(timeout, found).await.ok()?.ok()?;
        found.get(&index).cloned()
    }
}

fn scan(index: u64, digest: [u8; 32], view: &dyn View) -> CheckResult {
    let mut hasher = blake3::Hasher::new();
    let mut rows = 0u64;
    let mut state = State::new();
    let mut violations = Vec::new();
    let scanned = view.scan(&[], &[], &mut |key, value| {
        hasher.update(&(key.len() as u64).to_be_bytes());
        hasher.update(key);
        hasher.update(&(value.len() as u64).to_be_bytes());
        hasher.update(value);
        rows += 1;
        if let Err(error) = state.load_row(key, value) {
            violations.push(error.to_string());
        }
        ControlFlow::Continue(())
    });
    violations.extend(invariants::violations(&state));
    CheckResult {
        index,
        digest,
        state_hash: scanned
            .map(|()| *hasher.finalize().as_bytes())
            .map_err(|error| error.to_string()),
        rows,
        violations,
    }
}
