//! The metadata state as a replicated state machine: adapts `quorate_meta::State` to the store.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use quorate_meta::SegmentId;
use quorate_meta::command::{decode_entry, encode_outcomes};
use quorate_meta::decide::LogPos;
use quorate_meta::state::{Change, Event, RowWrite, State};
use quorate_raft_store::types::term_of;
use quorate_raft_store::{AppliedEntry, Commit, Machine, Row, View};
use std::ops::ControlFlow;
use tokio::sync::Notify;

use crate::check::Checks;

/// Segments remembered as having become Flushed.
const FLUSHED_HINTS_MAX: usize = 4096;

/// What wakes the leader's loops. A wake carries no data: a loop looks at the state.
#[derive(Debug, Default)]
pub struct Wakes {
    /// Segments changed.
    pub segments: Notify,
    /// Channels or data nodes changed.
    pub channels: Notify,
    /// Something was dropped.
    pub drops: Notify,
    /// Segments became Flushed, or compaction tasks changed.
    pub compaction: Notify,
    /// Segments became Flushed, or indexes or their builds changed.
    pub index: Notify,
    /// There may be something to collect, or collection was paused or resumed.
    pub gc: Notify,
    /// Which segments became Flushed: a hint where to look for something to compact.
    pub flushed: FlushedHints,
    /// The same for index builds. After an index was created all are to be looked at.
    pub unindexed: FlushedHints,
}

/// Segments that became Flushed since somebody asked. On followers nobody does, so it is bounded.
#[derive(Debug, Default)]
pub struct FlushedHints(Mutex<Hints>);

#[derive(Debug, Default)]
struct Hints {
    segments: BTreeSet<SegmentId>,
    overflowed: bool,
}

impl FlushedHints {
    fn add(&self, id: SegmentId) {
        let mut hints = self.0.lock();
        if hints.segments.len() >= FLUSHED_HINTS_MAX {
            hints.segments.clear();
            hints.overflowed = true;
        }
        if !hints.overflowed {
            hints.segments.insert(id);
        }
    }

    fn add_all(&self) {
        let mut hints = self.0.lock();
        hints.segments.clear();
        hints.overflowed = true;
    }

    /// The segments; `None` = look at all.
    pub fn take(&self) -> Option<BTreeSet<SegmentId>> {
        let hints = std::mem::take(&mut *self.0.lock());
        (!hints.overflowed).then_some(hints.segments)
    }
}

/// The hot state of this replica.
pub struct MetaMachine {
    state: RwLock<State>,
    applied_index: AtomicU64,
    wakes: Arc<Wakes>,
    checks: Arc<Checks>,
}

impl Default for MetaMachine {
    fn default() -> Self {
        Self::new()
    }
}

impl MetaMachine {
    /// An empty machine; the store loads it.
    pub fn new() -> Self {
        Self {
            state: RwLock::new(State::new()),
            applied_index: AtomicU64::new(0),
            wakes: Arc::default(),
            checks: Arc::default(),
        }
    }

    /// The state as applied so far. Holding this stops apply: look, copy, let go.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// Index of the last applied normal entry since start; for replies, not for consistency.
    pub fn applied_index(&self) -> u64 {
        self.applied_index.load(Ordering::Acquire)
    }

    /// Wakes of the loops.
    pub fn wakes(&self) -> &Arc<Wakes> {
        &self.wakes
    }

    /// Hashes of the whole state at marked indexes.
    pub fn checks(&self) -> &Arc<Checks> {
        &self.checks
    }

    fn wake(&self, events: &[Event]) {
        for event in events {
            match event {
                Event::Segment(_) | Event::SegmentFlushing(_) => self.wakes.segments.notify_one(),
                Event::Channel(_) => self.wakes.channels.notify_one(),
                Event::Node(_) => {
                    self.wakes.channels.notify_one();
                    self.wakes.compaction.notify_one();
                    self.wakes.index.notify_one();
                }
                Event::Dropped(_) => self.wakes.drops.notify_one(),
                Event::Flushed(id) => {
                    self.wakes.flushed.add(*id);
                    self.wakes.unindexed.add(*id);
                    self.wakes.compaction.notify_one();
                    self.wakes.index.notify_one();
                }
                Event::Compaction(_) => self.wakes.compaction.notify_one(),
                Event::Build(id) => {
                    if *id == 0 {
                        self.wakes.unindexed.add_all();
                    }
                    self.wakes.index.notify_one();
                }
                Event::Gc => self.wakes.gc.notify_one(),
                Event::CheckMarked => {}
            }
        }
    }
}

impl Machine for MetaMachine {
    fn load(&self, view: &dyn View) -> io::Result<()> {
        let mut fresh = State::new();
        let mut failed = None;
        view.scan(
            &[],
            &[],
            &mut |key, value| match fresh.load_row(key, value) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            },
        )?;
        if let Some(error) = failed {
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        *self.state.write() = fresh;
        self.wakes.segments.notify_one();
        self.wakes.channels.notify_one();
        self.wakes.drops.notify_one();
        self.wakes.compaction.notify_one();
        self.wakes.index.notify_one();
        self.wakes.gc.notify_one();
        Ok(())
    }

    fn apply(&self, entries: Vec<AppliedEntry>, commit: &mut Commit<'_>) -> io::Result<()> {
        // Held until the rows are written, so that readers never see memory and rows disagree.
        let mut state = self.state.write();
        let mut events = Vec::new();
        let mut last = 0;
        for entry in entries {
            let commands = decode_entry(&entry.payload).map_err(|error| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("entry {}: {error}", entry.log_id),
                )
            })?;
            let mut rows = Vec::new();
            let mut outcomes = Vec::with_capacity(commands.len());
            let mut marked = false;
            for (ordinal, stamped) in commands.iter().enumerate() {
                let pos = LogPos {
                    term: term_of(&entry.log_id),
                    index: entry.log_id.index,
                    ordinal: u32::try_from(ordinal).unwrap_or(u32::MAX),
                };
                let (outcome, delta) = state.decide(pos, stamped);
                state.merge(&delta);
                rows.extend(delta.changes.iter().flat_map(Change::to_rows).map(row_of));
                marked |= delta.events.contains(&Event::CheckMarked);
                events.extend(delta.events);
                outcomes.push(outcome);
            }
            commit.entry(entry.log_id, rows, encode_outcomes(&outcomes));
            if marked {
                self.checks
                    .start(entry.log_id.index, commit.digest(), commit)?;
            }
            last = entry.log_id.index;
        }
        commit.flush()?;
        self.applied_index.store(last, Ordering::Release);
        drop(state);
        self.wake(&events);
        Ok(())
    }
}

fn row_of(write: RowWrite) -> Row {
    match write {
        RowWrite::Put { key, value } => Row::Put { key, value },
        RowWrite::Delete { key } => Row::Delete { key },
        RowWrite::DeleteRange { from, to } => Row::DeleteRange { from, to },
    }
}
