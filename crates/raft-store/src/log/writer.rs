//! The one writer of the log: takes all that waits, writes it as one batch with at most
//! one fsync, then tells everyone who waited for it.
//!
//! Invariants: jobs are written in the order they were queued; nobody is told before the
//! disk has it; after a failed write or fsync nothing is written ever again.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::tail::Tail;
use crate::engine::{Engine, Write};
use crate::types::TypeConfig;

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

/// One piece of work.
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) writes: Vec<Write>,
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
    pub(super) queue: mpsc::Receiver<Job>,
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
            let group = self.gather(first);
            metrics::histogram!("quorate_raft_log_group_jobs").record(group.len() as f64);
            let started = Instant::now();
            self.commit(group);
            metrics::histogram!("quorate_raft_log_write_seconds").record(started.elapsed());
        }
    }

    async fn run_as_task(mut self, sync_latency: Duration) {
        while let Some(first) = self.queue.recv().await {
            let group = self.gather(first);
            if group.iter().any(|job| job.sync) && !sync_latency.is_zero() {
                tokio::time::sleep(sync_latency).await;
            }
            self.commit(group);
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

    fn commit(&self, mut group: Vec<Job>) {
        let result = self.write(&mut group);
        for job in group {
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

    fn write(&self, group: &mut [Job]) -> io::Result<()> {
        let lock = || self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        lock().check()?;
        let sync = group.iter().any(|job| job.sync);
        let batch = group
            .iter_mut()
            .flat_map(|job| std::mem::take(&mut job.writes))
            .collect();
        if let Err(error) = self.engine.write(batch, sync) {
            tracing::error!(%error, "a log write failed; nothing more is written");
            lock().poison(error.to_string());
            return Err(error);
        }
        if let Some(last) = group.last() {
            lock().written(last.number);
        }
        Ok(())
    }
}
