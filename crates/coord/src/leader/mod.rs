//! Leadership, and what exists only while it lasts.

pub mod clock;
pub mod grants;
pub mod ids;
mod runtime;
mod scope;

pub use runtime::run;
pub use scope::{NodeLease, Scope};
