//! Limits: how fast rows may go, and how long nothing may move.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Rows a second over all channels. Turns are given out in order of asking, so no burst follows a
/// pause.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: Option<f64>,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn new(rows_per_s: Option<u32>) -> Pace {
        Pace {
            rate: rows_per_s.map(f64::from),
            next: Mutex::new(None),
        }
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.rate.is_some()
    }

    /// Waits for the turn of so many rows; answers how long it took.
    pub(crate) async fn wait(&self, rows: u32) -> Duration {
        let Some(rate) = self.rate else {
            return Duration::ZERO;
        };
        let now = Instant::now();
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = next.unwrap_or(now).max(now);
            *next = Some(turn + Duration::from_secs_f64(f64::from(rows) / rate));
            turn
        };
        tokio::time::sleep_until(turn).await;
        turn.saturating_duration_since(now)
    }
}

/// Watches that something moves.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    since: Instant,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Patience {
        Patience {
            limit,
            since: Instant::now(),
        }
    }

    /// Something moved.
    pub(crate) fn renew(&mut self) {
        self.since = Instant::now();
    }

    /// Time that was spent waiting on purpose does not count.
    pub(crate) fn forgive(&mut self, waited: Duration) {
        self.since = (self.since + waited).min(Instant::now());
    }

    /// How long nothing has moved.
    pub(crate) fn waited(&self) -> Duration {
        self.since.elapsed()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.waited() >= self.limit
    }

    /// What is left, for the deadline of a call; never nothing.
    pub(crate) fn left(&self) -> Duration {
        self.limit
            .saturating_sub(self.waited())
            .max(Duration::from_millis(1))
    }
}

/// Growing pauses between attempts.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

impl Backoff {
    pub(crate) fn new() -> Backoff {
        Backoff { next: PAUSE_FIRST }
    }

    pub(crate) fn reset(&mut self) {
        self.next = PAUSE_FIRST;
    }

    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rows_go_no_faster_than_the_rate() {
        let started = Instant::now();
        let pace = Pace::new(Some(100));
        for _ in 0..11 {
            pace.wait(10).await;
        }
        assert_eq!(started.elapsed(), Duration::from_secs(1));
        tokio::time::sleep(Duration::from_secs(5)).await;
        let resumed = Instant::now();
        pace.wait(10).await;
        pace.wait(10).await;
        assert_eq!(resumed.elapsed(), Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_when_nothing_moves_and_only_then() {
        let mut patience = Patience::new(Duration::from_secs(10));
        tokio::time::sleep(Duration::from_secs(9)).await;
        patience.renew();
        tokio::time::sleep(Duration::from_secs(9)).await;
        patience.forgive(Duration::from_secs(5));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!patience.is_over());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(patience.is_over());
        assert_eq!(patience.left(), Duration::from_millis(1));
    }
}
