//! Merge and mix: the rows of some segments, without those their own delete logs hit, become new
//! segments.
//!
//! Rows stay in the order of the inputs, and keep their row ids and timestamps. In memory are at
//! most a few groups of logs, whatever the size of the inputs.

use std::ops::Range;
use std::slice;
use std::sync::Arc;

use futures::StreamExt;
use quorate_binlog::{ColumnData, Deletes, LogStore};
use quorate_rpc::proto::milvus::data::CompactionSegment;

use super::job::{Job, PlanError};
use super::output::Writer;
use super::read;

pub(crate) async fn run(store: &LogStore, job: &Job) -> Result<Vec<CompactionSegment>, PlanError> {
    let mut writer = Writer::new(store, job)?;
    let key = job.schema.primary_key_index();
    for input in &job.inputs {
        let mut deletes = Deletes::default();
        read::deletes(store, &job.schema, &input.deltas, &mut deletes, &mut 0).await?;
        let deletes = Arc::new(deletes);
        let mut groups = std::pin::pin!(read::groups(store, &job.schema, &input.groups));
        while let Some(columns) = groups.next().await {
            let columns = columns?;
            if deletes.is_empty() {
                let rows = columns[key].len();
                writer.push(&columns, slice::from_ref(&(0..rows))).await?;
                continue;
            }
            let deletes = Arc::clone(&deletes);
            let (columns, alive) = read::blocking(move || {
                let alive = alive(&columns, key, &deletes)?;
                Ok((columns, alive))
            })
            .await?;
            writer.push(&columns, &alive).await?;
        }
    }
    writer.finish().await
}

/// Stretches of rows that are not deleted.
fn alive(
    columns: &[ColumnData],
    key: usize,
    deletes: &Deletes,
) -> Result<Vec<Range<usize>>, PlanError> {
    // The timestamps are the last field that was asked for.
    let timestamps = columns.last().map_or(Ok(&[][..]), read::timestamps)?;
    let keys = &columns[key];
    let mut stretches = Vec::new();
    let mut first = 0;
    for (row, timestamp) in timestamps.iter().enumerate() {
        if deletes.hits(keys.value(row), *timestamp as u64) {
            if first < row {
                stretches.push(first..row);
            }
            first = row + 1;
        }
    }
    if first < timestamps.len() {
        stretches.push(first..timestamps.len());
    }
    Ok(stretches)
}
