//! Where log files lie: Milvus's layout below a root prefix.
//!
//! [`LogPath`] is the path below the root; [`LogPath::under`] puts it below one and
//! [`LogPath::parse`] takes it off again. Parsing accepts exactly what display writes, so that a
//! path and its parts never disagree. [`IndexPath`] is the same for index files.

use std::fmt;
use std::str::FromStr;

use object_store::path::{Path, PathPart};

mod index;

pub use index::{IndexPath, IndexPathError};

/// The path of a log file, by what it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LogPath {
    /// `insert_log/{collection}/{partition}/{segment}/{field}/{log_id}`: values of one field.
    Insert {
        /// Collection id.
        collection: i64,
        /// Partition id.
        partition: i64,
        /// Segment id.
        segment: i64,
        /// Field id; 0 is the row id, 1 the timestamp.
        field: i64,
        /// Log id, unique for ever.
        log_id: i64,
    },
    /// `stats_log/{collection}/{partition}/{segment}/{field}/{log_id}`: statistics of the primary key.
    Stats {
        /// Collection id.
        collection: i64,
        /// Partition id.
        partition: i64,
        /// Segment id.
        segment: i64,
        /// Field id of the primary key.
        field: i64,
        /// Log id, unique for ever.
        log_id: i64,
    },
    /// `delta_log/{collection}/{partition}/{segment}/{log_id}`: deletes; partition -1 = all of them.
    Delta {
        /// Collection id.
        collection: i64,
        /// Partition id, or -1.
        partition: i64,
        /// Segment id.
        segment: i64,
        /// Log id, unique for ever.
        log_id: i64,
    },
}

/// A path that does not name a log file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{path:?} is no path of a log file: expected \
     [root/]insert_log|stats_log/collection/partition/segment/field/log_id \
     or [root/]delta_log/collection/partition/segment/log_id"
)]
pub struct PathError {
    /// The offending text.
    pub path: String,
}

impl LogPath {
    /// Parses a path below any root prefix. Never panics; every id must be written as display
    /// writes it (decimal, without sign or leading zeros; only a delta's partition may be -1).
    pub fn parse(path: &str) -> Result<LogPath, PathError> {
        Self::try_parse(path).ok_or_else(|| PathError {
            path: path.to_owned(),
        })
    }

    fn try_parse(path: &str) -> Option<LogPath> {
        let mut parts = path.rsplit('/');
        let log_id = id(parts.next()?)?;
        let (a, b, c, d) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if d == "delta_log" {
            let (segment, partition, collection) = (id(a)?, b, id(c)?);
            let partition = if partition == "-1" {
                -1
            } else {
                id(partition)?
            };
            return Some(LogPath::Delta {
                collection,
                partition,
                segment,
                log_id,
            });
        }
        let (field, segment, partition, collection) = (id(a)?, id(b)?, id(c)?, id(d)?);
        match parts.next()? {
            "insert_log" => Some(LogPath::Insert {
                collection,
                partition,
                segment,
                field,
                log_id,
            }),
            "stats_log" => Some(LogPath::Stats {
                collection,
                partition,
                segment,
                field,
                log_id,
            }),
            _ => None,
        }
    }

    /// The location of this file in an object store whose files begin at `root`.
    pub fn under(&self, root: &Path) -> Path {
        let below = self.to_string();
        root.parts()
            .chain(below.split('/').map(PathPart::from))
            .collect()
    }

    /// Collection id.
    pub fn collection(&self) -> i64 {
        self.ids().0
    }

    /// Partition id; -1 for deletes that apply to all partitions.
    pub fn partition(&self) -> i64 {
        self.ids().1
    }

    /// Segment id.
    pub fn segment(&self) -> i64 {
        self.ids().2
    }

    /// Field id; none for deletes.
    pub fn field(&self) -> Option<i64> {
        self.ids().3
    }

    /// Log id.
    pub fn log_id(&self) -> i64 {
        self.ids().4
    }

    /// First part of the path: `insert_log`, `stats_log` or `delta_log`.
    pub fn kind(&self) -> &'static str {
        match self {
            LogPath::Insert { .. } => "insert_log",
            LogPath::Stats { .. } => "stats_log",
            LogPath::Delta { .. } => "delta_log",
        }
    }

    fn ids(&self) -> (i64, i64, i64, Option<i64>, i64) {
        match *self {
            LogPath::Insert {
                collection,
                partition,
                segment,
                field,
                log_id,
            }
            | LogPath::Stats {
                collection,
                partition,
                segment,
                field,
                log_id,
            } => (collection, partition, segment, Some(field), log_id),
            LogPath::Delta {
                collection,
                partition,
                segment,
                log_id,
            } => (collection, partition, segment, None, log_id),
        }
    }
}

impl fmt::Display for LogPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (collection, partition, segment, field, log_id) = self.ids();
        write!(f, "{}/{collection}/{partition}/{segment}/", self.kind())?;
        if let Some(field) = field {
            write!(f, "{field}/")?;
        }
        write!(f, "{log_id}")
    }
}

impl FromStr for LogPath {
    type Err = PathError;

    fn from_str(path: &str) -> Result<Self, PathError> {
        LogPath::parse(path)
    }
}

/// A non-negative decimal as `Display` of i64 writes it.
fn id(text: &str) -> Option<i64> {
    let canonical =
        text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    if canonical { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
