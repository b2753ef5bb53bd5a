//! Faults for tests: a store whose every step on its disk can be watched, refused or cut short.
//!
//! Invariant: a step that is refused is not taken. Nothing here runs unless a test asks for it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Block, Engine, View, ViewTask, Volume, Write};
use crate::{
    DataDir, LogStore, Machine, MemDisk, OpenError, Options, StateStore, WriterMode, open_volume,
    rocks_volume,
};

/// What is about to happen on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A batch or block is written, and may be lost with the power.
    Write,
    /// What was written is made durable.
    Sync,
    /// A copy of a database is made.
    Checkpoint,
    /// A database or block is made, or opened for writing.
    Open,
    /// A database is removed.
    Remove,
    /// A database is renamed.
    Rename,
    /// Another state becomes the live one.
    Point,
}

/// One step on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What happens.
    pub action: Action,
    /// To which database or block.
    pub name: String,
}

/// Decides about each step before it is taken. An error is what the disk answers; a test of kills
/// ends the process here.
pub trait Faults: Send + Sync + 'static {
    /// Called before every step.
    fn before(&self, step: &Step) -> io::Result<()>;
}

impl<F: Fn(&Step) -> io::Result<()> + Send + Sync + 'static> Faults for F {
    fn before(&self, step: &Step) -> io::Result<()> {
        self(step)
    }
}

/// Like [`open`](crate::open), asking `faults` before every step.
pub fn open_with_faults<M: Machine>(
    dir: &DataDir,
    machine: Arc<M>,
    options: &Options,
    faults: Arc<dyn Faults>,
) -> Result<(LogStore, StateStore<M>), OpenError> {
    let inner = rocks_volume(dir, options)?;
    let volume = Arc::new(FaultyVolume { inner, faults });
    open_volume(volume, machine, options, WriterMode::Thread)
}

/// Like [`open_mem`](crate::open_mem), asking `faults` before every step.
pub fn open_mem_with_faults<M: Machine>(
    disk: &Arc<MemDisk>,
    machine: Arc<M>,
    sync_latency: Duration,
    faults: Arc<dyn Faults>,
) -> Result<(LogStore, StateStore<M>), OpenError> {
    let inner: Arc<dyn Volume> = Arc::new(disk.volume());
    let volume = Arc::new(FaultyVolume { inner, faults });
    let mode = WriterMode::Task { sync_latency };
    open_volume(volume, machine, &Options::default(), mode)
}

fn ask(faults: &Arc<dyn Faults>, action: Action, name: &str) -> io::Result<()> {
    faults.before(&Step {
        action,
        name: name.to_owned(),
    })
}

struct FaultyVolume {
    inner: Arc<dyn Volume>,
    faults: Arc<dyn Faults>,
}

impl FaultyVolume {
    fn engine(&self, name: &str, inner: Arc<dyn Engine>) -> Arc<dyn Engine> {
        Arc::new(FaultyEngine {
            inner,
            faults: self.faults.clone(),
            name: name.to_owned(),
        })
    }
}

impl Volume for FaultyVolume {
    fn exists(&self, name: &str) -> io::Result<bool> {
        self.inner.exists(name)
    }

    fn locate(&self, name: &str) -> String {
        self.inner.locate(name)
    }

    fn create_block(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        ask(&self.faults, Action::Open, name)?;
        self.inner.create_block(name, bytes)
    }

    fn open_block(&self, name: &str) -> io::Result<Arc<dyn Block>> {
        Ok(Arc::new(FaultyBlock {
            inner: self.inner.open_block(name)?,
            faults: self.faults.clone(),
            name: name.to_owned(),
        }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Engine>> {
        ask(&self.faults, Action::Open, name)?;
        Ok(self.engine(name, self.inner.open(name)?))
    }

    fn open_read(&self, name: &str) -> io::Result<Arc<dyn Engine>> {
        Ok(self.engine(name, self.inner.open_read(name)?))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.inner.list(folder)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        ask(&self.faults, Action::Remove, name)?;
        self.inner.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        ask(&self.faults, Action::Rename, from)?;
        self.inner.rename(from, to)
    }

    fn read_pointer(&self) -> io::Result<Option<String>> {
        self.inner.read_pointer()
    }

    fn write_pointer(&self, name: &str) -> io::Result<()> {
        ask(&self.faults, Action::Point, name)?;
        self.inner.write_pointer(name)
    }

    fn threads(&self) -> bool {
        self.inner.threads()
    }
}

struct FaultyBlock {
    inner: Arc<dyn Block>,
    faults: Arc<dyn Faults>,
    name: String,
}

impl Block for FaultyBlock {
    fn read(&self, limit: usize) -> io::Result<Vec<u8>> {
        self.inner.read(limit)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        ask(&self.faults, Action::Write, &self.name)?;
        self.inner.write(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        ask(&self.faults, Action::Sync, &self.name)?;
        self.inner.sync()
    }
}

struct FaultyEngine {
    inner: Arc<dyn Engine>,
    faults: Arc<dyn Faults>,
    name: String,
}

impl Engine for FaultyEngine {
    fn write(&self, batch: Vec<Write>, sync: bool) -> io::Result<()> {
        ask(&self.faults, Action::Write, &self.name)?;
        if sync && let Err(refused) = ask(&self.faults, Action::Sync, &self.name) {
            // Written, and not synced.
            self.inner.write(batch, false)?;
            return Err(refused);
        }
        self.inner.write(batch, sync)
    }

    fn with_view(&self, f: &mut dyn FnMut(&dyn View)) -> io::Result<()> {
        self.inner.with_view(f)
    }

    fn fork_view(&self, f: ViewTask) -> io::Result<()> {
        self.inner.fork_view(f)
    }

    fn flush(&self) -> io::Result<()> {
        ask(&self.faults, Action::Sync, &self.name)?;
        self.inner.flush()
    }

    fn checkpoint(&self, name: &str) -> io::Result<()> {
        ask(&self.faults, Action::Checkpoint, name)?;
        self.inner.checkpoint(name)
    }

    fn rows_estimate(&self) -> u64 {
        self.inner.rows_estimate()
    }

    fn reclaim(&self, from: Vec<u8>, to: Vec<u8>) {
        self.inner.reclaim(from, to);
    }
}
