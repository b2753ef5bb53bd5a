//! Columns as Arrow arrays: what Parquet is written from and read into.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, FixedSizeBinaryArray, FixedSizeListArray, Float32Array,
    Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, StringArray,
};
use arrow_schema::{ArrowError, DataType as ArrowType, Field as ArrowField};

use super::ColumnData;
use crate::schema::FieldType;

fn list_item() -> Arc<ArrowField> {
    Arc::new(ArrowField::new("item", ArrowType::Float32, false))
}

impl ColumnData {
    /// The values as an Arrow array: plain types, text as Utf8, float vectors as a fixed-size list
    /// of float32, other vectors as fixed-size binary; never nullable.
    pub fn to_arrow(&self) -> Result<ArrayRef, ArrowError> {
        fn binary(per_row: usize, data: &[u8]) -> Result<ArrayRef, ArrowError> {
            let array = FixedSizeBinaryArray::try_new(per_row as i32, data.to_vec().into(), None)?;
            Ok(Arc::new(array))
        }
        Ok(match self {
            ColumnData::Bool(values) => Arc::new(BooleanArray::from(values.clone())),
            ColumnData::Int8(values) => Arc::new(Int8Array::from(values.clone())),
            ColumnData::Int16(values) => Arc::new(Int16Array::from(values.clone())),
            ColumnData::Int32(values) => Arc::new(Int32Array::from(values.clone())),
            ColumnData::Int64(values) => Arc::new(Int64Array::from(values.clone())),
            ColumnData::Float(values) => Arc::new(Float32Array::from(values.clone())),
            ColumnData::Double(values) => Arc::new(Float64Array::from(values.clone())),
            ColumnData::VarChar(values) | ColumnData::Json(values) => {
                // 32-bit offsets: more than 2 GiB of text in one column is an error, not a panic.
                let bytes: usize = values.iter().map(String::len).sum();
                if i32::try_from(bytes).is_err() {
                    return Err(ArrowError::InvalidArgumentError(format!(
                        "{bytes} bytes of text are too many for one log file"
                    )));
                }
                Arc::new(StringArray::from_iter_values(values))
            }
            ColumnData::FloatVector { dim, data } => Arc::new(FixedSizeListArray::try_new(
                list_item(),
                *dim as i32,
                Arc::new(Float32Array::from(data.clone())),
                None,
            )?),
            ColumnData::BinaryVector { dim, data } => binary(*dim as usize / 8, data)?,
            ColumnData::Float16Vector { dim, data } | ColumnData::BFloat16Vector { dim, data } => {
                binary(*dim as usize * 2, data)?
            }
        })
    }

    /// Takes the values of an Arrow array over as a column of type `kind`. Text and lists may be
    /// of any offset width; lists must hold `dim` float32 values in every row. The reason of a
    /// failure is given as text: the caller knows which field or file it is about.
    pub fn from_arrow(array: &dyn Array, kind: FieldType) -> Result<ColumnData, String> {
        if array.null_count() > 0 {
            let row = (0..array.len()).find(|&row| array.is_null(row));
            return Err(format!("row {} has no value", row.unwrap_or_default()));
        }
        let mismatch = || {
            format!(
                "{} cannot be made of Arrow type {}",
                kind.name(),
                array.data_type()
            )
        };
        macro_rules! primitive {
            ($arrow:ty, $variant:ident) => {
                ColumnData::$variant(
                    array
                        .as_primitive_opt::<$arrow>()
                        .ok_or_else(mismatch)?
                        .values()
                        .to_vec(),
                )
            };
        }
        Ok(match kind {
            FieldType::Bool => {
                let values = array.as_boolean_opt().ok_or_else(mismatch)?;
                ColumnData::Bool((0..values.len()).map(|row| values.value(row)).collect())
            }
            FieldType::Int8 => primitive!(Int8Type, Int8),
            FieldType::Int16 => primitive!(Int16Type, Int16),
            FieldType::Int32 => primitive!(Int32Type, Int32),
            FieldType::Int64 => primitive!(Int64Type, Int64),
            FieldType::Float => primitive!(Float32Type, Float),
            FieldType::Double => primitive!(Float64Type, Double),
            FieldType::VarChar { .. } => ColumnData::VarChar(strings(array).ok_or_else(mismatch)?),
            FieldType::Json => ColumnData::Json(strings(array).ok_or_else(mismatch)?),
            FieldType::FloatVector { dim } => ColumnData::FloatVector {
                dim,
                data: float_vectors(array, dim as usize)?.ok_or_else(mismatch)?,
            },
            FieldType::BinaryVector { dim } => ColumnData::BinaryVector {
                dim,
                data: byte_vectors(array, dim as usize / 8).ok_or_else(mismatch)?,
            },
            FieldType::Float16Vector { dim } => ColumnData::Float16Vector {
                dim,
                data: byte_vectors(array, dim as usize * 2).ok_or_else(mismatch)?,
            },
            FieldType::BFloat16Vector { dim } => ColumnData::BFloat16Vector {
                dim,
                data: byte_vectors(array, dim as usize * 2).ok_or_else(mismatch)?,
            },
        })
    }
}

fn strings(array: &dyn Array) -> Option<Vec<String>> {
    fn owned<'a>(values: impl Iterator<Item = Option<&'a str>>) -> Vec<String> {
        values.flatten().map(str::to_owned).collect()
    }
    if let Some(values) = array.as_string_opt::<i32>() {
        Some(owned(values.iter()))
    } else if let Some(values) = array.as_string_opt::<i64>() {
        Some(owned(values.iter()))
    } else {
        array
            .as_string_view_opt()
            .map(|values| owned(values.iter()))
    }
}

/// None: not a list at all.
fn float_vectors(array: &dyn Array, dim: usize) -> Result<Option<Vec<f32>>, String> {
    let mut data = Vec::with_capacity(array.len() * dim);
    let mut add = |row: usize, values: ArrayRef| -> Result<(), String> {
        let Some(floats) = values.as_primitive_opt::<Float32Type>() else {
            return Err(format!(
                "a FloatVector cannot be made of a list of {}",
                values.data_type()
            ));
        };
        if floats.len() != dim {
            return Err(format!(
                "row {row} has {} values instead of {dim}",
                floats.len()
            ));
        }
        if floats.null_count() > 0 {
            return Err(format!("row {row} has a vector with a missing value"));
        }
        data.extend_from_slice(floats.values());
        Ok(())
    };
    if let Some(lists) = array.as_fixed_size_list_opt() {
        (0..lists.len()).try_for_each(|row| add(row, lists.value(row)))?;
    } else if let Some(lists) = array.as_list_opt::<i32>() {
        (0..lists.len()).try_for_each(|row| add(row, lists.value(row)))?;
    } else if let Some(lists) = array.as_list_opt::<i64>() {
        (0..lists.len()).try_for_each(|row| add(row, lists.value(row)))?;
    } else {
        return Ok(None);
    }
    Ok(Some(data))
}

fn byte_vectors(array: &dyn Array, per_row: usize) -> Option<Vec<u8>> {
    let values = array.as_fixed_size_binary_opt()?;
    if values.value_length() as usize != per_row {
        return None;
    }
    let mut data = Vec::with_capacity(values.len() * per_row);
    for row in 0..values.len() {
        data.extend_from_slice(values.value(row));
    }
    Some(data)
}
