//! What can go wrong with log files. Every variant about a file names its path.

use crate::path::PathError;

/// Failure to write, find or understand a log file or a column.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BinlogError {
    /// The object store's address makes no sense or cannot be opened.
    #[error("cannot open object store {url:?}: {reason}")]
    Open {
        /// Address as it was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The object is not there.
    #[error("log file {path} does not exist in the object store")]
    Missing {
        /// Location within the store.
        path: String,
    },
    /// The object store failed or did not answer in time.
    #[error("object store failed to {action} {path} ({attempts} attempts)")]
    Store {
        /// "read", "write" or "delete".
        action: &'static str,
        /// Location within the store.
        path: String,
        /// How often it was tried.
        attempts: u32,
        /// Last error.
        source: object_store::Error,
    },
    /// The object store did not answer before the deadline.
    #[error("object store did not {action} {path} within {elapsed_ms} ms ({attempts} attempts)")]
    Deadline {
        /// "read", "write" or "delete".
        action: &'static str,
        /// Location within the store.
        path: String,
        /// How often it was tried.
        attempts: u32,
        /// Time spent.
        elapsed_ms: u64,
    },
    /// The file is cut, damaged, or was not written as a log file of this kind.
    #[error("log file {path} cannot be read: {reason}")]
    File {
        /// Location within the store.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A path that is not one of a log file.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A log file could not be put together from these values.
    #[error("cannot encode log file {path}: {reason}")]
    Encode {
        /// Location within the store.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

impl BinlogError {
    /// Whether the object is simply not there (as opposed to unreadable).
    pub fn is_missing(&self) -> bool {
        matches!(self, BinlogError::Missing { .. })
    }

    pub(crate) fn file(path: impl ToString, reason: impl ToString) -> Self {
        BinlogError::File {
            path: path.to_string(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn encode(path: impl ToString, reason: impl ToString) -> Self {
        BinlogError::Encode {
            path: path.to_string(),
            reason: reason.to_string(),
        }
    }
}
