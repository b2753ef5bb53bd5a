//! The partitions rows are written to: the default one, and one that comes and goes.

use std::sync::{Mutex, PoisonError};

/// Partitions of the main collection.
#[derive(Debug)]
pub struct Partitions {
    default: i64,
    passing: Mutex<Option<i64>>,
}

/// The name of the partition that comes and goes.
pub const PASSING: &str = "passing";

impl Partitions {
    /// Only the default one.
    pub fn new(default: i64) -> Self {
        Self {
            default,
            passing: Mutex::new(None),
        }
    }

    /// The default one.
    pub fn default_id(&self) -> i64 {
        self.default
    }

    /// The one that comes and goes, while it is there.
    pub fn passing(&self) -> Option<i64> {
        *self.passing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It came, or is gone.
    pub fn set_passing(&self, id: Option<i64>) {
        *self.passing.lock().unwrap_or_else(PoisonError::into_inner) = id;
    }
}
