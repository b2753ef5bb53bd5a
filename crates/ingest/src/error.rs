//! What can go wrong, at the edges of this crate.

use std::path::PathBuf;
use std::time::Duration;

use quorate_binlog::BinlogError;
use quorate_binlog::schema::SchemaError;
use quorate_rpc::ClientError;

/// The Parquet file cannot be used. Found before anything is created or sent, unless the file
/// changes while it is read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The file cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is cut, damaged or something else.
    #[error("{} is no complete Parquet file: {reason}; get a whole copy of it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        reason: String,
    },
    /// No column can be a vector field.
    #[error(
        "{} has no vector column: one column must be a list of float32 with the same length in \
         every row (columns: {columns})", path.display()
    )]
    NoVector {
        /// The file.
        path: PathBuf,
        /// Names and types of the columns.
        columns: String,
    },
    /// No column can be the primary key.
    #[error(
        "{} has no column for the primary key: {reason}; name an int64 or string column \
         as primary key", path.display()
    )]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        reason: String,
    },
    /// A column as a whole is wrong.
    #[error("{}, column {column:?}: {reason}", path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// Name of the column.
        column: String,
        /// What is wrong.
        reason: String,
    },
    /// One value is wrong.
    #[error("{}, column {column:?}, row {row}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Name of the column.
        column: String,
        /// Row within the file, from 0.
        row: u64,
        /// What is wrong.
        reason: String,
    },
    /// The file is not what it was when it was opened.
    #[error("{} was changed while it was read; start again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

/// The collection cannot be found, or does not suit the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectionError {
    /// There is no such collection.
    #[error("collection {name:?} does not exist; create it first, or ingest with --create")]
    Absent {
        /// Its name.
        name: String,
    },
    /// There is no such partition.
    #[error(
        "collection {collection:?} has no partition {partition:?}; create it first, \
         or ingest with --create"
    )]
    NoPartition {
        /// The collection.
        collection: String,
        /// The partition.
        partition: String,
    },
    /// A column of the file and the field of the collection differ.
    #[error("column {column:?} does not suit collection {collection:?}: {reason}")]
    Column {
        /// The collection.
        collection: String,
        /// Name of the column or field.
        column: String,
        /// How they differ.
        reason: String,
    },
    /// The collection's own schema is not one this program can work with.
    #[error("the schema of collection {collection:?} cannot be used")]
    Schema {
        /// The collection.
        collection: String,
        /// What is wrong.
        source: SchemaError,
    },
    /// Something else about the collection is not usable.
    #[error("collection {collection:?} cannot be used: {reason}")]
    Unusable {
        /// The collection.
        collection: String,
        /// What is wrong.
        reason: String,
    },
    /// The coordinator refused or was not reached.
    #[error("cannot {action}")]
    Coordinator {
        /// What was asked of it.
        action: String,
        /// Its answer.
        source: ClientError,
    },
}

/// An ingest ended without all rows stored. Running it again continues where it ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// The file cannot be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The collection cannot be used.
    #[error(transparent)]
    Collection(#[from] CollectionError),
    /// An option has a value that makes no sense.
    #[error("{option} {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong with its value.
        reason: String,
    },
    /// Somebody refused for good.
    #[error("channel {channel}: {by} refused to {action}: {message}")]
    Refused {
        /// The channel.
        channel: String,
        /// Who refused.
        by: String,
        /// What was asked.
        action: &'static str,
        /// The answer.
        message: String,
    },
    /// Nothing moved for the stall timeout.
    #[error(
        "channel {channel}: no progress for {waited:.1?}; {missing} of {total} rows are not stored, \
         the first of them ordinal {first_missing}; owner: {owner}; last: {last}; \
         running the same ingest again continues from there"
    )]
    Stalled {
        /// The channel.
        channel: String,
        /// How long nothing moved.
        waited: Duration,
        /// Rows not known to be stored.
        missing: u64,
        /// Rows of the channel.
        total: u64,
        /// Ordinal of the first row not known to be stored.
        first_missing: u64,
        /// Who owned the channel, as far as known.
        owner: String,
        /// Why the last attempt failed.
        last: String,
    },
    /// The caller cancelled it.
    #[error("cancelled; running the same ingest again continues where it ended")]
    Cancelled,
    /// A part of the program itself failed.
    #[error("internal error: {0}")]
    Internal(String),
}

/// A comparison could not be made at all. (Differences are no error: they are in the report.)
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The file cannot be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The collection cannot be used.
    #[error(transparent)]
    Collection(#[from] CollectionError),
    /// There is no such object store.
    #[error("object store {url:?} is no folder; give the one the data nodes write to")]
    NoStore {
        /// Its address as given.
        url: String,
    },
    /// A file without the vectors asked for.
    #[error("{path} has no column {column:?} of float vectors of one length")]
    NoVectors {
        /// The file.
        path: String,
        /// The column.
        column: String,
    },
    /// A share of the rows that is none.
    #[error("the share of the rows must be from 0 to 1, not {fraction}")]
    Fraction {
        /// As given.
        fraction: f64,
    },
    /// The object store cannot be opened, or an object that was read could not be read again.
    #[error(transparent)]
    Store(#[from] BinlogError),
    /// A part of the program itself failed.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Deletes are not known to be stored. Deleting the same keys again is harmless.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeleteError {
    /// The collection cannot be used.
    #[error(transparent)]
    Collection(#[from] CollectionError),
    /// The keys do not suit the collection.
    #[error("{0}")]
    Keys(String),
    /// Somebody refused for good.
    #[error("channel {channel}: {by} refused to {action}: {message}")]
    Refused {
        /// The channel.
        channel: String,
        /// Who refused.
        by: String,
        /// What was asked.
        action: &'static str,
        /// The answer.
        message: String,
    },
    /// Nothing moved for the stall timeout.
    #[error(
        "channel {channel}: its {keys} deletes are not known to be stored after {waited:.1?}; \
         owner: {owner}; last: {last}; deleting again is harmless"
    )]
    Stalled {
        /// The channel.
        channel: String,
        /// Deletes of the channel.
        keys: usize,
        /// How long it was tried.
        waited: Duration,
        /// Who owned the channel, as far as known.
        owner: String,
        /// Why the last attempt failed.
        last: String,
    },
}
