//! Indexes and their builds.

use pb::BuildState;

use super::*;
use crate::plan::index_build::missing;

const SEGMENT: i64 = FIRST_ID + 5;
const INDEX: i64 = FIRST_ID + 50;
const BUILD: i64 = FIRST_ID + 60;

fn create(index: pb::CreateIndex) -> Command {
    Command::CreateIndex(index)
}

fn drop_index(name: &str, all: bool) -> Command {
    Command::DropIndex(pb::DropIndex {
        collection_id: FIRST_ID,
        name: name.into(),
        all,
    })
}

fn indexed() -> Store {
    let mut store = Store::with_watched_channel();
    store.flushed(SEGMENT, 10, 1);
    store.done(create(create_index(INDEX, 100, "v")));
    store
}

#[test]
fn an_index_is_made_once_and_a_field_has_one() {
    let mut store = indexed();
    let mut again = create_index(INDEX + 1, 100, "v");
    again.index_params.reverse();
    assert!(matches!(
        store.run(create(again)),
        Outcome::Already(pb::Reply { id: INDEX, .. })
    ));
    let mut other = create_index(INDEX + 1, 100, "v");
    other.index_params.pop();
    assert_eq!(store.refused(create(other)), Reason::Exists);
    assert_eq!(
        store.refused(create(create_index(INDEX + 1, 100, "w"))),
        Reason::Exists
    );
    store.done(create(create_index(INDEX + 1, 101, "w")));
    assert_eq!(
        store.refused(create(create_index(1 << 40, 102, "x"))),
        Reason::Invalid
    );
}

#[test]
fn dropping_names_one_index_or_all_and_is_repeatable() {
    let mut store = indexed();
    store.done(create(create_index(INDEX + 1, 101, "w")));
    assert_eq!(store.refused(drop_index("", false)), Reason::Invalid);
    store.done(drop_index("v", false));
    assert!(matches!(
        store.run(drop_index("v", false)),
        Outcome::Already(_)
    ));
    assert_eq!(store.state.indexes_of(CollectionId(FIRST_ID)).count(), 1);
    assert_eq!(store.state.dropped_indexes().count(), 1);
    store.done(create(create_index(INDEX + 2, 100, "v")));
    store.done(drop_index("", true));
    assert_eq!(store.state.dropped_indexes().count(), 3);
}

#[test]
fn every_flushed_segment_gets_one_build_of_each_index() {
    let mut store = indexed();
    store.done(open(SEGMENT + 1));
    assert_eq!(missing(&store.state, 10), [(SegmentId(SEGMENT), INDEX)]);
    store.run(open_build(BUILD + 1, SEGMENT + 1, INDEX));
    assert!(store.state.build(BUILD + 1).is_none(), "a Growing segment");
    store.done(open_build(BUILD, SEGMENT, INDEX));
    assert!(matches!(
        store.run(open_build(BUILD + 2, SEGMENT, INDEX)),
        Outcome::Already(_)
    ));
    assert_eq!(missing(&store.state, 10), []);
    assert_eq!(store.state.build(BUILD).unwrap().rows, 10);
}

#[test]
fn a_result_of_an_older_version_is_ignored() {
    let mut store = indexed();
    let assign = |node_id: i64, version: u32| {
        Command::AssignIndexBuild(pb::AssignIndexBuild {
            build_id: BUILD,
            node_id,
            version,
        })
    };
    store.done(open_build(BUILD, SEGMENT, INDEX));
    assert_eq!(store.refused(assign(1, 2)), Reason::IllegalState);
    store.done(assign(1, 1));
    assert!(matches!(store.run(assign(1, 1)), Outcome::Already(_)));
    store.done(assign(0, 1));
    assert!(matches!(
        store.run(Command::FinishIndexBuild(finish_build(BUILD, 1))),
        Outcome::Already(_)
    ));
    store.done(assign(1, 2));
    store.run(Command::FinishIndexBuild(finish_build(BUILD, 1)));
    assert_eq!(
        store.state.build(BUILD).unwrap().state(),
        BuildState::InProgress
    );
    let segment = store.state.segment(SegmentId(SEGMENT)).unwrap().clone();
    assert!(!store.state.is_indexed(&segment) && !store.state.is_ready(&segment));
    store.done(Command::FinishIndexBuild(finish_build(BUILD, 2)));
    assert!(store.state.is_indexed(&segment) && store.state.is_ready(&segment));
    assert_eq!(store.refused(assign(1, 3)), Reason::IllegalState);
    assert_eq!(store.state.open_builds().count(), 0);
}

#[test]
fn builds_nobody_wants_are_not_open_and_can_be_forgotten() {
    let mut store = indexed();
    store.done(open_build(BUILD, SEGMENT, INDEX));
    let forget = |build_ids: &[i64], index_ids: &[i64]| {
        Command::ForgetIndexes(pb::ForgetIndexes {
            build_ids: build_ids.to_vec(),
            index_ids: index_ids.to_vec(),
        })
    };
    assert!(matches!(
        store.run(forget(&[BUILD], &[INDEX])),
        Outcome::Already(_)
    ));
    store.done(drop_index("v", false));
    assert_eq!(store.state.open_builds().count(), 0);
    assert!(matches!(
        store.run(forget(&[], &[INDEX])),
        Outcome::Already(_)
    ));
    store.done(forget(&[BUILD], &[INDEX]));
    assert!(store.state.index(INDEX).is_none() && store.state.build(BUILD).is_none());
    assert_eq!(store.reloaded(), store.state);
}

#[test]
fn scalar_indexes_do_not_keep_parents_alive() {
    let mut store = indexed();
    store.build(BUILD, SEGMENT, INDEX);
    let mut scalar = create_index(INDEX + 1, 101, "s");
    scalar.index_params[0].value = "INVERTED".into();
    store.done(create(scalar));
    let segment = store.state.segment(SegmentId(SEGMENT)).unwrap();
    assert!(store.state.is_ready(segment) && !store.state.is_indexed(segment));
}
