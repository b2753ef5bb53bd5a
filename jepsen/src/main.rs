//! `quorate-jepsen`: breaks clusters of real processes in every way we know and checks that nothing
//! acknowledged is lost.
//!
//! The harness is outside of what it tests: it starts the `quorate` binary, talks gRPC to it, and
//! judges what clients were told. What it starts and mounts is gone when it ends, however it ends.

mod check;
mod cluster;
mod fault;
mod history;
mod lab;
mod mount;
mod process;
mod report;
mod scenario;
mod wait;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use lab::{Lab, Programs};
use report::Report;

/// Breaks clusters of real replicas and checks what clients were told.
#[derive(Debug, Parser)]
#[command(name = "quorate-jepsen")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Breaks disks: power loss, failing and slow fsync, full disks, damaged files
    Faults(Faults),
    /// Judges a history that was written before
    Check {
        /// The history, JSON lines
        file: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Faults {
    /// Power losses of one replica; three tenths of it of all at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Where everything random comes from; a new one when not given
    #[arg(long)]
    seed: Option<u64>,
    /// Only these scenarios
    #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(scenario::NAMES))]
    only: Vec<String>,
    /// Keep the run's folder even when everything passed
    #[arg(long)]
    keep: bool,
    /// The quorate binary; the one beside this binary when not given
    #[arg(long, value_name = "FILE")]
    quorate: Option<PathBuf>,
    /// Folder of the fault kit's scripts
    #[arg(long, value_name = "DIR", default_value = "jepsen/faults")]
    kit: PathBuf,
    /// Folder of the fault kit's compiled programs
    #[arg(long, value_name = "DIR")]
    built: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Faults(args) => faults(args),
        Command::Check { file } => judge(&file),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn judge(file: &std::path::Path) -> Result<bool> {
    let ops = history::read_file(file)?;
    for (name, count) in check::acknowledged(&ops) {
        println!("{count:8}  {name}");
    }
    let found = check::history(&ops);
    for line in &found {
        println!("VIOLATION  {line}");
    }
    println!(
        "{} operations: {}",
        ops.len(),
        if found.is_empty() { "valid" } else { "INVALID" }
    );
    Ok(found.is_empty())
}

fn faults(args: Faults) -> Result<bool> {
    let quorate = match args.quorate {
        Some(path) => path,
        None => {
            let own = std::env::current_exe().context("this process has no executable")?;
            own.with_file_name("quorate")
        }
    };
    let absolute = |path: PathBuf| {
        std::path::absolute(&path).with_context(|| format!("{} is no path", path.display()))
    };
    let programs = Programs {
        quorate: absolute(quorate)?,
        kit: absolute(args.kit)?,
        built: absolute(args.built)?,
    };
    let seed = args
        .seed
        .unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let lab = Lab::new(programs, seed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    println!("seed {seed}, {} rounds", args.rounds);
    let mut report = Report::default();
    let only = args.only;
    let ended = runtime.block_on(async {
        tokio::select! {
            () = scenario::run_all(&lab, &mut report, args.rounds, &only) => Ok(()),
            name = interrupted() => Err(name),
        }
    });
    // The processes and mounts of what was interrupted are gone by now.
    if let Err(name) = ended {
        bail!("interrupted by {}; everything is cleaned up", name?);
    }
    println!("\n{}\n", report.table());
    let passed = report.failed() == 0 && report.passed() > 0;
    if !passed || args.keep {
        println!("logs and histories are in {}", lab.keep().display());
    }
    println!(
        "{} checks passed, {} failed; seed {seed}",
        report.passed(),
        report.failed()
    );
    Ok(passed)
}

async fn interrupted() -> Result<&'static str> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    })
}
