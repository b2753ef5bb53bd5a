//! A segment that was handed out is there ever after: nothing in these runs drops one.

use std::collections::BTreeSet;

use crate::history::{Call, Op};

/// Segments that were handed out and are missing in a later snapshot, and grants of other sizes
/// than were asked for.
pub fn check(ops: &[Op]) -> Vec<String> {
    let mut found = Vec::new();
    let mut granted: Vec<(u64, i64)> = Vec::new();
    for op in ops.iter().filter(|op| op.is_ok()) {
        if let Call::Assign {
            rows,
            granted: Some((segment, given)),
            ..
        } = op.call
        {
            if given != rows {
                found.push(format!(
                    "{} asked for {rows} rows and got {given} in segment {segment}",
                    op.process
                ));
            }
            granted.push((op.completed, segment));
        }
    }
    for op in ops.iter().filter(|op| op.is_ok()) {
        let Call::Snapshot { segments } = &op.call else {
            continue;
        };
        let there: BTreeSet<i64> = segments.iter().copied().collect();
        let missing: BTreeSet<i64> = granted
            .iter()
            .filter(|(at, segment)| *at < op.invoked && !there.contains(segment))
            .map(|(_, segment)| *segment)
            .collect();
        if !missing.is_empty() {
            found.push(format!(
                "segments {missing:?} were handed out before {} ns and are gone",
                op.invoked
            ));
        }
    }
    found
}
