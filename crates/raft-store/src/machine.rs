//! What a replicated state machine is to this crate, and the batch it commits into.
//!
//! Invariants: rows, applied log id, membership and digest move in one write; entries are
//! committed in log order, each exactly once; after a failed write nothing more is written.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::codec;
use crate::engine::{View, ViewTask, Write};
use crate::state::database::Database;
use crate::state::tables::{self, MachineView};
use crate::state::{Applied, Shared};
use crate::types::{LogId, Membership, StoredMembership, term_of};

/// A committed normal entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedEntry {
    /// Where it stands in the log.
    pub log_id: LogId,
    /// What it carries.
    pub payload: Bytes,
}

/// One change of the machine's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// Sets a row.
    Put {
        /// Its key.
        key: Vec<u8>,
        /// Its new value.
        value: Vec<u8>,
    },
    /// Removes a row.
    Delete {
        /// Its key.
        key: Vec<u8>,
    },
    /// Removes every row from `from` up to but not including `to`.
    DeleteRange {
        /// First key.
        from: Vec<u8>,
        /// The key after the last one.
        to: Vec<u8>,
    },
}

/// A deterministic state machine whose rows this crate stores.
pub trait Machine: Send + Sync + 'static {
    /// Drops all memory state and rebuilds it from `view`, which shows the machine's rows only.
    ///
    /// Called at start and after a snapshot was installed.
    fn load(&self, view: &dyn View) -> io::Result<()>;

    /// Replaces the memory state by that of `view`, the rows of a snapshot, and calls `swap` once,
    /// which makes these rows the live ones.
    ///
    /// A machine with readers of its own builds the new memory first and then calls `swap` and puts
    /// it in place under the lock that [`apply`](Self::apply) holds, so that no reader sees memory of
    /// one state and rows of the other. When this fails before `swap` was called, the old state stays.
    fn install(&self, view: &dyn View, swap: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        swap()?;
        self.load(view)
    }

    /// Applies `entries` in order, calling [`Commit::entry`] once for each.
    ///
    /// The machine holds its own write lock around this and calls [`Commit::flush`] before
    /// releasing it, so that no reader sees memory and rows disagree. What is left unflushed
    /// is flushed after return. An error is fatal: the member stops.
    fn apply(&self, entries: Vec<AppliedEntry>, commit: &mut Commit<'_>) -> io::Result<()>;
}

/// What a run of entries writes.
pub struct Commit<'a> {
    db: &'a Arc<Database>,
    shared: &'a Shared,
    applied: Applied,
    pending: Vec<Write>,
    dirty: bool,
    expected: VecDeque<LogId>,
    replies: Vec<Bytes>,
    failed: Option<String>,
}

impl<'a> Commit<'a> {
    pub(crate) fn new(db: &'a Arc<Database>, shared: &'a Shared, applied: Applied) -> Self {
        Self {
            db,
            shared,
            applied,
            pending: Vec::new(),
            dirty: false,
            expected: VecDeque::new(),
            replies: Vec::new(),
            failed: None,
        }
    }

    /// Commits the next entry: its rows and its reply.
    ///
    /// Entries come in the order the machine was given them; anything else makes the next
    /// [`flush`](Self::flush) fail.
    pub fn entry(&mut self, log_id: LogId, rows: Vec<Row>, reply: Bytes) {
        let expected = self.expected.pop_front();
        if expected != Some(log_id) {
            self.failed.get_or_insert_with(|| {
                format!("the machine committed entry {log_id} where {expected:?} was next")
            });
            return;
        }
        let mut digest = self.begin_digest(&log_id);
        for row in &rows {
            match row {
                Row::Put { key, value } => {
                    digest.update(&[1]);
                    hash_part(&mut digest, key);
                    hash_part(&mut digest, value);
                }
                Row::Delete { key } => {
                    digest.update(&[2]);
                    hash_part(&mut digest, key);
                }
                // 3 is a membership.
                Row::DeleteRange { from, to } => {
                    digest.update(&[4]);
                    hash_part(&mut digest, from);
                    hash_part(&mut digest, to);
                }
            }
        }
        self.pending.extend(rows.into_iter().map(tables::write_of));
        self.advance(log_id, digest, reply);
    }

    /// Writes all that was committed so far in one batch and lets readers see its position.
    pub fn flush(&mut self) -> io::Result<()> {
        if let Some(reason) = &self.failed {
            return Err(io::Error::other(reason.clone()));
        }
        if !self.dirty {
            return Ok(());
        }
        let mut batch = std::mem::take(&mut self.pending);
        batch.push(tables::write_applied(&self.applied));
        if let Err(error) = self.db.engine().write(batch, false) {
            self.failed = Some(format!("an earlier state write failed: {error}"));
            return Err(error);
        }
        self.dirty = false;
        self.shared.publish(self.applied.clone());
        Ok(())
    }

    /// Flushes, then runs `f` elsewhere with a view of exactly the last committed entry.
    pub fn fork_view(&mut self, f: ViewTask) -> io::Result<()> {
        self.flush()?;
        self.db
            .engine()
            .fork_view(Box::new(move |view| f(&MachineView(view))))
    }

    /// The rolling digest after the last committed entry.
    pub fn digest(&self) -> [u8; 32] {
        self.applied.digest
    }

    /// Gives a run of entries to the machine.
    pub(crate) fn run(
        &mut self,
        machine: &dyn Machine,
        entries: Vec<AppliedEntry>,
    ) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        self.expected = entries.iter().map(|entry| entry.log_id).collect();
        machine.apply(entries, self)?;
        match self.expected.pop_front() {
            Some(id) if self.failed.is_none() => Err(io::Error::other(format!(
                "the machine returned without committing entry {id}"
            ))),
            _ => Ok(()),
        }
    }

    /// Commits an entry the machine does not see.
    pub(crate) fn blank(&mut self, log_id: LogId) {
        let digest = self.begin_digest(&log_id);
        self.advance(log_id, digest, Bytes::new());
    }

    /// Commits a membership.
    pub(crate) fn membership(&mut self, log_id: LogId, membership: Membership) {
        self.applied = with_membership(&self.applied, log_id, membership);
        self.replies.push(Bytes::new());
        self.dirty = true;
    }

    /// The replies, in the order of the entries.
    pub(crate) fn into_replies(self) -> Vec<Bytes> {
        self.replies
    }

    fn begin_digest(&self, log_id: &LogId) -> blake3::Hasher {
        begin_digest(&self.applied, log_id)
    }

    fn advance(&mut self, log_id: LogId, digest: blake3::Hasher, reply: Bytes) {
        self.applied.log_id = Some(log_id);
        self.applied.digest = *digest.finalize().as_bytes();
        self.replies.push(reply);
        self.dirty = true;
    }
}

fn begin_digest(applied: &Applied, log_id: &LogId) -> blake3::Hasher {
    let mut digest = blake3::Hasher::new();
    digest.update(&applied.digest);
    digest.update(&log_id.index.to_be_bytes());
    digest.update(&term_of(log_id).to_be_bytes());
    digest
}

/// The state behind an entry at `log_id` that sets a membership.
pub(crate) fn with_membership(applied: &Applied, log_id: LogId, membership: Membership) -> Applied {
    let mut digest = begin_digest(applied, &log_id);
    digest.update(&[3]);
    hash_part(&mut digest, &codec::encode_membership(&membership));
    Applied {
        log_id: Some(log_id),
        membership: StoredMembership::new(Some(log_id), membership),
        digest: *digest.finalize().as_bytes(),
    }
}

fn hash_part(digest: &mut blake3::Hasher, part: &[u8]) {
    digest.update(&(part.len() as u64).to_be_bytes());
    digest.update(part);
}
