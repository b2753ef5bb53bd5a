//! Settings of what data nodes are given to do: compactions and index builds.

use std::time::Duration;

/// Compactions: when they are planned, and how many run where.
#[derive(Clone, Debug, PartialEq)]
pub struct CompactionConfig {
    /// Whether there is compaction at all, manual included (`enableCompaction`).
    pub enabled: bool,
    /// Whether compactions are planned without being asked for (`enableAutoCompaction`).
    pub auto: bool,
    /// Period of the scan of all groups (`triggerInterval`).
    pub scan_interval: Duration,
    /// Period at which groups with level-zero segments are looked at again.
    pub level0_interval: Duration,
    /// Period at which running tasks are asked about (`check.interval`).
    pub check_interval: Duration,
    /// Deadline of a call to a data node (`rpcTimeout`).
    pub rpc_timeout: Duration,
    /// Tasks running at once on one data node (`workerMaxParallelTaskNum`).
    pub tasks_per_node: u32,
    /// Tasks waiting or running; with more, nothing is planned without being asked for.
    pub tasks_max: usize,
    /// Time a task may run (`timeout`).
    pub timeout: Duration,
    /// How long ended tasks are remembered (`dropTolerance`).
    pub keep_ended: Duration,
    /// Least and most segments merged at a time.
    pub merge_inputs: (usize, usize),
    /// Deleted part of a segment's rows that makes it worth a rewrite, per mille.
    pub delete_ratio_permille: u32,
    /// Bytes of delete logs that make a segment worth a rewrite.
    pub delta_bytes_max: u64,
    /// Delete logs that make a segment worth a rewrite.
    pub delta_files_max: u32,
    /// Segments below this part of the capacity are small, per mille.
    pub small_permille: u32,
    /// Part of the capacity a merged segment must reach, per mille.
    pub full_permille: u32,
    /// How far a merged segment may exceed the capacity, per mille.
    pub expansion_permille: u32,
    /// Level-zero bytes that start a task, and most of one task.
    pub level0_bytes: (u64, u64),
    /// Level-zero delete logs that start a task, and most of one task.
    pub level0_files: (usize, usize),
}

impl Default for CompactionConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            auto: true,
            scan_interval: Duration::from_secs(600),
            level0_interval: Duration::from_secs(10),
            check_interval: Duration::from_secs(1),
            rpc_timeout: Duration::from_secs(10),
            tasks_per_node: 2,
            tasks_max: 100_000,
            timeout: Duration::from_secs(900),
            keep_ended: Duration::from_secs(3600),
            merge_inputs: (4, 30),
            delete_ratio_permille: 200,
            delta_bytes_max: 16 << 20,
            delta_files_max: 200,
            small_permille: 500,
            full_permille: 850,
            expansion_permille: 1250,
            level0_bytes: (8 << 20, 64 << 20),
            level0_files: (10, 1000),
        }
    }
}

/// Index builds and what they share with compactions.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkConfig {
    /// Builds running at once on one data node.
    pub builds_per_node: u32,
    /// First pause before something that failed is tried again; it doubles with each failure.
    pub retry_min: Duration,
    /// Longest such pause.
    pub retry_max: Duration,
}

impl Default for WorkConfig {
    fn default() -> Self {
        Self {
            builds_per_node: 2,
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
        }
    }
}

impl WorkConfig {
    /// The pause after this many failures in a row; none after none.
    pub fn backoff_ms(&self, failures: u32) -> u64 {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        match failures {
            0 => 0,
            failures => ms(self.retry_min)
                .saturating_mul(1 << (failures - 1).min(32))
                .min(ms(self.retry_max)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let config = WorkConfig::default();
        let pauses: Vec<u64> = (0..9).map(|n| config.backoff_ms(n)).collect();
        assert_eq!(
            pauses,
            [0, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]
        );
        assert_eq!(config.backoff_ms(u32::MAX), 60_000);
    }
}
