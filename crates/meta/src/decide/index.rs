//! Indexes and their builds (`semantics.md` §8).

use std::collections::{BTreeMap, BTreeSet};

use super::collection::no_collection;
use super::{Ctx, Reason, changed, reject};
use crate::command::Outcome;
use crate::id::{CollectionId, SegmentId};
use crate::model::index::is_open;
use crate::model::{Level, SegmentState};
use crate::pb::{self, BuildState};
use crate::state::{Change, Delta, Event, State};

fn reply(id: i64) -> Outcome {
    Outcome::Done(pb::Reply {
        id,
        ..Default::default()
    })
}

/// Parameters in an order of their own: a repeated request may name them in another.
fn sorted(params: &[pb::KeyValue]) -> BTreeSet<(&str, &str)> {
    params
        .iter()
        .map(|pair| (pair.key.as_str(), pair.value.as_str()))
        .collect()
}

fn is_same(a: &pb::CreateIndex, b: &pb::CreateIndex) -> bool {
    a.name == b.name
        && a.field_id == b.field_id
        && sorted(&a.type_params) == sorted(&b.type_params)
        && sorted(&a.index_params) == sorted(&b.index_params)
        && sorted(&a.user_params) == sorted(&b.user_params)
}

/// A new index. The same definition again answers with the id of the first.
pub(super) fn create(state: &State, ctx: Ctx, cmd: &pb::CreateIndex, out: &mut Delta) -> Outcome {
    if state
        .live_collection(CollectionId(cmd.collection_id))
        .is_none()
    {
        return no_collection(cmd.collection_id);
    }
    if cmd.name.is_empty() {
        return reject(Reason::Invalid, "an index needs a name");
    }
    for existing in state.indexes_of(CollectionId(cmd.collection_id)) {
        let Some(existing) = &existing.index else {
            continue;
        };
        if is_same(existing, cmd) {
            return Outcome::Already(pb::Reply {
                id: existing.index_id,
                ..Default::default()
            });
        }
        if existing.name == cmd.name {
            return reject(
                Reason::Exists,
                format!(
                    "index {} exists with another field or other parameters; drop it first",
                    cmd.name
                ),
            );
        }
        if existing.field_id == cmd.field_id {
            return reject(
                Reason::Exists,
                format!(
                    "field {} has index {} already; a field has one index",
                    cmd.field_id, existing.name
                ),
            );
        }
    }
    if cmd.index_id <= 0 || cmd.index_id >= state.id_bound() || state.index(cmd.index_id).is_some()
    {
        return reject(
            Reason::Invalid,
            format!("index id {} was never handed out or is taken", cmd.index_id),
        );
    }
    out.changes.push(Change::Index(
        pb::IndexRow {
            index: Some(cmd.clone()),
            created_at: ctx.now.0,
            dropped_at: 0,
        }
        .into(),
    ));
    out.events.push(Event::Build(0));
    reply(cmd.index_id)
}

/// A tombstone on an index, or on all of a collection. What is not there counts as dropped.
pub(super) fn drop_index(state: &State, ctx: Ctx, cmd: &pb::DropIndex, out: &mut Delta) -> Outcome {
    let chosen: Vec<_> = state
        .indexes_of(CollectionId(cmd.collection_id))
        .filter(|row| {
            let name = row.index.as_ref().map(|index| index.name.as_str());
            cmd.name.is_empty() || name == Some(cmd.name.as_str())
        })
        .collect();
    if cmd.name.is_empty() && !cmd.all && chosen.len() > 1 {
        return reject(
            Reason::Invalid,
            format!(
                "collection {} has {} indexes; name one, or drop all",
                cmd.collection_id,
                chosen.len()
            ),
        );
    }
    for row in chosen {
        let mut row = pb::IndexRow::clone(row);
        row.dropped_at = ctx.now.0.max(1);
        out.changes.push(Change::Index(row.into()));
    }
    if !out.is_empty() {
        out.events.extend([Event::Build(0), Event::Gc]);
    }
    changed(out)
}

/// Builds to be done: one for every (segment, index). What cannot be built, or is named before, is
/// passed over.
pub(super) fn open_builds(
    state: &State,
    ctx: Ctx,
    cmd: &pb::OpenIndexBuilds,
    out: &mut Delta,
) -> Outcome {
    let mut seen = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for wanted in &cmd.builds {
        let id = wanted.build_id;
        let Some(segment) = state.healthy_segment(SegmentId(wanted.segment_id)) else {
            continue;
        };
        let index = state
            .indexes_of(segment.collection)
            .filter_map(|row| row.index.as_ref())
            .find(|index| index.index_id == wanted.index_id);
        let builds = segment.state == SegmentState::Flushed && segment.level != Level::L0;
        if index.is_none()
            || !builds
            || state.build_of(segment.id, wanted.index_id).is_some()
            || !seen.insert((segment.id, wanted.index_id))
        {
            continue;
        }
        if id <= 0 || id >= state.id_bound() || state.build(id).is_some() || !ids.insert(id) {
            return reject(
                Reason::Invalid,
                format!("build id {id} was never handed out or is taken"),
            );
        }
        out.put_build(pb::BuildRow {
            build_id: id,
            segment_id: segment.id.0,
            index_id: wanted.index_id,
            collection_id: segment.collection.0,
            partition_id: segment.partition.0,
            state: BuildState::Init.into(),
            rows: segment.rows,
            created_at: ctx.now.0,
            ..Default::default()
        });
    }
    changed(out)
}

fn no_build(id: i64) -> Outcome {
    reject(
        Reason::SegmentNotFound,
        format!("there is no index build {id}; discard its result"),
    )
}

/// Gives a build to a node under a new version, or takes it back.
pub(super) fn assign_build(
    state: &State,
    ctx: Ctx,
    cmd: &pb::AssignIndexBuild,
    out: &mut Delta,
) -> Outcome {
    let Some(row) = state.build(cmd.build_id) else {
        return no_build(cmd.build_id);
    };
    if is_open(row) && row.version == cmd.version && row.node_id == cmd.node_id {
        return Outcome::already();
    }
    let expected = if cmd.node_id == 0 {
        Some(row.version)
    } else {
        row.version.checked_add(1)
    };
    if !is_open(row) || expected != Some(cmd.version) {
        return reject(
            Reason::IllegalState,
            format!(
                "index build {} is {} at version {}; version {} cannot follow",
                cmd.build_id,
                crate::model::index::build_state_name(row.state()),
                row.version,
                cmd.version
            ),
        );
    }
    let mut row = pb::BuildRow::clone(row);
    row.node_id = cmd.node_id;
    row.version = cmd.version;
    if cmd.node_id == 0 {
        row.set_state(BuildState::Init);
        row.assigned_at = 0;
    } else {
        if state.node(cmd.node_id).is_none() {
            return reject(
                Reason::NodeNotFound,
                format!("data node {} is not registered", cmd.node_id),
            );
        }
        row.set_state(BuildState::InProgress);
        row.assigned_at = ctx.now.0;
    }
    out.put_build(row);
    Outcome::done()
}

/// A build's result. One of an older version, or of a build that is not under way, is ignored.
pub(super) fn finish_build(
    state: &State,
    ctx: Ctx,
    cmd: &pb::FinishIndexBuild,
    out: &mut Delta,
) -> Outcome {
    let Some(row) = state.build(cmd.build_id) else {
        return no_build(cmd.build_id);
    };
    if row.state() != BuildState::InProgress || row.version != cmd.version {
        return Outcome::already();
    }
    let mut row = pb::BuildRow::clone(row);
    row.ended_at = ctx.now.0;
    if cmd.success {
        row.set_state(BuildState::Finished);
        row.files = cmd.files.clone();
        row.serialized_bytes = cmd.serialized_bytes;
        row.memory_bytes = cmd.memory_bytes;
    } else {
        row.set_state(BuildState::Failed);
        row.fail_reason = cmd.fail_reason.clone();
    }
    out.put_build(row);
    Outcome::done()
}

/// Forgets builds that nobody needs (their segment is gone or condemned, or their index dropped)
/// and dropped indexes without builds. The others named are passed over.
pub(super) fn forget(state: &State, cmd: &pb::ForgetIndexes, out: &mut Delta) -> Outcome {
    let mut left: BTreeMap<i64, usize> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for &id in &cmd.build_ids {
        let Some(row) = state.build(id) else {
            continue;
        };
        let segment_gone = state
            .segment(SegmentId(row.segment_id))
            .is_none_or(|segment| !segment.condemned_at.is_zero());
        let index_gone = state
            .index(row.index_id)
            .is_none_or(|index| !state.index_is_live(index));
        if !(segment_gone || index_gone) || !seen.insert(id) {
            continue;
        }
        *left
            .entry(row.index_id)
            .or_insert_with(|| state.indexes.builds_of_index(row.index_id)) -= 1;
        out.changes.push(Change::ForgetBuild(id));
        out.events.push(Event::Build(id));
    }
    let mut seen = BTreeSet::new();
    for &id in &cmd.index_ids {
        let Some(row) = state.index(id) else {
            continue;
        };
        let builds = left
            .get(&id)
            .copied()
            .unwrap_or_else(|| state.indexes.builds_of_index(id));
        if !state.index_is_live(row) && builds == 0 && seen.insert(id) {
            out.changes.push(Change::ForgetIndex(id));
        }
    }
    changed(out)
}
