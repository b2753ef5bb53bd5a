//! `quorate delete`: deletes rows by primary key.

use std::time::Duration;

use quorate_ingest::{DeleteError, DeleteKeys, DeleteOptions};
use serde::Serialize;

use crate::answer::Answer;
use crate::context::Context;
use crate::error::CliError;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the collection
    #[arg(long)]
    collection: String,
    /// Name of the partition; all when not given
    #[arg(long)]
    partition: Option<String>,
    /// Int64 primary keys
    #[arg(
        long,
        value_delimiter = ',',
        required_unless_present = "keys",
        conflicts_with = "keys",
        allow_hyphen_values = true,
        value_name = "N,…"
    )]
    ids: Vec<i64>,
    /// A string primary key; give it once for each
    #[arg(long = "key", value_name = "TEXT")]
    keys: Vec<String>,
    /// Give up when a channel makes no progress for so many seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    stall_timeout: u64,
}

#[derive(Debug, Serialize)]
struct DeleteView {
    keys: u64,
    channels: u64,
    keys_sent_again: u64,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Answer, CliError> {
    let keys = if args.keys.is_empty() {
        DeleteKeys::Ids(args.ids)
    } else {
        DeleteKeys::Strings(args.keys)
    };
    let options = DeleteOptions {
        partition: args.partition,
        stall_timeout: Duration::from_secs(args.stall_timeout),
        ..DeleteOptions::new(args.collection, keys)
    };
    let report = quorate_ingest::delete(&context.client()?, options)
        .await
        .map_err(error_of)?;
    let text = format!(
        "deleted {} keys on {} channels",
        report.keys, report.channels
    );
    let view = DeleteView {
        keys: report.keys,
        channels: report.channels,
        keys_sent_again: report.keys_sent_again,
    };
    Answer::new(&view, text)
}

/// Deletes that are not known to be stored, as an error of the command.
pub(super) fn error_of(error: DeleteError) -> CliError {
    match error {
        DeleteError::Stalled { .. } => CliError::unavailable(error),
        DeleteError::Collection(error) => super::collection_error(error),
        error => CliError::failed(error),
    }
}
