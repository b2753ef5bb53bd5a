//! The log's side: entries, vote and committed pointer, with one writer, one fsync and one look
//! of the witness for all that waits.

mod codec;
mod load;
mod store;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use load::{NAME, Opened, Refused};
pub use store::{LogMonitor, LogStore};
pub use tail::LogStats;
pub use writer::WriterMode;
