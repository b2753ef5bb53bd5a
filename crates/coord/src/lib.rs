//! The coordinator: what happens around the pure core.
//!
//! Every replica runs a [`coordinator::Coordinator`] on its Raft node. The one whose leadership is
//! confirmed opens a [`leader::Scope`]: clock, id windows, grants and loops, all of them volatile and
//! none of them needed by a successor. Decisions are made in `quorate-meta`; here they are
//! proposed, awaited and followed by their effects.

pub mod check;
pub mod clock;
pub mod config;
pub mod consensus;
pub mod coordinator;
pub mod error;
pub mod leader;
mod loops;
pub mod machine;
mod metrics;
pub mod outbound;
mod proposer;
mod reader;
pub mod server;
mod service;
pub mod transport;
pub mod wire;

pub use coordinator::Coordinator;
pub use error::CoordError;
