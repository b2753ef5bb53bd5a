//! An acknowledged write is seen by every read that is asked for later, unless another write may
//! have replaced it. Less than linearizability, found faster, and told in one line.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::history::{Call, Op, Outcome};

#[derive(Default)]
struct Register<'a> {
    /// Acknowledged writes: completion, and the latest of their invocations up to there.
    acked: Vec<(u64, u64, &'a str)>,
    /// When what a value says was asked for, and when that was over.
    written: HashMap<&'a str, (u64, u64)>,
    reads: Vec<(&'a Op, Option<&'a str>)>,
}

/// Acknowledged writes that a later read does not show, and values that nobody wrote.
pub fn check(ops: &[Op]) -> Vec<String> {
    let mut registers: BTreeMap<&str, Register<'_>> = BTreeMap::new();
    for op in ops {
        let Some(key) = op.call.register() else {
            continue;
        };
        let register = registers.entry(key).or_default();
        match &op.call {
            Call::Write { value, .. } | Call::Cas { new: value, .. } => {
                if op.is_ok() {
                    register.acked.push((op.completed, op.invoked, value));
                }
                if op.outcome != Outcome::Fail {
                    register.written.insert(value, (op.invoked, op.completed));
                }
            }
            Call::Read { value, .. } if op.is_ok() => {
                register.reads.push((op, value.as_deref()));
            }
            _ => {}
        }
        if let Call::Cas {
            seen: Some(seen), ..
        } = &op.call
        {
            register.reads.push((op, seen.as_deref()));
        }
    }
    let mut found = Vec::new();
    for (key, register) in registers {
        found.extend(lost(key, register));
    }
    found
}

fn lost(key: &str, mut register: Register<'_>) -> Vec<String> {
    register.acked.sort_unstable();
    // From here on the invocation is the latest among this and all completed before.
    let mut latest: (u64, &str) = (0, "");
    for (_, invoked, value) in &mut register.acked {
        if *invoked > latest.0 {
            latest = (*invoked, *value);
        }
        (*invoked, *value) = latest;
    }
    let mut told = BTreeSet::new();
    let mut found = Vec::new();
    for (read, value) in register.reads {
        let before = register
            .acked
            .partition_point(|(at, ..)| *at < read.invoked);
        let last = before.checked_sub(1).map(|at| register.acked[at]);
        let problem = match (value, last) {
            (None, None) => continue,
            (None, Some((_, _, acked))) => {
                format!("{acked:?} was acknowledged and is gone")
            }
            (Some(value), last) => match register.written.get(value) {
                None => format!("{value:?} was read, and nobody wrote it"),
                Some((invoked, _)) if *invoked > read.completed => {
                    format!("{value:?} was read before it was written")
                }
                // It was over before an acknowledged write began.
                Some((_, completed)) => match last {
                    Some((_, begun, acked)) if *completed < begun => {
                        format!("{acked:?} was acknowledged and is gone, {value:?} is back")
                    }
                    _ => continue,
                },
            },
        };
        if told.insert(problem.clone()) {
            found.push(format!(
                "{key}: {problem} (read by {} at {} ns)",
                read.process, read.invoked
            ));
        }
    }
    found
}
