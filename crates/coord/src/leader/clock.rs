//! Timestamps, handed out from memory inside a window that is on the log.
//!
//! Unique and strictly increasing across leaders: nothing is handed out at or above the bound on
//! the log, and the next leader starts at it. Within an epoch time advances with the monotonic
//! clock; a wall clock that was set back moves nothing back.

use std::time::Duration;

use parking_lot::Mutex;
use quorate_meta::command::{Command, fenced};
use quorate_meta::{Ts, pb};
use tokio::time::Instant;

use crate::error::{CoordError, Result};
use crate::proposer::Proposer;

/// How far the timestamps may run ahead of physical time when many are asked for.
const LEAD_MS_MAX: u64 = 1000;

/// The leader's clock for one epoch.
pub struct Clock {
    term: u64,
    base_ms: u64,
    base: Instant,
    window: Duration,
    proposer: Proposer,
    times: Mutex<Times>,
    extending: tokio::sync::Mutex<()>,
}

struct Times {
    /// The next timestamp is above this.
    last: Ts,
    /// The next timestamp is below this.
    bound: Ts,
}

impl Clock {
    /// A clock that starts at the bound the last leader left, or now, whichever is later.
    pub fn new(term: u64, wall_ms: u64, bound: Ts, window: Duration, proposer: Proposer) -> Self {
        Self {
            term,
            base_ms: wall_ms.max(bound.ms() + 1),
            base: Instant::now(),
            window,
            proposer,
            times: Mutex::new(Times { last: bound, bound }),
            extending: tokio::sync::Mutex::new(()),
        }
    }

    /// Physical time of this epoch.
    fn physical(&self) -> Ts {
        let elapsed = u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ts::from_ms(self.base_ms.saturating_add(elapsed))
    }

    /// A time for stamping commands: not unique, never handed out.
    pub fn stamp(&self) -> Ts {
        self.physical().max(self.times.lock().last)
    }

    /// `count` timestamps, the first of them. The caller checks the leader lease afterwards.
    ///
    /// # Errors
    /// The window could not be moved on: no quorum, or leadership is gone.
    pub async fn alloc(&self, count: u32) -> Result<Ts> {
        loop {
            if let Some(first) = self.take(count) {
                return Ok(first);
            }
            self.extend().await?;
        }
    }

    fn take(&self, count: u32) -> Option<Ts> {
        let physical = self.physical();
        let mut times = self.times.lock();
        let first = physical.max(Ts(times.last.0 + 1));
        let last = Ts(first.0.checked_add(u64::from(count.max(1)) - 1)?);
        let in_time = last.ms() <= physical.ms() + LEAD_MS_MAX;
        (last < times.bound && in_time).then(|| {
            times.last = last;
            first
        })
    }

    /// Moves the window on. Those who wait for the same are served by one proposal.
    async fn extend(&self) -> Result<()> {
        let before = self.times.lock().bound;
        let _single = self.extending.lock().await;
        if self.times.lock().bound != before {
            return Ok(());
        }
        let (physical, last) = (self.physical(), self.times.lock().last);
        if last.ms() > physical.ms() + LEAD_MS_MAX / 2 {
            // Too many were asked for: let physical time catch up rather than run away from it.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let window_ms = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        let bound = self.physical().max(last).plus_ms(window_ms);
        let command = Command::AdvanceClock(pb::AdvanceClock { bound: bound.0 });
        self.proposer
            .submit(fenced(self.term, physical, command))
            .await?
            .into_reply()
            .map_err(|(reason, detail)| CoordError::Rejected(reason, detail))?;
        let mut times = self.times.lock();
        times.bound = times.bound.max(bound);
        Ok(())
    }
}
