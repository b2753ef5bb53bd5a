//! Sets of rows, named by stream and ordinal.
//!
//! Invariant: per stream the intervals are sorted, not empty, and neither overlap nor touch; a
//! stream without rows is not kept. So equal sets are equal values, and a set over dense streams
//! is small however many rows it has.

use std::collections::BTreeMap;

use quorate_rpc::proto::quorate::row::RowRange;

/// Half-open intervals, start to end.
type Intervals = BTreeMap<u64, u64>;

/// A set of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowSet {
    streams: BTreeMap<Vec<u8>, Intervals>,
}

/// A range whose end lies before its start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("row range [{from}, {to}) ends before it begins")]
pub struct RangeError {
    /// Start as given.
    pub from: u64,
    /// End as given.
    pub to: u64,
}

impl RowSet {
    /// The empty set.
    pub fn new() -> RowSet {
        RowSet::default()
    }

    /// The union of ranges in any order; they may overlap or be empty.
    pub fn from_proto<'a>(
        ranges: impl IntoIterator<Item = &'a RowRange>,
    ) -> Result<RowSet, RangeError> {
        let mut set = RowSet::new();
        for range in ranges {
            let (from, to) = (range.from, range.to);
            if from > to {
                return Err(RangeError { from, to });
            }
            set.insert(&range.stream, from, to);
        }
        Ok(set)
    }

    /// Ranges of all streams: sorted, merged, none empty.
    pub fn to_proto(&self) -> Vec<RowRange> {
        self.iter()
            .map(|(stream, from, to)| RowRange {
                stream: stream.to_vec(),
                from,
                to,
            })
            .collect()
    }

    /// Adds `[from, to)`; answers how many rows are new. An empty or inverted range adds nothing.
    pub fn insert(&mut self, stream: &[u8], from: u64, to: u64) -> u64 {
        if from >= to {
            return 0;
        }
        let intervals = match self.streams.get_mut(stream) {
            Some(intervals) => intervals,
            None => self.streams.entry(stream.to_vec()).or_default(),
        };
        let (mut start, mut end, mut known) = (from, to, 0);
        // Every interval that overlaps or touches is swallowed; they are neighbours.
        while let Some((&s, &e)) = intervals.range(..=end).next_back() {
            if e < start {
                break;
            }
            intervals.remove(&s);
            known += e.min(to).saturating_sub(s.max(from));
            start = start.min(s);
            end = end.max(e);
        }
        intervals.insert(start, end);
        to - from - known
    }

    /// Takes `[from, to)` out; answers how many rows were there.
    pub fn remove(&mut self, stream: &[u8], from: u64, to: u64) -> u64 {
        let Some(intervals) = self.streams.get_mut(stream) else {
            return 0;
        };
        let mut removed = 0;
        if from < to {
            while let Some((&s, &e)) = intervals.range(..to).next_back() {
                if e <= from {
                    break;
                }
                intervals.remove(&s);
                removed += e.min(to) - s.max(from);
                if e > to {
                    intervals.insert(to, e);
                }
                if s < from {
                    intervals.insert(s, from);
                    break;
                }
            }
        }
        if intervals.is_empty() {
            self.streams.remove(stream);
        }
        removed
    }

    /// Whether the row is in the set.
    pub fn contains(&self, stream: &[u8], ordinal: u64) -> bool {
        self.streams
            .get(stream)
            .and_then(|intervals| intervals.range(..=ordinal).next_back())
            .is_some_and(|(_, end)| ordinal < *end)
    }

    /// Whether all rows of `[from, to)` are in the set.
    pub fn contains_all(&self, stream: &[u8], from: u64, to: u64) -> bool {
        from >= to
            || self
                .streams
                .get(stream)
                .and_then(|intervals| intervals.range(..=from).next_back())
                .is_some_and(|(_, end)| to <= *end)
    }

    /// The parts of `[from, to)` that are not in the set, in order.
    pub fn missing(&self, stream: &[u8], from: u64, to: u64) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        let mut at = from;
        if let Some(intervals) = self.streams.get(stream) {
            let first = intervals
                .range(..=from)
                .next_back()
                .map_or(from, |(start, _)| *start);
            for (&start, &end) in intervals.range(first..) {
                if start >= to {
                    break;
                }
                if start > at {
                    out.push((at, start));
                }
                at = at.max(end);
            }
        }
        if at < to {
            out.push((at, to));
        }
        out
    }

    /// The lowest ordinal below `upto` that is not in the set; none when all are.
    pub fn first_missing(&self, stream: &[u8], upto: u64) -> Option<u64> {
        let stored = self
            .streams
            .get(stream)
            .and_then(|intervals| intervals.get(&0))
            .copied()
            .unwrap_or(0);
        (stored < upto).then_some(stored)
    }

    /// The lowest ordinal of the stream that is not in the set.
    pub fn next(&self, stream: &[u8]) -> u64 {
        self.first_missing(stream, u64::MAX).unwrap_or(u64::MAX)
    }

    /// Adds all rows of another set; answers how many are new.
    pub fn union(&mut self, other: &RowSet) -> u64 {
        other
            .iter()
            .map(|(stream, from, to)| self.insert(stream, from, to))
            .fold(0, u64::saturating_add)
    }

    /// Takes all rows of another set out; answers how many were there.
    pub fn subtract(&mut self, other: &RowSet) -> u64 {
        other
            .iter()
            .map(|(stream, from, to)| self.remove(stream, from, to))
            .fold(0, u64::saturating_add)
    }

    /// Rows that are in both sets.
    pub fn intersect(&self, other: &RowSet) -> RowSet {
        let mut out = self.clone();
        let mut rest = self.clone();
        rest.subtract(other);
        out.subtract(&rest);
        out
    }

    /// Number of rows, at most `u64::MAX`; for one stream see [`RowSet::len_of`].
    pub fn len(&self) -> u64 {
        self.iter()
            .fold(0, |sum: u64, (_, from, to)| sum.saturating_add(to - from))
    }

    /// Number of rows of one stream.
    pub fn len_of(&self, stream: &[u8]) -> u64 {
        self.ranges(stream).map(|(from, to)| to - from).sum()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Streams that have rows, in order.
    pub fn streams(&self) -> impl Iterator<Item = &[u8]> {
        self.streams.keys().map(Vec::as_slice)
    }

    /// Ranges of one stream, in order.
    pub fn ranges(&self, stream: &[u8]) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.streams
            .get(stream)
            .into_iter()
            .flatten()
            .map(|(from, to)| (*from, *to))
    }

    /// All ranges as (stream, from, to), in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u64, u64)> {
        self.streams.iter().flat_map(|(stream, intervals)| {
            intervals
                .iter()
                .map(move |(from, to)| (stream.as_slice(), *from, *to))
        })
    }
}

#[cfg(test)]
mod tests;
