//! Settings of garbage collection.

use std::time::Duration;

/// What is collected when, and how fast.
#[derive(Clone, Debug, PartialEq)]
pub struct GcConfig {
    /// Whether there is garbage collection (`enableGarbageCollection`).
    pub enabled: bool,
    /// Period of the rounds (`gc.interval`).
    pub interval: Duration,
    /// Period of the scans of the object store for orphans (`gc.scanInterval`).
    pub scan_interval: Duration,
    /// Time what is dropped is kept (`gc.dropTolerance`).
    pub drop_tolerance: Duration,
    /// Age an object nobody knows must have (`gc.missingTolerance`).
    pub missing_tolerance: Duration,
    /// Time between a segment's leaving all views and the end of its objects: readers have it to
    /// finish with a view they took before.
    pub condemn_grace: Duration,
    /// Objects deleted at once (`gc.removeConcurrent`).
    pub concurrency: usize,
    /// Objects deleted a second.
    pub deletes_per_second: u32,
}

impl Default for GcConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_secs(1800),
            scan_interval: Duration::from_secs(168 * 3600),
            drop_tolerance: Duration::from_secs(86_400),
            missing_tolerance: Duration::from_secs(86_400),
            condemn_grace: Duration::from_secs(60),
            concurrency: 32,
            deletes_per_second: 500,
        }
    }
}
