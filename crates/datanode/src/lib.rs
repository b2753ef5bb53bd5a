//! The reference data node: takes rows and deletes of the channels it owns, buffers them, writes
//! them to the object store as log files and tells the coordinator.
//!
//! It holds nothing that must survive it. A row counts as stored once the coordinator has taken
//! the save that names it; until then its writer keeps it and sends it again to whoever owns the
//! channel next.
//!
//! Invariants:
//! - A channel's rows are accepted, and its time tick advanced, under one lock: no row with a
//!   timestamp at or below a reported tick is accepted after the report.
//! - A checkpoint never passes a row or delete that is not saved.
//! - Rows are saved at most once: each is known by stream and ordinal from acceptance on, and a
//!   save without an answer is repeated as it is, never made anew.
//! - Every save carries the assignment epoch under which its rows were accepted.
//! - Memory for rows is bounded; beyond the bound writers are told to wait.

mod batch;
pub mod bench;
mod channel;
mod config;
mod coordinator;
mod error;
mod membership;
mod memory;
mod node;
mod operation;
mod ownership;
mod service;
mod sync;
mod tick;
mod worker;

pub use config::Config;
pub use error::Error;
pub use node::DataNode;
