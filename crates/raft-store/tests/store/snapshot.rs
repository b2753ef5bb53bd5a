//! The portable form of a snapshot: whole or refused, resumed where it broke, read by later releases.

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use openraft::storage::RaftStateMachine;
use proptest::prelude::*;
use quorate_raft_store::{
    AppliedEntry, Commit, Machine, MemDisk, SnapshotCutter, SnapshotData, SnapshotOrigin,
    SnapshotSummary, SnapshotVerifier, StateHash, StateHasher, StateStore, View, open_mem,
    snapshot_file_head, snapshot_frame_number,
};
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::fixture::{Folder, Kv, apply, history, normal, open_disk, rows};

fn origin() -> SnapshotOrigin {
    SnapshotOrigin {
        cluster_id: "test".into(),
        created_ms: 1_700_000_000_000,
        release: "0.1.0".into(),
    }
}

async fn filled() -> StateStore<Kv> {
    let (_log, mut state) = open_disk(&MemDisk::new());
    apply(&mut state, history()).await;
    state
}

async fn data() -> SnapshotData {
    filled().await.checkpoint().await.unwrap()
}

fn frames(data: &SnapshotData, chunk_bytes: usize, from: u32) -> Vec<Bytes> {
    let mut reader = data.reader(chunk_bytes).starting_at(from);
    std::iter::from_fn(|| reader.next_chunk().unwrap()).collect()
}

fn file_of(frames: impl IntoIterator<Item = Bytes>) -> Vec<u8> {
    let mut file = snapshot_file_head().to_vec();
    for frame in frames {
        file.extend_from_slice(&frame);
    }
    file
}

fn read(file: &[u8], piece: usize) -> io::Result<SnapshotSummary> {
    let mut cutter = SnapshotCutter::default();
    let mut verifier = SnapshotVerifier::default();
    for piece in file.chunks(piece) {
        cutter.push(piece);
        while let Some(frame) = cutter.next_frame()? {
            verifier.push(&frame)?;
        }
    }
    cutter.finish()?;
    verifier.finish()
}

fn hash_of(state: &StateStore<Kv>) -> StateHash {
    let mut hasher = StateHasher::default();
    let scanned = state.with_view(|view| {
        view.scan(&[], &[], &mut |key, value| {
            hasher.row(key, value);
            ControlFlow::Continue(())
        })
    });
    scanned.unwrap().unwrap();
    hasher.finish()
}

/// A file with frames small enough that there are several.
fn sample() -> &'static [u8] {
    static SAMPLE: OnceLock<Vec<u8>> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { file_of(frames(&data().await, 100, 0)) })
    })
}

#[tokio::test]
async fn a_files_hash_is_that_of_the_state_it_was_taken_of() {
    let state = filled().await;
    let data = state.checkpoint().await.unwrap();
    let mut reader = data.reader_from(origin());
    let all = std::iter::from_fn(|| reader.next_chunk().unwrap());
    let summary = read(&file_of(all), 7).unwrap();
    let hash = hash_of(&state);
    assert_eq!((summary.state_hash, summary.rows), (hash.hash, hash.rows));
    assert_eq!(summary.tables, hash.tables);
    assert_eq!(summary.manifest.applied, state.applied());
    assert_eq!(summary.manifest.cluster_id, "test");
    assert_eq!(summary.manifest.release, "0.1.0");
}

#[tokio::test]
async fn the_hash_does_not_depend_on_the_size_of_frames() {
    let data = data().await;
    let sizes = [1, 50, 1000, 1 << 20];
    let found = sizes.map(|size| read(&file_of(frames(&data, size, 0)), 1000).unwrap());
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn any_flipped_bit_is_refused() {
    let sound = sample();
    read(sound, 4096).unwrap();
    let mut file = sound.to_vec();
    for at in 0..file.len() {
        file[at] ^= 1 << (at % 8);
        assert!(read(&file, 4096).is_err(), "byte {at} of {}", file.len());
        file[at] = sound[at];
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn anything_but_the_file_itself_is_refused(
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 0..20),
        removed in 0usize..20,
        piece in 1usize..300,
    ) {
        let sound = sample();
        let at = at.index(sound.len() + 1);
        let until = (at + removed).min(sound.len());
        let file = [&sound[..at], &bytes, &sound[until..]].concat();
        prop_assert_eq!(read(&file, piece).is_ok(), file == sound);
    }

    #[test]
    fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let file = [&snapshot_file_head()[..], &bytes].concat();
        prop_assert!(read(&file, 64).is_err());
        prop_assert!(read(&bytes, 64).is_err());
        prop_assert!(SnapshotVerifier::default().push(&bytes).is_err());
    }
}

#[test]
fn a_file_of_a_later_format_is_refused_by_name() {
    let mut file = sample().to_vec();
    file[8..12].copy_from_slice(&7u32.to_be_bytes());
    let sum = crc32c::crc32c(&file[..16]);
    file[16..20].copy_from_slice(&sum.to_be_bytes());
    let error = read(&file, 4096).unwrap_err().to_string();
    assert!(error.contains("format 7"), "{error}");
    assert!(error.contains("use a newer release"), "{error}");
}

/// Written by release 0.1.0 in format 1; never written again. A change that cannot read it breaks
/// every backup there is.
#[test]
fn the_first_format_is_still_read() {
    let path = PathBuf::from("tests/data/format-1.snapshot");
    if std::env::var_os("WRITE_FIXTURE").is_some() {
        assert!(!path.exists(), "it is never written again");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let file = runtime.block_on(async {
            let mut reader = data().await.reader_from(origin());
            file_of(std::iter::from_fn(|| reader.next_chunk().unwrap()))
        });
        std::fs::write(&path, file).unwrap();
    }
    let summary = read(&std::fs::read(path).unwrap(), 100).unwrap();
    assert_eq!(summary.manifest.format, 1);
    assert_eq!(summary.manifest.cluster_id, "test");
    assert_eq!(summary.manifest.created_ms, 1_700_000_000_000);
    assert_eq!(summary.manifest.applied.index(), Some(43));
    assert_eq!(summary.rows, 17);
    let voters: Vec<u64> = summary.manifest.applied.membership.voter_ids().collect();
    assert_eq!(voters, [1, 2, 3]);
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let source = data().await;
    let all = frames(&source, 60, 0);
    assert!(all.len() > 5, "{}", all.len());
    for broken_at in 0..all.len() {
        let (_log, mut target) = open_disk(&MemDisk::new());
        let mut staging = target.stage().unwrap();
        for frame in &all[..broken_at] {
            staging.push_chunk(frame).unwrap();
        }
        assert_eq!(staging.next_frame() as usize, broken_at);
        // The same rows on another replica give the same frames.
        let rest = frames(&data().await, 60, staging.next_frame());
        assert_eq!(rest, all[broken_at..]);
        assert_eq!(snapshot_frame_number(&rest[0]), Some(broken_at as u32));
        for frame in rest {
            staging.push_chunk(&frame).unwrap();
        }
        let staged = staging.finish(source.meta().clone()).unwrap();
        target
            .install_snapshot(source.meta(), staged)
            .await
            .unwrap();
        assert_eq!(target.applied(), *source.applied());
    }
}

#[tokio::test]
async fn a_damaged_frame_may_be_sent_again() {
    let source = data().await;
    let (_log, target) = open_disk(&MemDisk::new());
    let mut staging = target.stage().unwrap();
    for frame in frames(&source, 60, 0) {
        let mut flipped = frame.to_vec();
        *flipped.last_mut().unwrap() ^= 4;
        assert!(staging.push_chunk(&flipped).is_err());
        staging.push_chunk(&frame).unwrap();
    }
    staging.finish(source.meta().clone()).unwrap();
}

#[tokio::test]
async fn another_manifest_is_another_snapshot() {
    let state = filled().await;
    let one = state.checkpoint().await.unwrap();
    let (_log, mut other) = open_disk(&MemDisk::new());
    apply(&mut other, history()).await;
    assert_eq!(other.checkpoint().await.unwrap().id(), one.id());
    apply(&mut other, vec![normal(2, 44, "x=1")]).await;
    let later = other.checkpoint().await.unwrap();
    assert_ne!(later.id(), one.id());

    // Rows of one behind the manifest of the other.
    let mixed = [&frames(&later, 1000, 0)[..1], &frames(&one, 1000, 1)].concat();
    assert!(read(&file_of(mixed), 1000).is_err());
    // Announced as standing elsewhere.
    let mut staging = state.stage().unwrap();
    for frame in frames(&one, 1000, 0) {
        staging.push_chunk(&frame).unwrap();
    }
    assert!(staging.finish(later.meta().clone()).is_err());
}

#[tokio::test]
async fn frames_stream_from_disk_as_they_are_read() {
    let folder = Folder::new();
    let (_log, mut state) = folder.open();
    apply(&mut state, history()).await;
    let data = state.checkpoint().await.unwrap();
    let expected = frames(&data, 60, 2);
    let streamed = data.reader(60).starting_at(2).into_frames();
    let streamed: Vec<Bytes> = streamed.map(Result::unwrap).collect().await;
    assert_eq!(streamed, expected);
    // Gone with its last handle.
    drop(data);
    let left = std::fs::read_dir(folder.0.path().join("snapshots")).unwrap();
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn a_checkpoint_stands_still_while_the_state_goes_on() {
    let folder = Folder::new();
    let (_log, mut state) = folder.open();
    apply(&mut state, history()).await;
    let before = hash_of(&state);
    let data = state.checkpoint().await.unwrap();
    apply(&mut state, vec![normal(2, 44, "late=1")]).await;
    let summary = read(&file_of(frames(&data, 1000, 0)), 1000).unwrap();
    assert_eq!(summary.state_hash, before.hash);
    assert_ne!(hash_of(&state).hash, before.hash);
}

/// Notes what readers see while a snapshot is put in place.
#[derive(Default)]
struct Watching {
    rows: AtomicUsize,
    seen_at_swap: AtomicUsize,
    refuse: std::sync::atomic::AtomicBool,
}

fn count(view: &dyn View) -> usize {
    let mut rows = 0;
    view.scan(&[], &[], &mut |_, _| {
        rows += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    rows
}

impl Machine for Watching {
    fn load(&self, view: &dyn View) -> io::Result<()> {
        self.rows.store(count(view), Ordering::SeqCst);
        Ok(())
    }

    fn install(&self, view: &dyn View, swap: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        if self.refuse.load(Ordering::SeqCst) {
            return Err(io::Error::other("rows of a newer release"));
        }
        let fresh = count(view);
        swap()?;
        self.seen_at_swap.store(fresh, Ordering::SeqCst);
        self.rows.store(fresh, Ordering::SeqCst);
        Ok(())
    }

    fn apply(&self, entries: Vec<AppliedEntry>, commit: &mut Commit<'_>) -> io::Result<()> {
        for entry in entries {
            let key = entry.payload.to_vec();
            let row = quorate_raft_store::Row::Put { key, value: vec![] };
            commit.entry(entry.log_id, vec![row], Bytes::new());
        }
        Ok(())
    }
}

#[tokio::test]
async fn rows_a_machine_cannot_read_replace_nothing() {
    let source = data().await;
    let machine = Arc::new(Watching::default());
    let (_log, mut state) =
        open_mem(&MemDisk::new(), machine.clone(), std::time::Duration::ZERO).unwrap();
    state
        .apply(futures::stream::iter([Ok((normal(1, 0, "own"), None))]))
        .await
        .unwrap();
    let before = state.applied();
    let stage = |state: &StateStore<Watching>| {
        let mut staging = state.stage().unwrap();
        for frame in frames(&source, 1000, 0) {
            staging.push_chunk(&frame).unwrap();
        }
        staging.finish(source.meta().clone()).unwrap()
    };
    machine.refuse.store(true, Ordering::SeqCst);
    let staged = stage(&state);
    assert!(state.install_snapshot(source.meta(), staged).await.is_err());
    assert_eq!(state.applied(), before);
    assert_eq!(state.with_view(count).unwrap(), 1);

    machine.refuse.store(false, Ordering::SeqCst);
    let staged = stage(&state);
    state.install_snapshot(source.meta(), staged).await.unwrap();
    let rows = state.with_view(count).unwrap();
    assert_eq!(machine.rows.load(Ordering::SeqCst), rows);
    assert_eq!(machine.seen_at_swap.load(Ordering::SeqCst), rows);
    assert_eq!(state.applied(), *source.applied());
}

#[tokio::test]
async fn a_crash_at_any_moment_of_a_transfer_leaves_the_old_state_or_the_new() {
    let source = data().await;
    let all = frames(&source, 60, 0);
    // Steps: each frame, finishing, installing.
    for steps in 0..all.len() + 3 {
        let disk = MemDisk::new();
        let (log, mut state) = open_disk(&disk);
        apply(&mut state, vec![normal(1, 0, "old=1")]).await;
        // What is durable of the old state is its checkpoint.
        drop(state.checkpoint().await.unwrap());
        let old = (state.applied(), rows(&state));
        {
            let mut staging = state.stage().unwrap();
            let mut taken = 0;
            for frame in all.iter().take(steps) {
                staging.push_chunk(frame).unwrap();
                taken += 1;
            }
            if taken == all.len() && steps > taken {
                let staged = staging.finish(source.meta().clone()).unwrap();
                if steps > taken + 1 {
                    state.install_snapshot(source.meta(), staged).await.unwrap();
                }
            }
            disk.crash();
        }
        drop((log, state));
        let (_log, state) = open_disk(&disk);
        if steps > all.len() + 1 {
            assert_eq!(state.applied(), *source.applied());
        } else {
            assert_eq!((state.applied(), rows(&state)), old, "after {steps} steps");
        }
    }
}
