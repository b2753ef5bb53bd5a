//! The real binary, from outside: what replicas and data nodes answer, what they survive, what
//! they refuse.

#![allow(clippy::unwrap_used)]

mod folders;
mod forward;
mod full_disk;
mod meta;
mod moves;
mod odd_inputs;
mod restart;
mod snapshot;
mod tombstones;
