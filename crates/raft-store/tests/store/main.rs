//! The crate through its public surface.
#![allow(clippy::unwrap_used)]

mod codec;
mod conformance;
mod fixture;
mod identity;
mod log;
mod restore;
mod snapshot;
mod state;
