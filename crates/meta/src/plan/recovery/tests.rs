#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::*;
use crate::pb::{self, BuildState};
use crate::state::{Change, Delta};

const INDEX: i64 = 90;

fn segment(id: i64) -> Segment {
    let row = pb::SegmentRow {
        id,
        collection_id: 1,
        partition_id: 2,
        channel: "c".into(),
        state: SegmentState::Flushed as u32,
        level: Level::L1 as u32,
        rows: 1,
        files: 1,
        start_ts: 1,
        dml_ts: 2,
        ..Default::default()
    };
    Segment::from_row(&row, |name| Arc::from(name)).unwrap()
}

/// A collection with a vector index, and no segments.
fn indexed() -> State {
    let index = pb::CreateIndex {
        index_id: INDEX,
        collection_id: 1,
        ..Default::default()
    };
    let mut state = State::new();
    put(
        &mut state,
        vec![
            Change::Collection(pb::CollectionRow {
                id: 1,
                channels: vec!["c".into()],
                ..Default::default()
            }),
            Change::Channel(pb::ChannelRow {
                name: "c".into(),
                collection_id: 1,
                ..Default::default()
            }),
            Change::Index(Arc::new(pb::IndexRow {
                index: Some(index),
                ..Default::default()
            })),
        ],
    );
    state
}

fn put(state: &mut State, changes: Vec<Change>) {
    state.merge(&Delta {
        changes,
        events: vec![],
    });
}

/// Parents → children; everything flushed that has no children of its own.
fn compacted(state: &mut State, parents: &[i64], children: &[i64]) {
    for &id in parents {
        let mut parent = segment(id);
        parent.state = SegmentState::Dropped;
        parent.dropped_at = Ts(5);
        parent.compacted = true;
        parent.compacted_from = !state.parents_of(SegmentId(id)).is_empty();
        put(state, vec![Change::Segment(parent)]);
    }
    for &id in children {
        let mut child = segment(id);
        child.compacted_from = true;
        let lineage = Change::Lineage {
            child: child.id,
            parents: parents.iter().map(|&id| SegmentId(id)).collect(),
        };
        put(state, vec![Change::Segment(child), lineage]);
    }
}

fn built(state: &mut State, segments: &[i64]) {
    for &id in segments {
        let build = pb::BuildRow {
            build_id: 100 + id,
            segment_id: id,
            index_id: INDEX,
            state: BuildState::Finished.into(),
            ..Default::default()
        };
        put(state, vec![Change::Build(Arc::new(build))]);
    }
}

fn given(state: &State) -> Vec<i64> {
    let view = &view(state, CollectionId(1), &[])[0];
    assert!(view.flushed.iter().all(|id| !view.dropped.contains(id)));
    view.flushed.iter().map(|id| id.0).collect()
}

#[test]
fn an_unready_child_sends_all_its_siblings_back() {
    let mut state = indexed();
    compacted(&mut state, &[3, 4], &[5, 6]);
    built(&mut state, &[3, 4, 6]);
    assert_eq!(given(&state), [3, 4]);
    built(&mut state, &[5]);
    assert_eq!(given(&state), [5, 6]);
    let dropped = &view(&state, CollectionId(1), &[])[0].dropped;
    assert_eq!(dropped, &[SegmentId(3), SegmentId(4)]);
}

#[test]
fn a_child_stays_when_a_parent_is_condemned_or_forgotten() {
    for end in ["condemned", "forgotten"] {
        let mut state = indexed();
        compacted(&mut state, &[3, 4], &[5, 6]);
        let mut gone = state.segment(SegmentId(4)).unwrap().clone();
        gone.condemned_at = Ts(9);
        let changes = match end {
            "condemned" => vec![Change::Segment(gone)],
            _ => vec![Change::ForgetSegment(gone.id)],
        };
        put(&mut state, changes);
        assert_eq!(given(&state), [5, 6], "{end}");
    }
}

#[test]
fn three_generations_go_back_as_far_as_need_be() {
    let mut state = indexed();
    compacted(&mut state, &[1, 2], &[3]);
    compacted(&mut state, &[3, 4], &[5]);
    built(&mut state, &[1, 2, 3, 4]);
    assert_eq!(given(&state), [3, 4]);
    put(&mut state, vec![Change::ForgetBuild(103)]);
    assert_eq!(given(&state), [1, 2, 4]);
    built(&mut state, &[5]);
    assert_eq!(given(&state), [5]);
    assert_eq!(
        descendants(&state, SegmentId(1)),
        [3, 5].map(SegmentId).into()
    );
}

#[test]
fn what_else_went_into_a_sibling_comes_back_with_it() {
    let mut state = indexed();
    compacted(&mut state, &[1], &[3, 4]);
    compacted(&mut state, &[3, 2], &[5]);
    built(&mut state, &[1, 2, 3, 5]);
    // 4 is unready, so 1 comes back; 5 holds rows of 1 and goes; 2 would be missing.
    assert_eq!(given(&state), [1, 2]);
    let mut gone = state.segment(SegmentId(2)).unwrap().clone();
    gone.condemned_at = Ts(9);
    put(&mut state, vec![Change::Segment(gone)]);
    assert_eq!(given(&state), [4, 5], "5 cannot be undone any more");
}

#[test]
fn without_a_vector_index_children_are_ready_at_once() {
    let mut state = indexed();
    compacted(&mut state, &[3], &[5]);
    assert_eq!(given(&state), [3]);
    put(&mut state, vec![Change::ForgetIndex(INDEX)]);
    assert_eq!(given(&state), [5]);
}
