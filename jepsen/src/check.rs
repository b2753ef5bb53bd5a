//! The checkers: plain functions from a history to what is wrong with it, one line each.

mod allocation;
mod durability;
mod register;
mod segment;
mod term;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::history::Op;

/// Lines shown of one kind of violation; the rest is counted.
const SHOWN: usize = 5;

/// Everything wrong with a history.
pub fn history(ops: &[Op]) -> Vec<String> {
    let mut found = Vec::new();
    for checker in [
        durability::check as fn(&[Op]) -> Vec<String>,
        register::check,
        allocation::ids,
        allocation::timestamps,
        segment::check,
        term::check,
    ] {
        let mut lines = checker(ops);
        let more = lines.len().saturating_sub(SHOWN);
        lines.truncate(SHOWN);
        if more > 0 {
            lines.push(format!("… and {more} more of this kind"));
        }
        found.extend(lines);
    }
    found
}

/// How many operations of each kind were acknowledged: a run in which too few were is no evidence.
pub fn acknowledged(ops: &[Op]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for op in ops.iter().filter(|op| op.is_ok()) {
        *counts.entry(op.call.name()).or_insert(0) += 1;
    }
    counts
}

/// The highest of `values` among operations that were over before each of `asked`, which holds
/// invocation times: real-time order, in `O(n log n)`.
fn highest_before(mut ended: Vec<(u64, u64)>, asked: &[u64]) -> Vec<u64> {
    ended.sort_unstable();
    let mut order: Vec<usize> = (0..asked.len()).collect();
    order.sort_unstable_by_key(|at| asked[*at]);
    let mut highest = 0;
    let mut result = vec![0; asked.len()];
    let mut next = ended.into_iter().peekable();
    for at in order {
        while let Some((_, value)) = next.next_if(|(completed, _)| *completed < asked[at]) {
            highest = highest.max(value);
        }
        result[at] = highest;
    }
    result
}
