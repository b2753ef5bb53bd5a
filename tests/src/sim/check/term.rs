//! Terms: one replica answers in each, and after an answer under one nobody who asks later is
//! answered under a lower one.

use std::collections::BTreeMap;

use crate::sim::history::{End, Op};

/// Terms with two leaders, and answers of leaders that were replaced.
pub fn check(ops: &[Op]) -> Vec<String> {
    let mut found = Vec::new();
    let mut leaders: BTreeMap<u64, u64> = BTreeMap::new();
    let mut answered = Vec::new();
    for op in ops.iter().filter(|op| op.end == End::Ok) {
        let Some((node, term)) = op.by else { continue };
        let leader = *leaders.entry(term).or_insert(node);
        if leader != node {
            found.push(format!(
                "in term {term} replicas {leader} and {node} answered"
            ));
        }
        answered.push((op.invoked, op.completed, term));
    }
    let mut by_end = answered.clone();
    by_end.sort_unstable_by_key(|(_, completed, _)| *completed);
    answered.sort_unstable();
    let mut ended = by_end.into_iter().peekable();
    let mut highest = 0;
    for (invoked, completed, term) in answered {
        while let Some((_, _, before)) = ended.next_if(|(_, before, _)| *before < invoked) {
            highest = highest.max(before);
        }
        if term < highest {
            found.push(format!(
                "an answer at {completed} ns under term {term}, asked for after one under {highest}"
            ));
        }
    }
    found
}
