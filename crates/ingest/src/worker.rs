//! One channel's rows on their way to the channel's owner, in order.
//!
//! Invariants:
//! - A batch is sent only after the one before it was taken, so a channel's rows arrive in order.
//! - What must be sent is decided by what the coordinator says is stored, never by what a node
//!   once accepted: an owner that dies takes the rows it held in memory with it.
//! - A batch carries a timestamp below the expiry of each of its grants.

mod batch;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use quorate_binlog::RowSet;
use tokio::time::Instant;

use crate::coordinator::{Coordinator, Owner, is_final_error};
use crate::error::IngestError;
use crate::owner::{Denied, OwnerConnection};
use crate::pace::{Backoff, Pace, Patience};
use crate::plan::Plan;
use crate::progress::Tracker;
use crate::source::BlockReader;
use batch::{Batch, NoTicket, Ordinals, Ticket};

/// How long storing what a node has taken may take, unless the stall timeout is shorter.
const SYNC_DEADLINE: Duration = Duration::from_secs(60);
/// How long a ticket is waited for while the batch before is under way.
const TICKET_AHEAD_DEADLINE: Duration = Duration::from_millis(500);

/// What the workers of an ingest share.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) coordinator: Coordinator,
    pub(crate) collection_id: i64,
    pub(crate) partition_id: i64,
    pub(crate) stream: Vec<u8>,
    pub(crate) plan: Plan,
    pub(crate) blocks: BlockReader,
    pub(crate) field_ids: Vec<i64>,
    pub(crate) batch_rows: u32,
    pub(crate) pace: Pace,
    pub(crate) tracker: Tracker,
    pub(crate) stall_timeout: Duration,
}

/// How the rows of one channel fared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelReport {
    /// The channel.
    pub channel: String,
    /// Rows of the file that belong to it, all stored now.
    pub rows: u64,
    /// Rows that were stored before this run.
    pub rows_already_stored: u64,
    /// Rows that were accepted once more.
    pub rows_sent_again: u64,
    /// How often it was seen to get another owner.
    pub owner_changes: u64,
    /// Its last owner, when one was needed: node id and address.
    pub owner: Option<(i64, String)>,
}

/// Why the owner of a channel is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Something failed: it may be somebody else now.
    Failure,
    /// All was taken and stored: is it all?
    Synced,
}

pub(crate) struct Worker {
    job: Arc<Job>,
    index: usize,
    channel: String,
    total: u64,
    /// Rows the coordinator says are stored.
    stored: RowSet,
    /// Rows that were taken or are stored.
    known: RowSet,
    /// Ordinals yet to be read from the file.
    missing: VecDeque<(u64, u64)>,
    /// Batches read: the one to send now, and at most one more.
    pending: VecDeque<Batch>,
    connection: Option<OwnerConnection>,
    patience: Patience,
    backoff: Backoff,
    /// When the last batch was taken, or when rows began to wait.
    waiting_since: Instant,
    /// Since when what is taken does not get stored.
    futile_since: Option<Instant>,
    /// Why the last attempt failed.
    last: String,
    report: ChannelReport,
}

impl Worker {
    pub(crate) fn new(job: Arc<Job>, index: usize, channel: String) -> Worker {
        let total = job.plan.rows_of(index);
        Worker {
            index,
            total,
            stored: RowSet::new(),
            known: RowSet::new(),
            missing: VecDeque::new(),
            pending: VecDeque::new(),
            connection: None,
            patience: Patience::new(job.stall_timeout),
            backoff: Backoff::new(),
            waiting_since: Instant::now(),
            futile_since: None,
            last: String::new(),
            report: ChannelReport {
                channel: channel.clone(),
                rows: total,
                rows_already_stored: 0,
                rows_sent_again: 0,
                owner_changes: 0,
                owner: None,
            },
            channel,
            job,
        }
    }

    /// Works until every row of the channel is stored.
    pub(crate) async fn run(mut self) -> Result<ChannelReport, IngestError> {
        if self.total > 0 {
            self.look_up(Look::Failure, true).await?;
        }
        self.waiting_since = Instant::now();
        while !self.is_complete() {
            if self.pending.is_empty() && self.missing.is_empty() {
                self.sync().await?;
            } else {
                self.send().await?;
            }
        }
        self.report.owner = self
            .connection
            .map(|connection| (connection.owner.node_id, connection.owner.address));
        Ok(self.report)
    }

    fn is_complete(&self) -> bool {
        self.stored.contains_all(&self.job.stream, 0, self.total)
    }

    /// Asks what is stored and who owns the channel, until everything is stored or somebody owns
    /// it. A new owner is sent everything that is not stored.
    async fn look_up(&mut self, why: Look, first: bool) -> Result<(), IngestError> {
        loop {
            let deadline = self.patience.left();
            let answer = self
                .job
                .coordinator
                .coverage(deadline, &self.channel, &self.job.stream)
                .await;
            self.job.tracker.leader(self.job.coordinator.leader());
            match answer {
                Ok(coverage) => {
                    self.take_stored(coverage.stored, first);
                    if self.is_complete() {
                        self.missing.clear();
                        self.pending.clear();
                        return Ok(());
                    }
                    match coverage.owner {
                        Some(owner) => return self.take_owner(owner, why),
                        None => self.last = "nobody owns the channel".into(),
                    }
                }
                Err(error) if is_final_error(&error) => {
                    return Err(self.refused("the coordinator", "look it up", error.to_string()));
                }
                // Cut short by our own patience: what was heard before says more.
                Err(_) if self.patience.is_over() && !self.last.is_empty() => {}
                Err(error) => self.last = error.to_string(),
            }
            self.check_patience()?;
            self.backoff.pause().await;
        }
    }

    fn take_stored(&mut self, stored: RowSet, first: bool) {
        let stream = &self.job.stream;
        // Rows beyond the end of the file are none of this file; its hash says there are none.
        let mut within = RowSet::new();
        for (from, to) in stored.ranges(stream) {
            within.insert(stream, from.min(self.total), to.min(self.total));
        }
        if within.len() > self.stored.len() {
            self.patience.renew();
            self.futile_since = None;
        }
        let rows = within.len();
        let found = self.known.union(&within);
        self.stored = within;
        if first {
            self.report.rows_already_stored = rows;
            self.job.tracker.already_stored(rows);
        } else if found > 0 {
            // Taken without an answer: by somebody who stored them nevertheless.
            self.job.tracker.accepted(found, 0);
        }
        self.job.tracker.durable(self.index, rows);
    }

    fn take_owner(&mut self, owner: Owner, why: Look) -> Result<(), IngestError> {
        let same = self
            .connection
            .as_ref()
            .is_some_and(|connection| connection.owner == owner);
        if same && why == Look::Failure {
            return Ok(());
        }
        if !same {
            if self.connection.is_some() {
                tracing::info!(channel = %self.channel, %owner, "the channel has another owner");
                self.report.owner_changes += 1;
                self.job.tracker.owner_changed();
            }
            self.connection = match OwnerConnection::new(owner) {
                Ok(connection) => Some(connection),
                Err(Denied::Lost(reason)) => {
                    return Err(self.refused("the owner's address", "be used", reason));
                }
                Err(_) => None,
            };
            self.backoff.reset();
        }
        let was_waiting = !(self.pending.is_empty() && self.missing.is_empty());
        self.pending.clear();
        self.missing = self.stored.missing(&self.job.stream, 0, self.total).into();
        if !was_waiting {
            self.waiting_since = Instant::now();
        }
        Ok(())
    }

    /// Sends the next batch once, and reads the one after it meanwhile.
    async fn send(&mut self) -> Result<(), IngestError> {
        if self.pending.is_empty() {
            let ordinals = batch::take_ordinals(&mut self.missing, self.job.batch_rows);
            let (batch, rest) = batch::read(Arc::clone(&self.job), self.index, ordinals).await?;
            self.put_back(rest);
            self.pending.push_back(batch);
        }
        let (rows, ticket) = {
            let batch = &mut self.pending[0];
            if !batch.paced {
                let waited = self.job.pace.wait(batch.rows).await;
                batch.paced = true;
                self.patience.forgive(waited);
                self.waiting_since += waited;
            }
            (batch.rows, batch.ticket.take())
        };
        let ticket = match ticket {
            Some(ticket) => ticket,
            None => self.ticket(rows).await?,
        };
        let Some(connection) = self.connection.clone() else {
            return self.look_up(Look::Failure, false).await;
        };

        let batch = &self.pending[0];
        let request = batch.request(&self.job, &self.channel, connection.owner.epoch, ticket);
        let again: u64 = batch
            .ordinals
            .iter()
            .map(|(from, to)| to - from - self.unknown_rows(*from, *to))
            .sum();
        let first = u64::from(rows) - again;
        let next = match self.pending.len() {
            1 => batch::take_ordinals(&mut self.missing, self.job.batch_rows),
            _ => Vec::new(),
        };
        let job = &*self.job;
        let insert = async {
            job.tracker.sent(request.encoded_len() as u64);
            let answer = connection.insert(request).await;
            // What the node skips it has: that was not lost. Counted at once, not when the batch
            // read meanwhile is ready: others watch the progress.
            let answer = answer.map(|taken| again.min(taken.accepted_rows));
            if let Ok(again) = answer {
                job.tracker.accepted(first, again);
            }
            (answer, Instant::now())
        };
        let ahead = read_ahead(Arc::clone(&self.job), self.index, &self.channel, next);
        let ((answer, answered), ahead) = tokio::join!(insert, ahead);
        if let Some((batch, rest)) = ahead? {
            self.put_back(rest);
            self.pending.push_back(batch);
        }
        self.job
            .tracker
            .gap(answered.saturating_duration_since(self.waiting_since));
        match answer {
            Ok(again) => {
                self.report.rows_sent_again += again;
                if let Some(batch) = self.pending.pop_front() {
                    for (from, to) in batch.ordinals {
                        self.known.insert(&self.job.stream, from, to);
                    }
                }
                self.waiting_since = answered;
                self.patience.renew();
                self.backoff.reset();
                Ok(())
            }
            Err(denied) => self.insert_denied(denied).await,
        }
    }

    async fn insert_denied(&mut self, denied: Denied) -> Result<(), IngestError> {
        tracing::debug!(channel = %self.channel, ?denied, "a batch was not taken");
        // Tickets of later batches are older than the new one of this batch would be.
        for batch in &mut self.pending {
            batch.ticket = None;
        }
        match denied {
            Denied::Refused(message) => {
                let by = self.owner();
                Err(self.refused(&by, "take rows", message))
            }
            Denied::Late(message) | Denied::Busy(message) => {
                self.last = message;
                self.check_patience()?;
                self.backoff.pause().await;
                Ok(())
            }
            Denied::Lost(message) => {
                self.last = message;
                self.check_patience()?;
                self.backoff.pause().await;
                self.look_up(Look::Failure, false).await
            }
        }
    }

    /// Has the owner store what it took, and looks whether that is all.
    async fn sync(&mut self) -> Result<(), IngestError> {
        let Some(connection) = self.connection.clone() else {
            return self.look_up(Look::Failure, false).await;
        };
        let deadline = SYNC_DEADLINE.min(self.patience.left());
        match connection.sync(&self.channel, deadline).await {
            Ok(_) => {
                self.look_up(Look::Synced, false).await?;
                if self.is_complete() {
                    return Ok(());
                }
                self.last = "rows that were taken and synced are not stored".into();
                let since = *self.futile_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= self.job.stall_timeout {
                    return Err(self.stalled(since.elapsed()));
                }
                self.backoff.pause().await;
                Ok(())
            }
            Err(Denied::Refused(message)) => {
                let by = self.owner();
                Err(self.refused(&by, "sync", message))
            }
            Err(Denied::Late(message) | Denied::Busy(message) | Denied::Lost(message)) => {
                self.last = message;
                self.check_patience()?;
                self.backoff.pause().await;
                self.look_up(Look::Failure, false).await
            }
        }
    }

    /// Segments and a timestamp for a batch. While the coordinator is away, this waits.
    async fn ticket(&mut self, rows: u32) -> Result<Ticket, IngestError> {
        loop {
            let deadline = self.patience.left();
            match batch::ticket(&self.job, &self.channel, rows, deadline).await {
                Ok(ticket) => return Ok(ticket),
                Err(NoTicket::Never(message)) => {
                    return Err(self.refused("the coordinator", "grant segments", message));
                }
                Err(NoTicket::NotNow(message)) => self.last = message,
            }
            self.job.tracker.gap(self.waiting_since.elapsed());
            self.check_patience()?;
            self.backoff.pause().await;
        }
    }

    /// Rows of `[from, to)` that nobody took yet.
    fn unknown_rows(&self, from: u64, to: u64) -> u64 {
        let unknown = self.known.missing(&self.job.stream, from, to);
        unknown.into_iter().map(|(from, to)| to - from).sum()
    }

    fn put_back(&mut self, ordinals: Ordinals) {
        for range in ordinals.into_iter().rev() {
            self.missing.push_front(range);
        }
    }

    fn check_patience(&self) -> Result<(), IngestError> {
        if self.patience.is_over() {
            return Err(self.stalled(self.patience.waited()));
        }
        Ok(())
    }

    fn owner(&self) -> String {
        match &self.connection {
            Some(connection) => connection.owner.to_string(),
            None => "unknown".into(),
        }
    }

    fn stalled(&self, waited: Duration) -> IngestError {
        let stream = &self.job.stream;
        IngestError::Stalled {
            channel: self.channel.clone(),
            waited,
            missing: self.total - self.stored.len(),
            total: self.total,
            first_missing: self.stored.first_missing(stream, self.total).unwrap_or(0),
            owner: self.owner(),
            last: self.last.clone(),
        }
    }

    fn refused(&self, by: &str, action: &'static str, message: String) -> IngestError {
        IngestError::Refused {
            channel: self.channel.clone(),
            by: by.to_owned(),
            action,
            message,
        }
    }
}

/// Reads the next batch, with its ticket unless the rate limit would let it grow old.
async fn read_ahead(
    job: Arc<Job>,
    index: usize,
    channel: &str,
    ordinals: Ordinals,
) -> Result<Option<(Batch, Ordinals)>, IngestError> {
    if ordinals.is_empty() {
        return Ok(None);
    }
    let (mut batch, rest) = batch::read(Arc::clone(&job), index, ordinals).await?;
    if !job.pace.is_limited() {
        batch.ticket = batch::ticket(&job, channel, batch.rows, TICKET_AHEAD_DEADLINE)
            .await
            .ok();
    }
    Ok(Some((batch, rest)))
}
