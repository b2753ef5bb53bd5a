//! Rows from Parquet files: put into a collection, compared with what is stored, deleted.
//!
//! In Milvus, proxies and a message queue carry rows to data nodes. Here [`ingest`] plays both:
//! it asks the coordinator for segments, sends rows in order to the owner of their channel, and
//! sends again what an owner lost. It may do so because every row of a file has a name for ever:
//! stream (collection and contents of the file), channel (by its primary key), and ordinal (its
//! place among the file's rows of that channel). [`verify`] reads everything back from the
//! objects and compares it with the file; [`delete`] removes rows by primary key.
//!
//! The crate keeps no state of its own: what is stored is asked of the coordinator each time.

mod collection;
mod coordinator;
mod delete;
mod error;
mod fraction;
mod ingest;
mod owner;
mod pace;
mod plan;
mod progress;
mod route;
mod source;
#[cfg(test)]
mod testing;
mod verify;
mod worker;

pub use delete::{DeleteKeys, DeleteOptions, DeleteReport, delete};
pub use error::{CollectionError, DeleteError, IngestError, SourceError, VerifyError};
pub use fraction::keys_of_fraction;
pub use ingest::{IngestOptions, IngestReport, ingest, stream_id};
pub use progress::{IngestProgress, bar};
pub use quorate_binlog::PrimaryKey as Key;
pub use route::channel_of;
pub use source::{SourceColumn, SourceFile};
pub use verify::{
    Contents, Findings, ObjectProblem, ProblemKind, RowPrint, VerifyOptions, VerifyProgress,
    VerifyReport, View, WrongValue, file_prints, file_vectors, key_print, open_store, verify,
};
pub use worker::ChannelReport;
