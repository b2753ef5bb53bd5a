//! The Raft log behind openraft's log storage traits.
//!
//! Invariants: the log is contiguous from its first entry to its last; memory and queue
//! change together, so jobs are written in the order readers saw them; an entry missing
//! inside the log is an error.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, ControlFlow, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use futures::{Stream, stream};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::codec::{
    COMMITTED, PURGED, VOTE, after_entries, entry_key, get_entry, index_of, key_after, put_entry,
};
use super::tail::Tail;
use super::writer::{Done, Job, Writer, WriterMode};
use crate::Options;
use crate::codec::{decode_log_id, decode_vote, encode_log_id, encode_vote};
use crate::engine::{Engine, Write};
use crate::types::{Entry, LogId, TypeConfig, Vote};

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

fn corrupt(what: String) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{what}; this member must not go on, rejoin it as a new node"),
    )
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

/// The Raft log of one member; a cheap handle that also reads.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
}

impl LogStore {
    /// Opens the log and checks it. `applied` is what the state already holds.
    pub(crate) fn open(
        engine: Arc<dyn Engine>,
        mode: WriterMode,
        options: &Options,
        applied: Option<LogId>,
    ) -> io::Result<Self> {
        let mut tail = load(&*engine, options)?;
        if let Some(applied) = applied
            && tail.last.is_none_or(|last| last.index < applied.index)
        {
            // After a power loss the others may have committed, and the state kept, what the
            // log lost: it goes on after the state.
            tracing::warn!(%applied, last = ?tail.last, "the log ends before the state; it goes on after the state");
            engine.write(purge_writes(0, applied), true)?;
            tail.purge(applied);
        }
        let unreclaimed = tail.first_index();
        let tail = Arc::new(Mutex::new(tail));
        let (sender, queue) = mpsc::channel(QUEUE_JOBS);
        let writer = Writer {
            engine: engine.clone(),
            tail: tail.clone(),
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

    /// The last entry the log in `engine` gave up.
    pub(crate) fn purged(engine: &dyn Engine) -> io::Result<Option<LogId>> {
        let mut purged = Ok(None);
        engine.with_view(&mut |view| purged = view.get(PURGED))?;
        Ok(purged?.map(|bytes| decode_log_id(&bytes)).transpose()?)
    }

    /// First and last log id held, as openraft sees them.
    pub fn state(&self) -> LogState<TypeConfig> {
        let tail = self.tail();
        LogState {
            last_purged_log_id: tail.purged,
            last_log_id: tail.last,
        }
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.shared
            .tail
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes memory and queues the job that makes it durable, as one step.
    async fn submit(
        &self,
        writes: Vec<Write>,
        sync: bool,
        reclaim: Option<(Vec<u8>, Vec<u8>)>,
        done: Done,
        change: impl FnOnce(&mut Tail, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        self.tail().check()?;
        let bytes: usize = writes.iter().map(Write::size_bytes).sum();
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
        change(&mut tail, number)?;
        slot.send(Job {
            number,
            writes,
            sync,
            reclaim,
            done,
            _share: Some(share),
        });
        Ok(())
    }

    /// Like [`submit`](Self::submit), synced, and waits until it is on disk.
    async fn submit_synced(
        &self,
        writes: Vec<Write>,
        reclaim: Option<(Vec<u8>, Vec<u8>)>,
        change: impl FnOnce(&mut Tail),
    ) -> io::Result<()> {
        let (reply, wait) = oneshot::channel();
        self.submit(writes, true, reclaim, Done::Reply(reply), |tail, _| {
            change(tail);
            Ok(())
        })
        .await?;
        wait.await.map_err(gone)?
    }

    /// The entries in `from..to` that the log holds; with `limit` at least one, and about
    /// that many bytes.
    fn read(&self, from: u64, to: u64, limit: Option<usize>) -> io::Result<Vec<Entry>> {
        loop {
            let (from, to, disk_end, cached, removals) = {
                let tail = self.tail();
                tail.check()?;
                let from = from.max(tail.first_index());
                let to = to.min(tail.end_index());
                if from >= to {
                    return Ok(Vec::new());
                }
                let disk_end = tail.cache_start().map_or(to, |start| start.clamp(from, to));
                (from, to, disk_end, tail.cached(disk_end, to), tail.removals)
            };
            let mut entries = Vec::new();
            let mut budget = limit;
            if from < disk_end {
                match self.read_disk(from, disk_end, &mut budget) {
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
            for entry in cached {
                if !spend(&mut budget, stored_size(&entry)) && !entries.is_empty() {
                    break;
                }
                entries.push(entry);
            }
            debug_assert!(from + entries.len() as u64 <= to, "more entries than asked");
            return Ok(entries);
        }
    }

    fn read_disk(&self, from: u64, to: u64, budget: &mut Option<usize>) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut limited = false;
        scan(&*self.shared.engine, from, to, |index, value| {
            let next = from + entries.len() as u64;
            if index != next {
                return Err(corrupt(format!("log entry {next} is missing")));
            }
            if !spend(budget, value.len()) && !entries.is_empty() {
                limited = true;
                return Ok(ControlFlow::Break(()));
            }
            entries.push(get_entry(index, value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        let next = from + entries.len() as u64;
        if !limited && next != to {
            return Err(corrupt(format!("log entry {next} is missing")));
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
fn scan(
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

/// Reads what the database holds and checks that it is one whole log.
fn load(engine: &dyn Engine, options: &Options) -> io::Result<Tail> {
    let mut tail = Tail::new(options.log_cache_bytes);
    let mut meta = Ok(());
    engine.with_view(&mut |view| {
        meta = (|| {
            tail.vote = view.get(VOTE)?.map(|b| decode_vote(&b)).transpose()?;
            tail.committed = view
                .get(COMMITTED)?
                .map(|b| decode_log_id(&b))
                .transpose()?;
            tail.purged = view.get(PURGED)?.map(|b| decode_log_id(&b)).transpose()?;
            Ok::<(), io::Error>(())
        })();
    })?;
    meta?;
    tail.last = tail.purged;
    let mut next = tail.purged.map(|purged| purged.index.saturating_add(1));
    scan(engine, 0, u64::MAX, |index, value| {
        if let Some(next) = next
            && next != index
        {
            return Err(corrupt(format!(
                "the log holds entry {index} where entry {next} must be"
            )));
        }
        let entry = get_entry(index, value)?;
        if tail.last.is_some_and(|last| last >= entry.log_id) {
            return Err(corrupt(format!(
                "the terms of the log go back at entry {index}"
            )));
        }
        if tail.last.is_none() {
            tail.first = Some(index);
        }
        tail.last = Some(entry.log_id);
        next = index.checked_add(1);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(tail)
}

fn purge_writes(from: u64, upto: LogId) -> Vec<Write> {
    vec![
        Write::DeleteRange {
            from: entry_key(from),
            to: key_after(upto.index),
        },
        Write::Put {
            key: PURGED.to_vec(),
            value: encode_log_id(&upto).to_vec(),
        },
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
        let write = Write::Put {
            key: VOTE.to_vec(),
            value: encode_vote(&vote).to_vec(),
        };
        self.submit_synced(vec![write], None, move |tail| tail.vote = Some(vote))
            .await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let key = COMMITTED.to_vec();
        let write = match committed {
            Some(id) => Write::Put {
                key,
                value: encode_log_id(&id).to_vec(),
            },
            None => Write::Delete { key },
        };
        self.submit(vec![write], false, None, Done::Nobody, |tail, _| {
            tail.committed = committed;
            Ok(())
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
        let entries: Vec<Entry> = entries.into_iter().collect();
        let writes = entries.iter().map(put_entry).collect();
        self.submit(writes, true, None, Done::Flushed(callback), |tail, job| {
            let mut next = tail.last.map(|last| last.index.saturating_add(1));
            for entry in &entries {
                let index = entry.log_id.index;
                if next.is_some_and(|next| next != index) {
                    return Err(invalid(format!(
                        "entry {index} would leave a hole in the log, which ends before {next:?}"
                    )));
                }
                next = index.checked_add(1);
            }
            for entry in entries {
                tail.push(entry, job);
            }
            Ok(())
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
            self.read(from - 1, from, None)?.first().map(|e| e.log_id)
        } else {
            purged
        };
        if last_log_id.is_some() && last != last_log_id {
            return Err(invalid(format!(
                "cannot truncate after {last_log_id:?}: the log holds {last:?} there"
            )));
        }
        let write = Write::DeleteRange {
            from: entry_key(from.max(first)),
            to: after_entries(),
        };
        self.submit_synced(vec![write], None, move |tail| tail.truncate(last))
            .await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let first = {
            let tail = self.tail();
            if tail
                .purged
                .is_some_and(|purged| purged.index >= log_id.index)
            {
                return Ok(());
            }
            tail.first_index()
        };
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
        self.submit_synced(purge_writes(first, log_id), reclaim, move |tail| {
            tail.purge(log_id);
        })
        .await
    }
}
