//! Linearizability of each register: Wing and Gong's search with memory, after Lowe.
//!
//! Values are unique for a key. So an unknown write whose value nobody saw can be left out, and
//! one whose value was seen did happen, before the first who saw it was answered.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::sim::history::{Call, End, Op};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The register holds exactly this.
    Is(Option<u64>),
    Write(u64),
    Cas(u64, u64),
}

#[derive(Clone, Copy, Debug)]
struct Item {
    step: Step,
    from: u64,
    to: u64,
}

/// Steps of the search before a key counts as undecided; far above what a run needs.
const STEPS_MAX: usize = 20_000_000;

/// Registers whose history no order explains.
pub fn check(ops: &[Op]) -> Vec<String> {
    let mut by_key: BTreeMap<u32, Vec<&Op>> = BTreeMap::new();
    for op in ops {
        if let Call::Read { key, .. } | Call::Write { key, .. } | Call::Cas { key, .. } = op.call {
            by_key.entry(key).or_default().push(op);
        }
    }
    by_key
        .into_iter()
        .filter_map(|(key, ops)| {
            let problem = search(&items(&ops)).err()?;
            Some(format!("register {key}: {problem}"))
        })
        .collect()
}

/// Values somebody saw, with the first time at which one who saw it was answered.
fn seen(ops: &[&Op]) -> BTreeMap<u64, u64> {
    let mut seen = BTreeMap::new();
    let mut note = |value: u64, at: u64| {
        let first = seen.entry(value).or_insert(at);
        *first = (*first).min(at);
    };
    for op in ops {
        match (&op.call, op.end) {
            (Call::Read { value: Some(v), .. }, End::Ok) => note(*v, op.completed),
            (Call::Cas { old, .. }, End::Ok) => note(*old, op.completed),
            (
                Call::Cas {
                    seen: Some(Some(v)),
                    ..
                },
                End::Fail,
            ) => note(*v, op.completed),
            _ => {}
        }
    }
    // An unknown compare-and-set whose own value was seen has seen its expected one.
    loop {
        let more: Vec<(u64, u64)> = ops
            .iter()
            .filter(|op| op.end == End::Info)
            .filter_map(|op| match op.call {
                Call::Cas { old, new, .. } => Some((old, *seen.get(&new)?)),
                _ => None,
            })
            .filter(|(old, at)| seen.get(old).is_none_or(|known| known > at))
            .collect();
        if more.is_empty() {
            return seen;
        }
        for (old, at) in more {
            seen.insert(old, at);
        }
    }
}

fn items(ops: &[&Op]) -> Vec<Item> {
    let seen = seen(ops);
    let mut items: Vec<Item> = ops
        .iter()
        .filter_map(|op| {
            let (step, to) = match (&op.call, op.end) {
                (Call::Read { value, .. }, End::Ok) => (Step::Is(*value), op.completed),
                (
                    Call::Cas {
                        seen: Some(value), ..
                    },
                    End::Fail,
                ) => (Step::Is(*value), op.completed),
                (Call::Write { value, .. }, End::Ok) => (Step::Write(*value), op.completed),
                (Call::Write { value, .. }, End::Info) => (Step::Write(*value), *seen.get(value)?),
                (Call::Cas { old, new, .. }, End::Ok) => (Step::Cas(*old, *new), op.completed),
                (Call::Cas { old, new, .. }, End::Info) => (Step::Cas(*old, *new), *seen.get(new)?),
                _ => return None,
            };
            let from = op.invoked;
            Some(Item { step, from, to })
        })
        .collect();
    items.sort_by_key(|item| (item.from, item.to));
    items
}

fn apply(step: Step, state: Option<u64>) -> Option<Option<u64>> {
    match step {
        Step::Is(value) => (state == value).then_some(state),
        Step::Write(value) => Some(Some(value)),
        Step::Cas(old, new) => (state == Some(old)).then_some(Some(new)),
    }
}

/// Done operations: everything before `base`, and these behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    base: usize,
    ahead: BTreeSet<usize>,
    state: Option<u64>,
}

/// Looks for an order; the error names the first operation none gets past.
fn search(items: &[Item]) -> Result<(), String> {
    let mut known: HashSet<Place> = HashSet::new();
    let mut stack = vec![Place {
        base: 0,
        ahead: BTreeSet::new(),
        state: None,
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
        for (at, item) in items.iter().enumerate().skip(place.base) {
            if item.from > deadline {
                break;
            }
            if !place.ahead.contains(&at) {
                deadline = deadline.min(item.to);
            }
        }
        for at in (place.base..items.len()).rev() {
            let item = items[at];
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
    let around = furthest.saturating_sub(3)..(furthest + 4).min(items.len());
    Err(format!(
        "no order explains operation {furthest} of {}: {:?}",
        items.len(),
        &items[around]
    ))
}
