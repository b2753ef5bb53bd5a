//! Object stores: what the rest of Quorate does with a real S3 server that is slow, refuses, or is
//! gone for a while.

#![allow(clippy::unwrap_used)]

mod gc;
mod s3;
