//! Linearizability of each register: Wing and Gong's search with memory, after Lowe.
//!
//! Values are unique for a key. So an unknown write whose value nobody saw can be left out, and
//! one whose value was seen did happen, before the first who saw it was answered.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::history::{Call, Op, Outcome};

/// Steps of the search before a register counts as undecided; far above what a run needs.
const STEPS_MAX: usize = 5_000_000;
/// Operations shown on both sides of the one that no order explains.
const AROUND: usize = 3;

/// A value by number; 0 is "none".
type Value = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The register holds exactly this.
    Is(Value),
    Write(Value),
    Cas(Value, Value),
}

#[derive(Clone, Copy, Debug)]
struct Item<'a> {
    step: Step,
    from: u64,
    to: u64,
    op: &'a Op,
}

/// Registers whose history no order explains.
pub fn check(ops: &[Op]) -> Vec<String> {
    let mut registers: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in ops {
        if let Some(key) = op.call.register() {
            registers.entry(key).or_default().push(op);
        }
    }
    registers
        .into_iter()
        .filter_map(|(key, ops)| {
            let problem = search(&items(&ops)).err()?;
            Some(format!("{key} is not linearizable: {problem}"))
        })
        .collect()
}

/// Values somebody saw, with the first time at which one who saw it was answered.
fn seen<'a>(ops: &[&'a Op]) -> HashMap<&'a str, u64> {
    let mut seen: HashMap<&str, u64> = HashMap::new();
    let mut note = |value: &'a str, at: u64| {
        let first = seen.entry(value).or_insert(at);
        *first = (*first).min(at);
    };
    for op in ops {
        match &op.call {
            Call::Read {
                value: Some(value), ..
            } if op.is_ok() => note(value, op.completed),
            Call::Cas { old, .. } if op.is_ok() => note(old, op.completed),
            Call::Cas {
                seen: Some(Some(value)),
                ..
            } => note(value, op.completed),
            _ => {}
        }
    }
    // An unknown compare-and-set whose own value was seen has seen its expected one.
    loop {
        let more: Vec<(&str, u64)> = ops
            .iter()
            .filter(|op| op.outcome == Outcome::Info)
            .filter_map(|op| match &op.call {
                Call::Cas { old, new, .. } => Some((old.as_str(), *seen.get(new.as_str())?)),
                _ => None,
            })
            .filter(|(old, at)| seen.get(old).is_none_or(|known| known > at))
            .collect();
        if more.is_empty() {
            return seen;
        }
        seen.extend(more);
    }
}

fn items<'a>(ops: &[&'a Op]) -> Vec<Item<'a>> {
    let seen = seen(ops);
    let mut numbers: HashMap<&str, Value> = HashMap::new();
    let mut number = |value: &'a str| {
        let next = Value::try_from(numbers.len() + 1).unwrap_or(Value::MAX);
        *numbers.entry(value).or_insert(next)
    };
    let mut items: Vec<Item<'a>> = Vec::new();
    for op in ops {
        let step = match (&op.call, op.outcome) {
            (Call::Read { value, .. }, Outcome::Ok) => {
                Step::Is(value.as_deref().map_or(0, &mut number))
            }
            (
                Call::Cas {
                    seen: Some(value), ..
                },
                Outcome::Fail,
            ) => Step::Is(value.as_deref().map_or(0, &mut number)),
            (Call::Write { value, .. }, Outcome::Ok | Outcome::Info) => Step::Write(number(value)),
            (Call::Cas { old, new, .. }, Outcome::Ok | Outcome::Info) => {
                Step::Cas(number(old), number(new))
            }
            _ => continue,
        };
        let to = match (&op.call, op.outcome) {
            (Call::Write { value: new, .. } | Call::Cas { new, .. }, Outcome::Info) => {
                match seen.get(new.as_str()) {
                    Some(at) => *at,
                    None => continue,
                }
            }
            _ => op.completed,
        };
        let from = op.invoked;
        items.push(Item { step, from, to, op });
    }
    items.sort_by_key(|item| (item.from, item.to));
    items
}

fn apply(step: Step, state: Value) -> Option<Value> {
    match step {
        Step::Is(value) => (state == value).then_some(state),
        Step::Write(value) => Some(value),
        Step::Cas(old, new) => (state == old).then_some(new),
    }
}

/// Done operations: everything before `base`, and these behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    base: usize,
    ahead: BTreeSet<usize>,
    state: Value,
}

/// Looks for an order; the error shows the first operation none gets past.
fn search(items: &[Item<'_>]) -> Result<(), String> {
    let mut known: HashSet<Place> = HashSet::new();
    let mut stack = vec![Place {
        base: 0,
        ahead: BTreeSet::new(),
        state: 0,
    }];
    let mut furthest = 0;
    let mut steps = 0;
    while let Some(place) = stack.pop() {
        if place.base == items.len() {
            return Ok(());
        }
        steps += 1;
        if steps > STEPS_MAX {
            return Err(format!("undecided after {STEPS_MAX} steps"));
        }
        furthest = furthest.max(place.base);
        // What begins after the first open operation has ended must wait for it.
        let mut deadline = u64::MAX;
        let mut end = place.base;
        for (at, item) in items.iter().enumerate().skip(place.base) {
            if item.from > deadline {
                break;
            }
            end = at + 1;
            if !place.ahead.contains(&at) {
                deadline = deadline.min(item.to);
            }
        }
        // The earliest is tried first: it is pushed last.
        for at in (place.base..end).rev() {
            let item = &items[at];
            if item.from > deadline || place.ahead.contains(&at) {
                continue;
            }
            let Some(state) = apply(item.step, place.state) else {
                continue;
            };
            let mut next = Place {
                state,
                ..place.clone()
            };
            next.ahead.insert(at);
            while next.ahead.remove(&next.base) {
                next.base += 1;
            }
            if known.insert(next.clone()) {
                stack.push(next);
            }
        }
    }
    let around = furthest.saturating_sub(AROUND)..(furthest + AROUND + 1).min(items.len());
    let shown: Vec<String> = items[around].iter().map(describe).collect();
    Err(format!(
        "no order explains operation {furthest} of {}: {}",
        items.len(),
        shown.join("; ")
    ))
}

fn describe(item: &Item<'_>) -> String {
    let what = match &item.op.call {
        Call::Read { value, .. } => format!("read {value:?}"),
        Call::Write { value, .. } => format!("write {value:?}"),
        Call::Cas {
            old,
            seen: Some(seen),
            ..
        } => format!("cas {old:?} refused, seen {seen:?}"),
        Call::Cas { old, new, .. } => format!("cas {old:?} to {new:?}"),
        other => other.name().to_owned(),
    };
    let end = match item.op.outcome {
        Outcome::Info => "never answered".to_owned(),
        _ => item.op.completed.to_string(),
    };
    format!("{} {what} [{}, {end}]", item.op.process, item.op.invoked)
}
