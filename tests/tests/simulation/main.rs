//! The deterministic simulation, seed by seed.
//!
//! `SEEDS=100` runs that many, `SEED=7` only that one, `SIM_TRACE=1` prints every event,
//! `SIM_LOG=openraft=info,quorate_coord=info` what the replicas log.
#![allow(clippy::unwrap_used)]

mod crashes;
mod regressions;

use std::time::{Duration, Instant};

use quorate_tests::sim::runner::run_all;
use quorate_tests::sim::{Plan, Report, Sabotage, run};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// What the replicas log, if it is asked for; its times are real ones and not part of the trace.
fn log() {
    if let Ok(filter) = std::env::var("SIM_LOG") {
        // A second test finds it installed already.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .without_time()
            .with_writer(std::io::stderr)
            .try_init();
    }
}

#[test]
fn seeds_pass() {
    log();
    let seeds: Vec<u64> = match number("SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("SEEDS").unwrap_or(10)).collect(),
    };
    let plans: Vec<Plan> = seeds.iter().copied().map(Plan::of).collect();
    let reports = run_all(&plans, jobs(), |report, took| {
        println!("{}", report.tell(took))
    });
    let of = |wrong: &dyn Fn(&Report) -> bool| -> Vec<u64> {
        let mut seeds: Vec<u64> = reports
            .iter()
            .filter(|r| wrong(r))
            .map(|r| r.seed)
            .collect();
        seeds.sort_unstable();
        seeds
    };
    let failed = of(&|report| !report.violations.is_empty());
    let void = of(&|report| report.void().is_some());
    println!(
        "{} seeds: {} failed {failed:?}, {} void {void:?}",
        seeds.len(),
        failed.len(),
        void.len()
    );
    assert!(failed.is_empty(), "seeds {failed:?} found violations");
    // A void seed proves nothing; most must prove something.
    assert!(
        void.len() * 2 <= seeds.len(),
        "too many void seeds: {void:?}"
    );
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let plan = Plan {
        faults: Duration::from_secs(20),
        ..Plan::of(5)
    };
    let first = run(plan);
    let second = run(plan);
    assert!(first.events > 1000);
    assert_eq!(first, second);
    let other = run(Plan { seed: 6, ..plan });
    assert_ne!(first.trace_hash, other.trace_hash);
}

/// Runs seeds with a planted bug until one finds it.
fn finds(sabotage: Sabotage, seeds_max: u64) {
    let found = (1..=seeds_max).find(|seed| {
        let started = Instant::now();
        let report = run(Plan {
            sabotage: Some(sabotage),
            ..Plan::of(*seed)
        });
        if let Some(first) = report.violations.first() {
            println!(
                "{sabotage:?}: seed {seed}, {} violations in {:.1} s, the first {first}",
                report.violations.len(),
                started.elapsed().as_secs_f64()
            );
        }
        !report.violations.is_empty()
    });
    assert!(
        found.is_some(),
        "{sabotage:?} was not found by {seeds_max} seeds"
    );
}

#[test]
fn a_disk_that_forgets_synced_data_is_found() {
    finds(Sabotage::ForgetSynced, 5);
}

#[test]
fn a_leader_that_goes_on_in_its_old_term_after_a_restart_is_found() {
    finds(Sabotage::RestoreLeader, 30);
}

#[test]
fn a_data_node_that_does_not_count_its_rows_is_found() {
    finds(Sabotage::UncountedRows, 30);
}
