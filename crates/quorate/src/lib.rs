//! The `quorate` command: replicas, data nodes, a cluster for development, and everything an
//! operator asks a cluster.
//!
//! A command turns its arguments into calls and their replies into an [`answer::Answer`], which is
//! printed as a table or as JSON; nothing but [`main`] prints answers or ends the process.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod answer;
pub mod certs;
mod cli;
mod cmd;
mod context;
pub mod devcluster;
mod error;
mod shutdown;
#[cfg(test)]
mod testing;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

pub use context::Context;
pub use error::{CliError, Exit};

/// How long a command may be silent before it says that it is still at it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let args = cli::Args::parse();
    if let Err(error) = cli::start_logging(&args) {
        return error.report();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            return CliError::failed(anyhow::Error::new(error).context("cannot start")).report();
        }
    };
    let exit = runtime.block_on(run(args));
    // Nothing is left to do; a task that hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    exit
}

async fn run(args: cli::Args) -> ExitCode {
    let output = args.global.output;
    let quiet_for_long = !args.command.tells_its_progress();
    let context = Context::new(&args.global);
    let work = args.command.run(&context, output);
    tokio::pin!(work);
    let result = match tokio::time::timeout(PATIENCE, &mut work).await {
        Ok(result) => result,
        Err(_) => {
            if quiet_for_long {
                eprintln!(
                    "still waiting for {} (up to {:?}) …",
                    context.endpoints().join(", "),
                    context.timeout()
                );
            }
            work.await
        }
    };
    match result.and_then(|answer| answer.print(output)) {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}
