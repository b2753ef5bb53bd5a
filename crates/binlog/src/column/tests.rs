#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::ColumnData;
use crate::schema::{Field, FieldType};

fn any_column() -> impl Strategy<Value = (FieldType, ColumnData)> {
    let rows = 0..20usize;
    rows.prop_flat_map(|rows| {
        let v = |per_row: usize| prop::collection::vec(any::<u8>(), rows * per_row);
        prop_oneof![
            prop::collection::vec(any::<bool>(), rows)
                .prop_map(|v| (FieldType::Bool, ColumnData::Bool(v))),
            prop::collection::vec(any::<i8>(), rows)
                .prop_map(|v| (FieldType::Int8, ColumnData::Int8(v))),
            prop::collection::vec(any::<i16>(), rows)
                .prop_map(|v| (FieldType::Int16, ColumnData::Int16(v))),
            prop::collection::vec(any::<i32>(), rows)
                .prop_map(|v| (FieldType::Int32, ColumnData::Int32(v))),
            prop::collection::vec(any::<i64>(), rows)
                .prop_map(|v| (FieldType::Int64, ColumnData::Int64(v))),
            prop::collection::vec(-1e30f32..1e30, rows)
                .prop_map(|v| (FieldType::Float, ColumnData::Float(v))),
            prop::collection::vec(-1e300f64..1e300, rows)
                .prop_map(|v| (FieldType::Double, ColumnData::Double(v))),
            prop::collection::vec("\\PC{0,12}", rows).prop_map(|v| (
                FieldType::VarChar { max_length: 65_535 },
                ColumnData::VarChar(v)
            )),
            prop::collection::vec("[{}\":a-z]{0,12}", rows)
                .prop_map(|v| (FieldType::Json, ColumnData::Json(v))),
            prop::collection::vec(-1e30f32..1e30, rows * 3).prop_map(|data| (
                FieldType::FloatVector { dim: 3 },
                ColumnData::FloatVector { dim: 3, data }
            )),
            v(2).prop_map(|data| (
                FieldType::BinaryVector { dim: 16 },
                ColumnData::BinaryVector { dim: 16, data }
            )),
            v(6).prop_map(|data| (
                FieldType::Float16Vector { dim: 3 },
                ColumnData::Float16Vector { dim: 3, data }
            )),
            v(6).prop_map(|data| (
                FieldType::BFloat16Vector { dim: 3 },
                ColumnData::BFloat16Vector { dim: 3, data }
            )),
        ]
    })
}

fn field(kind: FieldType) -> Field {
    Field {
        id: 100,
        name: "f".into(),
        kind,
        primary_key: false,
    }
}

proptest! {
    #[test]
    fn a_column_survives_the_wire_and_arrow((kind, column) in any_column()) {
        let rows = column.len();
        let wire = ColumnData::from_proto(column.to_proto(100), &field(kind), rows).unwrap();
        prop_assert_eq!(&wire, &column);
        let array = column.to_arrow().unwrap();
        prop_assert_eq!(array.len(), rows);
        prop_assert_eq!(ColumnData::from_arrow(&array, kind).unwrap(), column);
    }

    #[test]
    fn slices_put_together_again_are_the_column((kind, column) in any_column(), at in 0..20usize) {
        let at = at.min(column.len());
        let (head, tail) = (column.slice(0..at), column.slice(at..column.len()));
        let mut joined = ColumnData::new(kind);
        prop_assert!(joined.extend(&head) && joined.extend(&tail));
        prop_assert_eq!(&joined, &column);
        let mut pushed = ColumnData::new(kind);
        for row in 0..column.len() {
            prop_assert!(pushed.push(column.value(row)));
        }
        prop_assert_eq!(pushed.checksum(), column.checksum());
        prop_assert_eq!(pushed, column);
    }
}

#[test]
fn a_column_of_another_type_is_refused_by_name() {
    let column = ColumnData::Int64(vec![1]).to_proto(100);
    let error = ColumnData::from_proto(column, &field(FieldType::VarChar { max_length: 5 }), 1)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "field \"f\" (id 100): the schema says VarChar, the column is Int64"
    );
}

#[test]
fn wrong_lengths_ranges_and_dims_name_field_and_row() {
    let cases = [
        (
            ColumnData::VarChar(vec!["abc".into(), "abcdef".into()]).to_proto(100),
            FieldType::VarChar { max_length: 5 },
            "field \"f\" (id 100), row 1: 6 bytes are more than max_length 5",
        ),
        (
            ColumnData::FloatVector {
                dim: 2,
                data: vec![0.0; 4],
            }
            .to_proto(100),
            FieldType::FloatVector { dim: 3 },
            "field \"f\" (id 100): the schema says dim 3, the column has 2",
        ),
        (
            ColumnData::FloatVector {
                dim: 3,
                data: vec![0.0; 5],
            }
            .to_proto(100),
            FieldType::FloatVector { dim: 3 },
            "field \"f\" (id 100), row 1: the vector has 2 of 3 elements",
        ),
        (
            ColumnData::Bool(vec![true]).to_proto(100),
            FieldType::Bool,
            "field \"f\" (id 100): 1 values for 2 rows",
        ),
    ];
    for (column, kind, expected) in cases {
        let error = ColumnData::from_proto(column, &field(kind), 2).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let mut column = ColumnData::Int64(vec![1, 200]).to_proto(100);
    column.data_type = FieldType::Int8.data_type() as i32;
    let error = ColumnData::from_proto(column, &field(FieldType::Int8), 2).unwrap_err();
    assert_eq!(
        error.to_string(),
        "field \"f\" (id 100), row 1: 200 is out of range for Int8"
    );
}

#[test]
fn values_that_differ_only_in_bits_have_different_encodings() {
    let encode = |column: &ColumnData| {
        let mut out = Vec::new();
        column.value(0).encode_canonical(&mut out);
        out
    };
    assert_ne!(
        encode(&ColumnData::Float(vec![0.0])),
        encode(&ColumnData::Float(vec![-0.0]))
    );
    let nan = ColumnData::Float(vec![f32::NAN]);
    assert_eq!(encode(&nan), encode(&nan.clone()));
}

#[test]
fn a_checksum_is_that_of_type_dimension_rows_and_bytes_whatever_the_length() {
    for rows in [0usize, 1, 8191, 8192, 8193, 20_000] {
        let numbers: Vec<i64> = (0..rows as i64).map(|n| n * -77).collect();
        let mut plain = Vec::new();
        plain.extend_from_slice(&(FieldType::Int64.data_type() as i32).to_le_bytes());
        plain.extend_from_slice(&0u32.to_le_bytes());
        plain.extend_from_slice(&(rows as u64).to_le_bytes());
        plain.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        assert_eq!(
            ColumnData::Int64(numbers).checksum(),
            crc32c::crc32c(&plain)
        );
    }
}
