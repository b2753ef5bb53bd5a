#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::route::channel_of;
use quorate_binlog::PrimaryKey;

fn plan_of(channels: usize, keys: &[i64]) -> Plan {
    let mut plan = Plan::new(channels);
    for key in keys {
        plan.push(channel_of(&PrimaryKey::Int64(*key), channels));
    }
    plan
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_row_has_one_place_and_ordinals_are_dense(
        channels in 1usize..9, keys in prop::collection::vec(any::<i64>(), 0..12_000)) {
        let plan = plan_of(channels, &keys);
        prop_assert_eq!(plan.rows(), keys.len() as u64);
        let mut seen = vec![false; keys.len()];
        for channel in 0..channels {
            let mut rows = Vec::new();
            plan.locate(channel, 0..u64::MAX, &mut rows);
            prop_assert_eq!(rows.len() as u64, plan.rows_of(channel));
            prop_assert!(rows.is_sorted());
            for row in rows {
                prop_assert!(!std::mem::replace(&mut seen[row as usize], true));
                let key = PrimaryKey::Int64(keys[row as usize]);
                prop_assert_eq!(channel_of(&key, channels), channel);
            }
        }
        prop_assert!(seen.into_iter().all(|seen| seen));
    }

    #[test]
    fn any_range_of_ordinals_is_the_same_slice_of_all(
        keys in prop::collection::vec(any::<i64>(), 1..12_000), from in 0u64..13_000, len in 0u64..6_000) {
        let plan = plan_of(3, &keys);
        for channel in 0..3 {
            let mut all = Vec::new();
            plan.locate(channel, 0..u64::MAX, &mut all);
            let mut some = Vec::new();
            plan.locate(channel, from..from + len, &mut some);
            let end = all.len().min((from + len) as usize);
            let start = end.min(from as usize);
            prop_assert_eq!(&some[..], &all[start..end]);
        }
    }
}

#[test]
fn a_channel_without_rows_in_a_long_file_is_found_empty() {
    let mut plan = Plan::new(2);
    for _ in 0..10_000 {
        plan.push(0);
    }
    plan.push(1);
    let mut rows = Vec::new();
    plan.locate(1, 0..10, &mut rows);
    assert_eq!(rows, [10_000]);
    rows.clear();
    plan.locate(1, 1..10, &mut rows);
    assert!(rows.is_empty());
}
