//! How fast a data node merges segments, next to reading and writing the same Parquet files with
//! the same crate.

use std::time::Duration;

use quorate_datanode::bench::{Measured, MergeSpec, merge_throughput};
use serde::Serialize;

use crate::answer::{Answer, Column, table};
use crate::error::CliError;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Segments to merge
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=30))]
    segments: u32,
    /// Rows of each segment
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rows: u32,
    /// Dimension of the vectors
    #[arg(long, default_value_t = 768, value_parser = clap::value_parser!(u32).range(1..=32_768))]
    dim: u32,
    /// Rows deleted in each segment, per thousand
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=1000))]
    deleted_permille: u32,
    /// Measurements
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
}

#[derive(Debug, Serialize)]
struct Run {
    rows_in: u64,
    rows_out: u64,
    memory_bytes: u64,
    file_bytes: u64,
    merge_ms: u64,
    merge_mb_per_s: f64,
    plain_ms: u64,
    plain_mb_per_s: f64,
    /// Throughput of the merge as a part of that of the plain copy.
    ratio: f64,
}

#[derive(Debug, Serialize)]
struct Bench {
    cpus: usize,
    segments: u32,
    dim: u32,
    runs: Vec<Run>,
}

pub(crate) async fn run(args: Args) -> Result<Answer, CliError> {
    let spec = MergeSpec {
        segments: args.segments,
        rows: args.rows,
        dim: args.dim,
        deleted_permille: args.deleted_permille,
    };
    let mut runs = Vec::new();
    for number in 1..=args.runs {
        eprintln!("measurement {number} of {} …", args.runs);
        let folder = tempfile::tempdir()?;
        let measured = merge_throughput(folder.path(), spec).await;
        runs.push(run_of(&measured.map_err(CliError::failed)?));
    }
    let bench = Bench {
        cpus: std::thread::available_parallelism().map_or(0, usize::from),
        segments: args.segments,
        dim: args.dim,
        runs,
    };
    let text = text_of(&bench);
    Answer::new(&bench, text)
}

fn run_of(measured: &Measured) -> Run {
    let mb_per_s = |time: Duration| measured.memory_bytes as f64 / 1e6 / time.as_secs_f64();
    let (merge, plain) = (mb_per_s(measured.merge), mb_per_s(measured.plain));
    Run {
        rows_in: measured.rows_in,
        rows_out: measured.rows_out,
        memory_bytes: measured.memory_bytes,
        file_bytes: measured.file_bytes,
        merge_ms: measured.merge.as_millis() as u64,
        merge_mb_per_s: merge,
        plain_ms: measured.plain.as_millis() as u64,
        plain_mb_per_s: plain,
        ratio: merge / plain,
    }
}

fn text_of(bench: &Bench) -> String {
    let columns = [
        Column::Number("rows in"),
        Column::Number("rows out"),
        Column::Number("MB in"),
        Column::Number("MB in files"),
        Column::Number("merge ms"),
        Column::Number("MB/s"),
        Column::Number("plain ms"),
        Column::Number("MB/s"),
        Column::Number("ratio"),
    ];
    let mb = |bytes: u64| format!("{:.0}", bytes as f64 / 1e6);
    let rows = bench.runs.iter().map(|run| {
        vec![
            run.rows_in.to_string(),
            run.rows_out.to_string(),
            mb(run.memory_bytes),
            mb(run.file_bytes),
            run.merge_ms.to_string(),
            format!("{:.0}", run.merge_mb_per_s),
            run.plain_ms.to_string(),
            format!("{:.0}", run.plain_mb_per_s),
            format!("{:.2}", run.ratio),
        ]
    });
    format!(
        "{} segments with vectors of {} dimensions into one, on {} CPUs and a local folder;\n\
         plain: the same files read and written with the same crate, nothing checked or filtered;\n\
         MB: size of the input's values\n\n{}",
        bench.segments,
        bench.dim,
        bench.cpus,
        table(&columns, rows)
    )
}
