//! Fencing: after an answer under a term, nothing that is asked later is answered under a lower one.

use super::highest_before;
use crate::history::Op;

/// Answers of leaders that were replaced before they were asked.
pub fn check(ops: &[Op]) -> Vec<String> {
    let answered: Vec<(&Op, u64)> = ops
        .iter()
        .filter(|op| op.is_ok())
        .filter_map(|op| Some((op, op.term?)))
        .collect();
    let ended = answered.iter().map(|(op, term)| (op.completed, *term));
    let asked: Vec<u64> = answered.iter().map(|(op, _)| op.invoked).collect();
    let highest = highest_before(ended.collect(), &asked);
    let mut found = Vec::new();
    for ((op, term), highest) in answered.iter().zip(highest) {
        if *term < highest {
            found.push(format!(
                "{} of {} at {} ns was answered under term {term}, after an answer under term {highest}",
                op.call.name(),
                op.process,
                op.invoked
            ));
        }
    }
    found
}
