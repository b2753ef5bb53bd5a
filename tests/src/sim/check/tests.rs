#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::rows::{Channel, Checkpoints, Segment, Snapshot, all_stored, snapshot};
use super::view::{self, Seen};
use super::{history, oracle, register, term};
use crate::sim::history::{Call, End, Op};
use crate::sim::ledger::{Deleted, Offer, Promises, Saved};

fn op(call: Call, invoked: u64, completed: u64, end: End) -> Op {
    Op {
        process: 1,
        call,
        invoked,
        completed,
        end,
        by: Some((1, 1)),
    }
}

fn ids(first: i64, count: u32, at: u64) -> Op {
    op(Call::AllocId { count, first }, at, at + 5, End::Ok)
}

fn stamps(first: u64, count: u32, invoked: u64, completed: u64) -> Op {
    op(Call::AllocTs { count, first }, invoked, completed, End::Ok)
}

fn read(value: Option<u64>, invoked: u64, completed: u64) -> Op {
    op(Call::Read { key: 0, value }, invoked, completed, End::Ok)
}

fn write(value: u64, invoked: u64, completed: u64, end: End) -> Op {
    op(Call::Write { key: 0, value }, invoked, completed, end)
}

fn cas(old: u64, new: u64, at: u64, end: End, seen: Option<Option<u64>>) -> Op {
    op(
        Call::Cas {
            key: 0,
            old,
            new,
            seen,
        },
        at,
        at + 5,
        end,
    )
}

#[test]
fn an_id_given_twice_is_found() {
    assert!(oracle::ids(&[ids(1, 10, 0), ids(11, 5, 10)]).is_empty());
    assert_eq!(oracle::ids(&[ids(1, 10, 0), ids(10, 5, 10)]).len(), 1);
}

#[test]
fn a_timestamp_given_twice_is_found() {
    let twice = [stamps(100, 10, 0, 50), stamps(109, 1, 10, 50)];
    assert!(!oracle::timestamps(&twice).is_empty());
}

#[test]
fn timestamps_that_go_back_in_real_time_are_found() {
    let back = [stamps(100, 1, 0, 10), stamps(90, 1, 20, 30)];
    assert_eq!(oracle::timestamps(&back).len(), 1);
    // At the same time either may be first.
    let beside = [stamps(100, 1, 0, 30), stamps(90, 1, 20, 40)];
    assert!(oracle::timestamps(&beside).is_empty());
}

#[test]
fn a_stale_read_is_found() {
    let fresh = [
        write(1, 0, 10, End::Ok),
        write(2, 20, 30, End::Ok),
        read(Some(2), 40, 50),
    ];
    assert!(register::check(&fresh).is_empty());
    let stale = [
        write(1, 0, 10, End::Ok),
        write(2, 20, 30, End::Ok),
        read(Some(1), 40, 50),
    ];
    assert_eq!(register::check(&stale).len(), 1);
}

#[test]
fn a_lost_write_is_found() {
    let lost = [write(1, 0, 10, End::Ok), read(None, 20, 30)];
    assert_eq!(register::check(&lost).len(), 1);
}

#[test]
fn a_failed_write_that_shows_is_found() {
    let shown = [write(1, 0, 10, End::Fail), read(Some(1), 20, 30)];
    assert_eq!(register::check(&shown).len(), 1);
}

#[test]
fn an_unknown_write_may_show_late_or_never() {
    let late = [
        write(1, 0, 10, End::Ok),
        write(2, 20, 25, End::Info),
        read(Some(1), 40, 50),
        read(Some(2), 60, 70),
    ];
    assert!(register::check(&late).is_empty());
    assert!(register::check(&late[..3]).is_empty());
    let back = [late.to_vec(), vec![read(Some(1), 80, 90)]].concat();
    assert_eq!(register::check(&back).len(), 1);
}

#[test]
fn compare_and_set_applied_twice_is_found() {
    let twice = [
        write(1, 0, 10, End::Ok),
        cas(1, 2, 20, End::Ok, None),
        cas(1, 3, 40, End::Ok, None),
    ];
    assert_eq!(register::check(&twice).len(), 1);
    let mismatch = [
        write(1, 0, 10, End::Ok),
        cas(7, 2, 20, End::Fail, Some(Some(1))),
        cas(1, 3, 40, End::Info, None),
        cas(3, 4, 60, End::Ok, None),
    ];
    assert!(register::check(&mismatch).is_empty());
}

#[test]
fn concurrent_operations_are_ordered_if_an_order_exists() {
    let beside = [
        write(1, 0, 100, End::Ok),
        write(2, 0, 100, End::Ok),
        read(Some(2), 10, 20),
        read(Some(1), 30, 40),
    ];
    assert!(register::check(&beside).is_empty());
    let impossible = [beside.to_vec(), vec![read(Some(2), 50, 60)]].concat();
    assert_eq!(register::check(&impossible).len(), 1);
}

#[test]
fn two_leaders_in_a_term_and_answers_of_a_deposed_one_are_found() {
    let by = |node, term, invoked, completed| Op {
        by: Some((node, term)),
        ..read(None, invoked, completed)
    };
    assert!(term::check(&[by(1, 1, 0, 10), by(2, 2, 5, 20)]).is_empty());
    assert_eq!(term::check(&[by(1, 1, 0, 10), by(2, 1, 5, 20)]).len(), 1);
    assert_eq!(term::check(&[by(2, 2, 0, 10), by(1, 1, 20, 30)]).len(), 1);
    assert_eq!(history(&[by(2, 2, 0, 10), by(1, 1, 20, 30)]).len(), 1);
}

fn saved(segment: i64, log_id: i64, last: bool) -> Saved {
    Saved {
        channel: "c".into(),
        segment,
        partition: 1,
        log_id: Some(log_id),
        last,
        has_rows: true,
        at: 10,
    }
}

fn segment(state: &str, rows: i64, log_ids: &[i64]) -> Segment {
    Segment {
        channel: "c".into(),
        state: state.into(),
        rows,
        max_rows: 100,
        log_ids: log_ids.iter().copied().collect(),
    }
}

fn offer(log_id: i64, from: u64, to: u64) -> ((String, i64), Offer) {
    let offer = Offer {
        segment: 7,
        partition: 1,
        ordinals: vec![(from, to)],
    };
    (("c".to_owned(), log_id), offer)
}

fn promises() -> Promises {
    Promises {
        offered: BTreeMap::from([offer(1, 0, 10), offer(2, 10, 15), offer(3, 15, 20)]),
        saved: vec![saved(7, 1, false), saved(7, 2, true)],
        ..Promises::default()
    }
}

fn shown(segment: Option<Segment>, asked_at: u64) -> Vec<String> {
    let shown = Snapshot {
        asked_at,
        segments: segment.into_iter().map(|segment| (7, segment)).collect(),
    };
    snapshot(&shown, &promises())
}

#[test]
fn a_lost_flush_is_found() {
    assert!(shown(Some(segment("Flushed", 15, &[1, 2])), 20).is_empty());
    assert!(shown(Some(segment("Indexed", 15, &[1, 2])), 20).is_empty());
    assert_eq!(shown(Some(segment("Growing", 15, &[1, 2])), 20).len(), 1);
    assert_eq!(shown(Some(segment("Flushed", 10, &[1])), 20).len(), 1);
    // Asked for before the save was acknowledged: it may show what was before.
    assert!(shown(Some(segment("Growing", 10, &[1])), 5).is_empty());
}

#[test]
fn a_segment_over_its_capacity_is_found() {
    assert_eq!(shown(Some(segment("Flushed", 101, &[1, 2])), 20).len(), 1);
}

#[test]
fn rows_that_were_never_stored_are_found() {
    let stored = |stored: &[(u64, u64)]| {
        let channel = Channel {
            stored: stored.to_vec(),
            made: 20,
        };
        all_stored(&BTreeMap::from([("c".to_owned(), channel)]))
    };
    assert!(stored(&[(0, 20)]).is_empty());
    assert_eq!(stored(&[(0, 15)]).len(), 1);
}

fn seen(promises: &Promises, ordinals: impl IntoIterator<Item = u64>) -> Vec<String> {
    let seen = Seen {
        channel: "c".into(),
        asked_at: 20,
        answered_at: 30,
        ordinals: ordinals.into_iter().collect(),
    };
    view::judge(&seen, promises)
}

#[test]
fn rows_a_reader_misses_or_sees_twice_are_found() {
    let promises = promises();
    assert!(seen(&promises, 0..15).is_empty());
    // Offered, and the answer is not known: either is right.
    assert!(seen(&promises, 0..20).is_empty());
    assert_eq!(seen(&promises, 0..14).len(), 1);
    assert_eq!(seen(&promises, (0..15).chain(14..15)).len(), 1);
    assert_eq!(seen(&promises, 0..21).len(), 1);
}

#[test]
fn deleted_rows_a_reader_sees_are_found() {
    let deleted = |begun, done| Promises {
        deleted: vec![Deleted {
            channel: "c".into(),
            ordinals: vec![3],
            begun,
            done,
        }],
        ..promises()
    };
    let without = || (0..15).filter(|ordinal| *ordinal != 3);
    assert!(seen(&deleted(15, Some(18)), without()).is_empty());
    assert_eq!(seen(&deleted(15, Some(18)), 0..15).len(), 1);
    // Not answered before the reader began: either is right, but not before it was tried.
    assert!(seen(&deleted(15, Some(25)), 0..15).is_empty());
    assert!(seen(&deleted(15, None), without()).is_empty());
    assert_eq!(seen(&deleted(35, None), without()).len(), 1);
}

#[test]
fn rows_of_a_dropped_partition_that_a_reader_sees_are_found() {
    let dropped = |begun, ended| Promises {
        dropped: BTreeMap::from([(1, (begun, ended))]),
        ..promises()
    };
    assert!(seen(&dropped(12, Some(15)), []).is_empty());
    assert_eq!(seen(&dropped(12, Some(15)), 0..15).len(), 1);
    assert!(seen(&dropped(25, None), []).is_empty());
    assert!(seen(&dropped(25, None), 0..15).is_empty());
    assert_eq!(seen(&dropped(35, None), []).len(), 1);
}

#[test]
fn a_checkpoint_that_goes_back_is_found() {
    let mut reads = Checkpoints::default();
    assert!(reads.read("c", 10).is_none());
    assert!(reads.read("c", 10).is_none());
    assert!(reads.read("c", 9).is_some());
    assert!(reads.read("d", 1).is_none());
}
