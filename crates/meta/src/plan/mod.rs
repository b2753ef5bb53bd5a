//! Planners: plain functions from a view of the state, a time and a policy to decisions, in a
//! stated order. They decide; the leader's loops propose; apply has the last word.

pub mod allocate;
pub mod channel_assign;
pub mod compact;
pub mod flush;
pub mod gc;
pub mod index_build;
pub mod recovery;
pub mod schedule;
pub mod seal;
