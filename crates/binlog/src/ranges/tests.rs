#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use quorate_rpc::proto::quorate::row::RowRange;

use super::RowSet;

const MAX: u64 = 40;
type Naive = BTreeSet<(u8, u64)>;

#[derive(Debug, Clone)]
struct Op {
    insert: bool,
    stream: u8,
    from: u64,
    to: u64,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = (any::<bool>(), 0..2u8, 0..MAX, 0..=MAX).prop_map(|(insert, stream, from, to)| Op {
        insert,
        stream,
        from,
        to,
    });
    prop::collection::vec(op, 0..25)
}

fn run(ops: &[Op]) -> (RowSet, Naive) {
    let (mut set, mut naive) = (RowSet::new(), Naive::new());
    for op in ops {
        let rows = (op.from..op.to).map(|row| (op.stream, row));
        if op.insert {
            let new = rows.filter(|row| naive.insert(*row)).count();
            assert_eq!(set.insert(&[op.stream], op.from, op.to), new as u64);
        } else {
            let gone = rows.filter(|row| naive.remove(row)).count();
            assert_eq!(set.remove(&[op.stream], op.from, op.to), gone as u64);
        }
    }
    (set, naive)
}

fn rows(set: &RowSet) -> Naive {
    set.iter()
        .flat_map(|(stream, from, to)| (from..to).map(|row| (stream[0], row)))
        .collect()
}

proptest! {
    #[test]
    fn a_set_holds_what_a_naive_one_holds(ops in ops()) {
        let (set, naive) = run(&ops);
        prop_assert_eq!(rows(&set), naive.clone());
        prop_assert_eq!(set.len(), naive.len() as u64);
        prop_assert_eq!(set.is_empty(), naive.is_empty());
        for stream in 0..2u8 {
            for row in 0..=MAX {
                prop_assert_eq!(set.contains(&[stream], row), naive.contains(&(stream, row)));
            }
        }
    }

    #[test]
    fn intervals_are_sorted_merged_and_survive_the_wire(ops in ops()) {
        let (set, _) = run(&ops);
        let ranges = set.to_proto();
        for pair in ranges.windows(2) {
            let same = pair[0].stream == pair[1].stream;
            prop_assert!(pair[0].from < pair[0].to);
            prop_assert!(!same || pair[0].to < pair[1].from);
        }
        let mut mixed = ranges.clone();
        mixed.reverse();
        mixed.extend(ranges.iter().take(1).cloned());
        prop_assert_eq!(RowSet::from_proto(&mixed).unwrap(), set);
    }

    #[test]
    fn set_operations_agree_with_naive_ones(a in ops(), b in ops()) {
        let ((a, naive_a), (b, naive_b)) = (run(&a), run(&b));
        prop_assert_eq!(rows(&a.intersect(&b)), &naive_a & &naive_b);
        let mut union = a.clone();
        union.union(&b);
        prop_assert_eq!(rows(&union), &naive_a | &naive_b);
        let mut difference = a.clone();
        difference.subtract(&b);
        prop_assert_eq!(rows(&difference), &naive_a - &naive_b);
    }

    #[test]
    fn missing_rows_are_those_a_naive_set_lacks(ops in ops(), from in 0..MAX, to in 0..=MAX) {
        let (set, naive) = run(&ops);
        let missing: Vec<u64> = set.missing(&[0], from, to).iter().flat_map(|r| r.0..r.1).collect();
        let expected: Vec<u64> = (from..to).filter(|row| !naive.contains(&(0, *row))).collect();
        prop_assert_eq!(set.contains_all(&[0], from, to), expected.is_empty());
        prop_assert_eq!(missing, expected);
        let first = (0..to).find(|row| !naive.contains(&(0, *row)));
        prop_assert_eq!(set.first_missing(&[0], to), first);
    }
}

#[test]
fn an_inverted_range_is_refused() {
    let range = RowRange {
        stream: vec![1],
        from: 5,
        to: 4,
    };
    let error = RowSet::from_proto([&range]).unwrap_err();
    assert_eq!(error.to_string(), "row range [5, 4) ends before it begins");
}

#[test]
fn the_highest_ordinals_do_not_overflow() {
    let mut set = RowSet::new();
    assert_eq!(set.insert(&[1], u64::MAX - 1, u64::MAX), 1);
    assert_eq!(set.insert(&[1], 0, u64::MAX), u64::MAX - 1);
    assert_eq!(set.first_missing(&[1], u64::MAX), None);
}
