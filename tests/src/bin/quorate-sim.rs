//! Runs the deterministic simulation, seed by seed: `quorate-sim --seeds 200 --from 1`, or one seed
//! with its trace: `quorate-sim --seed 7`.

use std::process::ExitCode;
use std::time::Instant;

use quorate_tests::sim::runner::run_all;
use quorate_tests::sim::{Plan, Report, run};

const USAGE: &str = "\
usage: quorate-sim [--seeds N] [--from SEED] [--jobs N] | --seed SEED [--quiet]

  --seeds N    how many seeds to run (default 200)
  --from SEED  the first of them (default 1)
  --jobs N     how many at a time (default: one a core)
  --seed SEED  run one, with its trace on standard error; the same seed gives the same trace
  --quiet      without the trace";

struct Options {
    seeds: u64,
    from: u64,
    jobs: usize,
    seed: Option<u64>,
    quiet: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        seeds: 200,
        from: 1,
        jobs: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
        seed: None,
        quiet: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut number = || {
            let value = arguments.next().ok_or(format!("{name} needs a number"))?;
            let number: u64 = value
                .parse()
                .map_err(|_| format!("{name}: {value} is no number"))?;
            Ok::<u64, String>(number)
        };
        match name.as_str() {
            "--seeds" => options.seeds = number()?,
            "--from" => options.from = number()?,
            "--jobs" => options.jobs = usize::try_from(number()?).unwrap_or(1),
            "--seed" => options.seed = Some(number()?),
            "--quiet" => options.quiet = true,
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(options)
}

fn one(seed: u64, print: bool) -> ExitCode {
    let started = Instant::now();
    let report = run(Plan {
        print,
        ..Plan::of(seed)
    });
    println!("{}", report.tell(started.elapsed()));
    for (name, count) in &report.acknowledged {
        println!("    {count:>5} {name}");
    }
    match report.violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn many(options: &Options) -> ExitCode {
    let seeds = options.from..options.from.saturating_add(options.seeds);
    let plans: Vec<Plan> = seeds.map(Plan::of).collect();
    let started = Instant::now();
    let reports = run_all(&plans, options.jobs, |report, took| {
        println!("{}", report.tell(took));
    });
    let took = started.elapsed().as_secs_f64();
    let failed: Vec<&Report> = reports
        .iter()
        .filter(|r| !r.violations.is_empty())
        .collect();
    let counted = reports
        .iter()
        .filter(|report| report.violations.is_empty() && report.discounted().is_none())
        .count();
    println!(
        "\n{} seeds in {took:.0} s ({:.0} an hour): {counted} passed and count, {} passed with too \
         little in them, {} failed",
        reports.len(),
        reports.len() as f64 * 3600.0 / took.max(0.001),
        reports.len() - counted - failed.len(),
        failed.len(),
    );
    for report in &failed {
        let first = report.violations.first().map_or("", String::as_str);
        println!(
            "    seed {}: {first}\n        {}",
            report.seed,
            report.repeat()
        );
    }
    match failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn main() -> ExitCode {
    match options() {
        Ok(options) => match options.seed {
            Some(seed) => one(seed, !options.quiet),
            None => many(&options),
        },
        Err(problem) => {
            eprintln!("error: {problem}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
