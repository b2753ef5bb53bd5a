//! A cluster that begins with the rows of a snapshot.
//!
//! The snapshot's cluster went on after the snapshot, perhaps it still does. What it has handed out
//! since is in no row here, and must not be handed out a second time: object stores and data nodes
//! may know it.

use super::{Reason, node, reject};
use crate::command::Outcome;
use crate::pb;
use crate::state::{Change, Delta, Event, State};

/// The first command of a restored cluster. The data nodes of the snapshot's cluster are not this
/// one's; they register again. Nothing is collected until an operator has said that no other cluster
/// uses the same objects: what is unknown here may be live there.
pub(super) fn restore_cluster(state: &State, cmd: &pb::RestoreCluster, out: &mut Delta) -> Outcome {
    let mut row = state.singleton;
    let beyond = |bound: i64, burnt: u64| bound.checked_add(i64::try_from(burnt).ok()?);
    let (Some(id_bound), Some(next_node_id)) = (
        beyond(state.id_bound(), cmd.ids_burnt),
        beyond(row.next_node_id.max(1), cmd.node_ids_burnt),
    ) else {
        return reject(Reason::OverLimit, "ids are used up");
    };
    row.id_bound = id_bound;
    row.next_node_id = next_node_id;
    row.clock_bound = row.clock_bound.max(cmd.clock_bound);
    for id in state.nodes().map(|node| node.id).collect::<Vec<_>>() {
        node::forget(state, id, out);
    }
    out.changes.push(Change::Singleton(row));
    out.changes.push(Change::GcPause(pb::GcPauseRow {
        ticket: cmd.gc_ticket.clone(),
        collection_id: 0,
        until: u64::MAX,
    }));
    out.events.push(Event::Gc);
    Outcome::done()
}
