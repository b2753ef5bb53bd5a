#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, Int64Array, ListArray, StringArray, UInt64Array};
use quorate_binlog::{ColumnData, FieldType};

use super::*;
use crate::collection::draft_schema;
use crate::testing::{sample, small_file, vectors, write_parquet};

fn bind(file: SourceFile) -> BoundSource {
    let schema = draft_schema(&file).unwrap();
    BoundSource::new(Arc::new(file), Arc::new(schema))
}

fn ids(rows: i64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(0..rows))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn the_sample_is_understood() {
    let file = SourceFile::open(&sample(), None).unwrap();
    let columns: Vec<(&str, FieldType)> = file
        .columns()
        .iter()
        .map(|column| (column.name.as_str(), column.kind))
        .collect();
    let text = FieldType::VarChar { max_length: 65535 };
    assert_eq!(
        columns,
        [
            ("id", FieldType::Int64),
            ("package", text),
            ("section", text),
            ("installed_size", FieldType::Int64),
            ("description", text),
            ("embedding", FieldType::FloatVector { dim: 384 }),
        ]
    );
    assert_eq!(file.primary_key().name, "id");
    assert_eq!(file.rows(), 3000);
    let plan = bind(file).plan(2).unwrap();
    assert_eq!(plan.rows_of(0) + plan.rows_of(1), 3000);
}

#[test]
fn the_primary_key_can_be_named_and_must_suit() {
    let open = |key| SourceFile::open(&sample(), Some(key));
    assert_eq!(open("package").unwrap().primary_key().name, "package");
    let error = open("embedding").unwrap_err().to_string();
    assert!(
        error.contains("\"embedding\" is of type FloatVector"),
        "{error}"
    );
    let error = open("nothing").unwrap_err().to_string();
    assert!(error.contains("no column \"nothing\""), "{error}");
}

#[test]
fn without_a_column_id_the_first_possible_column_is_the_key() {
    let folder = folder();
    let path = folder.path().join("f");
    let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    write_parquet(
        &path,
        vec![("vector", vectors(0..2)), ("name", names), ("n", ids(2))],
    );
    assert_eq!(
        SourceFile::open(&path, None).unwrap().primary_key().name,
        "name"
    );
    write_parquet(&path, vec![("vector", vectors(0..2))]);
    let error = SourceFile::open(&path, None).unwrap_err();
    assert!(matches!(error, SourceError::NoKey { .. }), "{error}");
}

#[test]
fn a_file_cut_at_any_length_is_refused_by_name() {
    let folder = folder();
    let whole = folder.path().join("whole");
    small_file(&whole, 300);
    let bytes = std::fs::read(&whole).unwrap();
    let path = folder.path().join("cut.parquet");
    for length in (0..bytes.len()).step_by(101).chain([bytes.len() - 1]) {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = SourceFile::open(&path, None).unwrap_err();
        assert!(
            matches!(error, SourceError::Unreadable { .. }),
            "{length}: {error}"
        );
        assert!(error.to_string().contains("cut.parquet"), "{error}");
    }
}

#[test]
fn a_damaged_page_is_an_error_before_anything_is_sent() {
    let folder = folder();
    let path = folder.path().join("f");
    small_file(&path, 300);
    let good = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for at in (4..good.len() - 8).step_by(53) {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        std::fs::write(&path, &bytes).unwrap();
        // Not every flipped bit can be noticed without checksums, but none may bring us down.
        match SourceFile::open(&path, None) {
            Ok(file) => match draft_schema(&file) {
                Ok(schema) => {
                    let bound = BoundSource::new(Arc::new(file), Arc::new(schema));
                    refused += usize::from(bound.plan(2).is_err());
                }
                Err(_) => refused += 1,
            },
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0);
}

#[test]
fn foreign_files_are_refused() {
    let folder = folder();
    let path = folder.path().join("f");
    std::fs::write(&path, "id,name\n1,a\n").unwrap();
    let error = SourceFile::open(&path, None).unwrap_err().to_string();
    assert!(error.contains("no complete Parquet file"), "{error}");
    let error = SourceFile::open(folder.path(), None).unwrap_err();
    assert!(matches!(error, SourceError::Open { .. }), "{error}");
    let error = SourceFile::open(&folder.path().join("absent"), None).unwrap_err();
    assert!(matches!(error, SourceError::Open { .. }), "{error}");
}

#[test]
fn a_file_without_a_vector_column_is_refused_with_its_columns() {
    let folder = folder();
    let path = folder.path().join("f");
    write_parquet(&path, vec![("id", ids(3))]);
    let error = SourceFile::open(&path, None).unwrap_err().to_string();
    assert!(error.contains("no vector column"), "{error}");
    assert!(error.contains("id Int64"), "{error}");
}

#[test]
fn a_type_that_is_no_field_type_is_named_with_its_column() {
    let folder = folder();
    let path = folder.path().join("f");
    let odd: ArrayRef = Arc::new(UInt64Array::from(vec![1, 2]));
    write_parquet(
        &path,
        vec![("id", ids(2)), ("odd", odd), ("v", vectors(0..2))],
    );
    let error = SourceFile::open(&path, None).unwrap_err().to_string();
    assert!(error.contains("column \"odd\": type UInt64"), "{error}");
}

#[test]
fn lists_of_one_length_are_vectors_and_others_are_refused_by_row() {
    let folder = folder();
    let path = folder.path().join("f");
    let list = |lengths: Vec<usize>| -> ArrayRef {
        let lists = lengths
            .into_iter()
            .map(|length| Some((0..length).map(|n| Some(n as f32))));
        Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(lists))
    };
    write_parquet(&path, vec![("id", ids(3)), ("v", list(vec![4; 3]))]);
    let file = SourceFile::open(&path, None).unwrap();
    assert_eq!(file.columns()[1].kind, FieldType::FloatVector { dim: 4 });
    bind(file).plan(1).unwrap();

    let mut lengths = vec![4; 300];
    lengths[207] = 3;
    write_parquet(&path, vec![("id", ids(300)), ("v", list(lengths))]);
    let error = bind(SourceFile::open(&path, None).unwrap())
        .plan(1)
        .unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("column \"v\", row 207: has 3 values instead of 4"),
        "{error}"
    );
}

#[test]
fn a_missing_value_is_refused_by_row() {
    let folder = folder();
    let path = folder.path().join("f");
    let names: ArrayRef = Arc::new(StringArray::from_iter(
        (0..150).map(|row| (row != 120).then_some("x")),
    ));
    write_parquet(
        &path,
        vec![("id", ids(150)), ("n", names), ("v", vectors(0..150))],
    );
    let error = bind(SourceFile::open(&path, None).unwrap())
        .plan(1)
        .unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("column \"n\", row 120: has no value"),
        "{error}"
    );
}

#[test]
fn a_text_longer_than_a_field_takes_is_refused_by_row() {
    let folder = folder();
    let path = folder.path().join("f");
    let names: ArrayRef = Arc::new(StringArray::from(vec!["a".to_owned(), "b".repeat(65_536)]));
    write_parquet(
        &path,
        vec![("id", ids(2)), ("n", names), ("v", vectors(0..2))],
    );
    let error = bind(SourceFile::open(&path, None).unwrap())
        .plan(1)
        .unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("column \"n\", row 1: has 65536 bytes"),
        "{error}"
    );
}

#[test]
fn any_rows_read_by_number_are_those_of_the_file() {
    let folder = folder();
    let path = folder.path().join("f");
    small_file(&path, 5000);
    // A tiny cache and one reader: every jump opens the file anew.
    let reader = BlockReader::new(bind(SourceFile::open(&path, None).unwrap()), 1, 1);
    let wanted: Vec<Vec<u64>> = vec![
        (0..5000).collect(),
        (0..5000).step_by(7).collect(),
        vec![4999],
        vec![3, 511, 512, 513, 1024, 4998],
        (600..700).collect(),
    ];
    for rows in wanted {
        let (taken, columns) = reader.read(&rows, usize::MAX).unwrap();
        assert_eq!(taken, rows.len());
        let keys = rows.iter().map(|row| 1000 + *row as i64).collect();
        assert_eq!(columns[0], ColumnData::Int64(keys));
        let names = rows.iter().map(|row| format!("row {row}")).collect();
        assert_eq!(columns[1], ColumnData::VarChar(names));
        let data = rows.iter().flat_map(|row| [*row as f32, *row as f32 / 2.0]);
        let data = data.collect();
        assert_eq!(columns[2], ColumnData::FloatVector { dim: 2, data });
    }
}

#[test]
fn a_batch_ends_at_its_limit_of_bytes_but_has_one_row() {
    let reader = BlockReader::new(bind(SourceFile::open(&sample(), None).unwrap()), 1 << 20, 2);
    let rows: Vec<u64> = (0..100).collect();
    let (taken, columns) = reader.read(&rows, 10_000).unwrap();
    assert!((2..7).contains(&taken), "{taken}");
    assert_eq!(columns[0].len(), taken);
    assert_eq!(reader.read(&rows, 1).unwrap().0, 1);
}

#[test]
fn a_file_that_changes_is_noticed() {
    let folder = folder();
    let path = folder.path().join("f");
    small_file(&path, 300);
    let file = SourceFile::open(&path, None).unwrap();
    let bound = bind(file.clone());
    let before = file.hash().unwrap();
    assert_eq!(file.hash().unwrap(), before);
    std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"x"))
        .unwrap();
    assert!(matches!(file.hash(), Err(SourceError::Changed { .. })));
    assert!(matches!(bound.plan(1), Err(SourceError::Changed { .. })));
}
