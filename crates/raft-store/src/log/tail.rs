//! What the log knows without reading the disk: its bounds, the vote, recent entries.
//!
//! Invariants: every entry not yet written is in the cache; the cache is a contiguous end
//! of the log; an entry leaves it from the front, and only once written.

use std::collections::VecDeque;
use std::io;

use crate::types::{Entry, EntryPayload, LogId, Vote};

pub(super) struct Cached {
    pub(super) entry: Entry,
    /// The job that writes it.
    job: u64,
}

#[derive(Default)]
pub(super) struct Tail {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    /// First entry of a log that was never purged.
    pub(super) first: Option<u64>,
    /// Grows with every removal, so that a reader notices one.
    pub(super) removals: u64,
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
    pub(super) fn new(cache_limit: usize) -> Self {
        Self {
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

    pub(super) fn poison(&mut self, reason: String) {
        self.poison.get_or_insert(reason);
    }

    pub(super) fn next_job(&mut self) -> u64 {
        self.jobs += 1;
        self.jobs
    }

    /// The first index the log may still hold.
    pub(super) fn first_index(&self) -> u64 {
        match self.purged {
            Some(purged) => purged.index.saturating_add(1),
            None => self.first.unwrap_or(0),
        }
    }

    /// The index after the last entry.
    pub(super) fn end_index(&self) -> u64 {
        match self.last {
            Some(last) => last.index.saturating_add(1),
            None => 0,
        }
    }

    pub(super) fn cache_start(&self) -> Option<u64> {
        self.cache.front().map(|cached| cached.entry.log_id.index)
    }

    pub(super) fn cached(&self, from: u64, to: u64) -> Vec<Entry> {
        let Some(start) = self.cache_start() else {
            return Vec::new();
        };
        let at = |index: u64| usize::try_from(index.saturating_sub(start)).unwrap_or(usize::MAX);
        self.cache
            .range(at(from).min(self.cache.len())..at(to).min(self.cache.len()))
            .map(|cached| cached.entry.clone())
            .collect()
    }

    pub(super) fn push(&mut self, entry: Entry, job: u64) {
        if self.last.is_none() {
            self.first = Some(entry.log_id.index);
        }
        self.last = Some(entry.log_id);
        self.cache_bytes += size_of(&entry);
        self.cache.push_back(Cached { entry, job });
    }

    /// Removes every entry after `last`, which is the log's last from now on.
    pub(super) fn truncate(&mut self, last: Option<LogId>) {
        self.last = last;
        self.removals += 1;
        if last.is_none() {
            self.first = None;
        }
        let end = self.end_index();
        while let Some(cached) = self.cache.pop_back_if(|c| c.entry.log_id.index >= end) {
            self.cache_bytes -= size_of(&cached.entry);
        }
    }

    /// Removes every entry up to `upto`.
    pub(super) fn purge(&mut self, upto: LogId) {
        self.purged = Some(upto);
        self.removals += 1;
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
        }
        while let Some(cached) = self
            .cache
            .pop_front_if(|c| c.entry.log_id.index <= upto.index)
        {
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
