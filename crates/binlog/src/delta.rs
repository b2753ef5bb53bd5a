//! Delta logs: primary keys deleted, each with its timestamp. A delete removes the rows with that
//! key and a lower timestamp.

use bytes::Bytes;

use crate::column::ColumnData;
use crate::error::BinlogError;
use crate::file::{self, EncodedLog, Facts};
use crate::path::LogPath;
use crate::stats::PrimaryKey;

const COLUMNS: [&str; 2] = ["key", "timestamp"];

/// Deletes by primary key.
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaRows {
    /// Int64 or VarChar.
    pub keys: ColumnData,
    /// One for each key.
    pub timestamps: Vec<u64>,
}

impl DeltaRows {
    /// Number of deletes.
    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }

    /// Keys with their timestamps.
    pub fn iter(&self) -> impl Iterator<Item = (PrimaryKey, u64)> + '_ {
        self.timestamps
            .iter()
            .enumerate()
            .filter_map(|(row, ts)| Some((PrimaryKey::of(&self.keys, row)?, *ts)))
    }
}

/// Encodes deletes.
pub fn encode(path: LogPath, rows: &DeltaRows) -> Result<EncodedLog, BinlogError> {
    if !matches!(path, LogPath::Delta { .. }) {
        return Err(BinlogError::encode(path, "not the path of a delta log"));
    }
    if !matches!(rows.keys, ColumnData::Int64(_) | ColumnData::VarChar(_)) {
        return Err(BinlogError::encode(path, "keys must be Int64 or VarChar"));
    }
    let (Some(from), Some(to)) = (rows.timestamps.iter().min(), rows.timestamps.iter().max())
    else {
        return Err(BinlogError::encode(
            path,
            "a log file needs at least one row",
        ));
    };
    let facts = Facts {
        path,
        rows: rows.len() as u64,
        timestamp_from: *from,
        timestamp_to: *to,
    };
    // Parquet has no unsigned order to care about here: the bits are what counts.
    let timestamps = ColumnData::Int64(rows.timestamps.iter().map(|ts| *ts as i64).collect());
    file::encode(
        facts,
        &[(COLUMNS[0], &rows.keys), (COLUMNS[1], &timestamps)],
    )
}

/// Decodes a delta log that was found at `location` (a path within the store).
pub fn decode(location: &str, bytes: Bytes) -> Result<DeltaRows, BinlogError> {
    let file = file::decode(location, bytes, &COLUMNS)?;
    let mut columns = file.columns.into_iter();
    match (file.facts.path, columns.next(), columns.next()) {
        (
            LogPath::Delta { .. },
            Some(keys @ (ColumnData::Int64(_) | ColumnData::VarChar(_))),
            Some(ColumnData::Int64(timestamps)),
        ) => Ok(DeltaRows {
            keys,
            timestamps: timestamps.into_iter().map(|ts| ts as u64).collect(),
        }),
        _ => Err(BinlogError::file(location, "not a delta log")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn deletes_read_back_as_they_were_written() {
        let path = LogPath::Delta {
            collection: 1,
            partition: -1,
            segment: 3,
            log_id: 4,
        };
        for keys in [
            ColumnData::Int64(vec![7, -7]),
            ColumnData::VarChar(vec!["a".into(), "b".into()]),
        ] {
            let rows = DeltaRows {
                keys,
                timestamps: vec![9, u64::MAX],
            };
            let log = encode(path, &rows).unwrap();
            assert_eq!((log.timestamp_from, log.timestamp_to), (9, u64::MAX));
            assert_eq!(decode(&path.to_string(), log.bytes).unwrap(), rows);
        }
    }

    #[test]
    fn keys_must_have_a_key_type_and_there_must_be_some() {
        let path = LogPath::Delta {
            collection: 1,
            partition: 2,
            segment: 3,
            log_id: 4,
        };
        for rows in [
            DeltaRows {
                keys: ColumnData::Bool(vec![true]),
                timestamps: vec![1],
            },
            DeltaRows {
                keys: ColumnData::Int64(vec![]),
                timestamps: vec![],
            },
        ] {
            let error = encode(path, &rows).unwrap_err();
            assert!(error.to_string().contains(&path.to_string()), "{error}");
        }
    }
}
