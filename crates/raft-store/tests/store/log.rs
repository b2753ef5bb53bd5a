//! The log against a plain vector, and what it does about damage and lost writes.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use proptest::prelude::*;
use quorate_raft_store::{
    Entry, EntryPayload, LogId, LogStore, MemDisk, OpenError, TypeConfig, Vote, log_id, open_mem,
};

use crate::fixture::{Folder, Stores, append, apply, history, normal, open_disk, small};

#[derive(Clone, Debug)]
enum Op {
    Append { count: u64, bytes: usize },
    NewTerm,
    Truncate { back: u64 },
    Purge { ahead: u64 },
    Vote { node: u64, committed: bool },
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (1..30u64, 0..300usize).prop_map(|(count, bytes)| Op::Append { count, bytes }),
        1 => Just(Op::NewTerm),
        2 => (0..25u64).prop_map(|back| Op::Truncate { back }),
        2 => (0..25u64).prop_map(|ahead| Op::Purge { ahead }),
        1 => (1..4u64, any::<bool>()).prop_map(|(node, committed)| Op::Vote { node, committed }),
        1 => Just(Op::Reopen),
    ];
    prop::collection::vec(op, 1..25)
}

#[derive(Default)]
struct Model {
    entries: Vec<Entry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    term: u64,
}

impl Model {
    fn next(&self) -> u64 {
        let last = self.entries.last().map(|e| e.log_id).or(self.purged);
        last.map_or(0, |id| id.index + 1)
    }
}

async fn same(log: &mut LogStore, model: &Model) {
    let state = log.get_log_state().await.unwrap();
    let last = model.entries.last().map(|e| e.log_id).or(model.purged);
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (model.purged, last)
    );
    assert_eq!(log.read_vote().await.unwrap(), model.vote);
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), model.entries);

    let streamed: Vec<Entry> = log
        .entries_stream(..)
        .await
        .map(|entry| entry.unwrap())
        .collect()
        .await;
    assert_eq!(streamed, model.entries);

    if let Some(first) = model.entries.first().map(|e| e.log_id.index) {
        let limited = log
            .limited_get_log_entries(first, model.next())
            .await
            .unwrap();
        assert!(!limited.is_empty());
        assert_eq!(limited[..], model.entries[..limited.len()]);
        // Behind the purge: never nothing while there is something.
        let behind = log.limited_get_log_entries(0, 1).await.unwrap();
        assert_eq!(behind[..], model.entries[..behind.len().max(1)]);
    }
}

async fn run(ops: Vec<Op>, mut reopen: impl FnMut(Option<Stores>) -> Stores) {
    let mut stores = reopen(None);
    let mut model = Model::default();
    for op in ops {
        let log = &mut stores.0;
        match op {
            Op::Append { count, bytes } => {
                let new: Vec<Entry> = (0..count)
                    .map(|i| normal(model.term, model.next() + i, &"x".repeat(bytes)))
                    .collect();
                append(log, new.clone()).await.unwrap();
                model.entries.extend(new);
            }
            Op::NewTerm => model.term += 1,
            Op::Truncate { back } => {
                let keep = model.entries.len().saturating_sub(back as usize);
                model.entries.truncate(keep);
                let last = model.entries.last().map(|e| e.log_id).or(model.purged);
                log.truncate_after(last).await.unwrap();
                model.term += 1;
            }
            Op::Purge { ahead } => {
                let count = (ahead as usize).min(model.entries.len());
                if let Some(last) = model.entries.drain(..count).next_back() {
                    // State must reach what the log gives up, or opening is refused.
                    let from = stores.1.applied().log_id.map_or(0, |id| id.index + 1);
                    let entries = (from..=last.log_id.index)
                        .map(|index| normal(last.log_id.committed_leader_id().term, index, "k=v"))
                        .collect();
                    apply(&mut stores.1, entries).await;
                    stores.0.purge(last.log_id).await.unwrap();
                    model.purged = Some(last.log_id);
                }
            }
            Op::Vote { node, committed } => {
                let vote = if committed {
                    Vote::new_committed(model.term, node)
                } else {
                    Vote::new(model.term, node)
                };
                log.save_vote(&vote).await.unwrap();
                model.vote = Some(vote);
            }
            Op::Reopen => stores = reopen(Some(stores)),
        }
        same(&mut stores.0, &model).await;
    }
    stores = reopen(Some(stores));
    same(&mut stores.0, &model).await;
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_rocksdb_log_is_a_vector(ops in ops()) {
        let folder = Folder::new();
        block_on(run(ops, |open| {
            drop(open);
            folder.open()
        }));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_memory_log_is_a_vector(ops in ops()) {
        let disk = MemDisk::new();
        block_on(run(ops, |_| open_disk(&disk)));
    }
}

#[tokio::test]
async fn a_hole_is_refused() {
    let folder = Folder::new();
    let (mut log, _state) = folder.open();
    append(&mut log, vec![normal(1, 0, "a=1")]).await.unwrap();
    assert!(append(&mut log, vec![normal(1, 2, "a=1")]).await.is_err());
    assert_eq!(log.state().last_log_id, Some(log_id(1, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_crash_loses_what_no_callback_announced_and_nothing_else() {
    let disk = MemDisk::new();
    let latency = Duration::from_millis(10);
    let (mut log, state) = open_mem(&disk, Arc::<crate::fixture::Kv>::default(), latency).unwrap();
    append(&mut log, vec![normal(1, 0, "a=1")]).await.unwrap();
    log.save_vote(&Vote::new(2, 1)).await.unwrap();
    log.append(vec![normal(1, 1, "a=2")], IOFlushed::noop())
        .await
        .unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 2);
    disk.crash();

    let (mut again, _state) = open_disk(&disk);
    assert_eq!(
        again.try_get_log_entries(..).await.unwrap(),
        vec![normal(1, 0, "a=1")]
    );
    assert_eq!(again.read_vote().await.unwrap(), Some(Vote::new(2, 1)));
    drop(state);
}

#[tokio::test]
async fn after_a_failed_write_every_call_fails() {
    let disk = MemDisk::new();
    let (mut log, _state) = open_disk(&disk);
    append(&mut log, vec![normal(1, 0, "a=1")]).await.unwrap();
    disk.crash();
    assert!(append(&mut log, vec![normal(1, 1, "a=1")]).await.is_err());
    assert!(append(&mut log, vec![normal(1, 2, "a=1")]).await.is_err());
    assert!(log.save_vote(&Vote::new(2, 1)).await.is_err());
    assert!(log.read_vote().await.is_err());
    assert!(log.try_get_log_entries(..).await.is_err());
}

#[tokio::test]
async fn every_waiting_append_is_told() {
    let folder = Folder::new();
    let (mut log, _state) = folder.open();
    let mut waits = Vec::new();
    for index in 0..200 {
        let (done, wait) = TypeConfig::oneshot();
        let entry = normal(1, index, &format!("k={}", "v".repeat(200)));
        log.append(vec![entry], IOFlushed::signal(done))
            .await
            .unwrap();
        waits.push(wait);
    }
    for wait in waits {
        wait.await.unwrap().unwrap();
    }
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 200);
}

#[tokio::test]
async fn the_log_goes_on_after_a_state_that_is_ahead() {
    let disk = MemDisk::new();
    let (mut log, mut state) = open_disk(&disk);
    append(&mut log, history()[..10].to_vec()).await.unwrap();
    apply(&mut state, history()).await;
    openraft::storage::RaftSnapshotBuilder::build_snapshot(
        &mut openraft::storage::RaftStateMachine::get_snapshot_builder(&mut state).await,
    )
    .await
    .unwrap();
    disk.crash();

    let (mut log, state) = open_disk(&disk);
    let applied = state.applied().log_id;
    assert_eq!(applied, Some(log_id(2, 43)));
    assert_eq!(log.state().last_log_id, applied);
    assert_eq!(log.state().last_purged_log_id, applied);
    append(&mut log, vec![normal(2, 44, "a=1")]).await.unwrap();
}

#[tokio::test]
async fn a_state_behind_the_purged_log_must_rejoin() {
    let disk = MemDisk::new();
    let (mut log, _state) = open_disk(&disk);
    append(&mut log, history()).await.unwrap();
    log.purge(log_id(1, 5)).await.unwrap();
    drop(log);
    let error = open_mem(&disk, Arc::<crate::fixture::Kv>::default(), Duration::ZERO)
        .err()
        .unwrap();
    assert!(matches!(error, OpenError::StateLost { .. }), "{error}");
    assert!(error.to_string().contains("quorate member add"), "{error}");
}

#[tokio::test]
async fn a_long_purge_leaves_the_rest_whole() {
    let folder = Folder::new();
    let (mut log, mut state) = folder.open();
    let entries: Vec<Entry> = (0..3000)
        .map(|index| Entry {
            log_id: log_id(1, index),
            payload: EntryPayload::Blank,
        })
        .collect();
    append(&mut log, entries.clone()).await.unwrap();
    apply(&mut state, entries.clone()).await;
    log.purge(log_id(1, 2499)).await.unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), entries[2500..]);
    drop((log, state));
    let (mut log, _state) = folder.open();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), entries[2500..]);
    assert_eq!(small().log_cache_bytes, 2048, "most of this came from disk");
}

fn bytes_in(folder: &std::path::Path) -> u64 {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|item| item.unwrap().metadata().unwrap().len())
        .sum()
}

/// Entries that do not compress.
fn bulky(term: u64, indexes: std::ops::Range<u64>) -> Vec<Entry> {
    let mut state = 1u64;
    indexes
        .map(|index| {
            let noise: String = (0..512)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    format!("{:08x}", state >> 32)
                })
                .collect();
            normal(term, index, &format!("k={noise}"))
        })
        .collect()
}

#[tokio::test]
async fn the_space_of_purged_and_truncated_entries_is_given_back() {
    let folder = Folder::new();
    let on_disk = || bytes_in(&folder.0.path().join("log"));
    let entries = bulky(1, 0..5000);
    let (mut log, mut state) = folder.open();
    for chunk in entries.chunks(100) {
        append(&mut log, chunk.to_vec()).await.unwrap();
    }
    apply(&mut state, entries[..3000].to_vec()).await;
    let stats = log.stats();
    assert_eq!((stats.first, stats.entries), (0, 5000));
    assert!(stats.bytes > 20_000_000, "{stats:?}");
    drop((log, state));
    assert!(on_disk() > 10_000_000, "{} bytes", on_disk());

    // Closing waits for what works in the background.
    let (mut log, state) = folder.open();
    assert_eq!(log.stats().bytes, stats.bytes, "counted again at start");
    log.purge(log_id(1, 2899)).await.unwrap();
    drop((log, state));
    let purged = on_disk();
    assert!(purged < 12_000_000, "{purged} bytes");

    let (mut log, state) = folder.open();
    log.truncate_after(Some(log_id(1, 2999))).await.unwrap();
    let stats = log.stats();
    assert_eq!((stats.first, stats.entries), (2900, 100));
    assert!(stats.bytes < 500_000, "{stats:?}");
    drop((log, state));
    let truncated = on_disk();
    assert!(truncated < 2_000_000, "{truncated} bytes");
    let (mut log, _state) = folder.open();
    assert_eq!(
        log.try_get_log_entries(..).await.unwrap(),
        entries[2900..3000]
    );
}

#[tokio::test]
async fn a_log_knows_how_much_it_holds_and_from_where_it_would_hold_less() {
    let disk = MemDisk::new();
    let (mut log, mut state) = open_disk(&disk);
    let monitor = log.monitor();
    assert_eq!(monitor.stats().unwrap().entries, 0);
    append(&mut log, bulky(1, 1..11)).await.unwrap();
    let all = monitor.stats().unwrap();
    assert_eq!((all.entries, all.cached_entries), (10, 10));
    let one = all.bytes / 10;
    assert_eq!(monitor.index_within(all.bytes), Some(1));
    assert_eq!(monitor.index_within(one * 3), Some(8));
    assert_eq!(monitor.index_within(0), Some(11));

    apply(&mut state, bulky(1, 1..4)).await;
    log.truncate_after(Some(log_id(1, 8))).await.unwrap();
    log.purge(log_id(1, 3)).await.unwrap();
    let held = monitor.stats().unwrap();
    assert_eq!((held.first, held.entries, held.bytes), (4, 5, one * 5));
    drop(log);
    let (log, state) = {
        drop(state);
        open_disk(&disk)
    };
    assert_eq!(log.stats().bytes, one * 5, "counted again at start");
    drop((log, state));
    assert_eq!(monitor.stats(), None);
}
