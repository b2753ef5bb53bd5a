//! Deciding: from the state and a stamped command to an outcome and a delta. Read-only, so that a
//! refused command leaves no trace, and so that the leader can run it before proposing.
//!
//! One file per command family.

mod annotation;
mod channel;
mod collection;
mod compaction;
mod compaction_result;
mod epoch;
mod flush;
mod gc;
mod index;
mod node;
mod restore;
mod segment;

#[cfg(test)]
mod tests;

use crate::command::{Command, Outcome};
use crate::pb;
use crate::state::{Change, Delta, State};
use crate::time::Ts;

/// Where a command stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPos {
    /// Term of the entry.
    pub term: u64,
    /// Index of the entry.
    pub index: u64,
    /// Which command of the entry, from 0.
    pub ordinal: u32,
}

impl LogPos {
    /// A number that grows with every command of the log: an entry holds at most 256.
    pub fn revision(self) -> u64 {
        (self.index << 8) | u64::from(self.ordinal & 0xff)
    }
}

/// Why a command was refused. The numbers are stored in answers; they are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Reason {
    /// Proposed by a leader of another term than the entry's.
    Fenced = 1,
    /// The segment's files changed since the proposer looked: look again.
    FilesChanged = 2,
    /// Some of the rows are stored already.
    RowsStored = 3,
    /// The name is taken by something else.
    Exists = 4,
    /// The object is not in a state that allows this.
    IllegalState = 5,
    /// Over a limit.
    OverLimit = 6,
    /// No such collection.
    CollectionNotFound = 100,
    /// No such partition.
    PartitionNotFound = 200,
    /// No such channel, or it belongs to somebody else.
    ChannelNotFound = 500,
    /// No such segment.
    SegmentNotFound = 600,
    /// No such data node.
    NodeNotFound = 901,
    /// The command makes no sense.
    Invalid = 1100,
}

impl Reason {
    /// From the stored number.
    pub fn from_u32(number: u32) -> Option<Self> {
        use Reason::*;
        [
            Fenced,
            FilesChanged,
            RowsStored,
            Exists,
            IllegalState,
            OverLimit,
            CollectionNotFound,
            PartitionNotFound,
            ChannelNotFound,
            SegmentNotFound,
            NodeNotFound,
            Invalid,
        ]
        .into_iter()
        .find(|reason| *reason as u32 == number)
    }
}

/// What every decision is given besides the state and its command.
#[derive(Clone, Copy, Debug)]
struct Ctx {
    pos: LogPos,
    /// The state's time with this command's stamp taken in.
    now: Ts,
}

fn reject(reason: Reason, detail: impl Into<String>) -> Outcome {
    Outcome::Rejected(reason, detail.into())
}

/// Done when something changes, else done before.
fn changed(out: &Delta) -> Outcome {
    if out.is_empty() {
        Outcome::already()
    } else {
        Outcome::done()
    }
}

impl State {
    /// Decides a command as if it stood at `pos` in the log. Changes nothing.
    ///
    /// A refused command has an empty delta, but for the state's time, which moves with every
    /// command (`state.now = max(state.now, command.at)`).
    pub fn decide(&self, pos: LogPos, stamped: &pb::Stamped) -> (Outcome, Delta) {
        let now = self.now().max(Ts(stamped.at));
        let ctx = Ctx { pos, now };
        let mut delta = Delta::default();
        let outcome = match &stamped.command {
            None => reject(Reason::Invalid, "no command"),
            Some(_) if stamped.fence != 0 && stamped.fence != pos.term => reject(
                Reason::Fenced,
                format!(
                    "proposed under term {}, but the entry is of term {}",
                    stamped.fence, pos.term
                ),
            ),
            Some(command) => self.dispatch(ctx, command, &mut delta),
        };
        if matches!(outcome, Outcome::Rejected(..)) {
            delta = Delta::default();
        }
        self.move_time(now, &mut delta);
        (outcome, delta)
    }

    fn dispatch(&self, ctx: Ctx, command: &Command, out: &mut Delta) -> Outcome {
        match command {
            Command::BeginEpoch(cmd) => epoch::begin(self, ctx, cmd, out),
            Command::AdvanceClock(cmd) => epoch::advance_clock(self, cmd, out),
            Command::ReserveIds(cmd) => epoch::reserve_ids(self, cmd, out),
            Command::MarkCheck(_) => epoch::mark_check(out),
            Command::RestoreCluster(cmd) => restore::restore_cluster(self, cmd, out),
            Command::ExpireTokens(_) => annotation::expire_tokens(self, ctx, out),
            Command::CreateCollection(cmd) => collection::create(self, ctx, cmd, out),
            Command::DropCollection(cmd) => collection::drop_collection(self, ctx, cmd, out),
            Command::CreatePartition(cmd) => collection::create_partition(self, ctx, cmd, out),
            Command::DropPartition(cmd) => collection::drop_partition(self, ctx, cmd, out),
            Command::OpenSegment(cmd) => segment::open(self, ctx, cmd, out),
            Command::SealSegments(cmd) => segment::seal(self, ctx, cmd, out),
            Command::SaveBinlogs(cmd) => flush::save_binlogs(self, ctx, cmd, out),
            Command::FinishFlush(cmd) => segment::finish_flush(self, cmd, out),
            Command::RewriteDropped(cmd) => segment::rewrite_dropped(self, cmd, out),
            Command::WatchChannels(cmd) => channel::watch(self, ctx, cmd, out),
            Command::AssignChannels(cmd) => channel::assign(self, cmd, out),
            Command::StepChannel(cmd) => channel::step(self, cmd, out),
            Command::ReleaseChannel(cmd) => channel::release(self, cmd, out),
            Command::RemoveChannel(cmd) => channel::remove(self, cmd, out),
            Command::UpdateCheckpoints(cmd) => channel::update_checkpoints(self, ctx, cmd, out),
            Command::DropVirtualChannel(cmd) => channel::drop_virtual(self, ctx, cmd, out),
            Command::RegisterNode(cmd) => node::register(self, ctx, cmd, out),
            Command::ExpireNode(cmd) => node::expire(self, cmd, out),
            Command::StartCompaction(cmd) => compaction::start(self, ctx, cmd, out),
            Command::AssignCompaction(cmd) => compaction::assign(self, ctx, cmd, out),
            Command::FinishCompaction(cmd) => compaction_result::finish(self, ctx, cmd, out),
            Command::FailCompaction(cmd) => compaction::fail(self, ctx, cmd, out),
            Command::ForgetCompactions(cmd) => compaction::forget(self, cmd, out),
            Command::CreateIndex(cmd) => index::create(self, ctx, cmd, out),
            Command::DropIndex(cmd) => index::drop_index(self, ctx, cmd, out),
            Command::OpenIndexBuilds(cmd) => index::open_builds(self, ctx, cmd, out),
            Command::AssignIndexBuild(cmd) => index::assign_build(self, ctx, cmd, out),
            Command::FinishIndexBuild(cmd) => index::finish_build(self, ctx, cmd, out),
            Command::ForgetIndexes(cmd) => index::forget(self, cmd, out),
            Command::CondemnSegments(cmd) => gc::condemn(self, ctx, cmd, out),
            Command::ForgetSegments(cmd) => gc::forget_segments(self, cmd, out),
            Command::ForgetCollections(cmd) => gc::forget_collections(self, cmd, out),
            Command::PauseGc(cmd) => gc::pause(self, ctx, cmd, out),
            Command::ResumeGc(cmd) => gc::resume(self, cmd, out),
            Command::PutAnnotation(cmd) => annotation::put(self, ctx, cmd, out),
            Command::CompareAndSetAnnotation(cmd) => {
                annotation::compare_and_set(self, ctx, cmd, out)
            }
        }
    }

    /// Adds the moved time to a delta: to its singleton when it has one, else as a row of its own.
    fn move_time(&self, now: Ts, delta: &mut Delta) {
        if now == self.now() {
            return;
        }
        for change in &mut delta.changes {
            if let Change::Singleton(row) = change {
                row.now = now.0;
                return;
            }
        }
        let mut row = self.singleton;
        row.now = now.0;
        delta.changes.push(Change::Singleton(row));
    }
}

/// Limits that callers want to know before they propose.
pub mod limits {
    pub use super::annotation::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
    pub use super::collection::{CHANNELS_MAX, PARTITIONS_MAX};
    pub use super::compaction::COMPACTION_SEGMENTS_MAX;
    pub use super::gc::PAUSES_MAX;
    pub use super::node::NODES_MAX;
}
