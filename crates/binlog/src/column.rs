//! Values of one field, row after row: what batches, buffers and log files have in common.
//!
//! Invariant: every row of a [`ColumnData`] has a value, and all values have the type and
//! dimension of the column.

mod arrow;
mod wire;

use std::ops::Range;

use crate::schema::FieldType;

pub use wire::ColumnError;

/// Values of one field.
#[derive(Debug, Clone, PartialEq)]
pub enum ColumnData {
    /// Bool.
    Bool(Vec<bool>),
    /// Int8.
    Int8(Vec<i8>),
    /// Int16.
    Int16(Vec<i16>),
    /// Int32.
    Int32(Vec<i32>),
    /// Int64.
    Int64(Vec<i64>),
    /// Float.
    Float(Vec<f32>),
    /// Double.
    Double(Vec<f64>),
    /// VarChar.
    VarChar(Vec<String>),
    /// JSON text.
    Json(Vec<String>),
    /// FloatVector.
    FloatVector {
        /// Values a row.
        dim: u32,
        /// `dim` values a row, row after row.
        data: Vec<f32>,
    },
    /// BinaryVector.
    BinaryVector {
        /// Bits a row, a multiple of 8.
        dim: u32,
        /// `dim / 8` bytes a row, row after row.
        data: Vec<u8>,
    },
    /// Float16Vector.
    Float16Vector {
        /// Values a row.
        dim: u32,
        /// `dim * 2` bytes a row, row after row.
        data: Vec<u8>,
    },
    /// BFloat16Vector.
    BFloat16Vector {
        /// Values a row.
        dim: u32,
        /// `dim * 2` bytes a row, row after row.
        data: Vec<u8>,
    },
}

/// One value, borrowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// Bool.
    Bool(bool),
    /// Int8.
    Int8(i8),
    /// Int16.
    Int16(i16),
    /// Int32.
    Int32(i32),
    /// Int64.
    Int64(i64),
    /// Float.
    Float(f32),
    /// Double.
    Double(f64),
    /// VarChar.
    VarChar(&'a str),
    /// JSON text.
    Json(&'a str),
    /// FloatVector.
    FloatVector(&'a [f32]),
    /// BinaryVector, Float16Vector or BFloat16Vector.
    Bytes(&'a [u8]),
}

impl Value<'_> {
    /// Appends an encoding that differs for values that differ, floats compared by their bits, to
    /// `out`: for hashing rows and comparing them exactly.
    pub fn encode_canonical(&self, out: &mut Vec<u8>) {
        let mut tagged = |tag: u8, bytes: &[u8]| {
            out.push(tag);
            out.extend_from_slice(bytes);
        };
        match *self {
            Value::Bool(value) => tagged(1, &[u8::from(value)]),
            Value::Int8(value) => tagged(2, &value.to_le_bytes()),
            Value::Int16(value) => tagged(3, &value.to_le_bytes()),
            Value::Int32(value) => tagged(4, &value.to_le_bytes()),
            Value::Int64(value) => tagged(5, &value.to_le_bytes()),
            Value::Float(value) => tagged(10, &value.to_le_bytes()),
            Value::Double(value) => tagged(11, &value.to_le_bytes()),
            Value::VarChar(text) => sized(21, text.as_bytes(), out),
            Value::Json(text) => sized(23, text.as_bytes(), out),
            Value::FloatVector(values) => {
                tagged(101, &(values.len() as u64).to_le_bytes());
                for value in values {
                    out.extend_from_slice(&value.to_le_bytes());
                }
            }
            Value::Bytes(bytes) => sized(100, bytes, out),
        }
    }
}

fn sized(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Runs an expression for the values of a column whose rows are single elements, and another one
/// for columns that hold a number of elements a row.
macro_rules! by_row {
    ($self:expr, $values:ident => $single:expr, $per_row:ident, $data:ident => $many:expr) => {
        match $self {
            ColumnData::Bool($values) => $single,
            ColumnData::Int8($values) => $single,
            ColumnData::Int16($values) => $single,
            ColumnData::Int32($values) => $single,
            ColumnData::Int64($values) => $single,
            ColumnData::Float($values) => $single,
            ColumnData::Double($values) => $single,
            ColumnData::VarChar($values) | ColumnData::Json($values) => $single,
            ColumnData::FloatVector { dim, data: $data } => {
                let $per_row = *dim as usize;
                $many
            }
            ColumnData::BinaryVector { dim, data: $data } => {
                let $per_row = *dim as usize / 8;
                $many
            }
            ColumnData::Float16Vector { dim, data: $data }
            | ColumnData::BFloat16Vector { dim, data: $data } => {
                let $per_row = *dim as usize * 2;
                $many
            }
        }
    };
}

impl ColumnData {
    /// An empty column of this type.
    pub fn new(kind: FieldType) -> ColumnData {
        match kind {
            FieldType::Bool => ColumnData::Bool(Vec::new()),
            FieldType::Int8 => ColumnData::Int8(Vec::new()),
            FieldType::Int16 => ColumnData::Int16(Vec::new()),
            FieldType::Int32 => ColumnData::Int32(Vec::new()),
            FieldType::Int64 => ColumnData::Int64(Vec::new()),
            FieldType::Float => ColumnData::Float(Vec::new()),
            FieldType::Double => ColumnData::Double(Vec::new()),
            FieldType::VarChar { .. } => ColumnData::VarChar(Vec::new()),
            FieldType::Json => ColumnData::Json(Vec::new()),
            FieldType::FloatVector { dim } => ColumnData::FloatVector {
                dim,
                data: Vec::new(),
            },
            FieldType::BinaryVector { dim } => ColumnData::BinaryVector {
                dim,
                data: Vec::new(),
            },
            FieldType::Float16Vector { dim } => ColumnData::Float16Vector {
                dim,
                data: Vec::new(),
            },
            FieldType::BFloat16Vector { dim } => ColumnData::BFloat16Vector {
                dim,
                data: Vec::new(),
            },
        }
    }

    /// Type of the column; a VarChar column does not know its limit and reports the highest one.
    pub fn kind(&self) -> FieldType {
        match *self {
            ColumnData::Bool(_) => FieldType::Bool,
            ColumnData::Int8(_) => FieldType::Int8,
            ColumnData::Int16(_) => FieldType::Int16,
            ColumnData::Int32(_) => FieldType::Int32,
            ColumnData::Int64(_) => FieldType::Int64,
            ColumnData::Float(_) => FieldType::Float,
            ColumnData::Double(_) => FieldType::Double,
            ColumnData::VarChar(_) => FieldType::VarChar {
                max_length: crate::schema::MAX_LENGTH,
            },
            ColumnData::Json(_) => FieldType::Json,
            ColumnData::FloatVector { dim, .. } => FieldType::FloatVector { dim },
            ColumnData::BinaryVector { dim, .. } => FieldType::BinaryVector { dim },
            ColumnData::Float16Vector { dim, .. } => FieldType::Float16Vector { dim },
            ColumnData::BFloat16Vector { dim, .. } => FieldType::BFloat16Vector { dim },
        }
    }

    /// Whether values of a field of type `kind` are held in a column like this one.
    pub fn fits(&self, kind: FieldType) -> bool {
        self.kind().data_type() == kind.data_type() && self.kind().dim() == kind.dim()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        by_row!(self, values => values.len(), per_row, data => data.len() / per_row.max(1))
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes the values take in memory, near enough for accounting.
    pub fn memory_size(&self) -> usize {
        self.memory_size_of(0..self.len())
    }

    /// Bytes the values of some rows take in memory, near enough for accounting.
    ///
    /// # Panics
    /// When `rows` reaches beyond the column.
    pub fn memory_size_of(&self, rows: Range<usize>) -> usize {
        match self {
            ColumnData::VarChar(values) | ColumnData::Json(values) => values[rows]
                .iter()
                .map(|value| value.len() + size_of::<String>())
                .sum(),
            _ => by_row!(self, values => size_of_val(&values[rows]),
                per_row, data => size_of_val(&data[rows.start * per_row..rows.end * per_row])),
        }
    }

    /// Appends one value. False, and no change, when it is of another type or dimension.
    pub fn push(&mut self, value: Value<'_>) -> bool {
        match (&mut *self, value) {
            (ColumnData::Bool(values), Value::Bool(value)) => values.push(value),
            (ColumnData::Int8(values), Value::Int8(value)) => values.push(value),
            (ColumnData::Int16(values), Value::Int16(value)) => values.push(value),
            (ColumnData::Int32(values), Value::Int32(value)) => values.push(value),
            (ColumnData::Int64(values), Value::Int64(value)) => values.push(value),
            (ColumnData::Float(values), Value::Float(value)) => values.push(value),
            (ColumnData::Double(values), Value::Double(value)) => values.push(value),
            (ColumnData::VarChar(values), Value::VarChar(value))
            | (ColumnData::Json(values), Value::Json(value)) => values.push(value.to_owned()),
            (ColumnData::FloatVector { dim, data }, Value::FloatVector(value))
                if value.len() == *dim as usize =>
            {
                data.extend_from_slice(value);
            }
            (ColumnData::BinaryVector { dim, data }, Value::Bytes(value))
                if value.len() == *dim as usize / 8 =>
            {
                data.extend_from_slice(value);
            }
            (
                ColumnData::Float16Vector { dim, data } | ColumnData::BFloat16Vector { dim, data },
                Value::Bytes(value),
            ) if value.len() == *dim as usize * 2 => data.extend_from_slice(value),
            _ => return false,
        }
        true
    }

    /// Appends rows of another column. False, and no change, when its type or dimension differs.
    ///
    /// # Panics
    /// When `rows` reaches beyond the other column.
    pub fn extend_from(&mut self, other: &ColumnData, rows: Range<usize>) -> bool {
        fn add<T: Clone>(to: &mut Vec<T>, from: &[T], rows: Range<usize>, per_row: usize) {
            to.extend_from_slice(&from[rows.start * per_row..rows.end * per_row]);
        }
        if !self.fits(other.kind()) {
            return false;
        }
        match (&mut *self, other) {
            (ColumnData::Bool(to), ColumnData::Bool(from)) => add(to, from, rows, 1),
            (ColumnData::Int8(to), ColumnData::Int8(from)) => add(to, from, rows, 1),
            (ColumnData::Int16(to), ColumnData::Int16(from)) => add(to, from, rows, 1),
            (ColumnData::Int32(to), ColumnData::Int32(from)) => add(to, from, rows, 1),
            (ColumnData::Int64(to), ColumnData::Int64(from)) => add(to, from, rows, 1),
            (ColumnData::Float(to), ColumnData::Float(from)) => add(to, from, rows, 1),
            (ColumnData::Double(to), ColumnData::Double(from)) => add(to, from, rows, 1),
            (ColumnData::VarChar(to), ColumnData::VarChar(from))
            | (ColumnData::Json(to), ColumnData::Json(from)) => add(to, from, rows, 1),
            (
                ColumnData::FloatVector { dim, data: to },
                ColumnData::FloatVector { data: from, .. },
            ) => add(to, from, rows, *dim as usize),
            (
                ColumnData::BinaryVector { dim, data: to },
                ColumnData::BinaryVector { data: from, .. },
            ) => add(to, from, rows, *dim as usize / 8),
            (
                ColumnData::Float16Vector { dim, data: to },
                ColumnData::Float16Vector { data: from, .. },
            )
            | (
                ColumnData::BFloat16Vector { dim, data: to },
                ColumnData::BFloat16Vector { data: from, .. },
            ) => add(to, from, rows, *dim as usize * 2),
            _ => return false,
        }
        true
    }

    /// Appends all rows of another column. False, and no change, when its type differs.
    pub fn extend(&mut self, other: &ColumnData) -> bool {
        self.extend_from(other, 0..other.len())
    }

    /// A copy of some rows.
    ///
    /// # Panics
    /// When `rows` reaches beyond the column.
    pub fn slice(&self, rows: Range<usize>) -> ColumnData {
        let mut out = ColumnData::new(self.kind());
        let same_type = out.extend_from(self, rows);
        debug_assert!(same_type, "a new column of the same kind takes the rows");
        out
    }

    /// The value of one row.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn value(&self, row: usize) -> Value<'_> {
        fn many<T>(data: &[T], row: usize, per_row: usize) -> &[T] {
            &data[row * per_row..(row + 1) * per_row]
        }
        match self {
            ColumnData::Bool(values) => Value::Bool(values[row]),
            ColumnData::Int8(values) => Value::Int8(values[row]),
            ColumnData::Int16(values) => Value::Int16(values[row]),
            ColumnData::Int32(values) => Value::Int32(values[row]),
            ColumnData::Int64(values) => Value::Int64(values[row]),
            ColumnData::Float(values) => Value::Float(values[row]),
            ColumnData::Double(values) => Value::Double(values[row]),
            ColumnData::VarChar(values) => Value::VarChar(&values[row]),
            ColumnData::Json(values) => Value::Json(&values[row]),
            ColumnData::FloatVector { dim, data } => {
                Value::FloatVector(many(data, row, *dim as usize))
            }
            ColumnData::BinaryVector { dim, data } => {
                Value::Bytes(many(data, row, *dim as usize / 8))
            }
            ColumnData::Float16Vector { dim, data } | ColumnData::BFloat16Vector { dim, data } => {
                Value::Bytes(many(data, row, *dim as usize * 2))
            }
        }
    }

    /// CRC32C over type, number of rows and all values.
    pub fn checksum(&self) -> u32 {
        // In chunks: the checksum instruction wants more than a few bytes a call.
        fn fold<T: Copy, const N: usize>(
            crc: u32,
            values: &[T],
            bytes: impl Fn(T) -> [u8; N],
        ) -> u32 {
            let mut buffer = vec![0; values.len().min(8 * 1024) * N];
            values.chunks(8 * 1024).fold(crc, |crc, chunk| {
                for (to, value) in buffer.chunks_exact_mut(N).zip(chunk) {
                    to.copy_from_slice(&bytes(*value));
                }
                crc32c::crc32c_append(crc, &buffer[..chunk.len() * N])
            })
        }
        let kind = self.kind();
        let mut head = Vec::with_capacity(16);
        head.extend_from_slice(&(kind.data_type() as i32).to_le_bytes());
        head.extend_from_slice(&kind.dim().unwrap_or(0).to_le_bytes());
        head.extend_from_slice(&(self.len() as u64).to_le_bytes());
        let crc = crc32c::crc32c(&head);
        match self {
            ColumnData::Bool(values) => fold(crc, values, |v| [u8::from(v)]),
            ColumnData::Int8(values) => fold(crc, values, i8::to_le_bytes),
            ColumnData::Int16(values) => fold(crc, values, i16::to_le_bytes),
            ColumnData::Int32(values) => fold(crc, values, i32::to_le_bytes),
            ColumnData::Int64(values) => fold(crc, values, i64::to_le_bytes),
            ColumnData::Float(values) => fold(crc, values, f32::to_le_bytes),
            ColumnData::Double(values) => fold(crc, values, f64::to_le_bytes),
            ColumnData::VarChar(values) | ColumnData::Json(values) => {
                values.iter().fold(crc, |crc, value| {
                    let crc = crc32c::crc32c_append(crc, &(value.len() as u64).to_le_bytes());
                    crc32c::crc32c_append(crc, value.as_bytes())
                })
            }
            ColumnData::FloatVector { data, .. } => fold(crc, data, f32::to_le_bytes),
            ColumnData::BinaryVector { data, .. }
            | ColumnData::Float16Vector { data, .. }
            | ColumnData::BFloat16Vector { data, .. } => crc32c::crc32c_append(crc, data),
        }
    }
}

#[cfg(test)]
mod tests;
