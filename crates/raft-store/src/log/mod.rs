//! The log's side: entries, vote and committed pointer, with one writer and one fsync
//! for all that waits.

mod codec;
mod store;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

pub use store::LogStore;
pub use writer::WriterMode;
