//! What data nodes and clients were promised about rows, for the checks of rows and flushes.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Rows of one log file: ordinals from, to.
pub type Ordinals = Vec<(u64, u64)>;

/// Rows of an insert log that was offered to the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The segment.
    pub segment: i64,
    /// Its partition.
    pub partition: i64,
    /// Its rows.
    pub ordinals: Ordinals,
}

/// Everything that was saved, tried or promised.
#[derive(Clone, Debug, Default)]
pub struct Promises {
    /// Every insert log that was ever offered, by channel and log id of the first field.
    pub offered: BTreeMap<(String, i64), Offer>,
    /// Segment and log ids of acknowledged saves, with the time of the answer.
    pub saved: Vec<Saved>,
    /// Manual flushes that were reported as done: segments and timestamp.
    pub flushed: Vec<(Vec<i64>, u64)>,
    /// Deletes that were tried.
    pub deleted: Vec<Deleted>,
    /// Partitions somebody tried to drop, by id: begun, answered, in simulated nanoseconds.
    pub dropped: BTreeMap<i64, (u64, Option<u64>)>,
}

/// An acknowledged save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The channel.
    pub channel: String,
    /// The segment.
    pub segment: i64,
    /// Its partition.
    pub partition: i64,
    /// Log id of the first field; `None` = no rows came with it.
    pub log_id: Option<i64>,
    /// Whether it was the final save.
    pub last: bool,
    /// Whether the segment has rows, by this save or an earlier one.
    pub has_rows: bool,
    /// Simulated nanoseconds of the answer.
    pub at: u64,
}

/// Rows a client wants deleted; all of them were stored before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The channel.
    pub channel: String,
    /// The rows.
    pub ordinals: Vec<u64>,
    /// Simulated nanoseconds at which it was first tried.
    pub begun: u64,
    /// When the deletes were known to be stored.
    pub done: Option<u64>,
}

/// Shared between those who promise and those who check.
#[derive(Default)]
pub struct Ledger(Mutex<Promises>);

impl Ledger {
    /// The promises, to read or to add to.
    pub fn hold(&self) -> MutexGuard<'_, Promises> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
