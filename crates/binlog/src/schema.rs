//! A collection's schema as the log files need it: typed fields, the primary key, dimensions and
//! lengths, taken from Milvus's `CollectionSchema` and checked once.

use quorate_rpc::proto::milvus::common::KeyValuePair;
use quorate_rpc::proto::milvus::schema::{CollectionSchema, DataType, FieldSchema};

/// Ids below this belong to the system (0 row id, 1 timestamp).
pub const FIRST_USER_FIELD: i64 = 100;
/// Length limit of a VarChar field that states none, in bytes; also the highest one.
pub const MAX_LENGTH: u32 = 65_535;
/// Highest dimension of a vector field.
pub const MAX_DIM: u32 = 32_768;
/// Highest size of one JSON value, in bytes.
pub const MAX_JSON_BYTES: usize = 65_536;
/// Most fields of a collection.
pub const MAX_FIELDS: usize = 256;

/// Type of a field with what limits its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldType {
    /// True or false.
    Bool,
    /// 8-bit integer.
    Int8,
    /// 16-bit integer.
    Int16,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// 32-bit float.
    Float,
    /// 64-bit float.
    Double,
    /// Text of at most so many bytes.
    VarChar {
        /// Limit in bytes.
        max_length: u32,
    },
    /// JSON text.
    Json,
    /// Vector of 32-bit floats.
    FloatVector {
        /// Values a row.
        dim: u32,
    },
    /// Vector of bits; `dim` is a multiple of 8.
    BinaryVector {
        /// Bits a row.
        dim: u32,
    },
    /// Vector of 16-bit floats, as bytes.
    Float16Vector {
        /// Values a row.
        dim: u32,
    },
    /// Vector of bfloat16, as bytes.
    BFloat16Vector {
        /// Values a row.
        dim: u32,
    },
}

impl FieldType {
    /// The type's number on the wire.
    pub fn data_type(self) -> DataType {
        match self {
            FieldType::Bool => DataType::Bool,
            FieldType::Int8 => DataType::Int8,
            FieldType::Int16 => DataType::Int16,
            FieldType::Int32 => DataType::Int32,
            FieldType::Int64 => DataType::Int64,
            FieldType::Float => DataType::Float,
            FieldType::Double => DataType::Double,
            FieldType::VarChar { .. } => DataType::VarChar,
            FieldType::Json => DataType::Json,
            FieldType::FloatVector { .. } => DataType::FloatVector,
            FieldType::BinaryVector { .. } => DataType::BinaryVector,
            FieldType::Float16Vector { .. } => DataType::Float16Vector,
            FieldType::BFloat16Vector { .. } => DataType::BFloat16Vector,
        }
    }

    /// Name as Milvus writes it.
    pub fn name(self) -> &'static str {
        self.data_type().as_str_name()
    }

    /// Dimension of a vector type.
    pub fn dim(self) -> Option<u32> {
        match self {
            FieldType::FloatVector { dim }
            | FieldType::BinaryVector { dim }
            | FieldType::Float16Vector { dim }
            | FieldType::BFloat16Vector { dim } => Some(dim),
            _ => None,
        }
    }

    /// Whether it is a vector type.
    pub fn is_vector(self) -> bool {
        self.dim().is_some()
    }

    /// Bytes a row of a vector type that is carried as bytes.
    pub fn bytes_per_row(self) -> Option<usize> {
        match self {
            FieldType::BinaryVector { dim } => Some(dim as usize / 8),
            FieldType::Float16Vector { dim } | FieldType::BFloat16Vector { dim } => {
                Some(dim as usize * 2)
            }
            _ => None,
        }
    }
}

/// One user field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Field id, 100 or more.
    pub id: i64,
    /// Name.
    pub name: String,
    /// Type with its limits.
    pub kind: FieldType,
    /// Whether it is the primary key.
    pub primary_key: bool,
}

/// A checked schema: at least one field, exactly one primary key (Int64 or VarChar).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    name: String,
    fields: Vec<Field>,
    primary_key: usize,
}

/// What is wrong with a collection's schema; every message names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// No user fields at all.
    #[error("schema {schema:?} has no fields")]
    Empty {
        /// Name of the schema.
        schema: String,
    },
    /// Too many fields.
    #[error("schema {schema:?} has {fields} fields; at most {MAX_FIELDS} are possible")]
    TooManyFields {
        /// Name of the schema.
        schema: String,
        /// Number of fields.
        fields: usize,
    },
    /// None or several primary keys.
    #[error("schema {schema:?} needs exactly one primary key, it has {found}: {names:?}")]
    PrimaryKeys {
        /// Name of the schema.
        schema: String,
        /// How many there are.
        found: usize,
        /// Their names.
        names: Vec<String>,
    },
    /// One field is wrong.
    #[error("field {field:?}: {reason}")]
    Field {
        /// Name of the field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Schema {
    /// Checks and converts a schema. System fields (ids 0 and 1) are left out.
    pub fn from_proto(schema: &CollectionSchema) -> Result<Schema, SchemaError> {
        let fields = schema
            .fields
            .iter()
            .filter(|field| !is_system(field))
            .map(field)
            .collect::<Result<Vec<_>, _>>()?;
        if fields.is_empty() {
            return Err(SchemaError::Empty {
                schema: schema.name.clone(),
            });
        }
        if fields.len() > MAX_FIELDS {
            return Err(SchemaError::TooManyFields {
                schema: schema.name.clone(),
                fields: fields.len(),
            });
        }
        for (at, field) in fields.iter().enumerate() {
            let earlier = &fields[..at];
            if earlier.iter().any(|other| other.id == field.id) {
                return Err(wrong(&field.name, format!("id {} is used twice", field.id)));
            }
            if earlier.iter().any(|other| other.name == field.name) {
                return Err(wrong(&field.name, "the name is used twice"));
            }
        }
        let keys: Vec<usize> = (0..fields.len())
            .filter(|&at| fields[at].primary_key)
            .collect();
        let [primary_key] = keys[..] else {
            return Err(SchemaError::PrimaryKeys {
                schema: schema.name.clone(),
                found: keys.len(),
                names: keys.iter().map(|&at| fields[at].name.clone()).collect(),
            });
        };
        Ok(Schema {
            name: schema.name.clone(),
            fields,
            primary_key,
        })
    }

    /// Name of the collection.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// User fields in the order of the schema.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The primary key.
    pub fn primary_key(&self) -> &Field {
        &self.fields[self.primary_key]
    }

    /// Where the primary key stands in [`Schema::fields`].
    pub fn primary_key_index(&self) -> usize {
        self.primary_key
    }

    /// Field by id.
    pub fn field(&self, id: i64) -> Option<&Field> {
        self.fields.iter().find(|field| field.id == id)
    }

    /// Field by name.
    pub fn field_named(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

fn is_system(field: &FieldSchema) -> bool {
    matches!(
        (field.field_id, field.name.as_str()),
        (0, "RowID") | (1, "Timestamp")
    )
}

fn field(field: &FieldSchema) -> Result<Field, SchemaError> {
    let name = &field.name;
    if name.is_empty() {
        return Err(wrong(name, format!("id {} has no name", field.field_id)));
    }
    if field.field_id < FIRST_USER_FIELD {
        return Err(wrong(
            name,
            format!(
                "id {} is below {FIRST_USER_FIELD}, the first one for user fields",
                field.field_id
            ),
        ));
    }
    let kind = field_type(field)?;
    if field.is_primary_key && !matches!(kind, FieldType::Int64 | FieldType::VarChar { .. }) {
        return Err(wrong(
            name,
            format!(
                "a primary key must be Int64 or VarChar, this is {}",
                kind.name()
            ),
        ));
    }
    Ok(Field {
        id: field.field_id,
        name: name.clone(),
        kind,
        primary_key: field.is_primary_key,
    })
}

fn field_type(field: &FieldSchema) -> Result<FieldType, SchemaError> {
    let name = &field.name;
    let Ok(data_type) = DataType::try_from(field.data_type) else {
        return Err(wrong(
            name,
            format!("unknown data type {}", field.data_type),
        ));
    };
    Ok(match data_type {
        DataType::Bool => FieldType::Bool,
        DataType::Int8 => FieldType::Int8,
        DataType::Int16 => FieldType::Int16,
        DataType::Int32 => FieldType::Int32,
        DataType::Int64 => FieldType::Int64,
        DataType::Float => FieldType::Float,
        DataType::Double => FieldType::Double,
        DataType::VarChar => FieldType::VarChar {
            max_length: match param(&field.type_params, "max_length") {
                None => MAX_LENGTH,
                Some(text) => number(name, "max_length", text, MAX_LENGTH)?,
            },
        },
        DataType::Json => FieldType::Json,
        DataType::FloatVector => FieldType::FloatVector { dim: dim(field)? },
        DataType::Float16Vector => FieldType::Float16Vector { dim: dim(field)? },
        DataType::BFloat16Vector => FieldType::BFloat16Vector { dim: dim(field)? },
        DataType::BinaryVector => {
            let dim = dim(field)?;
            if !dim.is_multiple_of(8) {
                return Err(wrong(
                    name,
                    format!("dim {dim} of a BinaryVector is not a multiple of 8"),
                ));
            }
            FieldType::BinaryVector { dim }
        }
        other => {
            return Err(wrong(
                name,
                format!("data type {} is not supported", other.as_str_name()),
            ));
        }
    })
}

fn dim(field: &FieldSchema) -> Result<u32, SchemaError> {
    match param(&field.type_params, "dim") {
        None => Err(wrong(
            &field.name,
            "a vector field needs the type param dim",
        )),
        Some(text) => number(&field.name, "dim", text, MAX_DIM),
    }
}

fn param<'a>(params: &'a [KeyValuePair], key: &str) -> Option<&'a str> {
    params
        .iter()
        .find(|pair| pair.key == key)
        .map(|pair| pair.value.as_str())
}

fn number(field: &str, key: &str, text: &str, max: u32) -> Result<u32, SchemaError> {
    match text.parse() {
        Ok(value) if (1..=max).contains(&value) => Ok(value),
        _ => Err(wrong(
            field,
            format!("{key} must be a number from 1 to {max}, not {text:?}"),
        )),
    }
}

fn wrong(field: &str, reason: impl Into<String>) -> SchemaError {
    SchemaError::Field {
        field: field.to_owned(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests;
