//! Rows of the state and their legal transitions.

pub mod channel;
pub mod compaction;
pub mod index;
pub mod segment;

pub use segment::{Level, Segment, SegmentState};
