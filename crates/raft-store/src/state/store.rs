//! The state database behind openraft's state machine trait.
//!
//! Invariants: the applied position is published only after the write that holds it;
//! a snapshot's position is read from inside the checkpoint; an apply error is fatal.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use futures::{FutureExt, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};

use super::database::Database;
use super::tables::{MachineView, read_applied};
use super::{Applied, Staging};
use crate::engine::{View, Volume};
use crate::machine::{AppliedEntry, Commit, Machine};
use crate::snapshot::SnapshotData;
use crate::types::{
    EntryPayload, LogId, Member, NodeId, Reply, SnapshotMeta, StoredMembership, TypeConfig,
};

/// Most entries one apply batch takes.
const BATCH_ENTRIES: usize = 512;
/// An apply batch stops growing beyond this.
const BATCH_BYTES: usize = 4 << 20;

type CommittedLeaderId = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;
type StoreSnapshot = Snapshot<CommittedLeaderId, NodeId, Member, SnapshotData>;
type Item = EntryResponder<TypeConfig>;

fn hold<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all handles of one state share.
pub(crate) struct Shared {
    volume: Arc<dyn Volume>,
    db: RwLock<Arc<Database>>,
    applied: RwLock<Applied>,
    newest: Mutex<Option<SnapshotData>>,
    next_state: AtomicU64,
    next_build: AtomicU64,
}

impl Shared {
    pub(crate) fn publish(&self, applied: Applied) {
        *self.applied.write().unwrap_or_else(PoisonError::into_inner) = applied;
    }

    fn applied(&self) -> Applied {
        self.applied
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn db(&self) -> Arc<Database> {
        self.db
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Makes `db` the live state and marks the one before for removal.
    fn replace(&self, db: Arc<Database>) {
        let mut live = self.db.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *live, db);
        drop(live);
        old.set_discarded(true);
    }

    fn stage(&self) -> io::Result<Staging> {
        let number = self.next_state.fetch_add(1, Ordering::Relaxed);
        Staging::create(&self.volume, format!("state/{number}"))
    }

    /// Takes a checkpoint of the live state that nobody else knows; it goes with its last handle.
    ///
    /// Nothing that `apply` needs is held meanwhile. RocksDB first writes its memtable out, while
    /// new rows go into the next one, and then makes hard links. Copying the write-ahead log
    /// instead would be quicker by that one table, but the checkpoint would then hold it in memory
    /// for as long as it lives, and the log could not be purged up to it.
    fn checkpoint(&self) -> io::Result<SnapshotData> {
        let number = self.next_build.fetch_add(1, Ordering::Relaxed);
        let name = format!("snapshots/{BUILDING}{number}");
        self.db().engine().checkpoint(&name)?;
        let db = Database::open_read(&self.volume, name)?;
        db.set_discarded(true);
        let applied = db.applied()?;
        Ok(SnapshotData::new(db, applied))
    }

    /// Makes a snapshot of the live state and keeps it as the newest; `apply` goes on meanwhile.
    fn build(&self) -> io::Result<SnapshotData> {
        let checkpoint = self.checkpoint()?;
        let mut newest = hold(&self.newest);
        if let Some(newest) = newest.as_ref()
            && newest.meta().last_log_id >= checkpoint.meta().last_log_id
        {
            // Built or installed by someone else since.
            return Ok(newest.clone());
        }
        let applied = checkpoint.applied().clone();
        let building = checkpoint.database().name().to_owned();
        checkpoint.database().set_discarded(false);
        drop(checkpoint);
        let name = snapshot_name(applied.log_id.as_ref());
        self.volume.remove(&name)?;
        self.volume.rename(&building, &name)?;
        let data = SnapshotData::new(Database::open_read(&self.volume, name)?, applied);
        if let Some(old) = newest.replace(data.clone()) {
            old.database().set_discarded(true);
        }
        Ok(data)
    }
}

fn lost(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{what} is missing; restore it, or rejoin this member as a new node"),
    )
}

const BUILDING: &str = "building-";

fn snapshot_name(id: Option<&LogId>) -> String {
    match id {
        Some(id) => format!("snapshots/{:020}", id.index),
        None => "snapshots/empty".to_owned(),
    }
}

/// The replicated state of `M`; a cheap handle.
pub struct StateStore<M: Machine> {
    machine: Arc<M>,
    shared: Arc<Shared>,
}

impl<M: Machine> Clone for StateStore<M> {
    fn clone(&self) -> Self {
        Self {
            machine: self.machine.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<M: Machine> StateStore<M> {
    /// Opens the live state and the newest snapshot, and loads the machine.
    pub(crate) fn open(volume: Arc<dyn Volume>, machine: Arc<M>) -> io::Result<Self> {
        let names = volume.list("state")?;
        let live = match volume.read_pointer()? {
            Some(live) if names.iter().any(|name| live == format!("state/{name}")) => live,
            Some(live) => return Err(lost(&format!("the live state {live}"))),
            // A first start that was cut off leaves at most the first folder.
            None if names.iter().all(|name| name == "1") => {
                let first = "state/1".to_owned();
                drop(volume.open(&first)?);
                volume.write_pointer(&first)?;
                first
            }
            None => return Err(lost("state/CURRENT")),
        };
        let number = |name: &str| name.parse::<u64>().unwrap_or(0);
        let mut last = number(live.trim_start_matches("state/"));
        for name in names {
            last = last.max(number(&name));
            let name = format!("state/{name}");
            if name != live {
                tracing::info!(%name, "removing a state folder left behind by an install");
                volume.remove(&name)?;
            }
        }
        let db = Database::create(&volume, live)?;
        let applied = db.applied()?;
        let newest = newest_snapshot(&volume)?;
        let store = Self {
            machine,
            shared: Arc::new(Shared {
                volume,
                db: RwLock::new(db.clone()),
                applied: RwLock::new(applied),
                newest: Mutex::new(newest),
                next_state: AtomicU64::new(last + 1),
                next_build: AtomicU64::new(1),
            }),
        };
        store.load(&db)?;
        Ok(store)
    }

    /// The machine whose state this is.
    pub fn machine(&self) -> &Arc<M> {
        &self.machine
    }

    /// How far the state has been brought.
    pub fn applied(&self) -> Applied {
        self.shared.applied()
    }

    /// Calls `f` with a consistent view of the machine's rows.
    ///
    /// A machine that takes the view under its own read lock sees rows and memory agree.
    pub fn with_view<T>(&self, f: impl FnOnce(&dyn View) -> T) -> io::Result<T> {
        self.shared.db().view(|view| Ok(f(&MachineView(view))))
    }

    /// A place to receive a snapshot in; removed if it is dropped unfinished.
    pub fn stage(&self) -> io::Result<Staging> {
        self.shared.stage()
    }

    pub(crate) fn newest_snapshot(&self) -> Option<SnapshotData> {
        hold(&self.shared.newest).clone()
    }

    pub(crate) fn build(&self) -> io::Result<SnapshotData> {
        self.shared.build()
    }

    /// A checkpoint of the state as it is now, which nobody else knows: for saving it elsewhere. It
    /// goes with its last handle.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn checkpoint(&self) -> io::Result<SnapshotData> {
        self.blocking(|store| store.shared.checkpoint()).await
    }

    fn load(&self, db: &Database) -> io::Result<()> {
        db.view(|view| self.machine.load(&MachineView(view)))
    }

    /// Replaces the state by a snapshot; a crash at any step leaves the old or the new one.
    pub(crate) fn install(&self, meta: &SnapshotMeta, data: SnapshotData) -> io::Result<()> {
        if meta.last_log_id < self.applied().log_id {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the snapshot is older than the state it would replace",
            ));
        }
        let data = if data.is_staged_in(&self.shared.volume) {
            data
        } else {
            self.copy(data)?
        };
        if data.meta() != meta {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the snapshot stands elsewhere than its description says",
            ));
        }
        let db = data.database().clone();
        if Arc::ptr_eq(&db, &self.shared.db()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the snapshot is installed already",
            ));
        }
        let applied = db.view(read_applied)?;
        // The machine reads the new rows while the old ones are live, and calls this when nobody
        // looks: readers see memory, rows and position change as one. From the moment the pointer
        // is written the folder is the live state.
        let mut swap = || {
            db.set_discarded(false);
            self.shared.volume.write_pointer(db.name())?;
            self.shared.replace(db.clone());
            self.shared.publish(applied.clone());
            Ok(())
        };
        db.view(|view| self.machine.install(&MachineView(view), &mut swap))?;
        self.build()?;
        Ok(())
    }

    fn copy(&self, data: SnapshotData) -> io::Result<SnapshotData> {
        let mut staging = self.stage()?;
        let mut reader = data.reader(1 << 20);
        while let Some(chunk) = reader.next_chunk()? {
            staging.push_chunk(&chunk)?;
        }
        staging.finish(data.meta().clone())
    }

    fn apply_batch(&self, items: Vec<Item>) -> io::Result<()> {
        let db = self.shared.db();
        let mut applied = self.applied();
        let mut commit = Commit::new(&db, &self.shared, applied.clone());
        let mut run = Vec::new();
        let mut responders = Vec::with_capacity(items.len());
        for (entry, responder) in items {
            let log_id = entry.log_id;
            // Holes are caught where the log is read; openraft's suite applies with holes.
            if applied.index().is_some_and(|index| index >= log_id.index) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("entry {log_id} is applied already"),
                ));
            }
            applied.log_id = Some(log_id);
            responders.push(responder);
            match entry.payload {
                EntryPayload::Normal(payload) => run.push(AppliedEntry {
                    log_id,
                    payload: payload.0,
                }),
                EntryPayload::Blank => {
                    commit.run(&*self.machine, std::mem::take(&mut run))?;
                    commit.blank(log_id);
                }
                EntryPayload::Membership(membership) => {
                    commit.run(&*self.machine, std::mem::take(&mut run))?;
                    commit.membership(log_id, membership);
                }
            }
        }
        commit.run(&*self.machine, run)?;
        commit.flush()?;
        for (responder, reply) in responders.into_iter().zip(commit.into_replies()) {
            if let Some(responder) = responder {
                responder.send(Reply(reply));
            }
        }
        Ok(())
    }

    /// Runs work that may take long off the async threads, if this volume has threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let store = self.clone();
        if !self.shared.volume.threads() {
            return work(store);
        }
        tokio::task::spawn_blocking(move || work(store))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

/// Opens the newest readable snapshot and removes all others.
fn newest_snapshot(volume: &Arc<dyn Volume>) -> io::Result<Option<SnapshotData>> {
    let mut newest: Option<SnapshotData> = None;
    for name in volume.list("snapshots")? {
        let full = format!("snapshots/{name}");
        if name.starts_with(BUILDING) || name.ends_with(".tmp") {
            volume.remove(&full)?;
            continue;
        }
        let opened = Database::open_read(volume, full.clone())
            .and_then(|db| db.applied().map(|applied| (db, applied)));
        match opened {
            Ok((db, applied)) => {
                let data = SnapshotData::new(db, applied);
                let (keep, drop) = match newest.take() {
                    Some(old) if old.meta().last_log_id > data.meta().last_log_id => {
                        (old, Some(data))
                    }
                    other => (data, other),
                };
                if let Some(old) = drop {
                    old.database().set_discarded(true);
                }
                newest = Some(keep);
            }
            Err(error) => {
                tracing::warn!(%error, snapshot = %full, "removing an unreadable snapshot");
                volume.remove(&full)?;
            }
        }
    }
    Ok(newest)
}

fn size_of(item: &Item) -> usize {
    match &item.0.payload {
        EntryPayload::Normal(payload) => payload.0.len(),
        _ => 0,
    }
}

impl<M: Machine> RaftStateMachine<TypeConfig> for StateStore<M> {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder<M>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = self.applied();
        Ok((applied.log_id, applied.membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<Item>> + Unpin + OptionalSend,
    {
        while let Some(first) = entries.next().await {
            let first = first?;
            let mut bytes = size_of(&first);
            let mut batch = vec![first];
            // Whatever is ready goes into the same write.
            while batch.len() < BATCH_ENTRIES && bytes < BATCH_BYTES {
                let Some(Some(next)) = entries.next().now_or_never() else {
                    break;
                };
                let next = next?;
                bytes += size_of(&next);
                batch.push(next);
            }
            self.apply_batch(batch)?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder<M> {
        SnapshotBuilder(self.clone())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let meta = meta.clone();
        self.blocking(move |store| store.install(&meta, snapshot))
            .await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<StoreSnapshot>> {
        Ok(self.newest_snapshot().map(with_meta))
    }
}

fn with_meta(data: SnapshotData) -> StoreSnapshot {
    Snapshot {
        meta: data.meta().clone(),
        snapshot: data,
    }
}

/// Builds snapshots of one state.
pub struct SnapshotBuilder<M: Machine>(StateStore<M>);

impl<M: Machine> RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder<M> {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<StoreSnapshot> {
        let data = self.0.blocking(|store| store.build()).await?;
        Ok(with_meta(data))
    }
}
