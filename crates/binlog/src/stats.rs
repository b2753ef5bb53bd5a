//! Stats logs: lowest and highest primary key of the rows written together, and how many they are.

use std::fmt;

use bytes::Bytes;

use crate::column::{ColumnData, Value};
use crate::error::BinlogError;
use crate::file::{self, EncodedLog, Facts};
use crate::path::LogPath;

const COLUMNS: [&str; 3] = ["min", "max", "rows"];

/// A primary key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrimaryKey {
    /// Of an Int64 field.
    Int64(i64),
    /// Of a VarChar field.
    VarChar(String),
}

impl PrimaryKey {
    /// The key in one row of a column; none when the column's type cannot be a primary key or
    /// there is no such row.
    pub fn of(column: &ColumnData, row: usize) -> Option<PrimaryKey> {
        if row >= column.len() {
            return None;
        }
        match column.value(row) {
            Value::Int64(key) => Some(PrimaryKey::Int64(key)),
            Value::VarChar(key) => Some(PrimaryKey::VarChar(key.to_owned())),
            _ => None,
        }
    }

    fn to_column(&self) -> ColumnData {
        match self {
            PrimaryKey::Int64(key) => ColumnData::Int64(vec![*key]),
            PrimaryKey::VarChar(key) => ColumnData::VarChar(vec![key.clone()]),
        }
    }
}

impl fmt::Display for PrimaryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrimaryKey::Int64(key) => key.fmt(f),
            PrimaryKey::VarChar(key) => write!(f, "{key:?}"),
        }
    }
}

/// Statistics of the primary key over some rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimaryKeyStats {
    /// Lowest key.
    pub min: PrimaryKey,
    /// Highest key.
    pub max: PrimaryKey,
    /// Number of rows.
    pub rows: u64,
}

impl PrimaryKeyStats {
    /// Statistics of a column; none when it is empty or cannot be a primary key.
    pub fn of(column: &ColumnData) -> Option<PrimaryKeyStats> {
        let (min, max) = match column {
            ColumnData::Int64(keys) => (
                PrimaryKey::Int64(*keys.iter().min()?),
                PrimaryKey::Int64(*keys.iter().max()?),
            ),
            ColumnData::VarChar(keys) => (
                PrimaryKey::VarChar(keys.iter().min()?.clone()),
                PrimaryKey::VarChar(keys.iter().max()?.clone()),
            ),
            _ => return None,
        };
        Some(PrimaryKeyStats {
            min,
            max,
            rows: column.len() as u64,
        })
    }

    /// Takes the statistics of more rows of the same field in.
    pub fn merge(&mut self, other: PrimaryKeyStats) {
        if other.min < self.min {
            self.min = other.min;
        }
        if other.max > self.max {
            self.max = other.max;
        }
        self.rows += other.rows;
    }
}

/// Encodes statistics. `timestamps` are the lowest and highest of the rows.
pub fn encode(
    path: LogPath,
    stats: &PrimaryKeyStats,
    timestamps: (u64, u64),
) -> Result<EncodedLog, BinlogError> {
    if !matches!(path, LogPath::Stats { .. }) {
        return Err(BinlogError::encode(path, "not the path of a stats log"));
    }
    let facts = Facts {
        path,
        rows: 1,
        timestamp_from: timestamps.0,
        timestamp_to: timestamps.1,
    };
    let rows = ColumnData::Int64(vec![stats.rows as i64]);
    let columns = [
        (COLUMNS[0], &stats.min.to_column()),
        (COLUMNS[1], &stats.max.to_column()),
        (COLUMNS[2], &rows),
    ];
    let mut log = file::encode(facts, &columns)?;
    log.rows = stats.rows;
    Ok(log)
}

/// Decodes a stats log that was found at `location` (a path within the store).
pub fn decode(location: &str, bytes: Bytes) -> Result<PrimaryKeyStats, BinlogError> {
    let file = file::decode(location, bytes, &COLUMNS)?;
    let is_stats = matches!(file.facts.path, LogPath::Stats { .. });
    let parts = match &file.columns[..] {
        [min, max, ColumnData::Int64(rows)] if is_stats => PrimaryKey::of(min, 0)
            .zip(PrimaryKey::of(max, 0))
            .zip(rows.first()),
        _ => None,
    };
    match parts {
        Some(((min, max), rows)) if *rows > 0 => Ok(PrimaryKeyStats {
            min,
            max,
            rows: *rows as u64,
        }),
        _ => Err(BinlogError::file(location, "not a stats log")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn statistics_read_back_as_they_were_written() {
        let path = LogPath::Stats {
            collection: 1,
            partition: 2,
            segment: 3,
            field: 100,
            log_id: 4,
        };
        let keys = ColumnData::VarChar(vec!["m".into(), "a".into(), "z".into()]);
        let stats = PrimaryKeyStats::of(&keys).unwrap();
        assert_eq!(stats.min, PrimaryKey::VarChar("a".into()));
        assert_eq!(stats.max, PrimaryKey::VarChar("z".into()));
        let log = encode(path, &stats, (1, 2)).unwrap();
        assert_eq!(log.rows, 3);
        assert_eq!(decode(&path.to_string(), log.bytes).unwrap(), stats);
        assert!(PrimaryKeyStats::of(&ColumnData::Int64(vec![])).is_none());
    }

    #[test]
    fn merged_statistics_are_those_of_all_rows() {
        let of = |keys: &[i64]| PrimaryKeyStats::of(&ColumnData::Int64(keys.to_vec())).unwrap();
        let mut merged = of(&[3, 5]);
        merged.merge(of(&[4]));
        merged.merge(of(&[9, -1]));
        assert_eq!(merged, of(&[3, 5, 4, 9, -1]));
    }
}
