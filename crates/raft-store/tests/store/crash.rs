//! The member dies before each single step it takes on its disk: what it acknowledged is there
//! afterwards, and it never refuses to start for nothing.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::storage::{RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use quorate_raft_store::testing::{Action, Faults, Step, open_mem_with_faults, open_with_faults};
use quorate_raft_store::{Entry, LogId, MemDisk, Vote, log_id};

use crate::fixture::{
    Folder, Kv, Rows, Stores, append, apply, members, normal, open_disk, rows, small,
};

/// What a member holds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Standing {
    entries: Vec<Entry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
}

/// One thing a member is asked to do.
#[derive(Clone, Debug)]
enum Task {
    Vote(Vote),
    Append(Vec<Entry>),
    Truncate(Option<LogId>),
    Purge(LogId),
    /// Apply the log up to this index.
    Apply(u64),
    Snapshot,
    /// Install what a leader sends: its state after these entries.
    Install(Vec<Entry>),
}

fn entries(term: u64, indexes: std::ops::Range<u64>) -> Vec<Entry> {
    indexes
        .map(|index| {
            normal(
                term,
                index,
                &format!("key-{:02}=value {term}.{index}", index % 7),
            )
        })
        .collect()
}

/// A life of a member: leaders change, its log is truncated and purged, it is far behind once.
fn life() -> Vec<Task> {
    let mut first = vec![members(1, 0, &[1, 2, 3])];
    first.extend(entries(1, 1..6));
    // What the cluster committed: term 1 up to 5, term 2 up to 7, term 3 after that.
    let mut committed = first.clone();
    committed.extend(entries(2, 6..8));
    committed.extend(entries(3, 8..15));
    committed.extend(entries(4, 15..40));
    vec![
        Task::Vote(Vote::new(1, 1)),
        Task::Vote(Vote::new_committed(1, 1)),
        Task::Append(first),
        Task::Append(entries(1, 6..9)),
        Task::Apply(5),
        // A new leader has other entries from 6 on.
        Task::Vote(Vote::new_committed(2, 2)),
        Task::Truncate(Some(log_id(1, 5))),
        Task::Append(entries(2, 6..12)),
        Task::Vote(Vote::new_committed(3, 3)),
        Task::Truncate(Some(log_id(2, 7))),
        Task::Append(entries(3, 8..15)),
        Task::Apply(10),
        Task::Snapshot,
        Task::Purge(log_id(2, 7)),
        Task::Append(entries(4, 15..17)),
        Task::Snapshot,
        Task::Vote(Vote::new(9, 1)),
        // Far behind: the log conflicts from 15 on and ends before the snapshot.
        Task::Vote(Vote::new_committed(9, 2)),
        Task::Truncate(Some(log_id(3, 14))),
        Task::Install(committed),
        Task::Purge(log_id(4, 39)),
        Task::Append(entries(9, 40..44)),
        Task::Apply(42),
        Task::Snapshot,
        Task::Purge(log_id(9, 41)),
        Task::Append(entries(9, 44..46)),
    ]
}

impl Standing {
    fn after(&self, task: &Task) -> Self {
        let mut next = self.clone();
        let upto = |id: &Option<LogId>| id.map_or(0, |id| id.index + 1);
        match task {
            Task::Vote(vote) => next.vote = Some(*vote),
            Task::Append(entries) => next.entries.extend(entries.iter().cloned()),
            Task::Truncate(last) => next.entries.retain(|e| e.log_id.index < upto(last)),
            Task::Purge(id) => {
                next.entries.retain(|e| e.log_id.index > id.index);
                next.purged = Some(*id);
            }
            Task::Apply(_) | Task::Snapshot | Task::Install(_) => {}
        }
        next
    }

    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|e| e.log_id).or(self.purged)
    }
}

async fn standing(stores: &mut Stores) -> Standing {
    let log = &mut stores.0;
    let state = log.get_log_state().await.unwrap();
    let standing = Standing {
        entries: log.try_get_log_entries(..).await.unwrap(),
        purged: state.last_purged_log_id,
        vote: log.read_vote().await.unwrap(),
    };
    assert_eq!(standing.last(), state.last_log_id);
    standing
}

async fn perform(stores: &mut Stores, task: &Task) -> std::io::Result<()> {
    let (log, state) = stores;
    match task {
        Task::Vote(vote) => log.save_vote(vote).await,
        Task::Append(entries) => append(log, entries.clone()).await,
        Task::Truncate(last) => log.truncate_after(*last).await,
        Task::Purge(id) => log.purge(*id).await,
        Task::Apply(upto) => {
            let from = state.applied().log_id.map_or(0, |id| id.index + 1);
            let entries = log.try_get_log_entries(from..upto + 1).await?;
            log.save_committed(entries.last().map(|e| e.log_id)).await?;
            let items = entries.into_iter().map(|entry| Ok((entry, None)));
            state.apply(futures::stream::iter(items)).await
        }
        Task::Snapshot => {
            let mut builder = state.get_snapshot_builder().await;
            builder.build_snapshot().await.map(drop)
        }
        Task::Install(entries) => {
            let (_log, mut source) = open_disk(&MemDisk::new());
            apply(&mut source, entries.clone()).await;
            let mut builder = source.get_snapshot_builder().await;
            let sent = builder.build_snapshot().await?;
            let mut reader = sent.snapshot.reader(200);
            let mut staging = state.stage()?;
            while let Some(chunk) = reader.next_chunk()? {
                staging.push_chunk(&chunk)?;
            }
            let staged = staging.finish(sent.meta.clone())?;
            state.install_snapshot(&sent.meta, staged).await
        }
    }
}

/// Lives on until a step fails; calls `done` with the number of each task that was acknowledged.
async fn live(stores: &mut Stores, mut done: impl FnMut(usize)) {
    for (number, task) in life().iter().enumerate() {
        if perform(stores, task).await.is_err() {
            return;
        }
        done(number);
    }
}

/// The rows after applying the committed history up to `applied`.
fn rows_at(applied: Option<LogId>) -> Rows {
    let mut rows = BTreeMap::new();
    let mut committed: Vec<Entry> = Vec::new();
    for task in life() {
        match task {
            Task::Install(entries) => committed = entries,
            Task::Append(entries) if entries[0].log_id.index == 40 => committed.extend(entries),
            _ => {}
        }
    }
    for entry in committed {
        if Some(entry.log_id) > applied {
            break;
        }
        if let quorate_raft_store::EntryPayload::Normal(payload) = entry.payload {
            let text = String::from_utf8(payload.0.to_vec()).unwrap();
            let (key, value) = text.split_once('=').unwrap();
            rows.insert(key.as_bytes().to_vec(), value.as_bytes().to_vec());
        }
    }
    rows
}

/// Checks a member that came back after it had acknowledged `acknowledged` tasks and died in the
/// next one.
async fn check(mut stores: Stores, acknowledged: usize, what: &str) {
    let tasks = life();
    let before = tasks[..acknowledged]
        .iter()
        .fold(Standing::default(), |standing, task| standing.after(task));
    let held = standing(&mut stores).await;
    let applied = stores.1.applied().log_id;
    // It stands before or after the task it died in, or behind what its state has.
    let after = tasks.get(acknowledged).map(|task| before.after(task));
    let goes_on = Standing {
        entries: vec![],
        purged: applied,
        vote: before.vote,
    };
    assert!(
        held == before
            || Some(&held) == after.as_ref()
            || (applied > before.last() && held == goes_on),
        "{what}: after {acknowledged} tasks it holds {held:?}\nbefore: {before:?}\nafter: {after:?}"
    );
    assert_eq!(
        rows(&stores.1),
        rows_at(applied),
        "{what}: state at {applied:?}"
    );
    // Nothing is missing between what is applied and the log.
    let next = held.purged.map_or(0, |id| id.index + 1);
    assert!(
        applied.map_or(0, |id| id.index + 1) >= next,
        "{what}: applied {applied:?}"
    );
    // It can go on.
    let end = held.last().map_or(0, |id| id.index + 1);
    append(&mut stores.0, vec![normal(20, end, "a=1")])
        .await
        .unwrap();
}

#[derive(Clone, Copy, Debug)]
enum Death {
    /// The process ends; what it wrote is there.
    Kill,
    /// What was not synced is gone.
    PowerLoss,
}

/// Counts steps, and fails all from one on.
struct Dying {
    steps: AtomicU64,
    fatal: u64,
    first: Mutex<Option<Step>>,
}

impl Dying {
    fn at(fatal: u64) -> Arc<Self> {
        Arc::new(Self {
            steps: AtomicU64::new(0),
            fatal,
            first: Mutex::new(None),
        })
    }
}

impl Faults for Dying {
    fn before(&self, step: &Step) -> std::io::Result<()> {
        if self.steps.fetch_add(1, Ordering::SeqCst) < self.fatal {
            return Ok(());
        }
        self.first
            .lock()
            .unwrap()
            .get_or_insert_with(|| step.clone());
        Err(std::io::Error::other("dead"))
    }
}

/// Dies at step `fatal` on a simulated disk; false once there are no more steps.
async fn die_in_memory(fatal: u64, death: Death) -> bool {
    let disk = MemDisk::new();
    let faults = Dying::at(fatal);
    let mut acknowledged = 0;
    let opened = open_mem_with_faults(&disk, Arc::<Kv>::default(), Duration::ZERO, faults.clone());
    if let Ok(mut stores) = opened {
        live(&mut stores, |_| acknowledged += 1).await;
        if let Death::PowerLoss = death {
            disk.crash();
        }
    }
    let first = faults.first.lock().unwrap().clone();
    let what = format!("{death:?} at step {fatal}, {first:?}");
    let again = quorate_raft_store::open_mem(&disk, Arc::<Kv>::default(), Duration::ZERO);
    match again {
        Ok(stores) => check(stores, acknowledged, &what).await,
        Err(error) => panic!("{what}: refused: {error}"),
    }
    first.is_some()
}

#[tokio::test(start_paused = true)]
async fn a_member_killed_before_any_step_on_a_simulated_disk_forgets_nothing() {
    let mut fatal = 0;
    while die_in_memory(fatal, Death::Kill).await {
        fatal += 1;
    }
    assert!(fatal > 100, "only {fatal} steps");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_loses_power_before_any_step_forgets_nothing() {
    let mut fatal = 0;
    while die_in_memory(fatal, Death::PowerLoss).await {
        fatal += 1;
    }
    assert!(fatal > 100, "only {fatal} steps");
}

const CHILD: &str = "QUORATE_STORE_TEST_DIES_IN";
const FATAL: &str = "QUORATE_STORE_TEST_DIES_AT";

/// Not a test of its own: what the next one runs in a process that aborts.
#[tokio::test]
async fn a_child_that_dies() {
    let (Ok(path), Ok(fatal)) = (std::env::var(CHILD), std::env::var(FATAL)) else {
        return;
    };
    let steps = AtomicU64::new(0);
    let fatal: u64 = fatal.parse().unwrap();
    let faults = move |step: &Step| {
        if steps.fetch_add(1, Ordering::SeqCst) == fatal {
            println!("\ndying before {step:?}");
            std::process::abort();
        }
        Ok(())
    };
    let dir = quorate_raft_store::DataDir::open(path).unwrap();
    let opened = open_with_faults(&dir, Arc::<Kv>::default(), &small(), Arc::new(faults));
    let mut stores = opened.unwrap();
    println!("\nlives");
    live(&mut stores, |_| println!("\ndone")).await;
}

/// Dies at step `fatal` of a real process on RocksDB; false once there are no more steps.
async fn die_for_real(fatal: u64) -> bool {
    let folder = Folder::new();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["crash::a_child_that_dies", "--exact", "--nocapture"])
        .env(CHILD, folder.0.path())
        .env(FATAL, fatal.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let lines: Vec<String> = BufReader::new(&output.stdout[..])
        .lines()
        .map(|line| line.unwrap())
        .collect();
    let acknowledged = lines.iter().filter(|line| *line == "done").count();
    let death = lines.iter().find(|line| line.starts_with("dying"));
    assert_eq!(death.is_none(), output.status.success(), "{lines:?}");
    let what = format!("step {fatal}, {death:?}");
    match quorate_raft_store::open(&folder.dir(), Arc::<Kv>::default(), &small()) {
        Ok(stores) => check(stores, acknowledged, &what).await,
        Err(error) => panic!("{what}: refused: {error}"),
    }
    death.is_some()
}

#[tokio::test]
async fn a_process_killed_before_any_step_on_rocksdb_forgets_nothing() {
    let mut fatal = 0;
    while die_for_real(fatal).await {
        fatal += 1;
    }
    assert!(fatal > 100, "only {fatal} steps");
}

/// Fails one step, and only that one.
async fn fail_once(action: Action, name: &str) {
    let disk = MemDisk::new();
    let armed = Arc::new(AtomicU64::new(0));
    let (trigger, target, name) = (armed.clone(), action, name.to_owned());
    let faults = move |step: &Step| {
        let hit = step.action == target && step.name == name;
        if hit
            && trigger
                .compare_exchange(1, 2, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        {
            return Err(std::io::Error::other("the disk says no"));
        }
        Ok(())
    };
    let (mut log, _state) = open_mem_with_faults(
        &disk,
        Arc::<Kv>::default(),
        Duration::ZERO,
        Arc::new(faults),
    )
    .unwrap();
    append(&mut log, entries(1, 0..3)).await.unwrap();
    armed.store(1, Ordering::SeqCst);
    assert!(
        append(&mut log, entries(1, 3..4)).await.is_err(),
        "{action:?}"
    );
    assert_eq!(
        armed.load(Ordering::SeqCst),
        2,
        "{action:?} was never asked for"
    );
    // The disk is fine again, and is not asked.
    assert!(
        append(&mut log, entries(1, 4..5)).await.is_err(),
        "{action:?}"
    );
    assert!(log.save_vote(&Vote::new(2, 1)).await.is_err(), "{action:?}");
    assert!(log.read_vote().await.is_err(), "{action:?}");
    drop(log);
    let (mut log, _state) = open_disk(&disk);
    let held = log.try_get_log_entries(..).await.unwrap();
    assert_eq!(held[..3], entries(1, 0..3), "{action:?}");
    assert!(
        held.len() <= 4 && log.read_vote().await.unwrap().is_none(),
        "{action:?}"
    );
}

#[tokio::test]
async fn a_failed_write_or_sync_of_log_or_witness_is_final() {
    for action in [Action::Write, Action::Sync] {
        for name in ["log", "witness"] {
            fail_once(action, name).await;
        }
    }
}
