//! When a Growing segment takes no more rows (`semantics.md` §3). First match wins.

use crate::model::Segment;
use crate::pb::SealReason;
use crate::time::Ts;

/// When to seal. Capacity is in the segment itself, as configured when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealPolicy {
    /// Insert files of one field at which a segment is sealed (`segment.maxBinlogFileNumber`).
    pub binlog_files_max: u32,
    /// Age at which a segment is sealed whatever its size (`segment.maxLife`), ms.
    pub life_ms_max: u64,
    /// Age at which a segment of a certain size is sealed (`flush.maxIdleDuration`), ms.
    pub idle_ms_max: u64,
    /// That size (`flush.minSizeToFlush`), bytes.
    pub idle_size_bytes_min: u64,
}

/// A Growing segment as the leader sees it: its row, and what its data node reported since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrowingView<'a> {
    /// The stored row.
    pub segment: &'a Segment,
    /// Rows saved and buffered.
    pub rows: i64,
    /// Bytes saved and buffered.
    pub size_bytes: u64,
}

/// Why a segment stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// None of the limits is reached.
    WithinLimits,
    /// It has no rows yet: age says nothing.
    NoStartPosition,
}

/// Whether to seal one segment at channel time `now`.
///
/// # Errors
/// Not an error: why it stays open.
pub fn seal_reason(
    view: &GrowingView<'_>,
    now: Ts,
    policy: &SealPolicy,
) -> Result<SealReason, Keep> {
    let segment = view.segment;
    if segment.insert_files >= policy.binlog_files_max {
        return Ok(SealReason::BinlogCount);
    }
    let age = (!segment.start.is_zero()).then(|| now.ms_since(segment.start));
    if age.is_some_and(|age| age >= policy.life_ms_max) {
        return Ok(SealReason::Lifetime);
    }
    if view.rows >= segment.seal_rows
        || view.rows >= segment.max_rows
        || (segment.max_size_bytes > 0 && view.size_bytes >= segment.max_size_bytes)
    {
        return Ok(SealReason::Capacity);
    }
    match age {
        None => Err(Keep::NoStartPosition),
        Some(age) if age >= policy.idle_ms_max && view.size_bytes >= policy.idle_size_bytes_min => {
            Ok(SealReason::Age)
        }
        Some(_) => Err(Keep::WithinLimits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{CollectionId, PartitionId, SegmentId};
    use crate::model::{Level, SegmentState};
    use std::sync::Arc;

    fn growing() -> Segment {
        Segment {
            id: SegmentId(1),
            collection: CollectionId(1),
            partition: PartitionId(1),
            channel: Arc::from("c"),
            state: SegmentState::Growing,
            level: Level::L1,
            rows: 0,
            max_rows: 1000,
            seal_rows: 900,
            max_size_bytes: 1 << 20,
            last_expire: Ts::ZERO,
            opened_at: Ts::from_ms(1000),
            sealed_at: Ts::ZERO,
            dropped_at: Ts::ZERO,
            seal_reason: 0,
            files_rev: 0,
            size_bytes: 0,
            insert_files: 0,
            files: 0,
            delta_rows: 0,
            delta_bytes: 0,
            delta_files: 0,
            start: Ts::from_ms(1000),
            dml: Ts::ZERO,
            condemned_at: Ts::ZERO,
            compacted_from: false,
            compacted: false,
        }
    }

    const POLICY: SealPolicy = SealPolicy {
        binlog_files_max: 32,
        life_ms_max: 86_400_000,
        idle_ms_max: 600_000,
        idle_size_bytes_min: 4096,
    };

    fn ask(segment: &Segment, rows: i64, size_bytes: u64, now_ms: u64) -> Result<SealReason, Keep> {
        let view = GrowingView {
            segment,
            rows,
            size_bytes,
        };
        seal_reason(&view, Ts::from_ms(now_ms), &POLICY)
    }

    #[test]
    fn capacity_in_rows_or_bytes_seals() {
        let segment = growing();
        assert_eq!(ask(&segment, 899, 0, 2000), Err(Keep::WithinLimits));
        assert_eq!(ask(&segment, 900, 0, 2000), Ok(SealReason::Capacity));
        assert_eq!(ask(&segment, 1, 1 << 20, 2000), Ok(SealReason::Capacity));
    }

    #[test]
    fn age_seals_only_what_is_large_enough_until_its_life_ends() {
        let segment = growing();
        assert_eq!(ask(&segment, 1, 100, 700_000), Err(Keep::WithinLimits));
        assert_eq!(ask(&segment, 1, 5000, 700_000), Ok(SealReason::Age));
        assert_eq!(ask(&segment, 1, 100, 90_000_000), Ok(SealReason::Lifetime));
    }

    #[test]
    fn a_segment_without_rows_has_no_age() {
        let mut segment = growing();
        segment.start = Ts::ZERO;
        assert_eq!(ask(&segment, 0, 0, 90_000_000), Err(Keep::NoStartPosition));
    }
}
