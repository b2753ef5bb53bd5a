//! The crate through its public surface.
#![allow(clippy::unwrap_used)]

mod codec;
mod conformance;
mod crash;
mod damage;
mod fixture;
mod fuzz;
mod identity;
mod log;
mod raft;
mod restore;
mod snapshot;
mod state;
