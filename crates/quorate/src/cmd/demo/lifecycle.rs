//! What becomes of rows once they are written: deletes, compaction, an index, the drop of a
//! partition, garbage collection. After each stage everything is read back and compared.

use std::time::{Duration, Instant};

use quorate_binlog::ObjectStoreConfig;
use quorate_ingest::{DeleteOptions, IngestOptions, IngestProgress, keys_of_fraction};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::stages::{COLLECTION, Demo, failed};
use crate::answer::Output;
use crate::cmd::inventory::{Inventory, Objects};
use crate::cmd::source::{Slice, Source};
use crate::cmd::{compact, gc, index, partitions, search};
use crate::error::CliError;

/// The partition that is dropped, and its rows.
const PARTITION: &str = "old";
const PARTITION_ROWS: usize = 600;
/// Keys of that partition begin here, far from those of the file.
const FIRST_ID: i64 = 1_000_000_000;
/// Share of the file's rows that is deleted.
const DELETED: f64 = 0.25;
/// Compactions follow each other until nothing is left to do: deletes first pass to the segments
/// they hit, then these are rewritten.
const COMPACTIONS_MAX: usize = 6;
const COMPACTION_TIMEOUT: Duration = Duration::from_secs(120);
/// The vectors, and how near is measured.
const FIELD: &str = "embedding";
const METRIC: &str = "L2";
const INDEX_TIMEOUT: Duration = Duration::from_secs(120);
/// Part of the true neighbours that an index must find.
const RECALL_MIN: f64 = 0.9;
/// How long garbage collection may take until only what is named is left.
const GC_TIMEOUT: Duration = Duration::from_secs(90);
const GC_PAUSE: Duration = Duration::from_millis(500);

impl Demo {
    /// All stages after the first rows are written; the recall of the index.
    pub(super) async fn live_on(&mut self) -> Result<f64, CliError> {
        self.fill_partition().await?;
        self.verify().await?;
        self.delete().await?;
        self.verify().await?;
        self.flush().await?;
        self.compact().await?;
        self.verify().await?;
        let recall = self.build_index().await?;
        self.verify().await?;
        self.drop_partition().await?;
        self.verify().await?;
        self.collect_garbage().await?;
        Ok(recall)
    }

    /// Rows for a partition of its own, with keys of their own.
    async fn fill_partition(&mut self) -> Result<(), CliError> {
        let started = Instant::now();
        let scratch = tempfile::tempdir()?;
        let mut source = Source::open(&self.file, scratch.path(), FIRST_ID)?;
        let slice = Slice::of(source.cut(0, PARTITION_ROWS)?).await?;
        let options = IngestOptions {
            create: true,
            partition: Some(PARTITION.to_owned()),
            ..IngestOptions::new(&slice.file, COLLECTION)
        };
        let progress = watch::Sender::new(IngestProgress::default());
        quorate_ingest::ingest(&self.client(), options, progress, CancellationToken::new())
            .await
            .map_err(CliError::failed)?;
        self.others = slice.rows.len() as u64;
        self.note(
            "partition",
            format!("other rows in partition {PARTITION}"),
            Some(self.others),
            None,
            started.elapsed(),
        );
        Ok(())
    }

    async fn delete(&mut self) -> Result<(), CliError> {
        let started = Instant::now();
        let keys = keys_of_fraction(&self.file, None, DELETED).map_err(CliError::failed)?;
        let options = DeleteOptions::new(COLLECTION, keys);
        let report = quorate_ingest::delete(&self.client(), options)
            .await
            .map_err(CliError::failed)?;
        self.deleted = DELETED;
        self.note(
            "delete",
            "a quarter of the file's rows, by key".to_owned(),
            Some(report.keys),
            None,
            started.elapsed(),
        );
        Ok(())
    }

    async fn compact(&mut self) -> Result<(), CliError> {
        let started = Instant::now();
        let (mut plans, mut merges) = (0, 0);
        for _ in 0..COMPACTIONS_MAX {
            let args = compact::Args::waiting_for(COLLECTION, COMPACTION_TIMEOUT);
            let answer = compact::run(&self.context(), args).await?;
            if answer.exit.is_some() {
                return Err(failed(format!("the compaction failed:\n{}", answer.text)));
            }
            if answer.json["plans"] == 0 {
                break;
            }
            plans += answer.json["plans"].as_u64().unwrap_or(0);
            merges += answer.json["merges"].as_array().map_or(0, Vec::len);
        }
        if plans == 0 {
            self.problems
                .push("there was nothing to compact".to_owned());
        }
        self.note(
            "compaction",
            format!("{plans} plans, {merges} segments written anew"),
            None,
            None,
            started.elapsed(),
        );
        Ok(())
    }

    async fn build_index(&mut self) -> Result<f64, CliError> {
        let started = Instant::now();
        let args = index::CreateArgs::new(COLLECTION, FIELD, "HNSW", METRIC);
        let command = index::Command::Create(args.waiting(INDEX_TIMEOUT));
        let answer = index::run(&self.context(), command).await?;
        if answer.exit.is_some() {
            return Err(failed(answer.text));
        }
        let rows = answer.json["index"]["indexed_rows"].as_u64();
        let recall = self.recall().await?;
        if recall < RECALL_MIN {
            self.problems.push(format!(
                "recall@10 is {recall:.4}, not at least {RECALL_MIN}"
            ));
        }
        self.note(
            "index",
            format!("HNSW on {FIELD}; recall@10 {recall:.4} from the index files"),
            rows,
            None,
            started.elapsed(),
        );
        Ok(recall)
    }

    /// What part of the true neighbours the index files find.
    pub(super) async fn recall(&self) -> Result<f64, CliError> {
        let args = search::Args::recall_of(COLLECTION, self.file.clone(), self.object_store());
        let answer = search::run(&self.context(), args, Output::Json).await?;
        if answer.json["segments_indexed"] == 0 {
            return Err(failed("no segment has an index file".to_owned()));
        }
        answer.json["recall"]
            .as_f64()
            .ok_or_else(|| failed("the search says nothing of its recall".to_owned()))
    }

    async fn drop_partition(&mut self) -> Result<(), CliError> {
        let started = Instant::now();
        let command = partitions::Command::Drop {
            name: PARTITION.to_owned(),
            collection: COLLECTION.to_owned(),
        };
        partitions::run(&self.context(), command).await?;
        let rows = std::mem::take(&mut self.others);
        self.note(
            "partition drop",
            format!("partition {PARTITION} with all its rows"),
            Some(rows),
            None,
            started.elapsed(),
        );
        Ok(())
    }

    /// Rounds of garbage collection until exactly what is named is left.
    async fn collect_garbage(&mut self) -> Result<(), CliError> {
        let started = Instant::now();
        let before = self.take_inventory().await?;
        let mut rounds = 0;
        let after = loop {
            gc::round(&self.context(), true).await?;
            rounds += 1;
            let now = self.take_inventory().await?;
            if now.is_clean() || started.elapsed() >= GC_TIMEOUT {
                break now;
            }
            tokio::time::sleep(GC_PAUSE).await;
        };
        self.problems.extend(after.problems());
        self.note(
            "garbage collection",
            format!(
                "{} objects and {} dropped segments before, {} and {} after {rounds} rounds",
                before.objects,
                before.dropped.len(),
                after.objects,
                after.dropped.len()
            ),
            None,
            Some(before.bytes.saturating_sub(after.bytes)),
            started.elapsed(),
        );
        Ok(())
    }

    /// The object store against the metadata, as the last word.
    pub(super) async fn inventory(&mut self) -> Result<Inventory, CliError> {
        let started = Instant::now();
        let found = self.take_inventory().await?;
        self.problems.extend(found.problems());
        self.note(
            "objects",
            format!(
                "{} objects; {} orphans, {} missing",
                found.objects,
                found.orphans.len(),
                found.missing.len()
            ),
            None,
            Some(found.bytes),
            started.elapsed(),
        );
        Ok(found)
    }

    pub(super) async fn take_inventory(&self) -> Result<Inventory, CliError> {
        let objects = Objects::of(&ObjectStoreConfig::at(self.object_store()))?;
        objects.inventory(&self.client()).await
    }
}
