//! Tests of the whole: the deterministic simulation, and what tests of several crates share.

pub mod cluster;
pub mod s3;
pub mod sim;
