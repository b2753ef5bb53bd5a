//! `quorate ingest`: puts the rows of a Parquet file into a collection.

use std::path::PathBuf;
use std::time::Duration;

use quorate_ingest::{
    DeleteOptions, IngestError, IngestOptions, IngestProgress, IngestReport, keys_of_fraction,
};
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
    /// Then delete this share of the file's rows, from 0 to 1; always the same ones
    #[arg(long, value_name = "F", value_parser = fraction)]
    delete_fraction: Option<f64>,
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
    /// Keys deleted afterwards.
    deleted: u64,
}

/// A share of something, from 0 to 1.
pub(super) fn fraction(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(fraction) if (0.0..=1.0).contains(&fraction) => Ok(fraction),
        _ => Err("must be a number from 0 to 1".to_owned()),
    }
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Answer, CliError> {
    let client = context.client()?;
    let cancel = shutdown::token(false)?;
    let stall_timeout = Duration::from_secs(args.stall_timeout);
    // What cannot be deleted later is better known before.
    let to_delete = match args.delete_fraction {
        None => None,
        Some(share) => {
            let keys = keys_of_fraction(&args.file, args.primary_key.as_deref(), share);
            Some(DeleteOptions {
                partition: args.partition.clone(),
                stall_timeout,
                ..DeleteOptions::new(&args.collection, keys.map_err(CliError::failed)?)
            })
        }
    };
    let options = IngestOptions {
        file: args.file,
        collection: args.collection,
        channels: args.channels,
        create: args.create,
        rate_rows_per_s: args.rate,
        batch_rows: args.batch,
        partition: args.partition,
        primary_key: args.primary_key,
        stall_timeout,
    };
    let (sender, receiver) = watch::channel(IngestProgress::default());
    let bar = tokio::spawn(quorate_ingest::bar(receiver));
    let result = quorate_ingest::ingest(&client, options, sender, cancel).await;
    // The bar ends with its sender; it never fails.
    let _ = bar.await;
    let mut view = view_of(result.map_err(error_of)?);
    if let Some(options) = to_delete {
        let report = quorate_ingest::delete(&client, options)
            .await
            .map_err(super::delete::error_of)?;
        view.deleted = report.keys;
    }
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
        deleted: 0,
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
        ("of these deleted", view.deleted.to_string()),
        ("of these before", view.rows_already_stored.to_string()),
        ("sent again", view.rows_sent_again.to_string()),
        ("bytes sent", bytes(view.bytes_sent)),
        ("time", format!("{seconds:.1} s, {rate:.0} rows/s")),
        ("longest gap", format!("{} ms", view.longest_gap_ms)),
        ("leader changes", view.leader_changes.to_string()),
    ])
}
