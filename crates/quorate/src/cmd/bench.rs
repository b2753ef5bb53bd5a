//! `quorate bench`: measures a cluster of real processes, started for it, or the work of one node.

mod api;
mod compaction;

use crate::answer::Answer;
use crate::error::CliError;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Calls a second and their latency: AssignSegmentID and GetSegmentInfo
    Api(api::Args),
    /// Throughput of merging segments, and its ratio to reading and writing the same Parquet
    Compaction(compaction::Args),
}

pub(crate) async fn run(command: Command) -> Result<Answer, CliError> {
    match command {
        Command::Api(args) => api::run(args).await,
        Command::Compaction(args) => compaction::run(args).await,
    }
}
