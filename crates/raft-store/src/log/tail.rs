//! What the log knows without reading the disk: its bounds, the vote, recent entries.
//!
//! Invariants: every entry not yet written is in the cache; the cache is a contiguous end
//! of the log; an entry leaves it from the front, and only once written; there is one size
//! for each entry held, and `bytes` is their sum.

use std::collections::VecDeque;
use std::io;

use super::codec::START;
use crate::types::{Entry, EntryPayload, LogId, Vote};
use crate::witness::Position;

struct Cached {
    entry: Entry,
    link: u32,
    before: u32,
    /// The job that writes it.
    job: u64,
}

/// What the cache holds of a range.
#[derive(Default)]
pub(super) struct Recent {
    pub(super) entries: Vec<Entry>,
    /// The link its first entry continues.
    pub(super) before: Option<u32>,
}

/// How much a log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Index of the first entry held; that of the next one, if none is.
    pub first: u64,
    /// The last entry, held or purged.
    pub last: Option<LogId>,
    /// Entries held.
    pub entries: u64,
    /// Bytes of these entries as they are stored, before compression.
    pub bytes: u64,
    /// Entries also held in memory.
    pub cached_entries: u64,
    /// Bytes of memory for these.
    pub cached_bytes: u64,
}

#[derive(Default)]
pub(super) struct Tail {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<Position>,
    last: Option<Position>,
    /// First entry of a log that was never purged.
    first: Option<u64>,
    /// Grows with every removal, so that a reader notices one.
    pub(super) removals: u64,
    /// The stored size of each entry held.
    sizes: VecDeque<u32>,
    bytes: u64,
    cache: VecDeque<Cached>,
    cache_bytes: usize,
    cache_limit: usize,
    /// Jobs handed out.
    jobs: u64,
    /// Jobs written.
    written: u64,
    poison: Option<String>,
}

fn size_of(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Normal(payload) => payload.0.len(),
        _ => 0,
    };
    payload + std::mem::size_of::<Cached>()
}

impl Tail {
    pub(super) fn new(
        cache_limit: usize,
        vote: Option<Vote>,
        committed: Option<LogId>,
        purged: Option<Position>,
    ) -> Self {
        Self {
            vote,
            committed,
            purged,
            last: purged,
            cache_limit,
            ..Self::default()
        }
    }

    /// Fails for good once a write failed.
    pub(super) fn check(&self) -> io::Result<()> {
        match &self.poison {
            None => Ok(()),
            Some(reason) => Err(io::Error::other(format!(
                "the log stopped after a failed write ({reason}); restart this member"
            ))),
        }
    }

    /// Lets everything fail from now on; false if it does already.
    pub(super) fn poison(&mut self, error: &io::Error) -> bool {
        if self.poison.is_some() {
            return false;
        }
        self.poison = Some(error.to_string());
        true
    }

    pub(super) fn next_job(&mut self) -> u64 {
        self.jobs += 1;
        self.jobs
    }

    /// The first index the log may still hold.
    pub(super) fn first_index(&self) -> u64 {
        match self.purged {
            Some(purged) => purged.log_id.index.saturating_add(1),
            None => self.first.unwrap_or(0),
        }
    }

    /// The index after the last entry.
    pub(super) fn end_index(&self) -> u64 {
        match self.last {
            Some(last) => last.log_id.index.saturating_add(1),
            None => 0,
        }
    }

    /// The last entry, held or purged.
    pub(super) fn last(&self) -> Option<Position> {
        self.last
    }

    /// The link the entry after the last continues.
    pub(super) fn link(&self) -> u32 {
        self.last.map_or(START, |last| last.link)
    }

    pub(super) fn stats(&self) -> LogStats {
        LogStats {
            first: self.first_index(),
            last: self.last.map(|last| last.log_id),
            entries: self.sizes.len() as u64,
            bytes: self.bytes,
            cached_entries: self.cache.len() as u64,
            cached_bytes: self.cache_bytes as u64,
        }
    }

    /// The first index from which on the log holds at most `bytes`.
    pub(super) fn index_within(&self, bytes: u64) -> u64 {
        let mut index = self.first_index();
        let mut held = self.bytes;
        for size in &self.sizes {
            if held <= bytes {
                break;
            }
            held -= u64::from(*size);
            index = index.saturating_add(1);
        }
        index
    }

    pub(super) fn cache_start(&self) -> Option<u64> {
        self.cache.front().map(|cached| cached.entry.log_id.index)
    }

    pub(super) fn cached(&self, from: u64, to: u64) -> Recent {
        let Some(start) = self.cache_start() else {
            return Recent::default();
        };
        let at = |index: u64| usize::try_from(index.saturating_sub(start)).unwrap_or(usize::MAX);
        let end = at(to).min(self.cache.len());
        let range = at(from).min(end)..end;
        Recent {
            before: self.cache.range(range.clone()).next().map(|c| c.before),
            entries: self
                .cache
                .range(range)
                .map(|cached| cached.entry.clone())
                .collect(),
        }
    }

    /// The entry at `index`, if it is in memory or was the last one purged.
    pub(super) fn position(&self, index: u64) -> Option<Position> {
        if let Some(known) = [self.last, self.purged]
            .into_iter()
            .flatten()
            .find(|known| known.log_id.index == index)
        {
            return Some(known);
        }
        let at = index.checked_sub(self.cache_start()?)?;
        let cached = self.cache.get(usize::try_from(at).ok()?)?;
        Some(Position {
            log_id: cached.entry.log_id,
            link: cached.link,
        })
    }

    /// Counts an entry that is on disk.
    pub(super) fn found(&mut self, position: Position, stored_bytes: usize) {
        if self.last.is_none() {
            self.first = Some(position.log_id.index);
        }
        self.last = Some(position);
        let size = u32::try_from(stored_bytes).unwrap_or(u32::MAX);
        self.sizes.push_back(size);
        self.bytes += u64::from(size);
    }

    /// Adds an entry that `job` will write.
    pub(super) fn push(&mut self, entry: Entry, link: u32, stored_bytes: usize, job: u64) {
        let before = self.link();
        let log_id = entry.log_id;
        self.found(Position { log_id, link }, stored_bytes);
        self.cache_bytes += size_of(&entry);
        self.cache.push_back(Cached {
            entry,
            link,
            before,
            job,
        });
    }

    /// Removes every entry after `last`, which is the log's last from now on.
    pub(super) fn truncate(&mut self, last: Option<Position>) {
        let removed = self.end_index();
        self.last = last;
        self.removals += 1;
        let end = self.end_index();
        for _ in end..removed {
            let Some(size) = self.sizes.pop_back() else {
                break;
            };
            self.bytes -= u64::from(size);
        }
        if last.is_none() {
            self.first = None;
        }
        while let Some(cached) = self.cache.pop_back_if(|c| c.entry.log_id.index >= end) {
            self.cache_bytes -= size_of(&cached.entry);
        }
    }

    /// Removes every entry up to `upto`.
    pub(super) fn purge(&mut self, upto: Position) {
        let index = upto.log_id.index;
        for _ in self.first_index()..=index {
            let Some(size) = self.sizes.pop_front() else {
                break;
            };
            self.bytes -= u64::from(size);
        }
        self.purged = Some(upto);
        self.removals += 1;
        if self.last.is_none_or(|last| last.log_id.index <= index) {
            self.last = Some(upto);
        }
        while let Some(cached) = self.cache.pop_front_if(|c| c.entry.log_id.index <= index) {
            self.cache_bytes -= size_of(&cached.entry);
        }
    }

    /// Notes that all jobs up to `job` are on disk and lets the cache shrink.
    pub(super) fn written(&mut self, job: u64) {
        self.written = self.written.max(job);
        let written = self.written;
        while self.cache_bytes > self.cache_limit {
            let Some(cached) = self.cache.pop_front_if(|c| c.job <= written) else {
                return;
            };
            self.cache_bytes -= size_of(&cached.entry);
        }
    }
}
