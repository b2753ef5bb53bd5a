//! Rows, position and digest; snapshots built, streamed and installed.

use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use proptest::prelude::*;
use quorate_raft_store::{
    AppliedEntry, Commit, Machine, MemDisk, SnapshotData, StateStore, View, log_id, open_mem,
};

use crate::fixture::{Folder, Kv, apply, history, normal, open_disk, rows, scan};

async fn build(state: &mut StateStore<Kv>) -> SnapshotData {
    let mut builder = state.get_snapshot_builder().await;
    let Snapshot { meta, snapshot } = builder.build_snapshot().await.unwrap();
    assert_eq!(&meta, snapshot.meta());
    snapshot
}

fn chunks(data: &SnapshotData, chunk_bytes: usize) -> Vec<Bytes> {
    let mut reader = data.reader(chunk_bytes);
    std::iter::from_fn(|| reader.next_chunk().unwrap()).collect()
}

/// Streams `data` into `to` and installs it.
async fn transfer(data: &SnapshotData, to: &mut StateStore<Kv>) {
    let mut staging = to.stage().unwrap();
    for chunk in chunks(data, 100) {
        staging.push_chunk(&chunk).unwrap();
    }
    let staged = staging.finish(data.meta().clone()).unwrap();
    to.install_snapshot(data.meta(), staged).await.unwrap();
}

#[tokio::test]
async fn a_reopened_state_stands_where_it_stood() {
    let folder = Folder::new();
    let (log, mut state) = folder.open();
    apply(&mut state, history()).await;
    let (applied, before) = (state.applied(), rows(&state));
    assert_eq!(applied.log_id, Some(log_id(2, 43)));
    assert_eq!(
        applied.membership.voter_ids().collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert!(!before.contains_key(&b"key-003"[..]));
    drop((log, state));

    let (_log, state) = folder.open();
    assert_eq!(state.applied(), applied);
    assert_eq!(rows(&state), before);
}

#[tokio::test]
async fn what_a_log_lacks_that_goes_on_after_the_state_is_in_a_snapshot() {
    let folder = Folder::new();
    let (log, mut state) = folder.open();
    apply(&mut state, history()).await;
    drop((log, state));

    let (log, mut state) = folder.open();
    let purged = log.state().last_purged_log_id;
    assert_eq!(purged, Some(log_id(2, 43)));
    let snapshot = state.get_current_snapshot().await.unwrap();
    assert!(snapshot.is_some_and(|snapshot| snapshot.meta.last_log_id >= purged));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_digest_does_not_depend_on_batching(cuts in prop::collection::vec(1..9usize, 44)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_log, mut whole) = open_disk(&MemDisk::new());
            apply(&mut whole, history()).await;
            let (_log, mut cut) = open_disk(&MemDisk::new());
            let mut rest = history();
            for size in cuts {
                let tail = rest.split_off(size.min(rest.len()));
                apply(&mut cut, std::mem::replace(&mut rest, tail)).await;
            }
            assert_eq!(cut.applied(), whole.applied());
        });
    }
}

#[tokio::test]
async fn the_digest_sees_every_change() {
    let (_log, mut one) = open_disk(&MemDisk::new());
    let (_log, mut two) = open_disk(&MemDisk::new());
    apply(&mut one, vec![normal(1, 0, "ab=c")]).await;
    apply(&mut two, vec![normal(1, 0, "a=bc")]).await;
    assert_ne!(one.applied().digest, two.applied().digest);
}

#[tokio::test]
async fn a_deleted_range_is_gone_on_disk_and_in_the_digest() {
    let puts: Vec<_> = ["a=1", "b=2", "ba=3", "c=4"]
        .iter()
        .zip(0..)
        .map(|(text, index)| normal(1, index, text))
        .collect();
    let folder = Folder::new();
    let (log, mut disk) = folder.open();
    let (_log, mut memory) = open_disk(&MemDisk::new());
    let (_log, mut other) = open_disk(&MemDisk::new());
    for (state, range) in [
        (&mut disk, "b..c"),
        (&mut memory, "b..c"),
        (&mut other, "b..bb"),
    ] {
        apply(state, puts.clone()).await;
        apply(state, vec![normal(1, 4, range)]).await;
    }
    assert_eq!(
        rows(&disk).keys().collect::<Vec<_>>(),
        [&b"a".to_vec(), &b"c".to_vec()]
    );
    assert_eq!(rows(&memory), rows(&disk));
    assert_eq!(memory.applied(), disk.applied());
    assert_ne!(other.applied().digest, disk.applied().digest);
    let stored = rows(&disk);
    drop((log, disk));
    let (_log, disk) = folder.open();
    assert_eq!(rows(&disk), stored);
}

#[tokio::test]
async fn an_entry_is_not_applied_twice() {
    let (_log, mut state) = open_disk(&MemDisk::new());
    apply(&mut state, vec![normal(1, 0, "a=1")]).await;
    let before = state.applied();
    let again = futures::stream::iter([Ok((normal(1, 0, "a=2"), None))]);
    assert!(state.apply(again).await.is_err());
    assert_eq!(state.applied(), before);
}

#[tokio::test]
async fn a_streamed_snapshot_makes_an_equal_replica() {
    let (from, to) = (Folder::new(), Folder::new());
    let (_log, mut source) = from.open();
    apply(&mut source, history()).await;
    let data = build(&mut source).await;
    // What comes later is not in it.
    let at = (source.applied(), rows(&source));
    apply(&mut source, vec![normal(2, 44, "late=1")]).await;

    let (log, mut target) = to.open();
    apply(&mut target, vec![normal(1, 0, "stale=1")]).await;
    transfer(&data, &mut target).await;
    assert_eq!((target.applied(), rows(&target)), at);
    let current = target.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(&current.meta, data.meta());
    drop((current, log, target));

    let (_log, mut target) = to.open();
    assert_eq!((target.applied(), rows(&target)), at);
    apply(&mut target, vec![normal(2, 44, "late=1")]).await;
    assert_eq!(target.applied(), source.applied());
}

#[tokio::test]
async fn a_snapshot_goes_from_rocksdb_to_memory() {
    let folder = Folder::new();
    let (_log, mut source) = folder.open();
    apply(&mut source, history()).await;
    let data = build(&mut source).await;
    let (_log, mut target) = open_disk(&MemDisk::new());
    transfer(&data, &mut target).await;
    assert_eq!(target.applied(), source.applied());
    assert_eq!(rows(&target), rows(&source));
}

#[tokio::test]
async fn only_the_newest_snapshot_is_kept() {
    let folder = Folder::new();
    let (log, mut state) = folder.open();
    apply(&mut state, history()).await;
    let old = build(&mut state).await;
    apply(&mut state, vec![normal(2, 44, "late=1")]).await;
    let new = build(&mut state).await;
    // One still being read stays until then.
    assert!(!chunks(&old, 1000).is_empty());
    drop(old);
    let kept = || {
        std::fs::read_dir(folder.0.path().join("snapshots"))
            .unwrap()
            .count()
    };
    assert_eq!(kept(), 1);
    let meta = new.meta().clone();
    drop((new, log, state));

    let (_log, mut state) = folder.open();
    let found = state.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(found.meta, meta);
}

#[tokio::test]
async fn an_unreadable_snapshot_is_replaced() {
    let folder = Folder::new();
    let (log, mut state) = folder.open();
    apply(&mut state, history()).await;
    drop((build(&mut state).await, log, state));
    let snapshot = folder
        .0
        .path()
        .join("snapshots")
        .join(format!("{:020}", 43));
    std::fs::write(snapshot.join("CURRENT"), "rubbish").unwrap();

    // The log lacks what is in it, so there is a new one.
    let (_log, mut state) = folder.open();
    assert!(state.get_current_snapshot().await.unwrap().is_some());
    assert_ne!(std::fs::read(snapshot.join("CURRENT")).unwrap(), b"rubbish");
}

#[tokio::test]
async fn a_damaged_stream_is_refused() {
    let (_log, mut source) = open_disk(&MemDisk::new());
    apply(&mut source, history()).await;
    let data = build(&mut source).await;
    let sound = chunks(&data, 100);
    let (_log, target) = open_disk(&MemDisk::new());

    for at in 0..sound[0].len() {
        let mut flipped = sound[0].to_vec();
        flipped[at] ^= 1;
        assert!(
            target.stage().unwrap().push_chunk(&flipped).is_err(),
            "byte {at}"
        );
    }
    assert!(
        target.stage().unwrap().push_chunk(&sound[1]).is_err(),
        "out of order"
    );
    assert!(target.stage().unwrap().push_chunk(&[]).is_err());

    let mut staging = target.stage().unwrap();
    for chunk in &sound[..sound.len() - 1] {
        staging.push_chunk(chunk).unwrap();
    }
    assert!(staging.finish(data.meta().clone()).is_err(), "cut short");

    let mut staging = target.stage().unwrap();
    for chunk in &sound {
        staging.push_chunk(chunk).unwrap();
    }
    let mut elsewhere = data.meta().clone();
    elsewhere.last_log_id = Some(log_id(9, 9));
    assert!(staging.finish(elsewhere).is_err(), "another position");
    assert!(rows(&target).is_empty());
}

#[tokio::test]
async fn an_unfinished_staging_leaves_nothing_behind() {
    let folder = Folder::new();
    let (_log, state) = folder.open();
    let folders = || {
        std::fs::read_dir(folder.0.path().join("state"))
            .unwrap()
            .filter(|item| item.as_ref().unwrap().path().is_dir())
            .count()
    };
    let staging = state.stage().unwrap();
    assert_eq!(folders(), 2);
    drop(staging);
    assert_eq!(folders(), 1);
}

#[tokio::test]
async fn a_staging_cut_off_by_a_crash_is_removed_at_open() {
    let folder = Folder::new();
    drop(folder.open());
    let left = folder.0.path().join("state").join("7");
    std::fs::create_dir(&left).unwrap();
    let _stores = folder.open();
    assert!(!left.exists());
}

#[tokio::test]
async fn a_crash_drops_unsynced_state_and_keeps_a_snapshot() {
    let disk = MemDisk::new();
    let (_log, mut state) = open_disk(&disk);
    apply(&mut state, history()).await;
    build(&mut state).await;
    let at = (state.applied(), rows(&state));
    apply(&mut state, vec![normal(2, 44, "late=1")]).await;
    disk.crash();
    assert!(
        state.with_view(scan).is_err(),
        "a dead handle must not answer"
    );

    let (_log, state) = open_disk(&disk);
    assert_eq!((state.applied(), rows(&state)), at);
}

/// Forks a view after each batch.
#[derive(Default)]
struct Forking(std::sync::Mutex<Option<mpsc::Sender<usize>>>);

impl Machine for Forking {
    fn load(&self, _: &dyn View) -> std::io::Result<()> {
        Ok(())
    }

    fn apply(&self, entries: Vec<AppliedEntry>, commit: &mut Commit<'_>) -> std::io::Result<()> {
        for entry in entries {
            let key = entry.log_id.index.to_be_bytes().to_vec();
            let row = quorate_raft_store::Row::Put { key, value: vec![] };
            commit.entry(entry.log_id, vec![row], Bytes::new());
            let sender = self.0.lock().unwrap().clone().unwrap();
            commit.fork_view(Box::new(move |view| {
                sender.send(scan(view).unwrap().len()).unwrap();
            }))?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_forked_view_stands_exactly_at_the_last_entry() {
    let (sender, counts) = mpsc::channel();
    let machine = Arc::new(Forking(Some(sender).into()));
    let folder = Folder::new();
    let options = crate::fixture::small();
    let (_log, mut state) = quorate_raft_store::open(&folder.dir(), machine, &options).unwrap();
    let entries = (0..20).map(|index| Ok((normal(1, index, ""), None)));
    state.apply(futures::stream::iter(entries)).await.unwrap();
    let mut seen: Vec<usize> = counts.iter().take(20).collect();
    seen.sort_unstable();
    assert_eq!(seen, (1..=20).collect::<Vec<_>>());
}

/// Forgets to commit.
struct Silent;

impl Machine for Silent {
    fn load(&self, _: &dyn View) -> std::io::Result<()> {
        Ok(())
    }

    fn apply(&self, _: Vec<AppliedEntry>, _: &mut Commit<'_>) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_machine_that_skips_an_entry_stops_the_store() {
    let disk = MemDisk::new();
    let (_log, mut state) = open_mem(&disk, Arc::new(Silent), std::time::Duration::ZERO).unwrap();
    let entries = futures::stream::iter([Ok((normal(1, 0, ""), None))]);
    assert!(state.apply(entries).await.is_err());
    assert_eq!(state.applied().log_id, None);
}
