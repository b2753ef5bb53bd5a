//! The Raft log behind openraft's log storage traits.
//!
//! Invariants: the log is contiguous from its first entry to its last; memory and queue
//! change together, so jobs are written in the order readers saw them; an entry missing
//! inside the log is an error.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, ControlFlow, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use bytes::Bytes;
use futures::{Stream, stream};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::codec::{
    START, Stored, after_entries, entry_key, index_of, key_after, put_committed, put_entry,
    put_purged, put_vote, stored_bytes,
};
use super::load::Opened;
use super::tail::{LogStats, Tail};
use super::writer::{Change, Done, Job, Writer, WriterMode};
use crate::Options;
use crate::codec::encode_entry;
use crate::engine::{Engine, Write};
use crate::types::{Entry, LogId, TypeConfig, Vote};
use crate::witness::Position;

/// Most jobs that wait for the writer.
const QUEUE_JOBS: usize = 4096;
/// The unit in which the queue's bytes are counted.
const SHARE_BYTES: usize = 1024;
/// Entries read from disk at once for a stream.
const STREAM_ENTRIES: u64 = 256;
/// Space is given back after this many purged entries.
const RECLAIM_ENTRIES: u64 = 1024;

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

pub(super) fn corrupt(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn gone<E>(_: E) -> io::Error {
    io::Error::other("the log's writer is gone; restart this member")
}

struct Shared {
    engine: Arc<dyn Engine>,
    tail: Arc<Mutex<Tail>>,
    queue: Option<mpsc::Sender<Job>>,
    queue_bytes: Arc<Semaphore>,
    queue_shares: u32,
    read_bytes: usize,
    thread: Option<JoinHandle<()>>,
    /// Where the range not yet given back begins.
    unreclaimed: Mutex<u64>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The writer ends once the queue is closed and written out.
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log's writer panicked");
        }
    }
}

/// Looks at the size of a log, for as long as that is open.
#[derive(Clone)]
pub struct LogMonitor(Weak<Shared>);

impl LogMonitor {
    fn tail<T>(&self, look: impl FnOnce(&Tail) -> T) -> Option<T> {
        let shared = self.0.upgrade()?;
        let tail = shared.tail.lock().unwrap_or_else(PoisonError::into_inner);
        Some(look(&tail))
    }

    /// How much the log holds; nothing once it is closed.
    pub fn stats(&self) -> Option<LogStats> {
        self.tail(Tail::stats)
    }

    /// The first index from which on the log holds at most `bytes`: the index after the last
    /// entry, if that one alone is larger. Nothing once the log is closed.
    pub fn index_within(&self, bytes: u64) -> Option<u64> {
        self.tail(|tail| tail.index_within(bytes))
    }
}

/// The Raft log of one member; a cheap handle that also reads.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
}

impl LogStore {
    /// Starts the writer of a log that was found whole. `applied` is what the state already holds.
    pub(crate) fn start(
        opened: Opened,
        mode: WriterMode,
        options: &Options,
        applied: Option<LogId>,
    ) -> io::Result<Self> {
        let (engine, witness, tail) = opened.go_on_after(applied)?;
        let unreclaimed = tail.first_index();
        let tail = Arc::new(Mutex::new(tail));
        let (sender, queue) = mpsc::channel(QUEUE_JOBS);
        let writer = Writer {
            engine: engine.clone(),
            tail: tail.clone(),
            witness,
            queue,
        };
        let shares = u32::try_from((options.log_queue_bytes / SHARE_BYTES).max(1))
            .unwrap_or(u32::MAX)
            .min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Ok(Self {
            shared: Arc::new(Shared {
                thread: writer.start(mode)?,
                engine,
                tail,
                queue: Some(sender),
                queue_bytes: Arc::new(Semaphore::new(shares as usize)),
                queue_shares: shares,
                read_bytes: options.log_read_bytes,
                unreclaimed: Mutex::new(unreclaimed),
            }),
        })
    }

    /// First and last log id held, as openraft sees them.
    pub fn state(&self) -> LogState<TypeConfig> {
        let tail = self.tail();
        LogState {
            last_purged_log_id: tail.purged.map(|purged| purged.log_id),
            last_log_id: tail.last().map(|last| last.log_id),
        }
    }

    /// How much the log holds.
    pub fn stats(&self) -> LogStats {
        self.tail().stats()
    }

    /// Looks at the log's size without keeping it open.
    pub fn monitor(&self) -> LogMonitor {
        LogMonitor(Arc::downgrade(&self.shared))
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.shared
            .tail
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes memory and queues the job that makes it durable, as one step. `bytes` is about what
    /// the job writes; `change` says what exactly.
    async fn submit(
        &self,
        bytes: usize,
        sync: bool,
        reclaim: Option<(Vec<u8>, Vec<u8>)>,
        done: Done,
        change: impl FnOnce(&mut Tail, u64) -> io::Result<(Vec<Write>, Change)>,
    ) -> io::Result<()> {
        self.tail().check()?;
        let shares = u32::try_from(bytes / SHARE_BYTES + 1)
            .unwrap_or(u32::MAX)
            .min(self.shared.queue_shares);
        let share = self
            .shared
            .queue_bytes
            .clone()
            .acquire_many_owned(shares)
            .await
            .map_err(gone)?;
        let queue = self.shared.queue.as_ref().ok_or_else(|| gone(()))?;
        let slot = queue.reserve().await.map_err(gone)?;
        let mut tail = self.tail();
        tail.check()?;
        let number = tail.next_job();
        let (writes, change) = change(&mut tail, number)?;
        slot.send(Job {
            number,
            writes,
            change,
            sync,
            reclaim,
            done,
            _share: Some(share),
        });
        Ok(())
    }

    /// Like [`submit`](Self::submit) of a few rows, synced, and waits until they are on disk.
    async fn submit_synced(
        &self,
        reclaim: Option<(Vec<u8>, Vec<u8>)>,
        change: impl FnOnce(&mut Tail) -> (Vec<Write>, Change),
    ) -> io::Result<()> {
        let (reply, wait) = oneshot::channel();
        self.submit(0, true, reclaim, Done::Reply(reply), |tail, _| {
            Ok(change(tail))
        })
        .await?;
        wait.await.map_err(gone)?
    }

    /// The entry at `index`, which the log must hold or have purged last.
    fn position(&self, index: u64) -> io::Result<Position> {
        if let Some(known) = self.tail().position(index) {
            return Ok(known);
        }
        let mut found = None;
        scan(
            &*self.shared.engine,
            index,
            index.saturating_add(1),
            |index, value| {
                found = Some(Stored::check(index, value)?.position()?);
                Ok(ControlFlow::Break(()))
            },
        )?;
        found.ok_or_else(|| corrupt(format!("log entry {index} is missing")))
    }

    /// The entries in `from..to` that the log holds; with `limit` at least one, and about
    /// that many bytes.
    fn read(&self, from: u64, to: u64, limit: Option<usize>) -> io::Result<Vec<Entry>> {
        loop {
            let (from, to, disk_end, before, cached, removals) = {
                let tail = self.tail();
                tail.check()?;
                let from = from.max(tail.first_index());
                let to = to.min(tail.end_index());
                if from >= to {
                    return Ok(Vec::new());
                }
                let disk_end = tail.cache_start().map_or(to, |start| start.clamp(from, to));
                let before = from
                    .checked_sub(1)
                    .and_then(|index| tail.position(index))
                    .map(|position| position.link);
                let cached = tail.cached(disk_end, to);
                (from, to, disk_end, before, cached, tail.removals)
            };
            let mut entries = Vec::new();
            let mut budget = limit;
            if from < disk_end {
                match self.read_disk(from, disk_end, before, cached.before, &mut budget) {
                    Ok(read) => entries = read,
                    // Entries went away meanwhile: look again. The count only grows with a
                    // truncate or a purge, so this ends.
                    Err(_) if self.tail().removals != removals => continue,
                    Err(error) => return Err(error),
                }
                let complete = from + entries.len() as u64 == disk_end;
                if !complete {
                    return Ok(entries);
                }
            }
            for entry in cached.entries {
                if !spend(&mut budget, stored_size(&entry)) && !entries.is_empty() {
                    break;
                }
                entries.push(entry);
            }
            debug_assert!(from + entries.len() as u64 <= to, "more entries than asked");
            return Ok(entries);
        }
    }

    /// Reads `from..to` off the disk, where the entry at `from` continues `before` and the one at
    /// `to` continues `after`, as far as that is known.
    fn read_disk(
        &self,
        from: u64,
        to: u64,
        before: Option<u32>,
        after: Option<u32>,
        budget: &mut Option<usize>,
    ) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut limited = false;
        let mut link = before;
        scan(&*self.shared.engine, from, to, |index, value| {
            let next = from + entries.len() as u64;
            if index != next {
                return Err(corrupt(format!("log entry {next} is missing")));
            }
            if !spend(budget, value.len()) && !entries.is_empty() {
                limited = true;
                return Ok(ControlFlow::Break(()));
            }
            let stored = Stored::check(index, value)?;
            if let Some(link) = link {
                stored.follows(link)?;
            }
            link = Some(stored.link);
            entries.push(stored.entry()?);
            Ok(ControlFlow::Continue(()))
        })?;
        let next = from + entries.len() as u64;
        if !limited && next != to {
            return Err(corrupt(format!("log entry {next} is missing")));
        }
        if next == to
            && let (Some(link), Some(after)) = (link, after)
            && link != after
        {
            return Err(corrupt(format!(
                "log entry {to} does not continue the entry before it"
            )));
        }
        Ok(entries)
    }
}

/// Takes `bytes` from the budget; false once it is used up.
fn spend(budget: &mut Option<usize>, bytes: usize) -> bool {
    match budget {
        None => true,
        Some(left) if *left >= bytes => {
            *left -= bytes;
            true
        }
        Some(left) => {
            *left = 0;
            false
        }
    }
}

fn stored_size(entry: &Entry) -> usize {
    match &entry.payload {
        crate::types::EntryPayload::Normal(payload) => payload.0.len() + 16,
        _ => 64,
    }
}

/// Calls `each` with index and value of every stored entry in `from..to`.
pub(super) fn scan(
    engine: &dyn Engine,
    from: u64,
    to: u64,
    mut each: impl FnMut(u64, &[u8]) -> io::Result<ControlFlow<()>>,
) -> io::Result<()> {
    let mut result = Ok(());
    engine.with_view(&mut |view| {
        let mut failed = None;
        let scanned = view.scan(
            &entry_key(from),
            &entry_key(to),
            &mut |key, value| match index_of(key).and_then(|index| each(index, value)) {
                Ok(flow) => flow,
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            },
        );
        result = match failed {
            Some(error) => Err(error),
            None => scanned,
        };
    })?;
    result
}

pub(super) fn purge_writes(from: u64, upto: &Position) -> Vec<Write> {
    vec![
        Write::DeleteRange {
            from: entry_key(from),
            to: key_after(upto.log_id.index),
        },
        put_purged(upto),
    ]
}

/// `range` as `from..to`.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (from, to) = bounds(&range);
        self.read(from, to, None)
    }

    /// What is purged already is answered with the first entries there are: the sender notices the
    /// gap. Nothing at all would count as "nothing to send", and a replication that openraft has
    /// given up would ask for it for ever, with its successor's work waiting behind it (found by
    /// the simulation).
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let from = start.max(self.tail().first_index());
        let to = end.saturating_add(from - start);
        self.read(from, to, Some(self.shared.read_bytes))
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(&range);
        let start = (self.clone(), from, VecDeque::new());
        stream::try_unfold(start, move |(log, next, mut ready)| async move {
            if ready.is_empty() {
                let end = to.min(next.saturating_add(STREAM_ENTRIES));
                ready.extend(log.read(next, end, Some(log.shared.read_bytes))?);
            }
            Ok(ready.pop_front().map(|entry: Entry| {
                let next = entry.log_id.index.saturating_add(1);
                (entry, (log, next, ready))
            }))
        })
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let tail = self.tail();
        tail.check()?;
        Ok(tail.vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.tail().check()?;
        Ok(self.state())
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = *vote;
        self.submit_synced(None, move |tail| {
            tail.vote = Some(vote);
            (vec![put_vote(&vote)], Change::Vote(vote))
        })
        .await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.submit(0, false, None, Done::Nobody, |tail, _| {
            tail.committed = committed;
            Ok((vec![put_committed(committed)], Change::Nothing))
        })
        .await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let tail = self.tail();
        tail.check()?;
        Ok(tail.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<(Entry, Bytes)> = entries
            .into_iter()
            .map(|entry| {
                let body = encode_entry(&entry);
                (entry, body)
            })
            .collect();
        let bytes = entries
            .iter()
            .map(|(_, body)| stored_bytes(body.len()))
            .sum();
        self.submit(bytes, true, None, Done::Flushed(callback), |tail, job| {
            let mut next = tail.last().map(|last| last.log_id.index.saturating_add(1));
            for (entry, _) in &entries {
                let index = entry.log_id.index;
                if next.is_some_and(|next| next != index) {
                    return Err(invalid(format!(
                        "entry {index} would leave a hole in the log, which ends before {next:?}"
                    )));
                }
                next = index.checked_add(1);
            }
            let mut writes = Vec::with_capacity(entries.len());
            for (entry, body) in entries {
                let (write, link) = put_entry(entry.log_id.index, tail.link(), &body);
                writes.push(write);
                tail.push(entry, link, stored_bytes(body.len()), job);
            }
            let change = tail.last().map_or(Change::Nothing, Change::Append);
            Ok((writes, change))
        })
        .await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let (first, end, purged) = {
            let tail = self.tail();
            (tail.first_index(), tail.end_index(), tail.purged)
        };
        let from = last_log_id.map_or(0, |id| id.index.saturating_add(1));
        if from >= end {
            return Ok(());
        }
        let last = if from > first {
            Some(self.position(from - 1)?)
        } else {
            purged
        };
        let held = last.map(|last| last.log_id);
        if last_log_id.is_some() && held != last_log_id {
            return Err(invalid(format!(
                "cannot truncate after {last_log_id:?}: the log holds {held:?} there"
            )));
        }
        let from = from.max(first);
        let reclaim = (end - from >= RECLAIM_ENTRIES).then(|| (entry_key(from), entry_key(end)));
        self.submit_synced(reclaim, move |tail| {
            tail.truncate(last);
            let write = Write::DeleteRange {
                from: entry_key(from),
                to: after_entries(),
            };
            (vec![write], Change::Truncate(last))
        })
        .await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let (first, end) = {
            let tail = self.tail();
            if tail
                .purged
                .is_some_and(|purged| purged.log_id.index >= log_id.index)
            {
                return Ok(());
            }
            (tail.first_index(), tail.end_index())
        };
        let upto = if (first..end).contains(&log_id.index) {
            self.position(log_id.index)?
        } else {
            // Behind an installed snapshot the chain starts anew.
            Position {
                log_id,
                link: START,
            }
        };
        if upto.log_id != log_id {
            return Err(invalid(format!(
                "cannot purge up to {log_id}: the log holds {} there",
                upto.log_id
            )));
        }
        let reclaim = {
            let mut unreclaimed = self
                .shared
                .unreclaimed
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let from = *unreclaimed;
            (log_id.index.saturating_sub(from) >= RECLAIM_ENTRIES).then(|| {
                *unreclaimed = log_id.index;
                (entry_key(0), key_after(log_id.index))
            })
        };
        self.submit_synced(reclaim, move |tail| {
            tail.purge(upto);
            (purge_writes(first, &upto), Change::Purge(upto))
        })
        .await
    }
}
