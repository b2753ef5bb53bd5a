//! The one writer of the log: takes all that waits, writes it as one batch with at most
//! one fsync, has the witness remember it with a second, then tells everyone who waited.
//!
//! Invariants: jobs are written in the order they were queued; nobody is told before log and
//! witness have it (in the order `witness` gives the reasons for); after a failed write or fsync
//! nothing is written ever again.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::codec::put_group;
use super::tail::Tail;
use crate::engine::{Engine, Write};
use crate::types::{TypeConfig, Vote};
use crate::witness::{Position, Testimony, Witness};

/// A group stops growing beyond this.
const GROUP_BYTES: usize = 8 << 20;
/// Most jobs in a group.
const GROUP_JOBS: usize = 1024;

/// Where the writer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterMode {
    /// A thread of its own, for production.
    Thread,
    /// A task of the calling tokio runtime that pretends a sync takes `sync_latency`.
    Task {
        /// How long each sync takes, in tokio's time.
        sync_latency: Duration,
    },
}

/// Who waits for a job.
pub(super) enum Done {
    Nobody,
    Flushed(IOFlushed<TypeConfig>),
    Reply(oneshot::Sender<io::Result<()>>),
}

impl Done {
    fn tell(self, result: io::Result<()>) {
        match self {
            Done::Nobody => {}
            Done::Flushed(callback) => callback.io_completed(result),
            // Whoever asked may have given up.
            Done::Reply(reply) => drop(reply.send(result)),
        }
    }
}

/// What a job does to what the witness remembers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Nothing,
    Append(Position),
    Truncate(Option<Position>),
    Purge(Position),
    Vote(Vote),
}

/// One piece of work.
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) writes: Vec<Write>,
    pub(super) change: Change,
    /// Whether to sync; a job that changes anything must.
    pub(super) sync: bool,
    /// A deleted range whose space is to be given back.
    pub(super) reclaim: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) done: Done,
    /// The job's share of the queue's bytes.
    pub(super) _share: Option<OwnedSemaphorePermit>,
}

impl Job {
    fn size_bytes(&self) -> usize {
        self.writes.iter().map(Write::size_bytes).sum()
    }
}

pub(super) struct Writer {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) tail: Arc<Mutex<Tail>>,
    pub(super) witness: Witness,
    pub(super) queue: mpsc::Receiver<Job>,
}

/// A group on its way to the disk.
struct Group {
    jobs: Vec<Job>,
    /// What the witness has to say once the log has it; nothing for a group that is not synced.
    after: Option<Testimony>,
}

fn index_of(position: &Option<Position>) -> Option<u64> {
    position.map(|position| position.log_id.index)
}

/// What to remember before a group of `changes` is written to the log (if anything), and after.
fn testimonies(
    held: &Testimony,
    changes: impl Iterator<Item = Change>,
) -> (Option<Testimony>, Testimony) {
    let mut after = *held;
    let mut lowest = held.last;
    for change in changes {
        match change {
            Change::Nothing => {}
            Change::Append(last) => after.last = Some(last),
            Change::Truncate(last) => {
                after.last = last;
                if index_of(&last) < index_of(&lowest) {
                    lowest = last;
                }
            }
            Change::Purge(upto) => {
                if index_of(&after.last) < Some(upto.log_id.index) {
                    after.last = Some(upto);
                }
            }
            Change::Vote(vote) => after.vote = Some(vote),
        }
    }
    after.group += 1;
    let before = (lowest != held.last).then_some(Testimony {
        last: lowest,
        ..*held
    });
    (before, after)
}

impl Writer {
    /// Starts the writer; it ends when the queue's other side is gone and all is written.
    pub(super) fn start(self, mode: WriterMode) -> io::Result<Option<JoinHandle<()>>> {
        match mode {
            WriterMode::Thread => thread::Builder::new()
                .name("raft-log".into())
                .spawn(move || self.run())
                .map(Some),
            WriterMode::Task { sync_latency } => {
                let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
                runtime.spawn(self.run_as_task(sync_latency));
                Ok(None)
            }
        }
    }

    fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            let jobs = self.gather(first);
            metrics::histogram!("quorate_raft_log_group_jobs").record(jobs.len() as f64);
            let started = Instant::now();
            let (group, mut written) = self.write(jobs);
            metrics::histogram!("quorate_raft_log_write_seconds").record(started.elapsed());
            if written.is_ok() && group.after.is_some() {
                let started = Instant::now();
                written = self.witness(&group);
                metrics::histogram!("quorate_raft_log_witness_seconds").record(started.elapsed());
            }
            self.finish(group, written);
        }
    }

    async fn run_as_task(mut self, sync_latency: Duration) {
        while let Some(first) = self.queue.recv().await {
            let jobs = self.gather(first);
            // Two syncs, half the time each, so that a crash may come between them.
            let wait = if jobs.iter().any(|job| job.sync) {
                sync_latency / 2
            } else {
                Duration::ZERO
            };
            pause(wait).await;
            let (group, mut written) = self.write(jobs);
            if written.is_ok() {
                pause(wait).await;
                written = self.witness(&group);
            }
            self.finish(group, written);
        }
    }

    fn gather(&mut self, first: Job) -> Vec<Job> {
        let mut bytes = first.size_bytes();
        let mut group = vec![first];
        while bytes < GROUP_BYTES && group.len() < GROUP_JOBS {
            let Ok(job) = self.queue.try_recv() else {
                break;
            };
            bytes += job.size_bytes();
            group.push(job);
        }
        group
    }

    /// Writes a group to the log.
    fn write(&mut self, mut jobs: Vec<Job>) -> (Group, io::Result<()>) {
        let sync = jobs.iter().any(|job| job.sync);
        let mut batch: Vec<Write> = jobs
            .iter_mut()
            .flat_map(|job| std::mem::take(&mut job.writes))
            .collect();
        let mut group = Group { jobs, after: None };
        let sound = self.hold().check();
        let written = sound.and_then(|()| {
            if sync {
                let changes = group.jobs.iter().map(|job| job.change);
                let (before, after) = testimonies(self.witness.testimony(), changes);
                if let Some(before) = before {
                    self.witness.record(before)?;
                }
                batch.push(put_group(after.group));
                group.after = Some(after);
            }
            self.engine.write(batch, sync)
        });
        (group, written)
    }

    /// Has the witness remember a group that the log has.
    fn witness(&mut self, group: &Group) -> io::Result<()> {
        match group.after {
            Some(after) => self.witness.record(after),
            None => Ok(()),
        }
    }

    /// Tells everyone who waits for the group.
    fn finish(&self, group: Group, result: io::Result<()>) {
        match &result {
            Ok(()) => {
                if let Some(last) = group.jobs.last() {
                    self.hold().written(last.number);
                }
            }
            Err(error) => {
                if self.hold().poison(error) {
                    tracing::error!(%error, "a log write failed; nothing more is written");
                }
            }
        }
        for job in group.jobs {
            match &result {
                Ok(()) => {
                    if let Some((from, to)) = job.reclaim {
                        self.engine.reclaim(from, to);
                    }
                    job.done.tell(Ok(()));
                }
                Err(error) => job
                    .done
                    .tell(Err(io::Error::new(error.kind(), error.to_string()))),
            }
        }
    }

    fn hold(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
