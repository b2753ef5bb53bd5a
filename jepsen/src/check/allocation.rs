//! Ids are disjoint for ever. Timestamps are, too, and increase in real time: what was answered
//! before another operation began lies below everything that one gets.

use super::highest_before;
use crate::history::{Call, Op};

/// Ids given out twice.
pub fn ids(ops: &[Op]) -> Vec<String> {
    let given = ops.iter().filter(|op| op.is_ok());
    let mut intervals: Vec<(i64, i64, &Op)> = given
        .filter_map(|op| match op.call {
            Call::AllocId { count, first } => {
                Some((first, first.saturating_add(i64::from(count)), op))
            }
            _ => None,
        })
        .collect();
    intervals.sort_unstable_by_key(|(first, end, _)| (*first, *end));
    intervals
        .windows(2)
        .filter(|pair| pair[0].1 > pair[1].0)
        .map(|pair| {
            format!(
                "id {} was given out twice: to {} at {} ns and to {} at {} ns",
                pair[1].0,
                pair[0].2.process,
                pair[0].2.completed,
                pair[1].2.process,
                pair[1].2.completed
            )
        })
        .collect()
}

/// Timestamps given out twice, or not above those of an earlier operation.
pub fn timestamps(ops: &[Op]) -> Vec<String> {
    let given = ops.iter().filter(|op| op.is_ok());
    let mut stamps: Vec<(u64, u64, &Op)> = given
        .filter_map(|op| match op.call {
            Call::AllocTs { count, first } => {
                Some((first, first.saturating_add(u64::from(count)), op))
            }
            _ => None,
        })
        .collect();
    stamps.sort_unstable_by_key(|(first, end, _)| (*first, *end));
    let mut found: Vec<String> = stamps
        .windows(2)
        .filter(|pair| pair[0].1 > pair[1].0)
        .map(|pair| {
            format!(
                "timestamp {} was given out twice: to {} and to {}",
                pair[1].0, pair[0].2.process, pair[1].2.process
            )
        })
        .collect();
    let ended = stamps.iter().map(|(_, end, op)| (op.completed, *end));
    let asked: Vec<u64> = stamps.iter().map(|(_, _, op)| op.invoked).collect();
    let highest = highest_before(ended.collect(), &asked);
    for ((first, _, op), highest) in stamps.iter().zip(highest) {
        if *first < highest {
            found.push(format!(
                "timestamp {first} was asked for by {} at {} ns, after one of {} was answered",
                op.process,
                op.invoked,
                highest - 1
            ));
        }
    }
    found
}
