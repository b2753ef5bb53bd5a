//! Requests of writers, checked against the schema: what is left afterwards fits the buffers.
//!
//! Nothing here looks at the state of a channel.

use quorate_binlog::column::ColumnError;
use quorate_binlog::schema::FIRST_USER_FIELD;
use quorate_binlog::{ColumnData, Schema};
use quorate_rpc::proto::quorate::node::{Column, DeleteRequest, Grant, RowBatch};
use quorate_rpc::proto::quorate::row::RowRange;

use crate::channel::CHUNK_OVERHEAD_BYTES;

/// Longest name of a stream.
const STREAM_MAX_BYTES: usize = 64;

/// Rows of one partition; all counts agree.
#[derive(Debug)]
pub(crate) struct Batch {
    pub partition_id: i64,
    pub rows: u64,
    /// In the order of the schema's fields.
    pub columns: Vec<ColumnData>,
    pub ordinals: Vec<RowRange>,
    pub grants: Vec<Grant>,
}

impl Batch {
    /// What buffering the rows takes at most: values, and a chunk for each segment.
    pub fn memory_size(&self) -> u64 {
        let columns: usize = self.columns.iter().map(ColumnData::memory_size).sum();
        columns as u64 + self.grants.len() as u64 * CHUNK_OVERHEAD_BYTES
    }
}

/// What is wrong with a request; the writer's fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BatchError {
    #[error("batch {batch}: {reason}")]
    Batch { batch: usize, reason: String },
    #[error("batch {batch}: {source}")]
    Column { batch: usize, source: ColumnError },
    #[error("primary keys: {0}")]
    Keys(#[from] ColumnError),
    #[error("{0}")]
    Request(&'static str),
}

/// Checks all batches of an insert.
pub(crate) fn check(batches: Vec<RowBatch>, schema: &Schema) -> Result<Vec<Batch>, BatchError> {
    batches
        .into_iter()
        .enumerate()
        .map(|(at, batch)| check_one(at, batch, schema))
        .collect()
}

/// Checks the keys of a delete.
pub(crate) fn check_keys(
    request: DeleteRequest,
    schema: &Schema,
) -> Result<ColumnData, BatchError> {
    let Some(keys) = request.primary_keys else {
        return Err(BatchError::Request("the request has no primary keys"));
    };
    let rows = values_in(&keys);
    if rows == 0 {
        return Err(BatchError::Request("the request has no primary keys"));
    }
    Ok(ColumnData::from_proto(keys, schema.primary_key(), rows)?)
}

fn values_in(column: &Column) -> usize {
    use quorate_rpc::proto::quorate::node::column::Values;
    match &column.values {
        Some(Values::Longs(values)) => values.data.len(),
        Some(Values::Strings(values)) => values.data.len(),
        // Of no type a primary key can have; refused with the column.
        Some(_) => 1,
        None => 0,
    }
}

fn check_one(at: usize, batch: RowBatch, schema: &Schema) -> Result<Batch, BatchError> {
    let wrong = |reason: String| Err(BatchError::Batch { batch: at, reason });
    let rows = u64::from(batch.rows);
    if rows == 0 {
        return wrong("it has no rows".into());
    }
    let mut named = 0u64;
    for range in &batch.ordinals {
        if range.stream.is_empty() || range.stream.len() > STREAM_MAX_BYTES {
            return wrong(format!(
                "a stream is named by 1 to {STREAM_MAX_BYTES} bytes, not {}",
                range.stream.len()
            ));
        }
        if range.from >= range.to {
            return wrong(format!(
                "ordinals [{}, {}) are no range",
                range.from, range.to
            ));
        }
        named = named.saturating_add(range.to - range.from);
    }
    if named != rows {
        return wrong(format!("{named} ordinals for {rows} rows"));
    }
    if let Some(grant) = batch.grants.iter().find(|grant| grant.rows == 0) {
        return wrong(format!(
            "the grant of segment {} is for no rows",
            grant.segment_id
        ));
    }
    let granted: u64 = batch.grants.iter().map(|grant| u64::from(grant.rows)).sum();
    if granted != rows {
        return wrong(format!("grants for {granted} rows, the batch has {rows}"));
    }
    Ok(Batch {
        partition_id: batch.partition_id,
        rows,
        columns: columns(at, batch.columns, schema, rows as usize)?,
        ordinals: batch.ordinals,
        grants: batch.grants,
    })
}

/// One column for each field, brought into the schema's order.
fn columns(
    at: usize,
    columns: Vec<Column>,
    schema: &Schema,
    rows: usize,
) -> Result<Vec<ColumnData>, BatchError> {
    let wrong = |reason: String| BatchError::Batch { batch: at, reason };
    let mut taken: Vec<Option<ColumnData>> = schema.fields().iter().map(|_| None).collect();
    for column in columns {
        let id = column.field_id;
        let Some(place) = schema.fields().iter().position(|field| field.id == id) else {
            let hint = if id < FIRST_USER_FIELD {
                "; system fields are filled in by the data node"
            } else {
                ""
            };
            return Err(wrong(format!("the collection has no field {id}{hint}")));
        };
        let field = &schema.fields()[place];
        if taken[place].is_some() {
            return Err(wrong(format!(
                "field {:?} (id {id}) is there twice",
                field.name
            )));
        }
        let data = ColumnData::from_proto(column, field, rows)
            .map_err(|source| BatchError::Column { batch: at, source })?;
        taken[place] = Some(data);
    }
    taken
        .into_iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            column.ok_or_else(|| {
                wrong(format!(
                    "field {:?} (id {}) is missing",
                    field.name, field.id
                ))
            })
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests;
