#![allow(clippy::unwrap_used)]

use quorate_rpc::proto::milvus::common::KeyValuePair;
use quorate_rpc::proto::milvus::schema::{CollectionSchema, DataType, FieldSchema};

use super::{FieldType, Schema};

fn field(id: i64, name: &str, data_type: DataType, params: &[(&str, &str)]) -> FieldSchema {
    FieldSchema {
        field_id: id,
        name: name.into(),
        data_type: data_type as i32,
        is_primary_key: name == "id",
        type_params: params
            .iter()
            .map(|(key, value)| KeyValuePair {
                key: (*key).into(),
                value: (*value).into(),
            })
            .collect(),
        ..Default::default()
    }
}

fn schema(fields: Vec<FieldSchema>) -> CollectionSchema {
    CollectionSchema {
        name: "docs".into(),
        fields,
        ..Default::default()
    }
}

#[test]
fn fields_types_and_primary_key_are_taken_over_and_system_fields_left_out() {
    let schema = Schema::from_proto(&schema(vec![
        field(0, "RowID", DataType::Int64, &[]),
        field(1, "Timestamp", DataType::Int64, &[]),
        field(100, "text", DataType::VarChar, &[("max_length", "20")]),
        field(101, "id", DataType::Int64, &[]),
        field(102, "vector", DataType::FloatVector, &[("dim", "4")]),
    ]))
    .unwrap();
    assert_eq!(schema.fields().len(), 3);
    assert_eq!(schema.primary_key().id, 101);
    assert_eq!(
        schema.field_named("text").unwrap().kind,
        FieldType::VarChar { max_length: 20 }
    );
    assert_eq!(schema.field(102).unwrap().kind.dim(), Some(4));
}

#[test]
fn an_error_names_the_field() {
    let id = || field(100, "id", DataType::Int64, &[]);
    for (fields, expected) in [
        (
            vec![id(), field(101, "v", DataType::FloatVector, &[])],
            "field \"v\": a vector field needs the type param dim",
        ),
        (
            vec![
                id(),
                field(101, "v", DataType::FloatVector, &[("dim", "0")]),
            ],
            "field \"v\": dim must be a number from 1 to 32768, not \"0\"",
        ),
        (
            vec![
                id(),
                field(101, "v", DataType::BinaryVector, &[("dim", "12")]),
            ],
            "field \"v\": dim 12 of a BinaryVector is not a multiple of 8",
        ),
        (
            vec![id(), field(101, "a", DataType::Array, &[])],
            "field \"a\": data type Array is not supported",
        ),
        (
            vec![id(), field(100, "b", DataType::Bool, &[])],
            "field \"b\": id 100 is used twice",
        ),
        (
            vec![id(), field(7, "b", DataType::Bool, &[])],
            "field \"b\": id 7 is below 100, the first one for user fields",
        ),
        (
            vec![field(100, "id", DataType::Float, &[])],
            "field \"id\": a primary key must be Int64 or VarChar, this is Float",
        ),
        (
            vec![field(100, "key", DataType::Int64, &[])],
            "schema \"docs\" needs exactly one primary key, it has 0: []",
        ),
        (vec![], "schema \"docs\" has no fields"),
    ] {
        let error = Schema::from_proto(&schema(fields)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}
