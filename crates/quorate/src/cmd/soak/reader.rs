//! Reads all collections again and again as a query node would, and compares what it finds with
//! the model.
//!
//! A view that is older than the grace of garbage collection may name objects that are gone. That
//! is the one excuse for a missing object, and only when a view taken afterwards does not name it.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_binlog::{LogPath, LogStore};
use quorate_ingest::{CollectionError, Contents, ProblemKind, View};
use quorate_rpc::Client;
use tokio::time::Instant;

use super::model::Moment;
use super::shared::Shared;
use crate::error::CliError;

/// Time between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// A look that does not come about is given up after so long.
const LOOK_TIMEOUT: Duration = Duration::from_secs(120);

pub(super) struct Reader {
    pub(super) shared: Shared,
    pub(super) client: Client,
    pub(super) store: LogStore,
    /// How long a view is good for.
    pub(super) grace: Duration,
}

/// How a look ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Everything was read and is as it should be.
    Good,
    /// It came to nothing: the coordinator or the object store could not be asked, or it took too
    /// long.
    Nothing,
    /// What is wrong has been told.
    Wrong,
}

impl Reader {
    /// Until the random part ends.
    pub(super) async fn run(self) -> Result<(), CliError> {
        while self.shared.pause(POLL_INTERVAL).await {
            for collection in self.shared.model(|model| model.collections()) {
                if self.shared.stop.is_cancelled() {
                    break;
                }
                let look = self.look(&collection);
                match tokio::time::timeout(LOOK_TIMEOUT, look).await {
                    Ok(Look::Good) => self.shared.count("looks", 1),
                    Ok(Look::Nothing) | Err(_) => {
                        self.shared.count("looks that came to nothing", 1)
                    }
                    Ok(Look::Wrong) => {}
                }
            }
        }
        Ok(())
    }

    /// Reads one collection and judges what it holds.
    pub(super) async fn look(&self, collection: &str) -> Look {
        let from = self.shared.model(|model| model.moment());
        let asked = Instant::now();
        let view = match View::fetch(&self.client, collection).await {
            Ok(view) => view,
            Err(error) => return self.not_told(collection, asked, &error),
        };
        let contents = match view.read(&self.store).await {
            Ok(contents) => contents,
            Err(error) => {
                self.shared
                    .violation(format!("{collection} cannot be read at all: {error}"));
                return Look::Wrong;
            }
        };
        let old = asked.elapsed() > self.grace;
        let to = self.shared.model(|model| model.moment());
        self.shared.count("rows read", contents.rows.len() as u64);
        self.shared.count("objects read", contents.objects);
        if contents.problems.count > 0 {
            return self.problems(collection, &view, &contents, old).await;
        }
        self.judge(collection, &view, (from, to), &contents)
    }

    fn judge(
        &self,
        collection: &str,
        view: &View,
        span: (Moment, Moment),
        contents: &Contents,
    ) -> Look {
        let wrong = self
            .shared
            .model(|model| model.judge(collection, span, &contents.rows));
        if wrong.is_empty() {
            return Look::Good;
        }
        for problem in wrong {
            self.shared.violation(format!("{collection}: {problem}"));
        }
        eprintln!("the view was: {}", describe(view));
        Look::Wrong
    }

    /// The coordinator answered with an error, or with nothing.
    fn not_told(&self, collection: &str, asked: Instant, error: &CollectionError) -> Look {
        let now = self.shared.model(|model| model.moment());
        let dropped = self
            .shared
            .model(|model| model.may_be_dropped(collection, now));
        let refused = match error {
            CollectionError::Coordinator { source, .. } => source.refusal().is_some(),
            _ => true,
        };
        // A segment may be forgotten between the two calls of a fetch that took that long.
        if !refused || dropped || asked.elapsed() > self.grace {
            return Look::Nothing;
        }
        self.shared.violation(format!(
            "the coordinator refuses to tell {collection}: {error}"
        ));
        Look::Wrong
    }

    /// Objects could not be read: whether there is an excuse for all of them.
    async fn problems(
        &self,
        collection: &str,
        view: &View,
        contents: &Contents,
        old: bool,
    ) -> Look {
        let problems = &contents.problems.first;
        let unknown = |kind| kind == ProblemKind::Unreachable;
        let missing = problems.iter().any(|p| p.kind == ProblemKind::Missing);
        let named_again = match (missing && old, View::fetch(&self.client, collection).await) {
            (true, Ok(fresh)) => named(&fresh),
            // Nobody names anything any more, or nobody can say.
            (true, Err(_)) => return Look::Nothing,
            (false, _) => BTreeSet::new(),
        };
        let mut look = Look::Nothing;
        for problem in problems {
            let gone_since = || {
                let path = problem.path.as_deref().and_then(|p| LogPath::parse(p).ok());
                old && path.is_some_and(|path| !named_again.contains(&path))
            };
            let excused = match problem.kind {
                kind if unknown(kind) => true,
                ProblemKind::Missing => gone_since(),
                _ => false,
            };
            if !excused {
                self.shared.violation(format!("{collection}: {problem}"));
                look = Look::Wrong;
            }
        }
        if look == Look::Wrong {
            eprintln!("the view was: {}", describe(view));
        }
        look
    }
}

/// Log files a view names.
fn named(view: &View) -> BTreeSet<LogPath> {
    let segments = view.segments().iter();
    segments
        .flat_map(|segment| {
            let kinds = [&segment.binlogs, &segment.statslogs, &segment.deltalogs];
            kinds.into_iter().flatten()
        })
        .flat_map(|field| &field.binlogs)
        .filter_map(|log| LogPath::parse(&log.log_path).ok())
        .collect()
}

/// A view in one line a segment, to find out what went wrong.
fn describe(view: &View) -> String {
    let segments = view.segments().iter().map(|segment| {
        let logs = |fields: &[quorate_rpc::proto::milvus::data::FieldBinlog]| -> usize {
            fields.iter().map(|field| field.binlogs.len()).sum()
        };
        format!(
            "\n  segment {} of partition {} on {}: state {}, level {}, {} rows, {} insert, {} \
             delete logs, compacted from {:?}",
            segment.id,
            segment.partition_id,
            segment.insert_channel,
            segment.state().as_str_name(),
            segment.level().as_str_name(),
            segment.num_of_rows,
            logs(&segment.binlogs),
            logs(&segment.deltalogs),
            segment.compaction_from,
        )
    });
    segments.collect()
}
