//! Columns of a batch as they travel (`quorate.node.v1.Column`), and what can be wrong with them.

use quorate_rpc::proto::milvus::schema::DataType;
use quorate_rpc::proto::quorate::node::{
    self, Bools, ByteVectors, Doubles, FloatVectors, Floats, Longs, Strings, column::Values,
};

use super::ColumnData;
use crate::schema::{Field, FieldType, MAX_JSON_BYTES};

/// A column or value that does not suit its field. Every message names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ColumnError {
    /// The column as a whole is wrong.
    #[error("field {field:?} (id {id}): {reason}")]
    Column {
        /// Name of the field.
        field: String,
        /// Id of the field.
        id: i64,
        /// What is wrong.
        reason: String,
    },
    /// One value is wrong.
    #[error("field {field:?} (id {id}), row {row}: {reason}")]
    Value {
        /// Name of the field.
        field: String,
        /// Id of the field.
        id: i64,
        /// Row within the batch, from 0.
        row: usize,
        /// What is wrong.
        reason: String,
    },
}

impl ColumnData {
    /// Checks a received column against its field and takes its values over. `rows` is the number
    /// of rows it must have.
    pub fn from_proto(
        column: node::Column,
        field: &Field,
        rows: usize,
    ) -> Result<ColumnData, ColumnError> {
        if column.field_id != field.id {
            return Err(wrong(
                field,
                format!("the column belongs to field {}", column.field_id),
            ));
        }
        if column.data_type != field.kind.data_type() as i32 {
            let sent = DataType::try_from(column.data_type)
                .map_or_else(|_| column.data_type.to_string(), |t| t.as_str_name().into());
            return Err(wrong(
                field,
                format!(
                    "the schema says {}, the column is {sent}",
                    field.kind.name()
                ),
            ));
        }
        let Some(values) = column.values else {
            return Err(wrong(field, "the column has no values"));
        };
        let data = convert(values, field)?;
        check_vector_length(&data, field)?;
        if data.len() != rows {
            return Err(wrong(
                field,
                format!("{} values for {rows} rows", data.len()),
            ));
        }
        Ok(data)
    }

    /// The column as it travels.
    pub fn to_proto(&self, field_id: i64) -> node::Column {
        let bytes = |dim_bytes: usize, data: &[u8]| {
            Values::ByteVectors(ByteVectors {
                bytes_per_row: dim_bytes as u32,
                data: data.to_vec(),
            })
        };
        let values = match self {
            ColumnData::Bool(values) => Values::Bools(Bools {
                data: values.clone(),
            }),
            ColumnData::Int8(values) => longs(values),
            ColumnData::Int16(values) => longs(values),
            ColumnData::Int32(values) => longs(values),
            ColumnData::Int64(values) => longs(values),
            ColumnData::Float(values) => Values::Floats(Floats {
                data: values.clone(),
            }),
            ColumnData::Double(values) => Values::Doubles(Doubles {
                data: values.clone(),
            }),
            ColumnData::VarChar(values) | ColumnData::Json(values) => Values::Strings(Strings {
                data: values.clone(),
            }),
            ColumnData::FloatVector { dim, data } => Values::FloatVectors(FloatVectors {
                dim: *dim,
                data: data.clone(),
            }),
            ColumnData::BinaryVector { dim, data } => bytes(*dim as usize / 8, data),
            ColumnData::Float16Vector { dim, data } | ColumnData::BFloat16Vector { dim, data } => {
                bytes(*dim as usize * 2, data)
            }
        };
        node::Column {
            field_id,
            data_type: self.kind().data_type() as i32,
            values: Some(values),
        }
    }
}

fn longs<T: Copy + Into<i64>>(values: &[T]) -> Values {
    Values::Longs(Longs {
        data: values.iter().map(|value| (*value).into()).collect(),
    })
}

fn convert(values: Values, field: &Field) -> Result<ColumnData, ColumnError> {
    Ok(match (field.kind, values) {
        (FieldType::Bool, Values::Bools(values)) => ColumnData::Bool(values.data),
        (FieldType::Int8, Values::Longs(values)) => ColumnData::Int8(narrow(&values.data, field)?),
        (FieldType::Int16, Values::Longs(values)) => {
            ColumnData::Int16(narrow(&values.data, field)?)
        }
        (FieldType::Int32, Values::Longs(values)) => {
            ColumnData::Int32(narrow(&values.data, field)?)
        }
        (FieldType::Int64, Values::Longs(values)) => ColumnData::Int64(values.data),
        (FieldType::Float, Values::Floats(values)) => ColumnData::Float(values.data),
        (FieldType::Double, Values::Doubles(values)) => ColumnData::Double(values.data),
        (FieldType::VarChar { max_length }, Values::Strings(values)) => {
            let limit = max_length as usize;
            check_lengths(&values.data, limit, "max_length", field)?;
            ColumnData::VarChar(values.data)
        }
        (FieldType::Json, Values::Strings(values)) => {
            check_lengths(&values.data, MAX_JSON_BYTES, "the limit of JSON", field)?;
            ColumnData::Json(values.data)
        }
        (FieldType::FloatVector { dim }, Values::FloatVectors(values)) => {
            if values.dim != dim {
                return Err(wrong(
                    field,
                    format!("the schema says dim {dim}, the column has {}", values.dim),
                ));
            }
            ColumnData::FloatVector {
                dim,
                data: values.data,
            }
        }
        (
            kind @ (FieldType::BinaryVector { dim }
            | FieldType::Float16Vector { dim }
            | FieldType::BFloat16Vector { dim }),
            Values::ByteVectors(values),
        ) => {
            let per_row = kind.bytes_per_row().unwrap_or_default();
            if values.bytes_per_row as usize != per_row {
                return Err(wrong(
                    field,
                    format!(
                        "dim {dim} needs {per_row} bytes a row, the column has {}",
                        values.bytes_per_row
                    ),
                ));
            }
            let data = values.data;
            match kind {
                FieldType::BinaryVector { .. } => ColumnData::BinaryVector { dim, data },
                FieldType::Float16Vector { .. } => ColumnData::Float16Vector { dim, data },
                _ => ColumnData::BFloat16Vector { dim, data },
            }
        }
        (kind, _) => {
            return Err(wrong(
                field,
                format!("the values are not of type {}", kind.name()),
            ));
        }
    })
}

fn narrow<T: TryFrom<i64>>(values: &[i64], field: &Field) -> Result<Vec<T>, ColumnError> {
    values
        .iter()
        .enumerate()
        .map(|(row, value)| {
            T::try_from(*value).map_err(|_| ColumnError::Value {
                field: field.name.clone(),
                id: field.id,
                row,
                reason: format!("{value} is out of range for {}", field.kind.name()),
            })
        })
        .collect()
}

fn check_lengths(
    values: &[String],
    limit: usize,
    what: &str,
    field: &Field,
) -> Result<(), ColumnError> {
    match values.iter().position(|value| value.len() > limit) {
        None => Ok(()),
        Some(row) => Err(ColumnError::Value {
            field: field.name.clone(),
            id: field.id,
            row,
            reason: format!("{} bytes are more than {what} {limit}", values[row].len()),
        }),
    }
}

/// The number of elements must be a whole number of rows.
fn check_vector_length(data: &ColumnData, field: &Field) -> Result<(), ColumnError> {
    let (elements, per_row) = match data {
        ColumnData::FloatVector { dim, data } => (data.len(), *dim as usize),
        ColumnData::BinaryVector { dim, data } => (data.len(), *dim as usize / 8),
        ColumnData::Float16Vector { dim, data } | ColumnData::BFloat16Vector { dim, data } => {
            (data.len(), *dim as usize * 2)
        }
        _ => return Ok(()),
    };
    if elements.is_multiple_of(per_row) {
        return Ok(());
    }
    Err(ColumnError::Value {
        field: field.name.clone(),
        id: field.id,
        row: elements / per_row,
        reason: format!(
            "the vector has {} of {per_row} elements",
            elements % per_row
        ),
    })
}

fn wrong(field: &Field, reason: impl Into<String>) -> ColumnError {
    ColumnError::Column {
        field: field.name.clone(),
        id: field.id,
        reason: reason.into(),
    }
}
