//! Insert logs: the values of one field of a batch of rows of a segment.
//!
//! The logs written together for one batch have the same rows in the same order; besides the
//! user fields there is one for [`ROW_ID_FIELD`] and one for [`TIMESTAMP_FIELD`].

use bytes::Bytes;

use crate::column::ColumnData;
use crate::error::BinlogError;
use crate::file::{self, EncodedLog, Facts};
use crate::path::LogPath;

/// System field: the row's ordinal in its stream on its channel.
pub const ROW_ID_FIELD: i64 = 0;
/// System field: the row's timestamp.
pub const TIMESTAMP_FIELD: i64 = 1;

const COLUMN: &str = "value";

/// An insert log that has been read.
#[derive(Debug, Clone, PartialEq)]
pub struct InsertLog {
    /// Which log it is.
    pub path: LogPath,
    /// Values, row after row.
    pub column: ColumnData,
    /// Lowest timestamp of the rows.
    pub timestamp_from: u64,
    /// Highest timestamp of the rows.
    pub timestamp_to: u64,
}

/// Encodes the values of one field. `timestamps` are the lowest and highest of the rows.
pub fn encode(
    path: LogPath,
    column: &ColumnData,
    timestamps: (u64, u64),
) -> Result<EncodedLog, BinlogError> {
    if !matches!(path, LogPath::Insert { .. }) {
        return Err(BinlogError::encode(path, "not the path of an insert log"));
    }
    if column.is_empty() {
        return Err(BinlogError::encode(
            path,
            "a log file needs at least one row",
        ));
    }
    let facts = Facts {
        path,
        rows: column.len() as u64,
        timestamp_from: timestamps.0,
        timestamp_to: timestamps.1,
    };
    file::encode(facts, &[(COLUMN, column)])
}

/// Decodes an insert log that was found at `location` (a path within the store).
pub fn decode(location: &str, bytes: Bytes) -> Result<InsertLog, BinlogError> {
    let mut file = file::decode(location, bytes, &[COLUMN])?;
    match (file.facts.path, file.columns.pop()) {
        (path @ LogPath::Insert { .. }, Some(column)) => Ok(InsertLog {
            path,
            column,
            timestamp_from: file.facts.timestamp_from,
            timestamp_to: file.facts.timestamp_to,
        }),
        _ => Err(BinlogError::file(location, "not an insert log")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const PATH: LogPath = LogPath::Insert {
        collection: 1,
        partition: 2,
        segment: 3,
        field: 100,
        log_id: 7,
    };

    fn sample() -> ColumnData {
        ColumnData::VarChar((0..500).map(|row| format!("row {row}")).collect())
    }

    #[test]
    fn a_log_reads_back_as_it_was_written() {
        let vectors = ColumnData::FloatVector {
            dim: 4,
            data: (0..4000).map(|n| n as f32 * 0.5).collect(),
        };
        for column in [sample(), vectors, ColumnData::Int64(vec![5, -5])] {
            let log = encode(PATH, &column, (10, 20)).unwrap();
            assert_eq!(log.rows, column.len() as u64);
            let read = decode(&format!("data/{PATH}"), log.bytes).unwrap();
            assert_eq!(read.column, column);
            assert_eq!((read.timestamp_from, read.timestamp_to), (10, 20));
            assert_eq!(read.path, PATH);
        }
    }

    #[test]
    fn a_cut_log_is_refused_by_path_at_every_length() {
        let bytes = encode(PATH, &sample(), (1, 1)).unwrap().bytes;
        for length in (0..bytes.len()).step_by(37).chain([bytes.len() - 1]) {
            let error = decode(&PATH.to_string(), bytes.slice(..length)).unwrap_err();
            assert!(error.to_string().contains(&PATH.to_string()), "{error}");
        }
    }

    #[test]
    fn a_changed_byte_is_an_error_or_leaves_the_values_alone() {
        let column = sample();
        let bytes = encode(PATH, &column, (1, 1)).unwrap().bytes;
        for at in (0..bytes.len()).step_by(3) {
            let mut changed = bytes.to_vec();
            changed[at] ^= 0x10;
            if let Ok(read) = decode(&PATH.to_string(), changed.into()) {
                assert_eq!(read.column, column, "byte {at}");
            }
        }
    }

    #[test]
    fn a_log_found_under_another_path_is_refused() {
        let bytes = encode(PATH, &sample(), (1, 1)).unwrap().bytes;
        let error = decode("insert_log/1/2/4/100/7", bytes.clone()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("its quorate.segment is 3, by its path it should be 4"),
            "{error}"
        );
        let error = decode("delta_log/1/2/3/7", bytes).unwrap_err();
        assert!(error.to_string().contains("another log"), "{error}");
    }

    #[test]
    fn a_foreign_file_is_refused() {
        let error = decode(&PATH.to_string(), Bytes::from_static(b"hello")).unwrap_err();
        assert!(
            error.to_string().contains("no complete Parquet file"),
            "{error}"
        );
    }
}
