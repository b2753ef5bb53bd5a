//! Sets of row ordinals as sorted, disjoint, merged half-open ranges.

/// A set of ordinals. Two ranges of it never touch: they would have been merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: Vec<(u64, u64)>,
}

impl RangeSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// From flat bounds `from, to, from, to, …`, in any order; empty ranges are left out.
    pub fn from_bounds(bounds: &[u64]) -> Self {
        let mut set = Self::new();
        for pair in bounds.chunks_exact(2) {
            set.insert(pair[0], pair[1]);
        }
        set
    }

    /// As flat bounds.
    pub fn to_bounds(&self) -> Vec<u64> {
        self.ranges
            .iter()
            .flat_map(|&(from, to)| [from, to])
            .collect()
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Number of ordinals in it.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|(from, to)| to - from).sum()
    }

    /// Whether any ordinal of `[from, to)` is in it.
    pub fn overlaps(&self, from: u64, to: u64) -> bool {
        let first = self.ranges.partition_point(|&(_, end)| end <= from);
        from < to && self.ranges.get(first).is_some_and(|&(start, _)| start < to)
    }

    /// Adds `[from, to)`.
    pub fn insert(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        // Everything that overlaps or touches the new range is merged into it.
        let first = self.ranges.partition_point(|&(_, end)| end < from);
        let after = self.ranges.partition_point(|&(start, _)| start <= to);
        let merged = if first < after {
            (
                from.min(self.ranges[first].0),
                to.max(self.ranges[after - 1].1),
            )
        } else {
            (from, to)
        };
        self.ranges.splice(first..after, [merged]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn agrees_with_a_naive_set(inserts in prop::collection::vec((0u64..60, 0u64..12), 0..30), probe in (0u64..70, 0u64..12)) {
            let mut set = RangeSet::new();
            let mut naive = BTreeSet::new();
            for (from, len) in inserts {
                set.insert(from, from + len);
                naive.extend(from..from + len);
            }
            prop_assert_eq!(set.len(), naive.len() as u64);
            let flat: Vec<u64> = set.ranges().iter().flat_map(|&(a, b)| a..b).collect();
            prop_assert_eq!(flat, naive.iter().copied().collect::<Vec<_>>());
            for pair in set.ranges().windows(2) {
                prop_assert!(pair[0].1 < pair[1].0, "touching ranges are merged");
            }
            let (from, len) = probe;
            prop_assert_eq!(set.overlaps(from, from + len), (from..from + len).any(|x| naive.contains(&x)));
            prop_assert_eq!(RangeSet::from_bounds(&set.to_bounds()), set);
        }
    }
}
