//! Ids, handed out from memory inside a window that is on the log. What is left of a window when
//! leadership ends is burnt.

use parking_lot::Mutex;
use quorate_meta::command::{Command, fenced};
use quorate_meta::{Ts, pb};

use crate::error::{CoordError, Result};
use crate::proposer::Proposer;

/// The leader's ids for one epoch.
pub struct Ids {
    term: u64,
    window: u64,
    proposer: Proposer,
    range: Mutex<(i64, i64)>,
    extending: tokio::sync::Mutex<()>,
}

impl Ids {
    /// No ids yet; the first call reserves some.
    pub fn new(term: u64, window: u64, proposer: Proposer) -> Self {
        Self {
            term,
            window: window.max(1),
            proposer,
            range: Mutex::new((0, 0)),
            extending: tokio::sync::Mutex::new(()),
        }
    }

    /// `count` ids in a row, the first of them. The caller checks the leader lease afterwards.
    ///
    /// # Errors
    /// No window could be reserved: no quorum, or leadership is gone.
    pub async fn alloc(&self, count: u32, now: Ts) -> Result<i64> {
        loop {
            if let Some(first) = self.take(count) {
                return Ok(first);
            }
            self.extend(count, now).await?;
        }
    }

    fn take(&self, count: u32) -> Option<i64> {
        let mut range = self.range.lock();
        let (first, end) = *range;
        let next = first.checked_add(i64::from(count))?;
        (next <= end).then(|| {
            range.0 = next;
            first
        })
    }

    async fn extend(&self, count: u32, now: Ts) -> Result<()> {
        let before = self.range.lock().1;
        let _single = self.extending.lock().await;
        if self.range.lock().1 != before {
            return Ok(());
        }
        let window = self.window.max(u64::from(count));
        let command = Command::ReserveIds(pb::ReserveIds { count: window });
        let reply = self
            .proposer
            .submit(fenced(self.term, now, command))
            .await?
            .into_reply()
            .map_err(|(reason, detail)| CoordError::Rejected(reason, detail))?;
        *self.range.lock() = (reply.id, reply.id + window as i64);
        Ok(())
    }
}
