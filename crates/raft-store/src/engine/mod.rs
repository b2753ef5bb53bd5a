//! What the log and the state need from a key/value store, and the two that provide it:
//! RocksDB for production, memory for the deterministic simulation. Beside databases a volume
//! holds blocks, small files written in place.
//!
//! Invariants: a batch is all or nothing; a synced write also makes every earlier write
//! of the same database durable; a view never changes.

pub(crate) mod mem;
pub(crate) mod rocks;

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

pub use mem::MemDisk;

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its new value.
        value: Vec<u8>,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// Removes every key from `from` up to but not including `to`.
    DeleteRange {
        /// First key.
        from: Vec<u8>,
        /// The key after the last one.
        to: Vec<u8>,
    },
}

impl Write {
    /// About how many bytes this change holds.
    pub(crate) fn size_bytes(&self) -> usize {
        match self {
            Write::Put { key, value } => key.len() + value.len(),
            Write::Delete { key } => key.len(),
            Write::DeleteRange { from, to } => from.len() + to.len(),
        }
    }
}

/// Called with each key and value of a scan, until it breaks.
pub type EachRow<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Rows as they were at one moment.
pub trait View {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// Calls `each` in key order from `from` up to but not including `to` (empty: no bound).
    fn scan(&self, from: &[u8], to: &[u8], each: EachRow<'_>) -> io::Result<()>;
}

/// Work on a view that runs elsewhere.
pub type ViewTask = Box<dyn FnOnce(&dyn View) + Send>;

/// An ordered key/value database.
pub trait Engine: Send + Sync {
    /// Writes a batch; with `sync` returns once it is on disk.
    fn write(&self, batch: Vec<Write>, sync: bool) -> io::Result<()>;

    /// Calls `f` once with a view of this moment.
    fn with_view(&self, f: &mut dyn FnMut(&dyn View)) -> io::Result<()>;

    /// Runs `f` on another thread (memory: here) with a view taken before this returns.
    fn fork_view(&self, f: ViewTask) -> io::Result<()>;

    /// Makes every earlier write durable, outside the write-ahead log too.
    fn flush(&self) -> io::Result<()>;

    /// Makes a durable copy named `name` in the same volume, of a moment after the call.
    fn checkpoint(&self, name: &str) -> io::Result<()>;

    /// About how many rows there are.
    fn rows_estimate(&self) -> u64 {
        0
    }

    /// Gives the space of a deleted range back, in the background.
    fn reclaim(&self, from: Vec<u8>, to: Vec<u8>);
}

/// A small file of fixed size that is written in place.
pub(crate) trait Block: Send + Sync {
    /// Its first bytes: at most `limit`, fewer if it is shorter.
    fn read(&self, limit: usize) -> io::Result<Vec<u8>>;

    /// Overwrites the bytes from `offset` on.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes every earlier write durable.
    fn sync(&self) -> io::Result<()>;
}

/// Where databases live, by name (`log`, `state/3`, `snapshots/...`).
pub(crate) trait Volume: Send + Sync {
    /// Whether a database or block of this name exists.
    fn exists(&self, name: &str) -> io::Result<bool>;

    /// How to name a database or block to an operator.
    fn locate(&self, name: &str) -> String;

    /// Makes a block that holds `bytes`, durably; replaces one of the same name.
    fn create_block(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Opens a block that exists.
    fn open_block(&self, name: &str) -> io::Result<Arc<dyn Block>>;

    /// Opens a database for writing, making it if it is missing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn Engine>>;

    /// Opens a checkpoint for reading.
    fn open_read(&self, name: &str) -> io::Result<Arc<dyn Engine>>;

    /// Names inside `folder`, sorted.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Removes a database and all it holds.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Renames a database, durably.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// The name of the live state database, if there is one.
    fn read_pointer(&self) -> io::Result<Option<String>>;

    /// Makes `name` the live state database: atomic and durable.
    fn write_pointer(&self, name: &str) -> io::Result<()>;

    /// Whether work may leave the calling thread.
    fn threads(&self) -> bool;
}
