//! Where rows go: the fullest open segment they fit in, else a new one (`semantics.md` §2).

use crate::id::SegmentId;

/// An open segment of the group the rows belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The segment.
    pub segment: SegmentId,
    /// Capacity in rows.
    pub max_rows: i64,
    /// Rows in it, and rows promised to writers whose grant has not expired.
    pub used_rows: i64,
}

/// One part of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Into an open segment.
    Existing {
        /// The segment.
        segment: SegmentId,
        /// How many rows.
        rows: i64,
    },
    /// Into a segment to be opened.
    New {
        /// How many rows.
        rows: i64,
    },
}

/// Places `rows` rows. Whole capacities open segments of their own; the rest goes to the fullest
/// segment it fits in, if that one is not above `seal_permille` of its capacity: the part kept
/// back (seeds: 10 %) takes in what arrives before it is sealed (Milvus #37387).
pub fn place(
    candidates: &[Candidate],
    rows: i64,
    capacity_rows: i64,
    seal_permille: i64,
) -> Vec<Placement> {
    let mut placements = Vec::new();
    if rows <= 0 || capacity_rows <= 0 {
        return placements;
    }
    let mut left = rows;
    while left >= capacity_rows {
        placements.push(Placement::New {
            rows: capacity_rows,
        });
        left -= capacity_rows;
    }
    if left == 0 {
        return placements;
    }
    let fits = |candidate: &&Candidate| {
        let limit = i128::from(candidate.max_rows) * i128::from(seal_permille);
        i128::from(candidate.used_rows) * 1000 <= limit
            && candidate.max_rows - candidate.used_rows >= left
    };
    // Fullest = least room left; the smallest id among equals.
    let fullest = candidates
        .iter()
        .filter(fits)
        .min_by_key(|candidate| (candidate.max_rows - candidate.used_rows, candidate.segment));
    placements.push(match fullest {
        Some(candidate) => Placement::Existing {
            segment: candidate.segment,
            rows: left,
        },
        None => Placement::New { rows: left },
    });
    placements
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(id: i64, used: i64) -> Candidate {
        Candidate {
            segment: SegmentId(id),
            max_rows: 100,
            used_rows: used,
        }
    }

    #[test]
    fn the_fullest_fitting_segment_is_taken() {
        let open = [candidate(1, 10), candidate(2, 60), candidate(3, 95)];
        assert_eq!(
            place(&open, 30, 100, 900),
            [Placement::Existing {
                segment: SegmentId(2),
                rows: 30
            }]
        );
        assert_eq!(place(&open, 95, 100, 900), [Placement::New { rows: 95 }]);
    }

    #[test]
    fn a_segment_above_the_seal_point_takes_nothing() {
        assert_eq!(
            place(&[candidate(1, 91)], 5, 100, 900),
            [Placement::New { rows: 5 }]
        );
    }

    #[test]
    fn whole_capacities_open_segments_of_their_own() {
        assert_eq!(
            place(&[candidate(1, 0)], 250, 100, 900),
            [
                Placement::New { rows: 100 },
                Placement::New { rows: 100 },
                Placement::Existing {
                    segment: SegmentId(1),
                    rows: 50
                }
            ]
        );
    }

    proptest! {
        #[test]
        fn all_rows_are_placed_and_nothing_overflows(
            used in prop::collection::vec(0i64..=100, 0..8),
            rows in 0i64..1000,
            seal in 100i64..=1000,
        ) {
            let open: Vec<_> = used.iter().enumerate().map(|(i, &u)| candidate(i as i64, u)).collect();
            let placed = place(&open, rows, 100, seal);
            let mut sum = 0;
            for placement in &placed {
                match *placement {
                    Placement::New { rows } => { prop_assert!(rows > 0 && rows <= 100); sum += rows; }
                    Placement::Existing { segment, rows } => {
                        let c = open[segment.0 as usize];
                        prop_assert!(c.used_rows + rows <= c.max_rows);
                        prop_assert!(c.used_rows * 1000 <= c.max_rows * seal);
                        sum += rows;
                    }
                }
            }
            prop_assert_eq!(sum, rows);
        }
    }
}
