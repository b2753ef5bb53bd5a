//! Rows as fixed-size fingerprints.

use quorate_binlog::{ColumnData, PrimaryKey, Value};

/// A row by the hashes of its key and of all its values, and where to find it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowPrint {
    /// Hash of the primary key; see [`key_print`].
    pub key: u128,
    /// Hash of all values, the key's included.
    pub values: u128,
    /// A row number of the file, or group and row of what is stored.
    pub place: u64,
}

/// Hash of a primary key, as in [`RowPrint::key`].
pub fn key_print(key: &PrimaryKey) -> u128 {
    let mut scratch = Vec::new();
    match key {
        PrimaryKey::Int64(key) => of_key(Value::Int64(*key), &mut scratch),
        PrimaryKey::VarChar(key) => of_key(Value::VarChar(key), &mut scratch),
    }
}

/// Hash of a primary key.
pub(super) fn of_key(key: Value<'_>, scratch: &mut Vec<u8>) -> u128 {
    scratch.clear();
    key.encode_canonical(scratch);
    hash(scratch)
}

/// Appends the fingerprints of all rows of some columns, which have equal lengths.
pub(super) fn add(
    columns: &[ColumnData],
    key: usize,
    place: impl Fn(usize) -> u64,
    out: &mut Vec<RowPrint>,
) {
    let mut scratch = Vec::new();
    for row in 0..columns[key].len() {
        let key = of_key(columns[key].value(row), &mut scratch);
        scratch.clear();
        for column in columns {
            column.value(row).encode_canonical(&mut scratch);
        }
        out.push(RowPrint {
            key,
            values: hash(&scratch),
            place: place(row),
        });
    }
}

fn hash(bytes: &[u8]) -> u128 {
    let mut first = [0; 16];
    first.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    u128::from_le_bytes(first)
}
