//! A key/value machine, and short ways to open and fill stores.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use quorate_raft_store::{
    AppliedEntry, Commit, DataDir, Entry, EntryPayload, FORMAT_VERSION, Identity, LogStore,
    Machine, MemDisk, Member, Membership, Options, Payload, Row, StateStore, TypeConfig, View,
    log_id, open, open_mem,
};
use tempfile::TempDir;

pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// `key=value` puts, `key` deletes, `from..to` deletes a range.
#[derive(Default)]
pub struct Kv {
    pub rows: RwLock<Rows>,
}

pub fn scan(view: &dyn View) -> io::Result<Rows> {
    let mut rows = Rows::new();
    view.scan(b"", b"", &mut |key, value| {
        rows.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    })?;
    Ok(rows)
}

impl Machine for Kv {
    fn load(&self, view: &dyn View) -> io::Result<()> {
        *self.rows.write().unwrap() = scan(view)?;
        Ok(())
    }

    fn apply(&self, entries: Vec<AppliedEntry>, commit: &mut Commit<'_>) -> io::Result<()> {
        let mut rows = self.rows.write().unwrap();
        for entry in entries {
            let text = entry.payload.to_vec();
            let split = |mark: &[u8]| {
                let at = text.windows(mark.len()).position(|part| part == mark)?;
                Some((text[..at].to_vec(), text[at + mark.len()..].to_vec()))
            };
            let row = if let Some((key, value)) = split(b"=") {
                rows.insert(key.clone(), value.clone());
                Row::Put { key, value }
            } else if let Some((from, to)) = split(b"..") {
                rows.retain(|key, _| *key < from || *key >= to);
                Row::DeleteRange { from, to }
            } else {
                rows.remove(&text);
                Row::Delete { key: text }
            };
            commit.entry(entry.log_id, vec![row], Bytes::new());
        }
        commit.flush()
    }
}

pub type Stores = (LogStore, StateStore<Kv>);

pub fn small() -> Options {
    Options {
        log_cache_bytes: 2048,
        log_queue_bytes: 8192,
        log_read_bytes: 512,
        log_write_buffer_bytes: 1 << 20,
        state_write_buffer_bytes: 1 << 20,
        block_cache_bytes: 1 << 20,
    }
}

/// A folder that belongs to member 1 of cluster `test`.
pub struct Folder(pub TempDir);

impl Folder {
    pub fn new() -> Self {
        let folder = Self(TempDir::new().unwrap());
        folder
            .dir()
            .init(Identity {
                format_version: FORMAT_VERSION,
                cluster_id: "test".into(),
                node_id: 1,
            })
            .unwrap();
        folder
    }

    pub fn dir(&self) -> DataDir {
        DataDir::open(self.0.path()).unwrap()
    }

    pub fn open(&self) -> Stores {
        open(&self.dir(), Arc::default(), &small()).unwrap()
    }
}

pub fn open_disk(disk: &Arc<MemDisk>) -> Stores {
    open_mem(disk, Arc::default(), Duration::ZERO).unwrap()
}

pub fn normal(term: u64, index: u64, text: &str) -> Entry {
    Entry {
        log_id: log_id(term, index),
        payload: EntryPayload::Normal(Payload(Bytes::copy_from_slice(text.as_bytes()))),
    }
}

pub fn members(term: u64, index: u64, ids: &[u64]) -> Entry {
    let nodes: BTreeMap<u64, Member> = ids
        .iter()
        .map(|id| {
            let member = Member {
                peer_addr: format!("peer-{id}"),
                client_addr: format!("client-{id}"),
            };
            (*id, member)
        })
        .collect();
    let membership = Membership::new(vec![ids.iter().copied().collect()], nodes).unwrap();
    Entry {
        log_id: log_id(term, index),
        payload: EntryPayload::Membership(membership),
    }
}

/// A small history: membership, puts, a delete, a blank.
pub fn history() -> Vec<Entry> {
    let mut entries = vec![members(1, 0, &[1, 2, 3])];
    for index in 1..=40 {
        entries.push(normal(
            1,
            index,
            &format!("key-{:03}=value {index}", index % 17),
        ));
    }
    entries.push(Entry {
        log_id: log_id(2, 41),
        payload: EntryPayload::Blank,
    });
    entries.push(normal(2, 42, "key-003"));
    entries.push(normal(2, 43, "empty="));
    entries
}

pub async fn apply(state: &mut StateStore<Kv>, entries: Vec<Entry>) {
    let items = entries.into_iter().map(|entry| Ok((entry, None)));
    state.apply(stream::iter(items)).await.unwrap();
}

/// Appends and waits until the entries are on disk.
pub async fn append(log: &mut LogStore, entries: Vec<Entry>) -> io::Result<()> {
    let (done, wait) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(done)).await?;
    wait.await.unwrap()
}

/// The machine's memory, which must equal its stored rows.
pub fn rows(state: &StateStore<Kv>) -> Rows {
    let stored = state.with_view(scan).unwrap().unwrap();
    assert_eq!(*state.machine().rows.read().unwrap(), stored);
    stored
}
