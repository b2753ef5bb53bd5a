//! A crash behind every step of every protocol: the leader behind each kind of command, call and
//! deletion, the data node behind each call. Beside the random faults of the seeds, which hit the
//! rare steps rarely.
//!
//! `CRASHES=all` crashes behind the first, second and fourth step of each kind, at three moments.

use std::time::Duration;

use quorate_tests::sim::runner::run_all;
use quorate_tests::sim::trap::{COMMANDS, Point, Trap, Victim};
use quorate_tests::sim::{Plan, Report};

/// Calls to data nodes.
const CALLS: &[&str] = &[
    "compact",
    "compaction state",
    "drop compaction",
    "create index job",
    "query index jobs",
    "drop index jobs",
];

/// Nobody has received the step; the followers have; it is applied.
const MOMENTS: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(2),
    Duration::from_millis(9),
];

fn plan(seed: u64, trap: Trap) -> Plan {
    Plan {
        faults: Duration::from_secs(30),
        nemesis: false,
        wild_clocks: false,
        liar: false,
        trap: Some(trap),
        ..Plan::of(seed)
    }
}

fn traps(all: bool) -> Vec<Trap> {
    let nths: &[u64] = if all { &[1, 2, 4] } else { &[1] };
    let mut points: Vec<(Point, Victim)> = Vec::new();
    for name in COMMANDS {
        points.push((Point::Proposed(name), Victim::Replica));
    }
    for name in CALLS {
        points.push((Point::Called(name), Victim::Replica));
        points.push((Point::Called(name), Victim::DataNode));
    }
    points.push((Point::Proposed("AssignCompaction"), Victim::DataNode));
    points.push((Point::Proposed("FinishCompaction"), Victim::DataNode));
    points.push((Point::Proposed("AssignIndexBuild"), Victim::DataNode));
    points.push((Point::Deleted, Victim::Replica));
    let mut traps = Vec::new();
    for (at, (point, victim)) in points.into_iter().enumerate() {
        for &nth in nths {
            // One moment each, in turn, unless all are wanted.
            let one = MOMENTS[at % MOMENTS.len()];
            let moments = MOMENTS.into_iter().filter(|moment| all || *moment == one);
            traps.extend(moments.map(|delay| Trap {
                point,
                nth,
                victim,
                delay,
            }));
        }
    }
    traps
}

#[test]
fn a_crash_behind_any_step_of_a_protocol_loses_nothing() {
    super::log();
    let all = std::env::var("CRASHES").is_ok_and(|value| value == "all");
    let plans: Vec<Plan> = (9000..)
        .zip(traps(all))
        .map(|(seed, trap)| plan(seed * 4, trap))
        .collect();
    let reports = run_all(&plans, super::jobs(), |report, took| {
        println!("{}", report.tell(took));
    });
    let wrong = |report: &Report| !report.violations.is_empty() || !report.sprung;
    let wrong: Vec<String> = plans
        .iter()
        .zip(&reports)
        .filter(|(_, report)| wrong(report))
        .map(|(plan, report)| {
            let first = report.violations.first();
            format!("{:?}: {:?}, sprung: {}", plan.trap, first, report.sprung)
        })
        .collect();
    println!("{} crashes, {} of them bad", plans.len(), wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}
