//! Types of columns, worked out from a file alone.

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType as ArrowType;
use parquet::arrow::ProjectionMask;
use quorate_binlog::FieldType;
use quorate_binlog::schema::{MAX_DIM, MAX_FIELDS, MAX_LENGTH};

use super::SourceFile;
use crate::error::SourceError;

/// A column and the type of field it makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceColumn {
    /// Name.
    pub name: String,
    /// Type of the field; a string column makes a VarChar of the greatest length.
    pub kind: FieldType,
}

pub(super) fn columns(source: &SourceFile) -> Result<Vec<SourceColumn>, SourceError> {
    let schema = source.metadata.schema();
    let wrong = |column: &str, reason: String| SourceError::Column {
        path: source.path.clone(),
        column: column.to_owned(),
        reason,
    };
    let mut columns: Vec<SourceColumn> = Vec::new();
    for (index, field) in schema.fields().iter().enumerate() {
        let name = field.name();
        if name.is_empty() {
            return Err(wrong(
                name,
                format!("column number {} has no name", index + 1),
            ));
        }
        if columns.iter().any(|column| column.name == *name) {
            return Err(wrong(name, "the name is used twice".into()));
        }
        if columns.len() == MAX_FIELDS {
            return Err(wrong(name, format!("more than {MAX_FIELDS} columns")));
        }
        let kind = match field.data_type() {
            ArrowType::Boolean => FieldType::Bool,
            ArrowType::Int8 => FieldType::Int8,
            ArrowType::Int16 => FieldType::Int16,
            ArrowType::Int32 => FieldType::Int32,
            ArrowType::Int64 => FieldType::Int64,
            ArrowType::Float32 => FieldType::Float,
            ArrowType::Float64 => FieldType::Double,
            ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View => FieldType::VarChar {
                max_length: MAX_LENGTH,
            },
            ArrowType::FixedSizeList(item, dim) if item.data_type() == &ArrowType::Float32 => {
                vector(u64::try_from(*dim).unwrap_or(0)).map_err(|reason| wrong(name, reason))?
            }
            ArrowType::List(item) | ArrowType::LargeList(item)
                if item.data_type() == &ArrowType::Float32 =>
            {
                let dim = first_length(source, index)?.ok_or_else(|| {
                    wrong(
                        name,
                        "the file has no row that tells the length of its lists".into(),
                    )
                })?;
                vector(dim).map_err(|reason| wrong(name, reason))?
            }
            other => {
                return Err(wrong(
                    name,
                    format!(
                        "type {other} is not supported; possible are bool, int8 to int64, float, \
                         double, string and lists of float32 of one length"
                    ),
                ));
            }
        };
        columns.push(SourceColumn {
            name: name.clone(),
            kind,
        });
    }
    if !columns.iter().any(|column| column.kind.is_vector()) {
        let names: Vec<String> = columns
            .iter()
            .map(|column| format!("{} {}", column.name, column.kind.name()))
            .collect();
        return Err(SourceError::NoVector {
            path: source.path.clone(),
            columns: if names.is_empty() {
                "none".into()
            } else {
                names.join(", ")
            },
        });
    }
    Ok(columns)
}

pub(super) fn primary_key(source: &SourceFile, named: Option<&str>) -> Result<usize, SourceError> {
    let no_key = |reason: String| SourceError::NoKey {
        path: source.path.clone(),
        reason,
    };
    let possible =
        |column: &SourceColumn| matches!(column.kind, FieldType::Int64 | FieldType::VarChar { .. });
    let columns = &source.columns;
    if let Some(named) = named {
        let at = columns
            .iter()
            .position(|column| column.name == named)
            .ok_or_else(|| no_key(format!("there is no column {named:?}")))?;
        if !possible(&columns[at]) {
            return Err(no_key(format!(
                "column {named:?} is of type {}",
                columns[at].kind.name()
            )));
        }
        return Ok(at);
    }
    columns
        .iter()
        .position(|column| column.name == "id" && possible(column))
        .or_else(|| columns.iter().position(possible))
        .ok_or_else(|| no_key("no column is of type int64 or string".into()))
}

fn vector(dim: u64) -> Result<FieldType, String> {
    match u32::try_from(dim) {
        Ok(dim) if (1..=MAX_DIM).contains(&dim) => Ok(FieldType::FloatVector { dim }),
        _ => Err(format!(
            "a vector of {dim} values; possible are 1 to {MAX_DIM}"
        )),
    }
}

/// Length of the list in the first row of a column; none when there is no such list.
fn first_length(source: &SourceFile, column: usize) -> Result<Option<u64>, SourceError> {
    let builder = source.builder();
    let mask = ProjectionMask::roots(builder.parquet_schema(), [column]);
    let mut reader = builder
        .with_projection(mask)
        .with_batch_size(1)
        .with_limit(1)
        .build()
        .map_err(|error| source.unreadable(error))?;
    let Some(batch) = reader.next() else {
        return Ok(None);
    };
    let batch = batch.map_err(|error| source.unreadable(error))?;
    let array: &ArrayRef = batch.column(0);
    if array.is_empty() || array.is_null(0) {
        return Ok(None);
    }
    let length = array
        .as_list_opt::<i32>()
        .map(|lists| lists.value(0).len())
        .or_else(|| array.as_list_opt::<i64>().map(|lists| lists.value(0).len()));
    Ok(length.map(|length| length as u64))
}
