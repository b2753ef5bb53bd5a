//! Log files of a segment: where they lie, what they hold, how they are written and read back.
//!
//! A segment's rows are kept as one *insert log* per field, a *stats log* for the primary key and
//! *delta logs* for deletes, each a Parquet file of its own in the object store. This crate knows
//! files and columns only: it holds no state, talks to no coordinator and decides nothing.
//!
//! Invariants:
//! - A file describes itself: its metadata names collection, partition, segment, field and log id,
//!   and a checksum of its values. A reader refuses a file that does not match its own path.
//! - Reading is total: a cut, foreign or damaged file is an error that names the path, never a
//!   panic and never silently wrong values.

pub mod column;
pub mod deletes;
pub mod delta;
mod error;
mod file;
pub mod group;
pub mod insert;
pub mod open;
pub mod path;
pub mod position;
pub mod ranges;
pub mod schema;
pub mod stats;
pub mod store;

pub use column::{ColumnData, Value};
pub use deletes::Deletes;
pub use delta::DeltaRows;
pub use error::BinlogError;
pub use file::{EncodedLog, recode};
pub use group::{Group, NamedLog, Place};
pub use insert::{InsertLog, ROW_ID_FIELD, TIMESTAMP_FIELD};
pub use open::ObjectStoreConfig;
pub use path::{IndexPath, LogPath};
pub use ranges::RowSet;
pub use schema::{Field, FieldType, Schema};
pub use stats::{PrimaryKey, PrimaryKeyStats};
pub use store::LogStore;
