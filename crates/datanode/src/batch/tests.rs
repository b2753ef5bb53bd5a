#![allow(clippy::unwrap_used)]

use quorate_binlog::{ColumnData, Schema};
use quorate_rpc::proto::milvus::common::KeyValuePair;
use quorate_rpc::proto::milvus::schema::{CollectionSchema, DataType, FieldSchema};
use quorate_rpc::proto::quorate::node::{DeleteRequest, Grant, RowBatch};
use quorate_rpc::proto::quorate::row::RowRange;

use super::{check, check_keys};

pub(crate) fn schema() -> Schema {
    let field = |id, name: &str, data_type: DataType, param: Option<(&str, &str)>| FieldSchema {
        field_id: id,
        name: name.into(),
        data_type: data_type.into(),
        is_primary_key: name == "id",
        type_params: param
            .map(|(key, value)| KeyValuePair {
                key: key.into(),
                value: value.into(),
            })
            .into_iter()
            .collect(),
        ..Default::default()
    };
    Schema::from_proto(&CollectionSchema {
        name: "docs".into(),
        fields: vec![
            field(100, "id", DataType::Int64, None),
            field(101, "text", DataType::VarChar, Some(("max_length", "8"))),
            field(102, "vector", DataType::FloatVector, Some(("dim", "2"))),
        ],
        ..Default::default()
    })
    .unwrap()
}

pub(crate) fn batch(from: u64, to: u64, grants: &[(i64, u32)]) -> RowBatch {
    let rows = (to - from) as usize;
    let ids = (from as i64..to as i64).collect();
    let texts = (from..to).map(|row| format!("t{row}")).collect();
    let data = (from..to).flat_map(|row| [row as f32, 0.5]).collect();
    RowBatch {
        partition_id: 5,
        rows: rows as u32,
        columns: vec![
            // Not in the schema's order, on purpose.
            ColumnData::FloatVector { dim: 2, data }.to_proto(102),
            ColumnData::Int64(ids).to_proto(100),
            ColumnData::VarChar(texts).to_proto(101),
        ],
        ordinals: vec![RowRange {
            stream: vec![1],
            from,
            to,
        }],
        grants: grants
            .iter()
            .map(|(segment_id, rows)| Grant {
                segment_id: *segment_id,
                rows: *rows,
                expire_ts: 1000,
            })
            .collect(),
    }
}

#[test]
fn a_good_batch_is_brought_into_the_schemas_order() {
    let checked = check(vec![batch(0, 3, &[(7, 3)])], &schema()).unwrap();
    assert_eq!(checked[0].columns[0], ColumnData::Int64(vec![0, 1, 2]));
    assert!(matches!(
        checked[0].columns[2],
        ColumnData::FloatVector { dim: 2, .. }
    ));
}

#[test]
fn a_bad_batch_is_refused_by_field_and_row() {
    type Spoil = fn(&mut RowBatch);
    let cases: [(Spoil, &str); 11] = [
        (|b| b.rows = 0, "batch 1: it has no rows"),
        (|b| b.ordinals[0].to += 1, "batch 1: 4 ordinals for 3 rows"),
        (
            |b| b.ordinals[0].to = 0,
            "batch 1: ordinals [0, 0) are no range",
        ),
        (
            |b| b.ordinals[0].stream.clear(),
            "batch 1: a stream is named by 1 to 64 bytes, not 0",
        ),
        (
            |b| b.grants[0].rows = 2,
            "batch 1: grants for 2 rows, the batch has 3",
        ),
        (
            |b| drop(b.columns.pop()),
            "batch 1: field \"text\" (id 101) is missing",
        ),
        (
            |b| b.columns.push(b.columns[1].clone()),
            "batch 1: field \"id\" (id 100) is there twice",
        ),
        (
            |b| b.columns[0].field_id = 1,
            "batch 1: the collection has no field 1; system fields are filled in by the data node",
        ),
        (
            |b| b.columns[1] = ColumnData::Double(vec![0.0; 3]).to_proto(100),
            "batch 1: field \"id\" (id 100): the schema says Int64, the column is Double",
        ),
        (
            |b| {
                let texts = vec!["a".into(), "too long text".into(), "b".into()];
                b.columns[2] = ColumnData::VarChar(texts).to_proto(101);
            },
            "batch 1: field \"text\" (id 101), row 1: 13 bytes are more than max_length 8",
        ),
        (
            |b| {
                let data = vec![0.0; 9];
                b.columns[0] = ColumnData::FloatVector { dim: 3, data }.to_proto(102);
            },
            "batch 1: field \"vector\" (id 102): the schema says dim 2, the column has 3",
        ),
    ];
    for (spoil, expected) in cases {
        let mut bad = batch(0, 3, &[(7, 3)]);
        spoil(&mut bad);
        let error = check(vec![batch(0, 3, &[(7, 3)]), bad], &schema()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn ordinals_that_overflow_do_not_add_up() {
    let mut bad = batch(0, 3, &[(7, 3)]);
    bad.ordinals = vec![
        RowRange {
            stream: vec![1],
            from: 0,
            to: u64::MAX,
        };
        2
    ];
    assert!(check(vec![bad], &schema()).is_err());
}

#[test]
fn keys_of_a_delete_have_the_primary_keys_type() {
    let request = |column: Option<ColumnData>| DeleteRequest {
        primary_keys: column.map(|column| column.to_proto(100)),
        ..Default::default()
    };
    let keys = check_keys(request(Some(ColumnData::Int64(vec![4, 5]))), &schema()).unwrap();
    assert_eq!(keys.len(), 2);
    for bad in [
        None,
        Some(ColumnData::Int64(vec![])),
        Some(ColumnData::VarChar(vec!["a".into()])),
        Some(ColumnData::Bool(vec![true])),
    ] {
        assert!(check_keys(request(bad), &schema()).is_err());
    }
}
