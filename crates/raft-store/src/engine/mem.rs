//! An in-memory disk for the deterministic simulation.
//!
//! Invariants: no threads and no clock; [`MemDisk::crash`] drops exactly what was not
//! synced; a handle from before a crash or a later open does nothing but fail.

use std::collections::BTreeMap;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Block, EachRow, Engine, View, ViewTask, Volume, Write};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Default)]
struct Db {
    durable: Arc<Rows>,
    current: Arc<Rows>,
    unsynced: Vec<Write>,
}

impl Db {
    fn write(&mut self, batch: Vec<Write>, sync: bool) {
        let rows = Arc::make_mut(&mut self.current);
        for write in &batch {
            change(rows, write);
        }
        self.unsynced.extend(batch);
        if sync {
            self.sync();
        }
    }

    fn sync(&mut self) {
        if self.unsynced.is_empty() {
            return;
        }
        let rows = Arc::make_mut(&mut self.durable);
        for write in self.unsynced.drain(..) {
            change(rows, &write);
        }
    }
}

fn change(rows: &mut Rows, write: &Write) {
    match write {
        Write::Put { key, value } => {
            rows.insert(key.clone(), value.clone());
        }
        Write::Delete { key } => {
            rows.remove(key);
        }
        Write::DeleteRange { from, to } if from < to => {
            let keys: Vec<_> = rows
                .range::<[u8], _>((Bound::Included(&from[..]), Bound::Excluded(&to[..])))
                .map(|(key, _)| key.clone())
                .collect();
            for key in keys {
                rows.remove(&key);
            }
        }
        Write::DeleteRange { .. } => {}
    }
}

#[derive(Clone, Default)]
struct Bytes {
    durable: Vec<u8>,
    current: Vec<u8>,
}

#[derive(Default)]
struct State {
    incarnation: u64,
    dbs: BTreeMap<String, Db>,
    blocks: BTreeMap<String, Bytes>,
    pointer: Option<String>,
}

/// The disk of one simulated node; outlives the node's restarts.
///
/// ```
/// use std::sync::Arc;
/// let disk: Arc<quorate_raft_store::MemDisk> = Arc::default();
/// disk.crash();
/// ```
#[derive(Default)]
pub struct MemDisk {
    state: Mutex<State>,
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Power loss: what was not synced is gone, and every open handle fails from now on.
    pub fn crash(&self) {
        let mut state = self.lock();
        state.incarnation += 1;
        for db in state.dbs.values_mut() {
            db.unsynced.clear();
            db.current = db.durable.clone();
        }
        for block in state.blocks.values_mut() {
            block.current = block.durable.clone();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk for a new owner; handles of the one before fail from now on.
    pub(crate) fn volume(self: &Arc<Self>) -> MemVolume {
        let mut state = self.lock();
        state.incarnation += 1;
        MemVolume {
            disk: self.clone(),
            incarnation: state.incarnation,
        }
    }
}

#[derive(Clone)]
pub(crate) struct MemVolume {
    disk: Arc<MemDisk>,
    incarnation: u64,
}

impl MemVolume {
    fn lock(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock();
        if state.incarnation == self.incarnation {
            Ok(state)
        } else {
            Err(io::Error::other(
                "the disk crashed or was opened again; this handle is dead",
            ))
        }
    }

    fn engine(&self, name: &str) -> Arc<dyn Engine> {
        Arc::new(MemEngine {
            volume: self.clone(),
            name: name.to_owned(),
        })
    }
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no {name} on this disk"))
}

impl Volume for MemVolume {
    fn exists(&self, name: &str) -> io::Result<bool> {
        let state = self.lock()?;
        Ok(state.dbs.contains_key(name) || state.blocks.contains_key(name))
    }

    fn locate(&self, name: &str) -> String {
        name.to_owned()
    }

    fn create_block(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let block = Bytes {
            durable: bytes.to_owned(),
            current: bytes.to_owned(),
        };
        self.lock()?.blocks.insert(name.to_owned(), block);
        Ok(())
    }

    fn open_block(&self, name: &str) -> io::Result<Arc<dyn Block>> {
        if !self.lock()?.blocks.contains_key(name) {
            return Err(missing(name));
        }
        Ok(Arc::new(MemBlock {
            volume: self.clone(),
            name: name.to_owned(),
        }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Engine>> {
        self.lock()?.dbs.entry(name.to_owned()).or_default();
        Ok(self.engine(name))
    }

    fn open_read(&self, name: &str) -> io::Result<Arc<dyn Engine>> {
        if !self.lock()?.dbs.contains_key(name) {
            return Err(missing(name));
        }
        Ok(self.engine(name))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let prefix = format!("{folder}/");
        Ok(self
            .lock()?
            .dbs
            .keys()
            .filter_map(|name| name.strip_prefix(&prefix).map(str::to_owned))
            .collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.lock()?.dbs.remove(name);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock()?;
        let db = state.dbs.remove(from).ok_or_else(|| missing(from))?;
        state.dbs.insert(to.to_owned(), db);
        Ok(())
    }

    fn read_pointer(&self) -> io::Result<Option<String>> {
        Ok(self.lock()?.pointer.clone())
    }

    fn write_pointer(&self, name: &str) -> io::Result<()> {
        self.lock()?.pointer = Some(name.to_owned());
        Ok(())
    }

    fn threads(&self) -> bool {
        false
    }
}

struct MemBlock {
    volume: MemVolume,
    name: String,
}

impl MemBlock {
    fn with_bytes<T>(&self, f: impl FnOnce(&mut Bytes) -> T) -> io::Result<T> {
        let mut state = self.volume.lock()?;
        let bytes = state
            .blocks
            .get_mut(&self.name)
            .ok_or_else(|| missing(&self.name))?;
        Ok(f(bytes))
    }
}

impl Block for MemBlock {
    fn read(&self, limit: usize) -> io::Result<Vec<u8>> {
        self.with_bytes(|bytes| bytes.current.iter().copied().take(limit).collect())
    }

    fn write(&self, offset: u64, new: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.saturating_add(new.len());
        self.with_bytes(|bytes| match bytes.current.get_mut(start..end) {
            Some(place) => {
                place.copy_from_slice(new);
                Ok(())
            }
            None => Err(io::Error::other("a write beyond the end of the block")),
        })?
    }

    fn sync(&self) -> io::Result<()> {
        self.with_bytes(|bytes| bytes.durable.clone_from(&bytes.current))
    }
}

struct MemEngine {
    volume: MemVolume,
    name: String,
}

impl MemEngine {
    fn with_db<T>(&self, f: impl FnOnce(&mut Db) -> T) -> io::Result<T> {
        let mut state = self.volume.lock()?;
        let db = state
            .dbs
            .get_mut(&self.name)
            .ok_or_else(|| missing(&self.name))?;
        Ok(f(db))
    }

    fn view(&self) -> io::Result<MemView> {
        self.with_db(|db| MemView(db.current.clone()))
    }
}

impl Engine for MemEngine {
    fn write(&self, batch: Vec<Write>, sync: bool) -> io::Result<()> {
        self.with_db(|db| db.write(batch, sync))
    }

    fn with_view(&self, f: &mut dyn FnMut(&dyn View)) -> io::Result<()> {
        f(&self.view()?);
        Ok(())
    }

    fn fork_view(&self, f: ViewTask) -> io::Result<()> {
        f(&self.view()?);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.with_db(Db::sync)
    }

    fn checkpoint(&self, name: &str) -> io::Result<()> {
        let copy = self.with_db(|db| {
            db.sync();
            db.clone()
        })?;
        self.volume.lock()?.dbs.insert(name.to_owned(), copy);
        Ok(())
    }

    fn rows_estimate(&self) -> u64 {
        self.with_db(|db| db.current.len() as u64).unwrap_or(0)
    }

    fn reclaim(&self, _from: Vec<u8>, _to: Vec<u8>) {}
}

struct MemView(Arc<Rows>);

impl View for MemView {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], each: EachRow<'_>) -> io::Result<()> {
        let end = if to.is_empty() {
            Bound::Unbounded
        } else if from >= to {
            return Ok(());
        } else {
            Bound::Excluded(to)
        };
        for (key, value) in self.0.range::<[u8], _>((Bound::Included(from), end)) {
            if let ControlFlow::Break(()) = each(key, value) {
                break;
            }
        }
        Ok(())
    }
}
