//! Which segments are rewritten into one: a greedy packer, the fullest first.

use std::cmp::Reverse;

use super::{CompactPolicy, TASKS_MAX};
use crate::model::Segment;

/// How the segments were packed.
pub(super) struct Packed<'a> {
    pub buckets: Vec<Vec<&'a Segment>>,
    /// Small ones nothing was found for.
    pub left: Vec<&'a Segment>,
}

/// How full a segment is, per mille of its capacity in bytes or rows, whichever is more.
fn fullness(segment: &Segment, policy: &CompactPolicy) -> u64 {
    Load::of(segment).permille(policy)
}

pub(super) fn is_small(segment: &Segment, policy: &CompactPolicy) -> bool {
    fullness(segment, policy) < u64::from(policy.small_permille)
}

/// Bytes and rows together.
#[derive(Clone, Copy, Default)]
struct Load {
    bytes: u128,
    rows: u128,
}

impl Load {
    fn of(segment: &Segment) -> Self {
        Self {
            bytes: u128::from(segment.size_bytes),
            rows: u128::try_from(segment.rows).unwrap_or(0),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            rows: self.rows + other.rows,
        }
    }

    fn permille(self, policy: &CompactPolicy) -> u64 {
        let share = |part: u128, whole: u128| part * 1000 / whole.max(1);
        let most = share(self.bytes, u128::from(policy.max_size_bytes)).max(share(
            self.rows,
            u128::try_from(policy.max_rows).unwrap_or(0),
        ));
        u64::try_from(most).unwrap_or(u64::MAX)
    }
}

struct Bucket<'a> {
    inputs: Vec<&'a Segment>,
    load: Load,
}

impl<'a> Bucket<'a> {
    fn new(first: Option<&'a Segment>) -> Self {
        Self {
            inputs: first.into_iter().collect(),
            load: first.map(Load::of).unwrap_or_default(),
        }
    }

    /// Takes what fits, the fullest first.
    fn fill(&mut self, from: &mut Vec<&'a Segment>, limit_permille: u64, policy: &CompactPolicy) {
        from.retain(|segment| {
            let with = self.load.plus(Load::of(segment));
            let fits = self.inputs.len() < policy.merge_inputs_max
                && with.permille(policy) <= limit_permille;
            if fits {
                self.load = with;
                self.inputs.push(segment);
            }
            !fits
        });
    }
}

/// Packs `priority` segments, which are rewritten in any case, and `small` ones.
///
/// 1. Small ones fill segments of their own.
/// 2. Each priority segment takes small ones along as far as they fit; one that is over-full goes
///    alone (Milvus #40343).
/// 3. Small ones that are left are squeezed in, somewhat over capacity.
pub(super) fn pack<'a>(
    mut priority: Vec<&'a Segment>,
    mut small: Vec<&'a Segment>,
    policy: &CompactPolicy,
    forced: bool,
) -> Packed<'a> {
    let order = |segment: &&Segment| (Reverse(fullness(segment, policy)), segment.id);
    priority.sort_by_key(order);
    small.sort_by_key(order);
    let mut buckets = own_buckets(&mut small, policy, forced);
    for segment in priority {
        let mut bucket = Bucket::new(Some(segment));
        if buckets.len() < TASKS_MAX {
            bucket.fill(&mut small, 1000, policy);
        }
        buckets.push(bucket);
    }
    for bucket in buckets.iter_mut().take(TASKS_MAX) {
        bucket.fill(&mut small, u64::from(policy.expansion_permille), policy);
    }
    Packed {
        buckets: buckets.into_iter().map(|bucket| bucket.inputs).collect(),
        left: small,
    }
}

/// Buckets of small segments alone. One is worth its writing when it becomes nearly full or holds
/// as many as it may; with very many small ones, or by hand, a part-filled one will do.
fn own_buckets<'a>(
    small: &mut Vec<&'a Segment>,
    policy: &CompactPolicy,
    forced: bool,
) -> Vec<Bucket<'a>> {
    let too_many = small.len() > policy.small_files_trigger;
    let inputs_min = if forced { 2 } else { policy.merge_inputs_min };
    let full = 1000u64.saturating_sub(u64::from(policy.leftover_permille));
    let mut buckets = Vec::new();
    while buckets.len() < TASKS_MAX {
        let mut rest = small.clone();
        let mut bucket = Bucket::new(None);
        bucket.fill(&mut rest, 1000, policy);
        let enough = bucket.inputs.len() >= inputs_min.max(2);
        let worth = forced
            || too_many
            || bucket.inputs.len() >= policy.merge_inputs_max
            || bucket.load.permille(policy) >= full;
        if !enough || !worth {
            break;
        }
        *small = rest;
        buckets.push(bucket);
    }
    buckets
}
