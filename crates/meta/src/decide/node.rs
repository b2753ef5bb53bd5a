//! Data nodes come and go.

use super::{Ctx, Reason, channel::orphan, reject};
use crate::command::Outcome;
use crate::pb;
use crate::state::{Change, Delta, Event, State};

/// Most data nodes at a time.
pub const NODES_MAX: usize = 10_000;

/// A data node process registers. The natural key is (address, session). A new session on a known
/// address is a restarted process: what the earlier one owned goes back to the buffer at once.
pub(super) fn register(
    state: &State,
    ctx: Ctx,
    cmd: &pb::RegisterNode,
    out: &mut Delta,
) -> Outcome {
    if cmd.address.is_empty() || cmd.session.is_empty() {
        return reject(
            Reason::Invalid,
            "a data node needs an address and a session",
        );
    }
    let key = (cmd.address.clone(), cmd.session.clone());
    if let Some(&id) = state.sessions.get(&key) {
        return Outcome::Already(pb::Reply {
            id,
            ..Default::default()
        });
    }
    let earlier = state
        .nodes()
        .filter(|node| node.address == cmd.address)
        .map(|node| node.id)
        .collect::<Vec<_>>();
    if state.nodes.len() - earlier.len() >= NODES_MAX {
        return reject(
            Reason::OverLimit,
            format!("at most {NODES_MAX} data nodes can register"),
        );
    }
    for id in earlier {
        forget(state, id, out);
    }
    let id = state.singleton.next_node_id.max(1);
    let mut singleton = state.singleton;
    singleton.next_node_id = id + 1;
    out.changes.push(Change::Singleton(singleton));
    out.changes.push(Change::Node(pb::NodeRow {
        id,
        address: cmd.address.clone(),
        session: cmd.session.clone(),
        version: cmd.version.clone(),
        registered_at: ctx.now.0,
    }));
    out.events.push(Event::Node(id));
    Outcome::Done(pb::Reply {
        id,
        ..Default::default()
    })
}

/// A data node's lease ended: all its channels go back to the buffer, in one entry.
pub(super) fn expire(state: &State, cmd: &pb::ExpireNode, out: &mut Delta) -> Outcome {
    match state.node(cmd.node_id) {
        Some(node) if node.session == cmd.session => {
            forget(state, cmd.node_id, out);
            Outcome::done()
        }
        _ => Outcome::already(),
    }
}

pub(super) fn forget(state: &State, id: i64, out: &mut Delta) {
    for row in state.channels().filter(|row| row.node_id == id) {
        let mut row = pb::ChannelRow::clone(row);
        orphan(&mut row);
        out.put_channel(row);
    }
    out.changes.push(Change::ForgetNode(id));
    out.events.push(Event::Node(id));
}
