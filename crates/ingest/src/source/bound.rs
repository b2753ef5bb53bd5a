//! A file together with the fields of the collection its columns go to.

use std::sync::Arc;

use arrow_array::{Array, RecordBatch};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use quorate_binlog::{ColumnData, Field, FieldType, Schema};

use super::SourceFile;
use crate::error::SourceError;
use crate::plan::Plan;
use crate::route;

/// Rows decoded at a time.
const BATCH_ROWS: usize = 512;

/// A file whose columns are the fields of a schema, name by name.
#[derive(Debug, Clone)]
pub(crate) struct BoundSource {
    file: Arc<SourceFile>,
    schema: Arc<Schema>,
}

impl BoundSource {
    /// The caller has checked that the file has a column for each field.
    pub(crate) fn new(file: Arc<SourceFile>, schema: Arc<Schema>) -> BoundSource {
        BoundSource { file, schema }
    }

    pub(crate) fn file(&self) -> &SourceFile {
        &self.file
    }

    pub(crate) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Reads the whole file once: checks every value and gives every row its channel and ordinal.
    /// So whatever is wrong with the file is known before anything is created or sent.
    pub(crate) fn plan(&self, channels: usize) -> Result<Plan, SourceError> {
        let mut plan = Plan::new(channels);
        let key = self.schema.primary_key_index();
        self.for_each_batch(|_, columns| {
            for row in 0..columns[key].len() {
                let channel = route::channel_of_value(columns[key].value(row), channels)
                    .expect("a schema's primary key is Int64 or VarChar");
                plan.push(channel);
            }
        })?;
        Ok(plan)
    }

    /// Runs `take` over the file in order, with the number of a batch's first row and its columns
    /// in the order of the schema. Every value is checked.
    pub(crate) fn for_each_batch(
        &self,
        mut take: impl FnMut(u64, &[ColumnData]),
    ) -> Result<(), SourceError> {
        super::guarded(self.file.path(), || {
            let mut at = 0;
            for batch in self.reader(0, BATCH_ROWS)? {
                let batch = batch.map_err(|error| self.file.unreadable(error))?;
                let columns = self.columns(&batch, at)?;
                take(at, &columns);
                at += batch.num_rows() as u64;
            }
            if at != self.file.rows() {
                return Err(self.file.unreadable(format!(
                    "its footer states {} rows, it has {at}",
                    self.file.rows()
                )));
            }
            self.file.check_unchanged()
        })
    }

    /// A reader of the rows from `first` on.
    pub(super) fn reader(
        &self,
        first: u64,
        batch_rows: usize,
    ) -> Result<ParquetRecordBatchReader, SourceError> {
        let mut before = 0;
        let mut group = 0;
        for rows in self.file.row_group_rows() {
            if before + rows > first {
                break;
            }
            before += rows;
            group += 1;
        }
        let builder = self.file.builder();
        let groups = builder.metadata().num_row_groups();
        let names: Vec<usize> = builder
            .schema()
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| self.schema.field_named(field.name()).is_some())
            .map(|(root, _)| root)
            .collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), names);
        builder
            .with_projection(mask)
            .with_row_groups((group..groups).collect())
            .with_offset((first - before) as usize)
            .with_batch_size(batch_rows)
            .build()
            .map_err(|error| self.file.unreadable(error))
    }

    /// The values of a batch whose first row is row `first` of the file.
    pub(super) fn columns(
        &self,
        batch: &RecordBatch,
        first: u64,
    ) -> Result<Vec<ColumnData>, SourceError> {
        let fields = self.schema.fields().iter();
        fields
            .map(|field| {
                let array = batch.column_by_name(&field.name).ok_or_else(|| {
                    self.file
                        .unreadable(format!("column {:?} is not there any more", field.name))
                })?;
                self.column(field, array, first)
            })
            .collect()
    }

    fn column(
        &self,
        field: &Field,
        array: &dyn Array,
        first: u64,
    ) -> Result<ColumnData, SourceError> {
        let wrong_at = |row: usize, reason: String| SourceError::Value {
            path: self.file.path().to_owned(),
            column: field.name.clone(),
            row: first + row as u64,
            reason,
        };
        let column = ColumnData::from_arrow(array, field.kind).map_err(|reason| {
            // Row by row, to say which row of the file it is.
            let found = (0..array.len()).find_map(|row| {
                let one = array.slice(row, 1);
                let reason = ColumnData::from_arrow(&one, field.kind).err()?;
                Some((row, reason))
            });
            match found {
                Some((row, reason)) => {
                    let reason = reason.strip_prefix("row 0 ").unwrap_or(&reason).to_owned();
                    wrong_at(row, reason)
                }
                None => SourceError::Column {
                    path: self.file.path().to_owned(),
                    column: field.name.clone(),
                    reason,
                },
            }
        })?;
        if let (FieldType::VarChar { max_length }, ColumnData::VarChar(texts)) =
            (field.kind, &column)
        {
            let limit = max_length as usize;
            if let Some(row) = texts.iter().position(|text| text.len() > limit) {
                let length = texts[row].len();
                return Err(wrong_at(
                    row,
                    format!("has {length} bytes of text, the field takes {limit}"),
                ));
            }
        }
        Ok(column)
    }
}
