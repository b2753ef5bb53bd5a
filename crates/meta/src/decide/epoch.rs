//! Leadership, the clock's and the ids' windows (`architecture.md` §4).

use super::{Ctx, Reason, reject};
use crate::command::Outcome;
use crate::pb;
use crate::state::{Change, Delta, Event, State};

/// No window of ids may be longer.
const IDS_MAX: u64 = 10_000_000;

/// A leader begins its work: every entry before this one is applied when its answer arrives.
pub(super) fn begin(state: &State, ctx: Ctx, cmd: &pb::BeginEpoch, out: &mut Delta) -> Outcome {
    if cmd.term != ctx.pos.term {
        return reject(
            Reason::Fenced,
            format!(
                "term {} begins in an entry of term {}",
                cmd.term, ctx.pos.term
            ),
        );
    }
    if state.epoch() >= cmd.term {
        return Outcome::already();
    }
    let mut row = state.singleton;
    row.epoch = cmd.term;
    out.changes.push(Change::Singleton(row));
    Outcome::done()
}

/// The leader may hand out timestamps below `bound`. The bound never goes back, so the next leader,
/// which starts at it, hands out none of them again.
pub(super) fn advance_clock(state: &State, cmd: &pb::AdvanceClock, out: &mut Delta) -> Outcome {
    if cmd.bound <= state.singleton.clock_bound {
        return Outcome::already();
    }
    let mut row = state.singleton;
    row.clock_bound = cmd.bound;
    out.changes.push(Change::Singleton(row));
    Outcome::done()
}

/// Takes a window of ids; the answer is its first one. Never idempotent: a lost answer burns it.
pub(super) fn reserve_ids(state: &State, cmd: &pb::ReserveIds, out: &mut Delta) -> Outcome {
    if cmd.count == 0 || cmd.count > IDS_MAX {
        return reject(
            Reason::Invalid,
            format!("{} ids asked for; 1 to {IDS_MAX} can be had", cmd.count),
        );
    }
    let first = state.id_bound();
    let Some(bound) = first.checked_add(cmd.count as i64) else {
        return reject(Reason::OverLimit, "ids are used up");
    };
    let mut row = state.singleton;
    row.id_bound = bound;
    out.changes.push(Change::Singleton(row));
    Outcome::Done(pb::Reply {
        id: first,
        ..Default::default()
    })
}

/// Every replica hashes its whole state as it is right behind this entry.
pub(super) fn mark_check(out: &mut Delta) -> Outcome {
    out.events.push(Event::CheckMarked);
    Outcome::done()
}
