//! Index files over the vectors of a segment: built with `hnsw_rs`, packed into one object, read
//! back and searched.
//!
//! An index knows rows by their offset in the segment: the rows of its insert logs one after the
//! other, in the order of the log ids. Keys and deletes are the caller's business.
//!
//! Invariants:
//! - A file describes itself: its header names build, version, partition and segment, and has
//!   checksums of everything. A file that is cut, damaged or another one is an error that names
//!   the path; nothing of it reaches `hnsw_rs` before the checksums hold.
//! - A distance is smaller for what is nearer, for every metric; see [`Metric::distance`].
//! - [`params`] and [`metric`] know nothing of `hnsw_rs`: the coordinator uses them to check
//!   parameters.

mod build;
mod error;
mod file;
mod graph;
pub mod metric;
pub mod params;
mod reader;
mod search;
mod space;

pub use build::{BuiltIndex, INDEX_FILE, build};
pub use error::IndexError;
pub use metric::Metric;
pub use params::{IndexParams, IndexType, ParamsError};
pub use reader::{Index, IndexFile, K_MAX};
pub use search::{Hit, Search, SegmentHit, brute_force, search_segments};

#[cfg(test)]
mod tests;
