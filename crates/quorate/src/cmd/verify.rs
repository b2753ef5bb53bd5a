//! `quorate verify`: reads a collection back from its objects and compares it with a file.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quorate_ingest::{Key, VerifyError, VerifyOptions, VerifyProgress, VerifyReport};
use serde::Serialize;
use tokio::sync::watch;

use crate::answer::{Answer, bytes, pairs};
use crate::context::Context;
use crate::error::{CliError, Exit};

/// How often a line is written when there is no terminal for a bar.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Parquet file the rows came from
    file: PathBuf,
    /// Name of the collection
    #[arg(long)]
    collection: String,
    /// Where the data nodes put log files: a path, a file:// or an s3:// URL
    #[arg(long, env = "QUORATE_OBJECT_STORE", default_value = "data/objects")]
    object_store: String,
    /// Column of the primary key, if it must be a certain one
    #[arg(long, value_name = "COLUMN")]
    primary_key: Option<String>,
    /// This share of the rows was deleted with `ingest --delete-fraction`: they must not be there
    #[arg(long, value_name = "F", value_parser = super::ingest::fraction)]
    delete_fraction: Option<f64>,
}

/// The first of each kind are named, all are counted.
#[derive(Debug, Serialize)]
pub(crate) struct VerifyView {
    ok: bool,
    rows_expected: u64,
    rows_found: u64,
    rows_deleted: u64,
    missing_count: u64,
    missing: Vec<String>,
    missing_deleted: u64,
    doubled_count: u64,
    doubled: Vec<String>,
    wrong_count: u64,
    wrong: Vec<WrongView>,
    not_deleted_count: u64,
    not_deleted: Vec<String>,
    extra_count: u64,
    problem_count: u64,
    problems: Vec<ProblemView>,
    segments: u64,
    objects: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct WrongView {
    key: String,
    field: String,
    expected: String,
    found: String,
}

#[derive(Debug, Serialize)]
struct ProblemView {
    segment: i64,
    path: Option<String>,
    reason: String,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Answer, CliError> {
    let client = context.client()?;
    let options = VerifyOptions {
        file: args.file,
        collection: args.collection,
        object_store: args.object_store,
        primary_key: args.primary_key,
        deleted_fraction: args.delete_fraction,
    };
    let (sender, receiver) = watch::channel(VerifyProgress::default());
    let bar = tokio::spawn(show_progress(receiver));
    let result = quorate_ingest::verify(&client, options, sender).await;
    // It ends with its sender, and never fails.
    let _ = bar.await;
    let report = result.map_err(|error| match error {
        VerifyError::Collection(error) => super::collection_error(error),
        error => CliError::failed(error),
    })?;
    let view = view_of(&report);
    let text = text_of(&view);
    Ok(Answer::new(&view, text)?.unless(view.ok, Exit::Failed))
}

async fn show_progress(mut progress: watch::Receiver<VerifyProgress>) {
    if !std::io::stderr().is_terminal() {
        loop {
            let ended = async { while progress.changed().await.is_ok() {} };
            if tokio::time::timeout(LINE_INTERVAL, ended).await.is_ok() {
                return;
            }
            let now = progress.borrow().clone();
            eprintln!(
                "read {} rows in {} of {} objects",
                now.rows_read, now.objects_read, now.objects_total
            );
        }
    }
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let template = "{spinner} {bar:30} {human_pos}/{human_len} objects  {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    loop {
        let now = progress.borrow_and_update().clone();
        bar.set_length(now.objects_total);
        bar.set_position(now.objects_read);
        bar.set_message(format!("{} rows", now.rows_read));
        if progress.changed().await.is_err() {
            break;
        }
    }
    bar.finish_and_clear();
}

pub(crate) fn key_text(key: &Key) -> String {
    match key {
        Key::Int64(id) => id.to_string(),
        Key::VarChar(text) => text.clone(),
    }
}

/// The report as scripts see it.
pub(crate) fn view_of(report: &VerifyReport) -> VerifyView {
    VerifyView {
        ok: report.ok(),
        rows_expected: report.rows_expected,
        rows_found: report.rows_found,
        rows_deleted: report.rows_deleted,
        missing_count: report.missing.count,
        missing: report.missing.first.iter().map(key_text).collect(),
        missing_deleted: report.missing_deleted,
        doubled_count: report.doubled.count,
        doubled: report.doubled.first.iter().map(key_text).collect(),
        wrong_count: report.wrong.count,
        wrong: report
            .wrong
            .first
            .iter()
            .map(|wrong| WrongView {
                key: key_text(&wrong.key),
                field: wrong.field.clone(),
                expected: wrong.expected.clone(),
                found: wrong.found.clone(),
            })
            .collect(),
        not_deleted_count: report.not_deleted.count,
        not_deleted: report.not_deleted.first.iter().map(key_text).collect(),
        extra_count: report.extra,
        problem_count: report.problems.count,
        problems: report
            .problems
            .first
            .iter()
            .map(|problem| ProblemView {
                segment: problem.segment,
                path: problem.path.clone(),
                reason: problem.reason.clone(),
            })
            .collect(),
        segments: report.segments,
        objects: report.objects,
        bytes: report.bytes,
    }
}

/// The report for people: counts, then what is wrong, by name.
pub(crate) fn text_of(view: &VerifyView) -> String {
    let mut missing = view.missing_count.to_string();
    if view.missing_deleted > 0 {
        let _ = write!(missing, " ({} of them deleted)", view.missing_deleted);
    }
    let mut text = pairs([
        ("rows expected", view.rows_expected.to_string()),
        ("rows stored", view.rows_found.to_string()),
        ("missing", missing),
        ("doubled", view.doubled_count.to_string()),
        ("wrong", view.wrong_count.to_string()),
        ("not deleted", view.not_deleted_count.to_string()),
        ("not in the file", view.extra_count.to_string()),
        ("object problems", view.problem_count.to_string()),
        (
            "read",
            format!(
                "{} in {} objects of {} segments",
                bytes(view.bytes),
                view.objects,
                view.segments
            ),
        ),
    ]);
    let mut list = |kind: &str, count: u64, lines: Vec<String>| {
        if count == 0 {
            return;
        }
        text.push('\n');
        for line in &lines {
            let _ = write!(text, "\n{kind}: {line}");
        }
        let more = count.saturating_sub(lines.len() as u64);
        if more > 0 {
            let _ = write!(text, "\n{kind}: and {more} more");
        }
    };
    list("missing", view.missing_count, view.missing.clone());
    list("doubled", view.doubled_count, view.doubled.clone());
    let wrong = view.wrong.iter().map(|wrong| {
        format!(
            "{}: field {} should be {} but is {}",
            wrong.key, wrong.field, wrong.expected, wrong.found
        )
    });
    list("wrong", view.wrong_count, wrong.collect());
    list(
        "not deleted",
        view.not_deleted_count,
        view.not_deleted.clone(),
    );
    let problems = view.problems.iter().map(|problem| {
        let path = problem
            .path
            .iter()
            .filter(|path| !problem.reason.contains(path.as_str()));
        let path: String = path.map(|path| format!(" (object {path})")).collect();
        format!("segment {}: {}{path}", problem.segment, problem.reason)
    });
    list("object problem", view.problem_count, problems.collect());
    let verdict = if view.ok {
        "every row of the file is stored once and as it is"
    } else {
        "what is stored is NOT what is in the file"
    };
    format!("{text}\n\n{verdict}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_ingest::{Findings, ObjectProblem, ProblemKind, WrongValue};

    #[test]
    fn what_is_wrong_is_named_and_counted() {
        let report = VerifyReport {
            rows_expected: 100,
            rows_found: 99,
            missing: Findings {
                count: 30,
                first: (0..20).map(Key::Int64).collect(),
            },
            wrong: Findings {
                count: 1,
                first: vec![WrongValue {
                    key: Key::VarChar("k".to_owned()),
                    field: "title".to_owned(),
                    expected: "a".to_owned(),
                    found: "b".to_owned(),
                }],
            },
            problems: Findings {
                count: 1,
                first: vec![ObjectProblem {
                    kind: ProblemKind::Missing,
                    segment: 7,
                    path: Some("insert_log/1".to_owned()),
                    reason: "the object is gone".to_owned(),
                }],
            },
            ..VerifyReport::default()
        };
        let view = view_of(&report);
        assert!(!view.ok);
        let text = text_of(&view);
        for says in [
            "missing: 19",
            "missing: and 10 more",
            "wrong: k: field title should be a but is b",
            "object problem: segment 7: the object is gone (object insert_log/1)",
            "NOT what is in the file",
        ] {
            assert!(text.contains(says), "{says}\n{text}");
        }
        assert!(text_of(&view_of(&VerifyReport::default())).contains("stored once and as it is"));
    }
}
