//! `quorate ingest`: puts the rows of a Parquet file into a collection.

use std::path::PathBuf;
use std::time::Duration;

use quorate_ingest::{IngestError, IngestOptions, IngestProgress, IngestReport};
use serde::Serialize;
use tokio::sync::watch;

use crate::answer::{Answer, bytes, pairs};
use crate::context::Context;
use crate::error::CliError;
use crate::shutdown;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Parquet file; one column must be a list of float32 of constant length
    file: PathBuf,
    /// Name of the collection
    #[arg(long)]
    collection: String,
    /// Create the collection when it is not there
    #[arg(long)]
    create: bool,
    /// Channels of the collection when it is created
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    channels: u32,
    /// Name of the partition; the default one when not given
    #[arg(long)]
    partition: Option<String>,
    /// Column of the primary key; `id` or the first int64 or string column when not given
    #[arg(long, value_name = "COLUMN")]
    primary_key: Option<String>,
    /// At most so many rows a second
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Rows sent at a time
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Give up when a channel makes no progress for so many seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    stall_timeout: u64,
}

#[derive(Debug, Serialize)]
struct IngestView {
    collection: String,
    collection_id: i64,
    created: bool,
    rows: u64,
    rows_accepted: u64,
    rows_already_stored: u64,
    rows_sent_again: u64,
    bytes_sent: u64,
    leader_changes: u64,
    owner_changes: u64,
    longest_gap_ms: u64,
    elapsed_ms: u64,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Answer, CliError> {
    let client = context.client()?;
    let cancel = shutdown::token(false)?;
    let options = IngestOptions {
        file: args.file,
        collection: args.collection,
        channels: args.channels,
        create: args.create,
        rate_rows_per_s: args.rate,
        batch_rows: args.batch,
        partition: args.partition,
        primary_key: args.primary_key,
        stall_timeout: Duration::from_secs(args.stall_timeout),
    };
    let (sender, receiver) = watch::channel(IngestProgress::default());
    let bar = tokio::spawn(quorate_ingest::bar(receiver));
    let result = quorate_ingest::ingest(&client, options, sender, cancel).await;
    // The bar ends with its sender; it never fails.
    let _ = bar.await;
    let view = view_of(result.map_err(error_of)?);
    let text = text_of(&view);
    Answer::new(&view, text)
}

fn error_of(error: IngestError) -> CliError {
    match error {
        IngestError::Stalled { .. } => CliError::unavailable(error),
        IngestError::Collection(error) => super::collection_error(error),
        error => CliError::failed(error),
    }
}

fn view_of(report: IngestReport) -> IngestView {
    let progress = report.progress;
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    IngestView {
        collection: report.collection,
        collection_id: report.collection_id,
        created: report.created,
        rows: progress.rows_total,
        rows_accepted: progress.rows_accepted,
        rows_already_stored: progress.rows_already_stored,
        rows_sent_again: progress.rows_sent_again,
        bytes_sent: progress.bytes_sent,
        leader_changes: progress.leader_changes,
        owner_changes: progress.owner_changes,
        longest_gap_ms: ms(progress.longest_gap),
        elapsed_ms: ms(report.elapsed),
    }
}

fn text_of(view: &IngestView) -> String {
    let seconds = view.elapsed_ms as f64 / 1000.0;
    let rate = if view.elapsed_ms == 0 {
        0.0
    } else {
        view.rows_accepted as f64 / seconds
    };
    pairs([
        (
            "collection",
            format!(
                "{} ({}){}",
                view.collection,
                view.collection_id,
                if view.created { ", created" } else { "" }
            ),
        ),
        ("rows stored", view.rows.to_string()),
        ("of these before", view.rows_already_stored.to_string()),
        ("sent again", view.rows_sent_again.to_string()),
        ("bytes sent", bytes(view.bytes_sent)),
        ("time", format!("{seconds:.1} s, {rate:.0} rows/s")),
        ("longest gap", format!("{} ms", view.longest_gap_ms)),
        ("leader changes", view.leader_changes.to_string()),
    ])
}
