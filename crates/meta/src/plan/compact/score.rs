//! How much a compaction is worth (seeds; `semantics.md` §7), per mille.

use super::{CompactPolicy, pack};
use crate::model::Segment;
use crate::time::Ts;

const MONTH_MS: u64 = 30 * 86_400_000;
const SIZE_BYTES_FULL: u64 = 10 << 30;

/// 0.4 · share of deleted rows + 0.3 · share of small segments + 0.2 · age in months + 0.1 · size
/// in 10 GiB, each clamped to 1. The age is that of the oldest input since it was opened or last
/// written by a compaction.
pub fn score(inputs: &[&Segment], now: Ts, policy: &CompactPolicy) -> u32 {
    let rows = sum(inputs.iter().map(|segment| segment.rows));
    let deleted = sum(inputs.iter().map(|segment| segment.delta_rows));
    let small = inputs
        .iter()
        .filter(|segment| pack::is_small(segment, policy))
        .count();
    let oldest = inputs.iter().map(|segment| segment.opened_at).min();
    let age_ms = oldest.map_or(0, |opened| now.ms_since(opened));
    let size: u64 = inputs.iter().fold(0, |sum: u64, segment| {
        sum.saturating_add(segment.size_bytes)
    });
    let weighted = 400 * permille(deleted, rows)
        + 300 * permille(small as u64, inputs.len() as u64)
        + 200 * permille(age_ms, MONTH_MS)
        + 100 * permille(size, SIZE_BYTES_FULL);
    u32::try_from(weighted / 1000).unwrap_or(1000)
}

fn sum(rows: impl Iterator<Item = i64>) -> u64 {
    rows.fold(0u64, |sum, rows| {
        sum.saturating_add(u64::try_from(rows).unwrap_or(0))
    })
}

/// `part` of `whole`, clamped to 1000; nothing of nothing is 0.
fn permille(part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return 0;
    }
    let share = u128::from(part) * 1000 / u128::from(whole);
    u64::try_from(share).unwrap_or(u64::MAX).min(1000)
}
