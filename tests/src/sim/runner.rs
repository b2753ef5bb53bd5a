//! Runs plans, some at a time, and tells what came of each.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Plan, Report, run};

/// Simulated time a seed needs to count.
const SIMULATED_MIN: Duration = Duration::from_secs(60);

impl Report {
    /// Why the seed does not count, if it does not: it passed, but proves too little.
    pub fn discounted(&self) -> Option<String> {
        if self.simulated < SIMULATED_MIN {
            return Some(format!("only {:?} simulated", self.simulated));
        }
        self.void()
    }

    /// "ok", "FAILED", or why it does not count.
    pub fn verdict(&self) -> String {
        match self.discounted() {
            _ if !self.violations.is_empty() => "FAILED".into(),
            Some(why) => format!("void: {why}"),
            None => "ok".into(),
        }
    }

    /// What came of the run, in a line; and in more if something is wrong.
    pub fn tell(&self, took: Duration) -> String {
        let mut text = format!(
            "seed {:>5}: {:>3} s simulated, {:>2} changes of leader, {:>4} operations, {:>5} rows, \
             {:>6} events in {:>4.1} s, trace {}: {}",
            self.seed,
            self.simulated.as_secs(),
            self.leader_changes,
            self.operations(),
            self.rows,
            self.events,
            took.as_secs_f64(),
            self.trace_hash.get(..16).unwrap_or("none"),
            self.verdict(),
        );
        for violation in &self.violations {
            text.push_str(&format!("\n    {violation}"));
        }
        if !self.violations.is_empty() {
            text.push_str(&format!("\n    again: {}", self.repeat()));
        }
        text
    }
}

/// Runs plans, `jobs` at a time; `done` is told of each as it ends. The reports are in the order of
/// the plans.
pub fn run_all(
    plans: &[Plan],
    jobs: usize,
    done: impl Fn(&Report, Duration) + Sync,
) -> Vec<Report> {
    let queue = Mutex::new(plans.iter().enumerate());
    let reports: Mutex<Vec<(usize, Report)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((at, plan)) = next else { return };
                    let started = Instant::now();
                    let report = run(*plan);
                    done(&report, started.elapsed());
                    let mut all = reports.lock().unwrap_or_else(PoisonError::into_inner);
                    all.push((at, report));
                }
            });
        }
    });
    let mut all = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, report)| report).collect()
}
