//! Rows of the file against rows stored, key by key.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use quorate_binlog::{ColumnData, LogStore, Value};

use super::fingerprint::RowPrint;
use super::stored::Stored;
use super::{KEPT_MAX, VerifyReport, WrongValue, blocking};
use crate::Key;
use crate::error::VerifyError;
use crate::source::{BlockReader, BoundSource};

/// Decoded rows kept while single rows are looked at again, in bytes.
const CACHE_BYTES_MAX: usize = 16 << 20;

/// What differs, by place in the file and in what is stored.
#[derive(Debug, Default)]
struct Differences {
    missing: Vec<u64>,
    doubled: Vec<u64>,
    wrong: Vec<(u64, u64)>,
    missing_count: u64,
    missing_deleted: u64,
    doubled_count: u64,
    wrong_count: u64,
    extra: u64,
}

/// Adds to the report how `found` differs from `expected`.
pub(super) async fn compare(
    source: BoundSource,
    store: &LogStore,
    mut expected: Vec<RowPrint>,
    mut stored: Stored,
    report: &mut VerifyReport,
) -> Result<(), VerifyError> {
    let (differences, stored) = blocking(move || {
        expected.sort_unstable();
        stored.rows.sort_unstable();
        Ok((differences(&expected, &stored), stored))
    })
    .await?;
    report.missing.count = differences.missing_count;
    report.missing_deleted = differences.missing_deleted;
    report.doubled.count = differences.doubled_count;
    report.wrong.count = differences.wrong_count;
    report.extra = differences.extra;

    let in_file: BTreeSet<u64> = differences
        .missing
        .iter()
        .chain(&differences.doubled)
        .copied()
        .chain(differences.wrong.iter().map(|(row, _)| *row))
        .collect();
    let places: BTreeSet<u64> = differences.wrong.iter().map(|(_, place)| *place).collect();
    let schema = Arc::new(source.schema().clone());
    let rows = blocking(move || rows_of(source, &in_file)).await?;
    let key_at = schema.primary_key_index();
    let key = |row: &u64| rows.get(row).and_then(|values| Key::of(&values[key_at], 0));
    report.missing.first = differences.missing.iter().filter_map(key).collect();
    report.doubled.first = differences.doubled.iter().filter_map(key).collect();

    let found = stored.values(store, &places).await?;
    for (row, place) in &differences.wrong {
        let (Some(expected), Some(found), Some(key)) = (rows.get(row), found.get(place), key(row))
        else {
            continue;
        };
        let columns = expected.iter().zip(found).zip(schema.fields());
        for ((expected, found), field) in columns {
            if let Some((expected, found)) = difference(expected.value(0), found.value(0)) {
                report.wrong.first.push(WrongValue {
                    key,
                    field: field.name.clone(),
                    expected,
                    found,
                });
                break;
            }
        }
    }
    Ok(())
}

/// Walks both sorted lists, key by key.
fn differences(expected: &[RowPrint], stored: &Stored) -> Differences {
    let mut out = Differences::default();
    let mut expected = expected.chunk_by(|a, b| a.key == b.key).peekable();
    let mut found = stored.rows.chunk_by(|a, b| a.key == b.key).peekable();
    loop {
        let order = match (expected.peek(), found.peek()) {
            (None, None) => return out,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(e), Some(f)) => e[0].key.cmp(&f[0].key),
        };
        let rows = match order {
            Ordering::Greater => &[][..],
            _ => expected.next().unwrap_or_default(),
        };
        let copies = match order {
            Ordering::Less => &[][..],
            _ => found.next().unwrap_or_default(),
        };
        one_key(rows, copies, &stored.deleted, &mut out);
    }
}

/// The rows of one key: equal ones cancel out, of the others each stored row stands for one row of
/// the file. What the file has more is missing, what the store has more is doubled.
fn one_key(rows: &[RowPrint], copies: &[RowPrint], deleted: &[u128], out: &mut Differences) {
    if rows.is_empty() {
        out.extra += copies.len() as u64;
        return;
    }
    let (mut left, mut over): (Vec<&RowPrint>, Vec<&RowPrint>) = Default::default();
    let (mut row, mut copy) = (rows.iter().peekable(), copies.iter().peekable());
    loop {
        match (row.peek(), copy.peek()) {
            (None, None) => break,
            (Some(r), Some(c)) if r.values == c.values => {
                row.next();
                copy.next();
            }
            (Some(r), c) if c.is_none_or(|c| r.values < c.values) => {
                left.extend(row.next());
            }
            _ => over.extend(copy.next()),
        }
    }
    let wrong = left.len().min(over.len());
    out.wrong_count += wrong as u64;
    for (row, copy) in left.iter().zip(&over) {
        keep(&mut out.wrong, (row.place, copy.place));
    }
    let missing = &left[wrong..];
    out.missing_count += missing.len() as u64;
    if !missing.is_empty() {
        let from = deleted.partition_point(|key| *key < rows[0].key);
        let to = deleted.partition_point(|key| *key <= rows[0].key);
        out.missing_deleted += missing.len().min(to - from) as u64;
    }
    for row in missing {
        keep(&mut out.missing, row.place);
    }
    let doubled = over.len() - wrong;
    out.doubled_count += doubled as u64;
    for _ in 0..doubled {
        keep(&mut out.doubled, rows[0].place);
    }
}

fn keep<T>(kept: &mut Vec<T>, finding: T) {
    if kept.len() < KEPT_MAX {
        kept.push(finding);
    }
}

/// The values of some rows of the file.
fn rows_of(
    source: BoundSource,
    rows: &BTreeSet<u64>,
) -> Result<HashMap<u64, Vec<ColumnData>>, VerifyError> {
    let reader = BlockReader::new(source, CACHE_BYTES_MAX, 1);
    let mut out = HashMap::with_capacity(rows.len());
    for row in rows {
        out.insert(*row, reader.read(&[*row], usize::MAX)?.1);
    }
    Ok(out)
}

/// How two values differ, as text; none when they are the same, floats compared by their bits.
fn difference(expected: Value<'_>, found: Value<'_>) -> Option<(String, String)> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    expected.encode_canonical(&mut a);
    found.encode_canonical(&mut b);
    if a == b {
        return None;
    }
    Some(match (expected, found) {
        (Value::FloatVector(e), Value::FloatVector(f)) if e.len() == f.len() => {
            let at = e
                .iter()
                .zip(f)
                .position(|(e, f)| e.to_bits() != f.to_bits())
                .unwrap_or_default();
            (
                format!("{:?} at element {at}", e[at]),
                format!("{:?} at element {at}", f[at]),
            )
        }
        _ => (show(expected), show(found)),
    })
}

fn show(value: Value<'_>) -> String {
    const CHARS_MAX: usize = 80;
    let cut = |text: &str| match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    };
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Int8(value) => value.to_string(),
        Value::Int16(value) => value.to_string(),
        Value::Int32(value) => value.to_string(),
        Value::Int64(value) => value.to_string(),
        Value::Float(value) => format!("{value:?}"),
        Value::Double(value) => format!("{value:?}"),
        Value::VarChar(text) | Value::Json(text) => cut(text),
        Value::FloatVector(values) => format!("a vector of {} values", values.len()),
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
    }
}
