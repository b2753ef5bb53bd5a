#![allow(clippy::unwrap_used)]

use super::{acknowledged, allocation, durability, history, register, segment, term};
use crate::history::{Call, Op, Outcome};

fn op(call: Call, invoked: u64, completed: u64, outcome: Outcome) -> Op {
    Op {
        process: "p".into(),
        call,
        invoked,
        completed: match outcome {
            Outcome::Info => u64::MAX,
            _ => completed,
        },
        outcome,
        term: None,
        error: None,
    }
}

fn read(value: Option<&str>, invoked: u64, completed: u64) -> Op {
    let call = Call::Read {
        key: "k".into(),
        value: value.map(Into::into),
    };
    op(call, invoked, completed, Outcome::Ok)
}

fn write(value: &str, invoked: u64, completed: u64, outcome: Outcome) -> Op {
    let call = Call::Write {
        key: "k".into(),
        value: value.into(),
    };
    op(call, invoked, completed, outcome)
}

fn cas(old: &str, new: &str, invoked: u64, completed: u64, outcome: Outcome) -> Op {
    let call = Call::Cas {
        key: "k".into(),
        old: old.into(),
        new: new.into(),
        seen: None,
    };
    op(call, invoked, completed, outcome)
}

fn refused(old: &str, seen: Option<&str>, invoked: u64, completed: u64) -> Op {
    let call = Call::Cas {
        key: "k".into(),
        old: old.into(),
        new: "never".into(),
        seen: Some(seen.map(Into::into)),
    };
    op(call, invoked, completed, Outcome::Fail)
}

fn ids(first: i64, count: u32, at: u64) -> Op {
    op(Call::AllocId { count, first }, at, at + 5, Outcome::Ok)
}

fn stamps(first: u64, count: u32, invoked: u64, completed: u64) -> Op {
    op(
        Call::AllocTs { count, first },
        invoked,
        completed,
        Outcome::Ok,
    )
}

#[test]
fn an_id_given_twice_is_found() {
    assert!(allocation::ids(&[ids(1, 10, 0), ids(11, 5, 10)]).is_empty());
    assert_eq!(allocation::ids(&[ids(1, 10, 0), ids(10, 5, 10)]).len(), 1);
}

#[test]
fn a_timestamp_given_twice_is_found() {
    let twice = [stamps(100, 10, 0, 50), stamps(109, 1, 10, 50)];
    assert_eq!(allocation::timestamps(&twice).len(), 1);
}

#[test]
fn timestamps_that_go_back_in_real_time_are_found() {
    let back = [stamps(100, 1, 0, 10), stamps(90, 1, 20, 30)];
    assert_eq!(allocation::timestamps(&back).len(), 1);
    // At the same time either may be first.
    let beside = [stamps(100, 1, 0, 30), stamps(90, 1, 20, 40)];
    assert!(allocation::timestamps(&beside).is_empty());
}

#[test]
fn a_lost_write_is_found() {
    let lost = [write("a", 0, 10, Outcome::Ok), read(None, 20, 30)];
    assert_eq!(durability::check(&lost).len(), 1);
    assert_eq!(register::check(&lost).len(), 1);
    // Asked for before the write was answered, it may have come first.
    let early = [write("a", 0, 10, Outcome::Ok), read(None, 9, 30)];
    assert!(history(&early).is_empty());
}

#[test]
fn a_write_that_was_rolled_back_to_an_older_one_is_found() {
    let back = [
        write("a", 0, 10, Outcome::Ok),
        write("b", 20, 30, Outcome::Ok),
        read(Some("a"), 40, 50),
    ];
    assert_eq!(durability::check(&back).len(), 1);
    assert_eq!(register::check(&back).len(), 1);
    assert!(history(&[back[0].clone(), back[1].clone(), read(Some("b"), 40, 50)]).is_empty());
}

#[test]
fn a_value_nobody_wrote_is_found() {
    let shown = [write("a", 0, 10, Outcome::Fail), read(Some("a"), 20, 30)];
    assert_eq!(durability::check(&shown).len(), 1);
    assert_eq!(register::check(&shown).len(), 1);
    let early = [read(Some("a"), 0, 5), write("a", 10, 20, Outcome::Ok)];
    assert_eq!(durability::check(&early).len(), 1);
    assert_eq!(register::check(&early).len(), 1);
}

#[test]
fn an_unknown_write_may_show_late_or_never() {
    let late = [
        write("a", 0, 10, Outcome::Ok),
        write("b", 20, 25, Outcome::Info),
        read(Some("a"), 40, 50),
        read(Some("b"), 60, 70),
    ];
    assert!(history(&late).is_empty());
    assert!(history(&late[..3]).is_empty());
    let back = [late.to_vec(), vec![read(Some("a"), 80, 90)]].concat();
    assert_eq!(register::check(&back).len(), 1);
}

#[test]
fn an_unknown_write_that_was_seen_is_not_lost_again() {
    let lost = [
        write("a", 0, 5, Outcome::Info),
        read(Some("a"), 10, 20),
        read(None, 30, 40),
    ];
    assert_eq!(register::check(&lost).len(), 1);
}

#[test]
fn two_compare_and_sets_of_one_value_are_found() {
    let first = write("a", 0, 10, Outcome::Ok);
    let one = cas("a", "b", 20, 40, Outcome::Ok);
    let other = cas("a", "c", 20, 40, Outcome::Ok);
    assert!(history(&[first.clone(), one.clone()]).is_empty());
    assert_eq!(register::check(&[first, one, other]).len(), 1);
}

#[test]
fn a_refused_compare_and_set_counts_as_a_read() {
    let first = write("a", 0, 10, Outcome::Ok);
    assert!(history(&[first.clone(), refused("x", Some("a"), 20, 30)]).is_empty());
    let wrong = [first, refused("x", None, 20, 30)];
    assert_eq!(register::check(&wrong).len(), 1);
    assert_eq!(durability::check(&wrong).len(), 1);
}

#[test]
fn many_operations_at_once_are_decided() {
    let mut ops: Vec<Op> = (0..12)
        .map(|n| write(&n.to_string(), 0, 1000, Outcome::Ok))
        .collect();
    ops.push(read(Some("7"), 1100, 1200));
    assert!(register::check(&ops).is_empty());
    ops.push(read(Some("8"), 1300, 1400));
    assert_eq!(register::check(&ops).len(), 1);
}

#[test]
fn an_answer_of_a_replaced_leader_is_found() {
    let under = |term, invoked, completed| Op {
        term: Some(term),
        completed,
        ..ids(1, 1, invoked)
    };
    assert!(term::check(&[under(2, 0, 10), under(1, 5, 20)]).is_empty());
    assert_eq!(term::check(&[under(2, 0, 10), under(1, 11, 20)]).len(), 1);
}

#[test]
fn a_segment_that_was_handed_out_and_is_gone_is_found() {
    let assign = op(
        Call::Assign {
            channel: "c".into(),
            rows: 5,
            granted: Some((7, 5)),
        },
        0,
        10,
        Outcome::Ok,
    );
    let snapshot = |segments: &[i64], at| {
        let segments = segments.to_vec();
        op(Call::Snapshot { segments }, at, at + 5, Outcome::Ok)
    };
    assert!(segment::check(&[assign.clone(), snapshot(&[7], 20)]).is_empty());
    assert!(segment::check(&[assign.clone(), snapshot(&[], 5)]).is_empty());
    assert_eq!(segment::check(&[assign, snapshot(&[], 20)]).len(), 1);
}

#[test]
fn only_what_was_acknowledged_is_counted() {
    let ops = [
        write("a", 0, 10, Outcome::Ok),
        write("b", 0, 10, Outcome::Info),
        read(None, 0, 10),
    ];
    let counts = acknowledged(&ops);
    assert_eq!(counts.get("write"), Some(&1));
    assert_eq!(counts.get("read"), Some(&1));
}
