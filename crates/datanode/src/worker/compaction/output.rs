//! Writing the outputs: rows are gathered into batches, batches become insert logs while the next
//! one is gathered, and a segment that is complete gets its statistics.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use quorate_binlog::group::{self, BATCH_BYTES, BATCH_ROWS};
use quorate_binlog::{
    BinlogError, ColumnData, FieldType, LogStore, Place, PrimaryKeyStats, Schema, insert, stats,
};
use quorate_rpc::proto::milvus::data::{Binlog, CompactionSegment, FieldBinlog};
use tokio_util::task::AbortOnDropHandle;

use super::job::{Job, PlanError};
use super::read::{blocking, timestamps};

/// Batches encoded and stored while the next one is gathered.
const BATCHES_IN_FLIGHT: usize = 2;

/// Ids that were handed out for a plan, each used once.
#[derive(Debug)]
pub(crate) struct Ids {
    what: &'static str,
    range: Range<i64>,
    next: i64,
}

impl Ids {
    pub fn new(what: &'static str, range: Range<i64>) -> Ids {
        Ids {
            what,
            next: range.start,
            range,
        }
    }

    /// `count` ids in a row; the first of them.
    pub fn take(&mut self, count: usize) -> Result<i64, PlanError> {
        let first = self.next;
        let end = first.checked_add(count as i64);
        match end.filter(|end| *end <= self.range.end) {
            Some(end) => {
                self.next = end;
                Ok(first)
            }
            None => Err(PlanError::OutOfIds {
                what: self.what,
                range: self.range.clone(),
            }),
        }
    }
}

/// Rows of all fields, in the order of [`group::all_fields`].
#[derive(Debug)]
struct Batch {
    columns: Vec<ColumnData>,
    bytes: usize,
}

impl Batch {
    fn rows(&self) -> usize {
        self.columns.first().map_or(0, ColumnData::len)
    }
}

/// A segment that is being written.
#[derive(Debug)]
struct Open {
    place: Place,
    rows: u64,
    /// Logs by field, in the order of [`group::all_fields`].
    logs: Vec<FieldBinlog>,
    stats: Option<PrimaryKeyStats>,
    timestamps: (u64, u64),
}

/// Logs of one group, stored.
pub(crate) struct Written {
    /// One for each field, in the order of [`group::all_fields`].
    pub logs: Vec<Binlog>,
    /// Of the primary key.
    pub stats: Option<PrimaryKeyStats>,
    /// Lowest and highest.
    pub timestamps: (u64, u64),
}

/// Writes the outputs of a plan.
pub(crate) struct Writer<'a> {
    store: &'a LogStore,
    job: &'a Job,
    /// Collection and partition of all outputs.
    place: Place,
    fields: Vec<i64>,
    segment_ids: Ids,
    log_ids: Ids,
    batch: Batch,
    open: Option<Open>,
    /// Batches on their way out, oldest first; they end with the writer.
    writing: VecDeque<AbortOnDropHandle<Result<Written, PlanError>>>,
    done: Vec<CompactionSegment>,
}

impl<'a> Writer<'a> {
    pub fn new(store: &'a LogStore, job: &'a Job) -> Result<Writer<'a>, PlanError> {
        let Some(input) = job.inputs.first() else {
            return Err(PlanError::Internal("a job without inputs".to_owned()));
        };
        Ok(Writer {
            store,
            job,
            place: input.place,
            fields: group::all_fields(&job.schema),
            segment_ids: Ids::new("segment", job.segment_ids.clone()),
            log_ids: Ids::new("log", job.log_ids.clone()),
            batch: empty(&job.schema),
            open: None,
            writing: VecDeque::new(),
            done: Vec::new(),
        })
    }

    /// Appends stretches of rows of a group.
    pub async fn push(
        &mut self,
        columns: &[ColumnData],
        stretches: &[Range<usize>],
    ) -> Result<(), PlanError> {
        let group_rows = columns.first().map_or(0, ColumnData::len).max(1);
        let group_bytes: usize = columns.iter().map(ColumnData::memory_size).sum();
        let row_bytes = (group_bytes / group_rows).max(1);
        for stretch in stretches {
            let mut at = stretch.start;
            while at < stretch.end {
                let room = self.room(row_bytes)?;
                let end = stretch.end.min(at.saturating_add(room));
                self.take(columns, at..end)?;
                at = end;
                let open_rows = self.open.as_ref().map_or(0, |open| open.rows);
                if open_rows >= self.job.max_rows {
                    self.close().await?;
                } else if self.batch.rows() >= BATCH_ROWS || self.batch.bytes >= BATCH_BYTES {
                    self.flush().await?;
                }
            }
        }
        Ok(())
    }

    /// Copies rows into the batch.
    fn take(&mut self, columns: &[ColumnData], rows: Range<usize>) -> Result<(), PlanError> {
        for (to, from) in self.batch.columns.iter_mut().zip(columns) {
            if !to.extend_from(from, rows.clone()) {
                return Err(PlanError::Internal(format!(
                    "a column of {} cannot take values of {}",
                    to.kind().name(),
                    from.kind().name()
                )));
            }
            self.batch.bytes += from.memory_size_of(rows.clone());
        }
        if let Some(open) = &mut self.open {
            open.rows += rows.len() as u64;
        }
        Ok(())
    }

    /// Closes the last segment. When no row was left there is one output without rows.
    pub async fn finish(mut self) -> Result<Vec<CompactionSegment>, PlanError> {
        self.close().await?;
        if self.done.is_empty() {
            let segment_id = self.segment_ids.take(1)?;
            self.done.push(CompactionSegment {
                plan_id: self.job.plan_id,
                segment_id,
                channel: self.job.channel.clone(),
                ..Default::default()
            });
        }
        Ok(self.done)
    }

    /// Rows that fit into batch and segment, at least one; opens a segment if there is none.
    fn room(&mut self, row_bytes: usize) -> Result<usize, PlanError> {
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open {
                place: Place {
                    segment: self.segment_ids.take(1)?,
                    ..self.place
                },
                rows: 0,
                logs: self.fields.iter().map(|id| field(*id)).collect(),
                stats: None,
                timestamps: (u64::MAX, 0),
            }),
        };
        let in_segment = usize::try_from(self.job.max_rows - open.rows).unwrap_or(usize::MAX);
        let by_rows = BATCH_ROWS.saturating_sub(self.batch.rows());
        let by_bytes = BATCH_BYTES
            .saturating_sub(self.batch.bytes)
            .div_ceil(row_bytes);
        Ok(in_segment.min(by_rows).min(by_bytes).max(1))
    }

    /// Sends the batch on its way, when there is room for it.
    async fn flush(&mut self) -> Result<(), PlanError> {
        self.settle(BATCHES_IN_FLIGHT - 1).await?;
        let Some(open) = &self.open else {
            return Ok(());
        };
        if self.batch.rows() == 0 {
            return Ok(());
        }
        let batch = std::mem::replace(&mut self.batch, empty(&self.job.schema));
        let first_id = self.log_ids.take(self.fields.len())?;
        let (store, place) = (self.store.clone(), open.place);
        let schema = Arc::clone(&self.job.schema);
        let write =
            async move { store_group(&store, place, &schema, batch.columns, first_id).await };
        self.writing
            .push_back(AbortOnDropHandle::new(tokio::spawn(write)));
        Ok(())
    }

    /// Waits until no more than `left` batches are on their way, and notes the logs of the others.
    async fn settle(&mut self, left: usize) -> Result<(), PlanError> {
        while self.writing.len() > left
            && let Some(write) = self.writing.pop_front()
        {
            let written = write
                .await
                .map_err(|error| PlanError::Internal(error.to_string()))??;
            let Some(open) = &mut self.open else { continue };
            for (field, log) in open.logs.iter_mut().zip(written.logs) {
                field.binlogs.push(log);
            }
            match (&mut open.stats, written.stats) {
                (Some(stats), Some(more)) => stats.merge(more),
                (stats @ None, more) => *stats = more,
                (Some(_), None) => {}
            }
            open.timestamps = (
                open.timestamps.0.min(written.timestamps.0),
                open.timestamps.1.max(written.timestamps.1),
            );
        }
        Ok(())
    }

    /// Completes the segment: last batch, statistics.
    async fn close(&mut self) -> Result<(), PlanError> {
        self.flush().await?;
        self.settle(0).await?;
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let mut statslogs = Vec::new();
        if let Some(key_stats) = open.stats {
            let key = self.job.schema.primary_key().id;
            let path = open.place.stats(key, self.log_ids.take(1)?);
            let log = stats::encode(path, &key_stats, open.timestamps)?;
            self.store.put(&log).await?;
            statslogs.push(FieldBinlog {
                field_id: key,
                binlogs: vec![log.to_binlog(self.store.root())],
            });
        }
        self.done.push(CompactionSegment {
            plan_id: self.job.plan_id,
            segment_id: open.place.segment,
            num_of_rows: open.rows as i64,
            insert_logs: open.logs,
            field2_statslog_paths: statslogs,
            channel: self.job.channel.clone(),
            ..Default::default()
        });
        Ok(())
    }
}

/// Encodes a group of rows and stores its logs, with ids from `first_id` on. The columns are those
/// of [`group::all_fields`].
pub(crate) async fn store_group(
    store: &LogStore,
    place: Place,
    schema: &Arc<Schema>,
    columns: Vec<ColumnData>,
    first_id: i64,
) -> Result<Written, PlanError> {
    let schema = Arc::clone(schema);
    let (logs, stats, range) = blocking(move || {
        let of_rows = columns.last().map_or(Ok(&[][..]), timestamps)?;
        let all = || of_rows.iter().map(|timestamp| *timestamp as u64);
        let range = (
            all().min().unwrap_or_default(),
            all().max().unwrap_or_default(),
        );
        let logs = group::all_fields(&schema)
            .into_iter()
            .zip(&columns)
            .zip(first_id..)
            .map(|((field, column), log_id)| {
                insert::encode(place.insert(field, log_id), column, range)
            })
            .collect::<Result<Vec<_>, BinlogError>>()?;
        let stats = PrimaryKeyStats::of(&columns[schema.primary_key_index()]);
        Ok((logs, stats, range))
    })
    .await?;
    futures::future::try_join_all(logs.iter().map(|log| store.put(log))).await?;
    Ok(Written {
        logs: logs.iter().map(|log| log.to_binlog(store.root())).collect(),
        stats,
        timestamps: range,
    })
}

fn empty(schema: &Schema) -> Batch {
    let user = schema.fields().iter().map(|field| field.kind);
    let kinds = user.chain([FieldType::Int64; 2]);
    Batch {
        columns: kinds.map(ColumnData::new).collect(),
        bytes: 0,
    }
}

fn field(field_id: i64) -> FieldBinlog {
    FieldBinlog {
        field_id,
        binlogs: Vec::new(),
    }
}
