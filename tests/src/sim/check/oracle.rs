//! Ids are disjoint for ever. Timestamps are, too, and increase in real time: what was answered
//! before another operation began lies below everything that one gets.

use crate::sim::history::{Call, End, Op};

/// Overlapping intervals of ids.
pub fn ids(ops: &[Op]) -> Vec<String> {
    let mut intervals: Vec<(i64, i64)> = ops
        .iter()
        .filter(|op| op.end == End::Ok)
        .filter_map(|op| match op.call {
            Call::AllocId { count, first } => Some((first, first + i64::from(count))),
            _ => None,
        })
        .collect();
    intervals.sort_unstable();
    intervals
        .windows(2)
        .filter(|pair| pair[0].1 > pair[1].0)
        .map(|pair| format!("ids {:?} and {:?} overlap", pair[0], pair[1]))
        .collect()
}

struct Stamps {
    first: u64,
    end: u64,
    invoked: u64,
    completed: u64,
}

/// Timestamps given twice, or behind those of an earlier operation.
pub fn timestamps(ops: &[Op]) -> Vec<String> {
    let mut stamps: Vec<Stamps> = ops
        .iter()
        .filter(|op| op.end == End::Ok)
        .filter_map(|op| match op.call {
            Call::AllocTs { count, first } => Some(Stamps {
                first,
                end: first + u64::from(count),
                invoked: op.invoked,
                completed: op.completed,
            }),
            _ => None,
        })
        .collect();
    stamps.sort_unstable_by_key(|op| op.first);
    let mut found: Vec<String> = stamps
        .windows(2)
        .filter(|pair| pair[0].end > pair[1].first)
        .map(|pair| {
            format!(
                "timestamps from {} and from {} overlap",
                pair[0].first, pair[1].first
            )
        })
        .collect();

    let mut by_end: Vec<&Stamps> = stamps.iter().collect();
    by_end.sort_unstable_by_key(|op| op.completed);
    let mut by_start: Vec<&Stamps> = stamps.iter().collect();
    by_start.sort_unstable_by_key(|op| op.invoked);
    let mut ended = by_end.into_iter().peekable();
    let mut highest = 0;
    for op in by_start {
        while let Some(before) = ended.next_if(|before| before.completed < op.invoked) {
            highest = highest.max(before.end);
        }
        if op.first < highest {
            found.push(format!(
                "timestamp {} was given out at {} ns, after one below {highest} was answered",
                op.first, op.completed
            ));
        }
    }
    found
}
