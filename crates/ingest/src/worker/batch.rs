//! Batches of a channel's rows, and the ticket each needs: segments and a timestamp.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use quorate_rpc::proto::quorate::node::{Column, Grant, InsertRequest, RowBatch};
use quorate_rpc::proto::quorate::row::RowRange;

use super::Job;
use crate::coordinator::{AssignError, is_final_error};
use crate::error::IngestError;

/// Most bytes of values in one batch, unless a single row is bigger.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// Ranges of ordinals, from and to, in order.
pub(super) type Ordinals = Vec<(u64, u64)>;

/// Rows of a channel, read and ready to send.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) ordinals: Ordinals,
    pub(super) rows: u32,
    columns: Vec<Column>,
    /// Taken while the batch before was under way.
    pub(super) ticket: Option<Ticket>,
    /// Whether it has waited for its turn under the rate limit.
    pub(super) paced: bool,
}

/// What makes rows acceptable: segments granted for them, and a timestamp below their expiry.
#[derive(Debug)]
pub(super) struct Ticket {
    grants: Vec<Grant>,
    timestamp: u64,
}

/// Why there is no ticket.
#[derive(Debug)]
pub(super) enum NoTicket {
    /// Asking again may help.
    NotNow(String),
    /// Asking again cannot help.
    Never(String),
}

impl Batch {
    pub(super) fn request(
        &self,
        job: &Job,
        channel: &str,
        epoch: i64,
        ticket: Ticket,
    ) -> InsertRequest {
        let ordinals = self.ordinals.iter().map(|(from, to)| RowRange {
            stream: job.stream.clone(),
            from: *from,
            to: *to,
        });
        InsertRequest {
            collection_id: job.collection_id,
            channel: channel.to_owned(),
            assignment_epoch: epoch,
            timestamp: ticket.timestamp,
            batches: vec![RowBatch {
                partition_id: job.partition_id,
                rows: self.rows,
                columns: self.columns.clone(),
                ordinals: ordinals.collect(),
                grants: ticket.grants,
            }],
        }
    }
}

/// Takes the first `rows` ordinals out of what is missing.
pub(super) fn take_ordinals(missing: &mut VecDeque<(u64, u64)>, rows: u32) -> Ordinals {
    let mut left = u64::from(rows);
    let mut taken = Vec::new();
    while left > 0 {
        let Some((from, to)) = missing.pop_front() else {
            break;
        };
        let end = to.min(from.saturating_add(left));
        left -= end - from;
        taken.push((from, end));
        if end < to {
            missing.push_front((end, to));
        }
    }
    taken
}

/// Splits ordinals after so many rows.
fn split(ordinals: Ordinals, rows: u32) -> (Ordinals, Ordinals) {
    let mut rest = VecDeque::from(ordinals);
    let taken = take_ordinals(&mut rest, rows);
    (taken, rest.into())
}

/// Reads rows from the file: a batch of the first of them, and the ordinals that did not fit.
pub(super) async fn read(
    job: Arc<Job>,
    index: usize,
    ordinals: Ordinals,
) -> Result<(Batch, Ordinals), IngestError> {
    let work = move || -> Result<_, IngestError> {
        let mut rows = Vec::new();
        for (from, to) in &ordinals {
            job.plan.locate(index, *from..*to, &mut rows);
        }
        let (taken, columns) = job.blocks.read(&rows, BATCH_BYTES_MAX)?;
        let columns = columns
            .iter()
            .zip(&job.field_ids)
            .map(|(column, id)| column.to_proto(*id))
            .collect();
        let rows = u32::try_from(taken)
            .map_err(|_| IngestError::Internal(format!("a batch of {taken} rows")))?;
        let (ordinals, rest) = split(ordinals, rows);
        let batch = Batch {
            ordinals,
            rows,
            columns,
            ticket: None,
            paced: false,
        };
        Ok((batch, rest))
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| IngestError::Internal(format!("reading rows failed: {error}")))?
}

/// Gets segments for some rows and then a timestamp.
pub(super) async fn ticket(
    job: &Job,
    channel: &str,
    rows: u32,
    deadline: Duration,
) -> Result<Ticket, NoTicket> {
    let by_error = |error: quorate_rpc::ClientError| match is_final_error(&error) {
        true => NoTicket::Never(error.to_string()),
        false => NoTicket::NotNow(error.to_string()),
    };
    let started = tokio::time::Instant::now();
    let coordinator = &job.coordinator;
    let grants = coordinator
        .assign(deadline, job.collection_id, job.partition_id, channel, rows)
        .await
        .map_err(|error| match error {
            AssignError::Call(error) => by_error(error),
            AssignError::Item {
                fatal: true,
                message,
            } => NoTicket::Never(message),
            AssignError::Item { message, .. } => NoTicket::NotNow(message),
        })?;
    let left = deadline.saturating_sub(started.elapsed());
    let timestamp = coordinator.timestamp(left).await.map_err(by_error)?;
    if grants.iter().any(|grant| grant.expire_ts <= timestamp) {
        return Err(NoTicket::NotNow(
            "the segments granted had expired before they could be used".into(),
        ));
    }
    Ok(Ticket { grants, timestamp })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_are_taken_in_order_across_gaps() {
        let mut missing = VecDeque::from([(0, 3), (10, 12), (20, 100)]);
        assert_eq!(take_ordinals(&mut missing, 4), [(0, 3), (10, 11)]);
        assert_eq!(take_ordinals(&mut missing, 10), [(11, 12), (20, 29)]);
        assert_eq!(missing, [(29, 100)]);
        assert_eq!(
            split(vec![(0, 2), (5, 9)], 3),
            (vec![(0, 2), (5, 6)], vec![(6, 9)])
        );
        missing.clear();
        assert!(take_ordinals(&mut missing, 4).is_empty());
    }
}
