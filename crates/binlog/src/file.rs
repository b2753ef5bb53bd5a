//! The Parquet file all kinds of log share: zstd pages, values without nulls, and metadata that
//! says which log it is and what its values add up to.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType as ArrowType, Field as ArrowField, Schema as ArrowSchema};
use bytes::Bytes;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use quorate_rpc::proto::milvus::data::Binlog;
use quorate_rpc::proto::milvus::schema::DataType;

use crate::column::ColumnData;
use crate::error::BinlogError;
use crate::path::LogPath;
use crate::schema::{FieldType, MAX_DIM, MAX_LENGTH};

const FORMAT: &str = "quorate.format";
const FORMAT_VERSION: &str = "1";
const KIND: &str = "quorate.kind";
const COLLECTION: &str = "quorate.collection";
const PARTITION: &str = "quorate.partition";
const SEGMENT: &str = "quorate.segment";
const FIELD: &str = "quorate.field";
const LOG_ID: &str = "quorate.log_id";
const ROWS: &str = "quorate.rows";
const TIMESTAMP_FROM: &str = "quorate.timestamp_from";
const TIMESTAMP_TO: &str = "quorate.timestamp_to";

/// Rows decoded at a time.
const READ_BATCH_ROWS: usize = 64 * 1024;

/// A log file ready to be stored.
#[derive(Debug, Clone)]
pub struct EncodedLog {
    /// Which log it is; also where it belongs.
    pub path: LogPath,
    /// The file.
    pub bytes: Bytes,
    /// Rows it holds.
    pub rows: u64,
    /// Size of its values in memory.
    pub memory_size_bytes: u64,
    /// Lowest timestamp of its rows.
    pub timestamp_from: u64,
    /// Highest timestamp of its rows.
    pub timestamp_to: u64,
}

impl EncodedLog {
    /// The entry for this file in a save of binlog paths, as stored below `root`.
    pub fn to_binlog(&self, root: &Path) -> Binlog {
        Binlog {
            entries_num: self.rows as i64,
            timestamp_from: self.timestamp_from,
            timestamp_to: self.timestamp_to,
            log_path: self.path.under(root).to_string(),
            log_size: self.bytes.len() as i64,
            log_id: self.path.log_id(),
            memory_size: self.memory_size_bytes as i64,
        }
    }
}

/// What is written besides the values.
pub(crate) struct Facts {
    pub path: LogPath,
    pub rows: u64,
    pub timestamp_from: u64,
    pub timestamp_to: u64,
}

/// A file that has been read: which log it is, and its columns.
pub(crate) struct Decoded {
    pub facts: Facts,
    pub columns: Vec<ColumnData>,
}

/// Writes columns of equal length under the given names.
pub(crate) fn encode(
    facts: Facts,
    columns: &[(&str, &ColumnData)],
) -> Result<EncodedLog, BinlogError> {
    let path = facts.path;
    let failed = |reason: &dyn ToString| BinlogError::encode(path, reason.to_string());
    let mut fields = Vec::with_capacity(columns.len());
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.len());
    let mut metadata = describe(&facts);
    let mut memory_size = 0;
    for (name, column) in columns {
        let array = column.to_arrow().map_err(|error| failed(&error))?;
        fields.push(ArrowField::new(*name, array.data_type().clone(), false));
        arrays.push(array);
        metadata.extend(describe_column(name, column));
        memory_size += column.memory_size() as u64;
    }
    let schema = Arc::new(ArrowSchema::new(fields));
    let batch =
        RecordBatch::try_new(Arc::clone(&schema), arrays).map_err(|error| failed(&error))?;
    let dense = columns
        .iter()
        .any(|(_, column)| column.kind().is_vector() || matches!(column, ColumnData::Double(_)));
    let properties = properties(dense)
        .set_key_value_metadata(Some(metadata))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties))
        .map_err(|error| failed(&error))?;
    writer.write(&batch).map_err(|error| failed(&error))?;
    let bytes = writer.into_inner().map_err(|error| failed(&error))?;
    Ok(EncodedLog {
        path,
        bytes: bytes.into(),
        rows: facts.rows,
        memory_size_bytes: memory_size,
        timestamp_from: facts.timestamp_from,
        timestamp_to: facts.timestamp_to,
    })
}

/// How values are written; `dense` ones do not repeat, so a dictionary would only cost.
fn properties(dense: bool) -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_enabled(!dense)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_created_by(concat!("quorate ", env!("CARGO_PKG_VERSION")).to_owned())
}

/// Reads a Parquet file and writes its values again the way log files are written, with nothing
/// checked and nothing changed: what any rewriting costs at least, to measure against.
pub fn recode(bytes: Bytes) -> Result<Bytes, ParquetError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let schema = Arc::clone(builder.schema());
    let dense = schema.fields().iter().any(|field| {
        matches!(
            field.data_type(),
            ArrowType::FixedSizeList(..) | ArrowType::FixedSizeBinary(_) | ArrowType::Float64
        )
    });
    let properties = properties(dense).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties))?;
    for batch in builder.with_batch_size(READ_BATCH_ROWS).build()? {
        writer.write(&batch?)?;
    }
    Ok(writer.into_inner()?.into())
}

/// Reads a file back. `location` is where it was found: it must be the path of the log the file
/// says it is. `names` are the columns expected, in order.
pub(crate) fn decode(location: &str, bytes: Bytes, names: &[&str]) -> Result<Decoded, BinlogError> {
    let found_at = LogPath::parse(location)?;
    // The Parquet reader asserts on some damaged input; for us damage is an error like any other.
    catch_unwind(AssertUnwindSafe(|| {
        decode_unguarded(found_at, bytes, names)
    }))
    .unwrap_or_else(|_| Err("the file is damaged".to_owned()))
    .map_err(|reason| BinlogError::file(location, reason))
}

fn decode_unguarded(found_at: LogPath, bytes: Bytes, names: &[&str]) -> Result<Decoded, String> {
    let size = bytes.len();
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .map_err(|error| format!("no complete Parquet file ({size} bytes): {error}"))?;
    let metadata: HashMap<String, String> = builder
        .metadata()
        .file_metadata()
        .key_value_metadata()
        .into_iter()
        .flatten()
        .filter_map(|pair| Some((pair.key.clone(), pair.value.clone()?)))
        .collect();
    let facts = read_facts(&metadata, found_at)?;
    let schema = Arc::clone(builder.schema());
    if !schema.fields().iter().map(|f| f.name()).eq(names) {
        return Err(format!("its columns are not {names:?}"));
    }
    let kinds = names
        .iter()
        .map(|name| column_type(&metadata, name))
        .collect::<Result<Vec<_>, _>>()?;
    let mut columns: Vec<ColumnData> = kinds.iter().map(|kind| ColumnData::new(*kind)).collect();
    let reader = builder
        .with_batch_size(READ_BATCH_ROWS)
        .build()
        .map_err(|error| error.to_string())?;
    for batch in reader {
        let batch = batch.map_err(|error| error.to_string())?;
        for ((column, kind), array) in columns.iter_mut().zip(&kinds).zip(batch.columns()) {
            column.extend(&ColumnData::from_arrow(array, *kind)?);
        }
    }
    for (name, column) in names.iter().zip(&columns) {
        if column.len() as u64 != facts.rows {
            return Err(format!(
                "column {name} has {} rows, the file should have {}",
                column.len(),
                facts.rows
            ));
        }
        let stored: u32 = number(&metadata, &format!("quorate.{name}.crc32c"))?;
        if stored != column.checksum() {
            return Err(format!("the checksum of column {name} does not match"));
        }
    }
    Ok(Decoded { facts, columns })
}

fn describe(facts: &Facts) -> Vec<KeyValue> {
    let path = facts.path;
    let mut pairs = vec![
        (FORMAT, FORMAT_VERSION.to_owned()),
        (KIND, path.kind().to_owned()),
        (COLLECTION, path.collection().to_string()),
        (PARTITION, path.partition().to_string()),
        (SEGMENT, path.segment().to_string()),
        (LOG_ID, path.log_id().to_string()),
        (ROWS, facts.rows.to_string()),
        (TIMESTAMP_FROM, facts.timestamp_from.to_string()),
        (TIMESTAMP_TO, facts.timestamp_to.to_string()),
    ];
    if let Some(field) = path.field() {
        pairs.push((FIELD, field.to_string()));
    }
    pairs
        .into_iter()
        .map(|(key, value)| KeyValue::new(key.to_owned(), value))
        .collect()
}

fn describe_column(name: &str, column: &ColumnData) -> Vec<KeyValue> {
    let kind = column.kind();
    let mut pairs = vec![
        KeyValue::new(format!("quorate.{name}.type"), kind.name().to_owned()),
        KeyValue::new(
            format!("quorate.{name}.crc32c"),
            column.checksum().to_string(),
        ),
    ];
    if let Some(dim) = kind.dim() {
        pairs.push(KeyValue::new(
            format!("quorate.{name}.dim"),
            dim.to_string(),
        ));
    }
    pairs
}

fn read_facts(metadata: &HashMap<String, String>, found_at: LogPath) -> Result<Facts, String> {
    match metadata.get(FORMAT).map(String::as_str) {
        Some(FORMAT_VERSION) => {}
        Some(other) => {
            return Err(format!(
                "format {other} is not known to this version (it knows {FORMAT_VERSION})"
            ));
        }
        None => return Err("a Parquet file, but no log file of Quorate".to_owned()),
    }
    let mut expected = vec![
        (KIND, found_at.kind().to_owned()),
        (COLLECTION, found_at.collection().to_string()),
        (PARTITION, found_at.partition().to_string()),
        (SEGMENT, found_at.segment().to_string()),
        (LOG_ID, found_at.log_id().to_string()),
    ];
    if let Some(field) = found_at.field() {
        expected.push((FIELD, field.to_string()));
    }
    for (key, value) in expected {
        let stored = metadata.get(key).map_or("nothing", String::as_str);
        if stored != value {
            return Err(format!(
                "the file is another log: its {key} is {stored}, by its path it should be {value}"
            ));
        }
    }
    Ok(Facts {
        path: found_at,
        rows: number(metadata, ROWS)?,
        timestamp_from: number(metadata, TIMESTAMP_FROM)?,
        timestamp_to: number(metadata, TIMESTAMP_TO)?,
    })
}

fn number<T: std::str::FromStr>(
    metadata: &HashMap<String, String>,
    key: &str,
) -> Result<T, String> {
    metadata
        .get(key)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("its metadata lacks a valid {key}"))
}

fn column_type(metadata: &HashMap<String, String>, name: &str) -> Result<FieldType, String> {
    let key = format!("quorate.{name}.type");
    let stored = metadata.get(&key).map_or("", String::as_str);
    let dim = || -> Result<u32, String> {
        let key = format!("quorate.{name}.dim");
        number(metadata, &key).and_then(|dim| {
            if (1..=MAX_DIM).contains(&dim) {
                Ok(dim)
            } else {
                Err(format!("its metadata lacks a valid {key}"))
            }
        })
    };
    Ok(match DataType::from_str_name(stored) {
        Some(DataType::Bool) => FieldType::Bool,
        Some(DataType::Int8) => FieldType::Int8,
        Some(DataType::Int16) => FieldType::Int16,
        Some(DataType::Int32) => FieldType::Int32,
        Some(DataType::Int64) => FieldType::Int64,
        Some(DataType::Float) => FieldType::Float,
        Some(DataType::Double) => FieldType::Double,
        Some(DataType::VarChar) => FieldType::VarChar {
            max_length: MAX_LENGTH,
        },
        Some(DataType::Json) => FieldType::Json,
        Some(DataType::FloatVector) => FieldType::FloatVector { dim: dim()? },
        Some(DataType::BinaryVector) => FieldType::BinaryVector { dim: dim()? },
        Some(DataType::Float16Vector) => FieldType::Float16Vector { dim: dim()? },
        Some(DataType::BFloat16Vector) => FieldType::BFloat16Vector { dim: dim()? },
        _ => return Err(format!("its metadata lacks a valid {key}")),
    })
}
