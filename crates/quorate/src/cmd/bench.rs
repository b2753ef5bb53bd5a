//! `quorate bench`: measures a cluster of real processes, started for it.

mod api;

use crate::answer::Answer;
use crate::error::CliError;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Calls a second and their latency: AssignSegmentID and GetSegmentInfo
    Api(api::Args),
}

pub(crate) async fn run(command: Command) -> Result<Answer, CliError> {
    match command {
        Command::Api(args) => api::run(args).await,
    }
}
