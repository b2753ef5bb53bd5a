//! What a reader sees of the rows against what was promised: stored rows are there once, deleted
//! ones are not.

use crate::sim::ledger::Promises;

/// What one reader saw of one channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The channel.
    pub channel: String,
    /// Simulated nanoseconds at which the reader began.
    pub asked_at: u64,
    /// When it was done.
    pub answered_at: u64,
    /// Ordinals of all rows, in any order.
    pub ordinals: Vec<u64>,
}

const OFFERED: u8 = 1;
const STORED: u8 = 2;
const MAY_BE_GONE: u8 = 4;
const GONE: u8 = 8;
const SEEN: u8 = 16;
const TWICE: u8 = 32;

/// Promises the view breaks.
pub fn judge(seen: &Seen, promises: &Promises) -> Vec<String> {
    let offers = promises
        .offered
        .range((seen.channel.clone(), i64::MIN)..=(seen.channel.clone(), i64::MAX));
    let mut rows: Vec<u8> = Vec::new();
    for &(from, to) in offers.flat_map(|(_, offer)| &offer.ordinals) {
        mark(&mut rows, from..to, OFFERED);
    }
    let saved = promises
        .saved
        .iter()
        .filter(|saved| saved.channel == seen.channel && saved.at < seen.asked_at);
    for saved in saved {
        let log = saved.log_id.map(|id| (saved.channel.clone(), id));
        let Some(offer) = log.and_then(|log| promises.offered.get(&log)) else {
            continue;
        };
        for &(from, to) in &offer.ordinals {
            mark(&mut rows, from..to, STORED);
        }
    }
    for offer in promises
        .offered
        .iter()
        .filter(|(at, _)| at.0 == seen.channel)
        .map(|(_, o)| o)
    {
        let Some((begun, _)) = promises.dropped.get(&offer.partition) else {
            continue;
        };
        for &(from, to) in offer.ordinals.iter().filter(|_| *begun < seen.answered_at) {
            mark(&mut rows, from..to, MAY_BE_GONE);
        }
    }
    let dropped = promises.saved.iter().filter(|saved| {
        let ended = promises
            .dropped
            .get(&saved.partition)
            .and_then(|(_, ended)| *ended);
        saved.channel == seen.channel && ended.is_some_and(|ended| ended < seen.asked_at)
    });
    for saved in dropped {
        let log = saved.log_id.map(|id| (saved.channel.clone(), id));
        let offer = log.and_then(|log| promises.offered.get(&log));
        for &(from, to) in offer.iter().flat_map(|offer| &offer.ordinals) {
            mark(&mut rows, from..to, GONE);
        }
    }
    let deleted = promises
        .deleted
        .iter()
        .filter(|deleted| deleted.channel == seen.channel);
    for deleted in deleted.filter(|deleted| deleted.begun < seen.answered_at) {
        let done = deleted.done.is_some_and(|done| done < seen.asked_at);
        let bits = if done {
            MAY_BE_GONE | GONE
        } else {
            MAY_BE_GONE
        };
        for &ordinal in &deleted.ordinals {
            mark(&mut rows, ordinal..ordinal + 1, bits);
        }
    }
    for &ordinal in &seen.ordinals {
        let at = usize::try_from(ordinal).unwrap_or(usize::MAX);
        let again = rows.get(at).is_some_and(|row| row & SEEN != 0);
        mark(
            &mut rows,
            ordinal..ordinal + 1,
            if again { TWICE } else { SEEN },
        );
    }
    let name = &seen.channel;
    let found = |what: &str, wrong: &dyn Fn(u8) -> bool| {
        let at: Vec<usize> = (0..rows.len()).filter(|at| wrong(rows[*at])).collect();
        let first = at.first().copied()?;
        Some(format!(
            "{what}: {} rows of {name}, the first is {first}",
            at.len()
        ))
    };
    [
        found("rows are seen twice", &|row| row & TWICE != 0),
        found("rows are seen that nobody stored", &|row| {
            row & (SEEN | OFFERED) == SEEN
        }),
        found("stored rows are not seen", &|row| {
            row & (STORED | MAY_BE_GONE | GONE | SEEN) == STORED
        }),
        found("deleted rows are seen", &|row| {
            row & (GONE | SEEN) == GONE | SEEN
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn mark(rows: &mut Vec<u8>, range: std::ops::Range<u64>, bits: u8) {
    let (from, to) = (
        usize::try_from(range.start).unwrap_or(usize::MAX),
        usize::try_from(range.end).unwrap_or(usize::MAX),
    );
    if rows.len() < to {
        rows.resize(to, 0);
    }
    for row in &mut rows[from..to] {
        *row |= bits;
    }
}
