//! Compares a file with what is stored of it: every value of every row, read back from the objects
//! that the coordinator names.
//!
//! Both sides become lists of (hash of key, hash of row); only where they differ are values looked
//! at again. So memory is bounded by tens of bytes a row and the largest set of log files written
//! together. Whatever is wrong with objects or metadata is collected, not fatal: one missing
//! object must not hide the next.

mod compare;
mod fingerprint;
mod stored;
mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate_binlog::LogStore;
use quorate_rpc::Client;
use tokio::sync::watch;

use crate::Key;
use crate::collection;
use crate::coordinator::Coordinator;
use crate::error::VerifyError;
use crate::fraction;
use crate::source::{BoundSource, SourceFile};
pub use fingerprint::{RowPrint, key_print};
pub use view::{Contents, View, file_prints, file_vectors};

/// Of each kind of finding so many are kept; the rest is only counted.
const KEPT_MAX: usize = 20;
/// How long reading one object may take, with retries.
const OBJECT_DEADLINE: Duration = Duration::from_secs(30);

/// What to compare with what.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifyOptions {
    /// Parquet file.
    pub file: PathBuf,
    /// Name of the collection.
    pub collection: String,
    /// Object store of the data nodes: a folder, a `file:///` or an `s3://` URL.
    pub object_store: String,
    /// Name of the primary key's column, if it must be a certain one.
    pub primary_key: Option<String>,
    /// This share of the file's rows was deleted, those of [`keys_of_fraction`](crate::keys_of_fraction): they must not be
    /// there, and all others must.
    pub deleted_fraction: Option<f64>,
}

/// How far a comparison is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Rows of the file; 0 until it has been opened.
    pub rows_expected: u64,
    /// Stored rows read so far.
    pub rows_read: u64,
    /// Objects to read; 0 until the coordinator named them.
    pub objects_total: u64,
    /// Objects read so far.
    pub objects_read: u64,
}

/// Findings of one kind: how many, and the first 20 of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings<T> {
    /// How many there are.
    pub count: u64,
    /// The first ones.
    pub first: Vec<T>,
}

impl<T> Default for Findings<T> {
    fn default() -> Self {
        Findings {
            count: 0,
            first: Vec::new(),
        }
    }
}

impl<T> Findings<T> {
    pub(crate) fn add(&mut self, finding: T) {
        self.count += 1;
        if self.first.len() < KEPT_MAX {
            self.first.push(finding);
        }
    }
}

/// A row whose stored values are not those of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongValue {
    /// Primary key of the row.
    pub key: Key,
    /// First field that differs.
    pub field: String,
    /// The value in the file; of a vector, the element that differs.
    pub expected: String,
    /// The value stored.
    pub found: String,
}

/// What is the matter with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// It is not there.
    Missing,
    /// The object store failed or did not answer: nothing is known of the object.
    Unreachable,
    /// It is damaged, or not what the metadata says.
    Wrong,
}

/// Something wrong with an object, or with what the metadata says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectProblem {
    /// What is the matter.
    pub kind: ProblemKind,
    /// Segment it belongs to.
    pub segment: i64,
    /// Path of the object; none when it is about the segment as a whole.
    pub path: Option<String>,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for ObjectProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "segment {}: {}", self.segment, self.reason)?;
        match &self.path {
            Some(path) if !self.reason.contains(path.as_str()) => write!(f, " (object {path})"),
            _ => Ok(()),
        }
    }
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Rows of the file, without those that were deleted on purpose.
    pub rows_expected: u64,
    /// Rows stored and not deleted.
    pub rows_found: u64,
    /// Rows stored but deleted since.
    pub rows_deleted: u64,
    /// Rows of the file that are not stored, or were deleted.
    pub missing: Findings<Key>,
    /// How many of the missing rows are stored but deleted.
    pub missing_deleted: u64,
    /// Rows stored more often than the file has them.
    pub doubled: Findings<Key>,
    /// Rows with other values than the file has.
    pub wrong: Findings<WrongValue>,
    /// Rows that are there although they were deleted on purpose.
    pub not_deleted: Findings<Key>,
    /// Stored rows whose key is not in the file. No failure: other files may have been ingested.
    pub extra: u64,
    /// Objects that are missing or damaged, and counts that do not agree.
    pub problems: Findings<ObjectProblem>,
    /// Segments looked at.
    pub segments: u64,
    /// Objects read.
    pub objects: u64,
    /// Bytes of the objects read.
    pub bytes: u64,
}

impl VerifyReport {
    /// Whether every row of the file is stored once, as it is, in objects that are as they should
    /// be.
    pub fn ok(&self) -> bool {
        self.missing.count == 0
            && self.doubled.count == 0
            && self.wrong.count == 0
            && self.not_deleted.count == 0
            && self.problems.count == 0
    }
}

/// Compares a file with what is stored of it.
pub async fn verify(
    client: &Client,
    options: VerifyOptions,
    progress: watch::Sender<VerifyProgress>,
) -> Result<VerifyReport, VerifyError> {
    let coordinator = Coordinator::new(client);
    let (path, key) = (options.file.clone(), options.primary_key.clone());
    let file = blocking(move || Ok(SourceFile::open(&path, key.as_deref())?)).await?;
    progress.send_modify(|p| p.rows_expected = file.rows());
    let store = open_store(&options.object_store)?;
    let collection = collection::must_find(&coordinator, &options.collection).await?;
    collection::check(&collection, &file, options.primary_key.as_deref())?;
    let source = BoundSource::new(Arc::new(file), Arc::clone(&collection.schema));

    let segments = view::segments(&coordinator, collection.id()).await?;
    let mut report = VerifyReport {
        segments: segments.len() as u64,
        ..VerifyReport::default()
    };
    let (expected, deleted) = {
        let (source, fraction) = (source.clone(), options.deleted_fraction.unwrap_or(0.0));
        blocking(move || {
            let mut expected = expected_rows(&source)?;
            let deleted = fraction::deleted_prints(&source, fraction)?;
            expected.retain(|row| !deleted.contains_key(&row.key));
            Ok((expected, deleted))
        })
        .await?
    };
    report.rows_expected = expected.len() as u64;
    let mut reading = stored::Reading::new(&store, &collection, &progress, &mut report);
    let found = reading.read(&segments).await?;
    for row in &found.rows {
        if let Some(key) = deleted.get(&row.key) {
            report.not_deleted.add(key.clone());
        }
    }
    compare::compare(source, &store, expected, found, &mut report).await?;
    report.extra -= report.not_deleted.count;
    Ok(report)
}

/// Opens the object store of the data nodes. One that is not there is an error here, not a new
/// empty one.
pub fn open_store(url: &str) -> Result<LogStore, VerifyError> {
    let folder = url.strip_prefix("file://").unwrap_or(url);
    if !folder.is_empty() && !folder.contains("://") && !std::path::Path::new(folder).is_dir() {
        return Err(VerifyError::NoStore {
            url: url.to_owned(),
        });
    }
    Ok(LogStore::open(url, OBJECT_DEADLINE)?)
}

fn expected_rows(source: &BoundSource) -> Result<Vec<RowPrint>, VerifyError> {
    let key = source.schema().primary_key_index();
    let mut rows = Vec::with_capacity(source.file().rows().min(1 << 24) as usize);
    source.for_each_batch(|first, columns| {
        fingerprint::add(columns, key, |at| first + at as u64, &mut rows);
    })?;
    Ok(rows)
}

/// Runs work that reads files or hashes.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VerifyError> + Send + 'static,
) -> Result<T, VerifyError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| VerifyError::Internal(format!("reading failed: {error}")))?
}

#[cfg(test)]
mod tests;
