//! The pure core of Quorate: what the metadata is, which commands change it and how, and the
//! planners that decide what to do next.
//!
//! Nothing here waits, reads a clock, draws a random number or touches a disk: the same state and
//! the same command give the same result on every replica, in tests and in the simulation. Effects
//! live in `quorate-coord`.
//!
//! * [`pb`]: the messages of the log and of the state tables (`proto/quorate/log`).
//! * [`state`]: the hot index in memory, the rows it stands for, and [`state::State::decide`].
//! * [`decide`]: one file per command family.
//! * [`plan`]: planners, plain functions from a view to decisions.
//! * [`invariants`]: what must hold in every state, shared by tests, simulation and `quorate check`.

pub mod command;
pub mod decide;
pub mod id;
pub mod invariants;
pub mod model;
pub mod plan;
pub mod ranges;
pub mod state;
pub mod time;

/// Messages of the Raft log and of the state tables, generated from `proto/quorate/log`.
#[allow(missing_docs, clippy::all)]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/quorate.log.v1.rs"));
}

pub use decide::{LogPos, Reason};
pub use id::{CollectionId, NodeId, PartitionId, SegmentId};
pub use state::State;
pub use time::Ts;
