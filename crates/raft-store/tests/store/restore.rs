//! Members of a new cluster out of a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::{RaftLogReader, RaftLogStorage};
use quorate_raft_store::{
    DataDir, DataDirError, EntryPayload, FORMAT_VERSION, Identity, MemDisk, Member, Membership,
    Payload, Restore, RestoreError, Restored, SnapshotData, Vote, log_id, open,
};

use crate::fixture::{Kv, append, apply, history, normal, open_disk, rows, small};

async fn data() -> SnapshotData {
    let (_log, mut state) = open_disk(&MemDisk::new());
    apply(&mut state, history()).await;
    state.checkpoint().await.unwrap()
}

fn identity(node_id: u64) -> Identity {
    Identity {
        format_version: FORMAT_VERSION,
        cluster_id: "new".into(),
        node_id,
    }
}

fn membership(ids: &[u64]) -> Membership {
    let nodes: BTreeMap<u64, Member> = ids.iter().map(|id| (*id, Member::default())).collect();
    let voters: BTreeSet<u64> = ids.iter().copied().collect();
    Membership::new(vec![voters], nodes).unwrap()
}

fn begin(path: &Path, node_id: u64) -> Result<Restore<Kv>, RestoreError> {
    Restore::begin(path, identity(node_id), Arc::default(), &small())
}

async fn restore(path: &Path, node_id: u64, data: &SnapshotData) -> Restored {
    let mut restore = begin(path, node_id).unwrap();
    let mut reader = data.reader(100);
    while let Some(frame) = reader.next_chunk().unwrap() {
        restore.push(&frame).unwrap();
    }
    let first = Payload(Bytes::from_static(b"first=1"));
    restore.finish(membership(&[1, 2, 5]), first).await.unwrap()
}

#[tokio::test]
async fn members_restored_apart_hold_the_same() {
    let data = data().await;
    let folder = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for node_id in [1, 5] {
        let path = folder.path().join(node_id.to_string());
        let restored = restore(&path, node_id, &data).await;
        // Behind the snapshot's (2, 43): the membership in the next term, then the first entry.
        assert_eq!(restored.applied.log_id, Some(log_id(3, 44)));
        assert_eq!(restored.last_log_id, log_id(3, 45));

        let dir = DataDir::open(&path).unwrap();
        assert_eq!(dir.identity(), Some(identity(node_id)));
        let (mut log, mut state) = open(&dir, Arc::<Kv>::default(), &small()).unwrap();
        assert_eq!(state.applied(), restored.applied);
        let stood = log.get_log_state().await.unwrap();
        assert_eq!(stood.last_purged_log_id, Some(log_id(3, 44)));
        assert_eq!(stood.last_log_id, Some(log_id(3, 45)));
        // Nobody is elected in the term the entries have.
        assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, 0)));
        let entries = log.try_get_log_entries(0..100).await.unwrap();
        let EntryPayload::Normal(first) = &entries[0].payload else {
            panic!("{entries:?}");
        };
        assert_eq!(&first.0[..], b"first=1");
        let voters: Vec<u64> = state.applied().membership.voter_ids().collect();
        assert_eq!(voters, [1, 2, 5]);

        // It goes on like any member.
        append(&mut log, vec![normal(4, 46, "more=1")])
            .await
            .unwrap();
        apply(
            &mut state,
            vec![normal(3, 45, "first=1"), normal(4, 46, "more=1")],
        )
        .await;
        seen.push((state.applied(), rows(&state)));
        drop((log, state, dir));
        let dir = DataDir::open(&path).unwrap();
        let (_log, state) = open(&dir, Arc::<Kv>::default(), &small()).unwrap();
        assert_eq!(state.applied().index(), Some(46));
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn a_folder_that_is_not_empty_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("letter"), "x").unwrap();
    let refused = begin(folder.path(), 1).err().unwrap();
    assert!(
        matches!(&refused, RestoreError::DataDir(DataDirError::NotEmpty { found, .. }) if found == "letter"),
        "{refused}"
    );
    assert!(folder.path().join("letter").exists());
    assert!(!folder.path().join("RESTORING").exists());
}

#[tokio::test]
async fn a_restore_given_up_leaves_the_folder_empty() {
    let data = data().await;
    let folder = tempfile::tempdir().unwrap();
    let mut restore = begin(folder.path(), 1).unwrap();
    let frame = data.reader(100).next_chunk().unwrap().unwrap();
    restore.push(&frame).unwrap();
    assert!(restore.push(&frame).is_err());
    // Not whole, so it cannot be finished either.
    let unfinished = restore.finish(membership(&[1]), Payload::default()).await;
    assert!(unfinished.is_err());
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|item| item.unwrap().file_name())
        .collect();
    assert_eq!(left, ["LOCK"]);
    assert_eq!(DataDir::open(folder.path()).unwrap().identity(), None);
}

#[tokio::test]
async fn a_restore_cut_off_is_never_opened_and_can_be_repeated() {
    let data = data().await;
    let folder = tempfile::tempdir().unwrap();
    // As a process leaves it that is killed in the middle.
    std::mem::forget({
        let mut restore = begin(folder.path(), 1).unwrap();
        restore
            .push(&data.reader(100).next_chunk().unwrap().unwrap())
            .unwrap();
        restore
    });
    let copy = tempfile::tempdir().unwrap();
    for name in ["RESTORING", "identity.json"] {
        std::fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
    }
    std::fs::create_dir(copy.path().join("log")).unwrap();
    let refused = DataDir::open(copy.path()).unwrap_err();
    assert!(matches!(refused, DataDirError::Restoring(_)), "{refused}");
    restore(copy.path(), 1, &data).await;
    assert!(DataDir::open(copy.path()).is_ok());
}

#[tokio::test]
async fn a_member_that_is_not_one_is_not_restored() {
    let data = data().await;
    let folder = tempfile::tempdir().unwrap();
    let mut restore = begin(folder.path(), 9).unwrap();
    let mut reader = data.reader(100);
    while let Some(frame) = reader.next_chunk().unwrap() {
        restore.push(&frame).unwrap();
    }
    let refused = restore
        .finish(membership(&[1, 2]), Payload::default())
        .await;
    assert!(refused.is_err());
}
