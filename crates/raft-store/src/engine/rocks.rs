//! RocksDB engines in one data folder.
//!
//! Invariants: one column family; paranoid checks on; a read error is returned and never
//! answered as "not found"; no thread outlives its engine.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, ReadOptions, Snapshot,
    WriteBatch, WriteOptions,
};

use super::{Block, EachRow, Engine, View, ViewTask, Volume, Write};
use crate::Options;

/// Read at once from a database that is read through.
const READ_AHEAD_BYTES: usize = 2 << 20;
const POINTER: &str = "state/CURRENT";

fn failed(error: rocksdb::Error) -> io::Error {
    let kind = match error.kind() {
        rocksdb::ErrorKind::Corruption => io::ErrorKind::InvalidData,
        // The bindings drop the code that says so.
        rocksdb::ErrorKind::IOError if error.as_ref().contains("No such file") => {
            io::ErrorKind::NotFound
        }
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// Makes the names inside `folder` durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Replaces `path` by `bytes`: a reader sees the old or the new file, also after a crash.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    // What the file speaks of must have its name on disk before the file does.
    sync_folder(folder)?;
    fs::rename(&temporary, path)?;
    sync_folder(folder)
}

/// The databases of one data folder.
pub(crate) struct RocksVolume {
    root: PathBuf,
    options: Options,
    cache: Cache,
    /// Keeps the folder's lock for as long as anything in it is open.
    _lock: Arc<File>,
}

impl RocksVolume {
    pub(crate) fn new(root: &Path, options: &Options, lock: Arc<File>) -> io::Result<Self> {
        for folder in ["state", "snapshots"] {
            fs::create_dir_all(root.join(folder))?;
        }
        sync_folder(root)?;
        Ok(Self {
            root: root.to_owned(),
            options: options.clone(),
            cache: Cache::new_lru_cache(options.block_cache_bytes),
            _lock: lock,
        })
    }

    fn db_options(&self, name: &str) -> rocksdb::Options {
        let is_log = name == "log";
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.set_paranoid_checks(true);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_block_based_table_factory(&table);
        options.set_write_buffer_size(if is_log {
            self.options.log_write_buffer_bytes
        } else {
            self.options.state_write_buffer_bytes
        });
        options.set_max_write_buffer_number(2);
        options.set_keep_log_file_num(4);
        options.set_stats_dump_period_sec(0);
        // The log is synced, so damage before its tail is an error. The state is not: after a
        // power loss it may end anywhere, and the log rolls it forward.
        options.set_wal_recovery_mode(if is_log {
            DBRecoveryMode::TolerateCorruptedTailRecords
        } else {
            DBRecoveryMode::PointInTime
        });
        options
    }

    fn engine(&self, db: DB, read_through: bool) -> Arc<dyn Engine> {
        Arc::new(RocksEngine {
            db: Arc::new(db),
            read_through,
            root: self.root.clone(),
            threads: Mutex::new(Vec::new()),
            reclaiming: Arc::new(AtomicBool::new(false)),
        })
    }
}

struct FileBlock(File);

impl Block for FileBlock {
    fn read(&self, limit: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; limit];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

impl Volume for RocksVolume {
    fn exists(&self, name: &str) -> io::Result<bool> {
        self.root.join(name).try_exists()
    }

    fn locate(&self, name: &str) -> String {
        self.root.join(name).display().to_string()
    }

    fn create_block(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        replace_file(&self.root.join(name), bytes)
    }

    fn open_block(&self, name: &str) -> io::Result<Arc<dyn Block>> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(self.root.join(name))?;
        Ok(Arc::new(FileBlock(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Engine>> {
        let db = DB::open(&self.db_options(name), self.root.join(name)).map_err(failed)?;
        Ok(self.engine(db, false))
    }

    fn open_read(&self, name: &str) -> io::Result<Arc<dyn Engine>> {
        let mut options = self.db_options(name);
        options.create_if_missing(false);
        let db = DB::open_for_read_only(&options, self.root.join(name), false).map_err(failed)?;
        // A checkpoint is read through, once: it must not push out what the live state reads often.
        Ok(self.engine(db, true))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for item in fs::read_dir(self.root.join(folder))? {
            let item = item?;
            if item.file_type()?.is_dir() {
                names.push(item.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.root.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let to = self.root.join(to);
        fs::rename(self.root.join(from), &to)?;
        sync_folder(to.parent().unwrap_or(&self.root))
    }

    fn read_pointer(&self) -> io::Result<Option<String>> {
        match fs::read_to_string(self.root.join(POINTER)) {
            Ok(name) => Ok(Some(format!("state/{}", name.trim()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn write_pointer(&self, name: &str) -> io::Result<()> {
        let bare = name.strip_prefix("state/").unwrap_or(name);
        replace_file(&self.root.join(POINTER), format!("{bare}\n").as_bytes())
    }

    fn threads(&self) -> bool {
        true
    }
}

struct RocksEngine {
    db: Arc<DB>,
    read_through: bool,
    root: PathBuf,
    threads: Mutex<Vec<JoinHandle<()>>>,
    reclaiming: Arc<AtomicBool>,
}

impl RocksEngine {
    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let handle = thread::Builder::new().name(name.into()).spawn(work)?;
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        threads.push(handle);
        Ok(())
    }
}

impl Drop for RocksEngine {
    fn drop(&mut self) {
        let threads = self
            .threads
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a storage thread panicked");
            }
        }
    }
}

impl Engine for RocksEngine {
    fn write(&self, batch: Vec<Write>, sync: bool) -> io::Result<()> {
        let mut rows = WriteBatch::default();
        for write in batch {
            match write {
                Write::Put { key, value } => rows.put(key, value),
                Write::Delete { key } => rows.delete(key),
                Write::DeleteRange { from, to } => rows.delete_range(from, to),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db.write_opt(rows, &options).map_err(failed)
    }

    fn with_view(&self, f: &mut dyn FnMut(&dyn View)) -> io::Result<()> {
        f(&RocksView {
            rows: self.db.snapshot(),
            read_through: self.read_through,
        });
        Ok(())
    }

    fn fork_view(&self, f: ViewTask) -> io::Result<()> {
        let db = self.db.clone();
        let (taken, wait) = mpsc::sync_channel(1);
        self.spawn("state-view", move || {
            let view = RocksView {
                rows: db.snapshot(),
                read_through: false,
            };
            // The other side waits for this; it cannot have gone away.
            taken.send(()).ok();
            f(&view);
        })?;
        wait.recv()
            .map_err(|_| io::Error::other("the view thread ended before it took its view"))
    }

    fn flush(&self) -> io::Result<()> {
        self.db.flush().map_err(failed)?;
        self.db.flush_wal(true).map_err(failed)
    }

    fn checkpoint(&self, name: &str) -> io::Result<()> {
        let path = self.root.join(name);
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(&path))
            .map_err(failed)?;
        sync_folder(path.parent().unwrap_or(&self.root))
    }

    fn rows_estimate(&self) -> u64 {
        let estimate = self.db.property_int_value("rocksdb.estimate-num-keys");
        estimate.ok().flatten().unwrap_or(0)
    }

    fn reclaim(&self, from: Vec<u8>, to: Vec<u8>) {
        // One at a time: the next one covers what this one leaves.
        if self.reclaiming.swap(true, Ordering::AcqRel) {
            return;
        }
        let db = self.db.clone();
        let running = self.reclaiming.clone();
        let started = self.spawn("log-reclaim", move || {
            db.compact_range(Some(from), Some(to));
            running.store(false, Ordering::Release);
        });
        if let Err(error) = started {
            self.reclaiming.store(false, Ordering::Release);
            tracing::warn!(%error, "could not start to give log space back");
        }
    }
}

struct RocksView<'a> {
    rows: Snapshot<'a>,
    /// Blocks read stay out of the cache.
    read_through: bool,
}

impl View for RocksView<'_> {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.rows.get(key).map_err(failed)
    }

    fn scan(&self, from: &[u8], to: &[u8], each: EachRow<'_>) -> io::Result<()> {
        let mut options = ReadOptions::default();
        if self.read_through {
            options.fill_cache(false);
            options.set_readahead_size(READ_AHEAD_BYTES);
        }
        if !to.is_empty() {
            if from >= to {
                return Ok(());
            }
            options.set_iterate_upper_bound(to.to_vec());
        }
        let mut rows = self.rows.raw_iterator_opt(options);
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            if each(key, value).is_break() {
                return Ok(());
            }
            rows.next();
        }
        // The end and an unreadable block look the same but for this.
        rows.status().map_err(failed)
    }
}
