//! A field as it is written on the command line: `NAME:TYPE[:OPTION]…`.

use quorate_rpc::proto::milvus::common::KeyValuePair;
use quorate_rpc::proto::milvus::schema::{DataType, FieldSchema};

const TYPES: &[(&str, DataType)] = &[
    ("bool", DataType::Bool),
    ("int8", DataType::Int8),
    ("int16", DataType::Int16),
    ("int32", DataType::Int32),
    ("int64", DataType::Int64),
    ("float", DataType::Float),
    ("double", DataType::Double),
    ("varchar", DataType::VarChar),
    ("json", DataType::Json),
    ("float_vector", DataType::FloatVector),
    ("binary_vector", DataType::BinaryVector),
    ("float16_vector", DataType::Float16Vector),
    ("bfloat16_vector", DataType::BFloat16Vector),
];

/// The largest length a VarChar may have, for those that name none.
const MAX_LENGTH_DEFAULT: &str = "65535";

/// Reads a field. Whether the schema as a whole makes sense is the coordinator's to say.
pub(super) fn parse(text: &str) -> Result<FieldSchema, String> {
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or_default();
    let type_name = parts
        .next()
        .ok_or("write NAME:TYPE, for example id:int64:primary")?;
    if name.is_empty() {
        return Err("the field has no name".to_owned());
    }
    let data_type = TYPES
        .iter()
        .find(|(known, _)| *known == type_name)
        .map(|(_, data_type)| *data_type)
        .ok_or_else(|| {
            let known: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
            format!("{type_name:?} is no type; there are {}", known.join(", "))
        })?;
    let mut field = FieldSchema {
        name: name.to_owned(),
        data_type: data_type.into(),
        ..Default::default()
    };
    for option in parts {
        match option.split_once('=') {
            None if option == "primary" => field.is_primary_key = true,
            None if option == "auto_id" => field.auto_id = true,
            Some((key @ ("dim" | "max_length"), value)) => {
                value.parse::<u32>().map_err(|_| {
                    format!("{key} of field {name} must be a number, not {value:?}")
                })?;
                field.type_params.push(pair(key, value));
            }
            _ => {
                return Err(format!(
                    "{option:?} is no option of a field; there are primary, auto_id, max_length=N and dim=N"
                ));
            }
        }
    }
    let has = |key: &str| field.type_params.iter().any(|pair| pair.key == key);
    let is_vector = type_name.ends_with("_vector");
    if is_vector && !has("dim") {
        return Err(format!("field {name} is a vector and needs dim=N"));
    }
    if data_type == DataType::VarChar && !has("max_length") {
        field
            .type_params
            .push(pair("max_length", MAX_LENGTH_DEFAULT));
    }
    Ok(field)
}

fn pair(key: &str, value: &str) -> KeyValuePair {
    KeyValuePair {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_read_as_written() {
        let id = parse("id:int64:primary:auto_id").unwrap();
        assert!(id.is_primary_key && id.auto_id);
        assert_eq!(id.data_type(), DataType::Int64);
        let vector = parse("v:float_vector:dim=384").unwrap();
        assert_eq!(vector.type_params, [pair("dim", "384")]);
        let text = parse("t:varchar").unwrap();
        assert_eq!(text.type_params, [pair("max_length", "65535")]);
        let short = parse("t:varchar:max_length=7").unwrap();
        assert_eq!(short.type_params, [pair("max_length", "7")]);
    }

    #[test]
    fn wrong_fields_are_explained() {
        for (text, says) in [
            ("id", "write NAME:TYPE"),
            (":int64", "no name"),
            ("id:integer", "is no type"),
            ("v:float_vector", "needs dim"),
            ("v:float_vector:dim=x", "must be a number"),
            ("id:int64:unique", "is no option"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
