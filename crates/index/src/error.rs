//! What can go wrong with an index. Every variant about a file names its path.

use quorate_binlog::BinlogError;

use crate::metric::Metric;
use crate::params::ParamsError;

/// Failure to build, find, understand or search an index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The parameters make no sense.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// No index can be built of these vectors.
    #[error("cannot build index {path}: {reason}")]
    Build {
        /// Where it would have been stored.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Whoever asked for it does not want it any more.
    #[error("the build of index {path} was cancelled")]
    Cancelled {
        /// Where it would have been stored.
        path: String,
    },
    /// The temporary folder an index is written to or read from is full or not there.
    #[error("cannot use a temporary folder for index {path}")]
    Scratch {
        /// The index it was for.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The object is not there.
    #[error("index file {path} does not exist in the object store")]
    Missing {
        /// Location within the store.
        path: String,
    },
    /// The object store failed.
    #[error(transparent)]
    Store(#[from] BinlogError),
    /// The file is cut, damaged, or was not written as an index of this segment.
    #[error("index file {path} cannot be read: {reason}")]
    File {
        /// Location within the store.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A query that does not go with the index.
    #[error("cannot search index {path}: {reason}")]
    Query {
        /// The index.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Segments with indexes of different metrics cannot be searched together.
    #[error("indexes of different metrics: {first_path} has {first}, {other_path} has {other}")]
    Metrics {
        /// One index.
        first_path: String,
        /// Its metric.
        first: Metric,
        /// Another.
        other_path: String,
        /// Its metric.
        other: Metric,
    },
}

impl IndexError {
    pub(crate) fn build(path: impl ToString, reason: impl ToString) -> Self {
        IndexError::Build {
            path: path.to_string(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn file(path: impl ToString, reason: impl ToString) -> Self {
        IndexError::File {
            path: path.to_string(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn query(path: impl ToString, reason: impl ToString) -> Self {
        IndexError::Query {
            path: path.to_string(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn scratch(path: impl ToString, source: std::io::Error) -> Self {
        IndexError::Scratch {
            path: path.to_string(),
            source,
        }
    }
}
