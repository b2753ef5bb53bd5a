//! Traps: a crash right behind the n-th step of one kind, so that every step of every protocol is
//! crashed at, not only those chance finds.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use quorate_meta::command::{Command, decode_entry};
use quorate_raft_store::{EntryPayload, NodeId, codec};

use super::replica::{Cluster, Stop};

/// A step of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The leader sends a command of this name to a follower for the first time.
    Proposed(&'static str),
    /// A replica has made this call to a data node, and it has arrived there.
    Called(&'static str),
    /// A replica has deleted an object.
    Deleted,
}

/// Who crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The replica that made the step loses its power.
    Replica,
    /// The data node that was called, or the one with the most work, is killed.
    DataNode,
}

/// One trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Behind which step.
    pub point: Point,
    /// Behind which of them, from one.
    pub nth: u64,
    /// Who.
    pub victim: Victim,
    /// How long after the step: at once means that nobody has received it yet.
    pub delay: Duration,
}

/// A set trap and what came of it.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) trap: Trap,
    pub(super) seen: u64,
    pub(super) last_index: u64,
}

/// The names and log indexes of the commands of an append request.
pub(super) fn commands(body: &[u8]) -> Vec<(u64, &'static str)> {
    let Ok(request) = codec::decode_append_request(body) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in &request.entries {
        if let EntryPayload::Normal(data) = &entry.payload
            && let Ok(commands) = decode_entry(&data.0)
        {
            let names = commands
                .iter()
                .filter_map(|stamped| stamped.command.as_ref());
            found.extend(names.map(|command| (entry.log_id.index, name(command))));
        }
    }
    found
}

/// The commands a trap can be set behind, each by its name.
pub const COMMANDS: &[&str] = &[
    "SaveBinlogs",
    "FinishFlush",
    "StartCompaction",
    "AssignCompaction",
    "FinishCompaction",
    "OpenIndexBuilds",
    "AssignIndexBuild",
    "FinishIndexBuild",
    "DropIndex",
    "DropPartition",
    "DropCollection",
    "RewriteDropped",
    "CondemnSegments",
    "ForgetSegments",
    "ForgetIndexes",
    "ForgetCollections",
    "ForgetCompactions",
];

fn name(command: &Command) -> &'static str {
    match command {
        Command::SaveBinlogs(_) => "SaveBinlogs",
        Command::FinishFlush(_) => "FinishFlush",
        Command::StartCompaction(_) => "StartCompaction",
        Command::AssignCompaction(_) => "AssignCompaction",
        Command::FinishCompaction(_) => "FinishCompaction",
        Command::FailCompaction(_) => "FailCompaction",
        Command::ForgetCompactions(_) => "ForgetCompactions",
        Command::OpenIndexBuilds(_) => "OpenIndexBuilds",
        Command::AssignIndexBuild(_) => "AssignIndexBuild",
        Command::FinishIndexBuild(_) => "FinishIndexBuild",
        Command::CreateIndex(_) => "CreateIndex",
        Command::DropIndex(_) => "DropIndex",
        Command::DropPartition(_) => "DropPartition",
        Command::DropCollection(_) => "DropCollection",
        Command::RewriteDropped(_) => "RewriteDropped",
        Command::CondemnSegments(_) => "CondemnSegments",
        Command::ForgetSegments(_) => "ForgetSegments",
        Command::ForgetIndexes(_) => "ForgetIndexes",
        Command::ForgetCollections(_) => "ForgetCollections",
        _ => "other",
    }
}

impl Set {
    pub(super) fn new(trap: Trap) -> Self {
        Self {
            trap,
            seen: 0,
            last_index: 0,
        }
    }

    /// Counts a step; true: the trap springs now.
    pub(super) fn counts(&mut self, point: Point) -> bool {
        let hit = self.trap.point == point;
        self.seen += u64::from(hit);
        hit && self.seen == self.trap.nth
    }

    /// The same for commands of an append request: each is sent to every follower, and again.
    pub(super) fn counts_commands(&mut self, body: &[u8]) -> bool {
        let Point::Proposed(wanted) = self.trap.point else {
            return false;
        };
        let mut springs = false;
        let mut last = self.last_index;
        for (index, name) in commands(body) {
            if name == wanted && index > self.last_index {
                springs |= self.counts(self.trap.point);
                last = last.max(index);
            }
        }
        self.last_index = last;
        springs
    }

    /// Whether it has sprung.
    pub(super) fn has_sprung(&self) -> bool {
        self.seen >= self.trap.nth
    }
}

impl Cluster {
    /// A step that a trap may be set behind was made by a replica.
    pub(super) fn springs(self: &Arc<Self>, point: Point, replica: NodeId) {
        self.springs_at(point, replica, 0);
    }

    /// The same, towards a data node.
    pub(super) fn springs_at(self: &Arc<Self>, point: Point, replica: NodeId, data_node: u64) {
        self.spring(replica, data_node, |set| set.counts(point));
    }

    /// An append request leaves a replica.
    pub(super) fn springs_behind(self: &Arc<Self>, body: &[u8], replica: NodeId) {
        self.spring(replica, 0, |set| set.counts_commands(body));
    }

    fn spring(
        self: &Arc<Self>,
        replica: NodeId,
        data_node: u64,
        counts: impl FnOnce(&mut Set) -> bool,
    ) {
        let mut trap = self.trap.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(set) = trap.as_mut().filter(|set| !set.has_sprung()) else {
            return;
        };
        if counts(set) {
            tokio::spawn(self.clone().crash(set.trap, replica, data_node));
        }
    }

    async fn crash(self: Arc<Self>, trap: Trap, replica: NodeId, data_node: u64) {
        tokio::time::sleep(trap.delay).await;
        self.world
            .note(format_args!("{trap:?} springs at r{replica}"));
        let downtime = Duration::from_millis(2500);
        match trap.victim {
            Victim::Replica => {
                self.stop(replica, Stop::PowerLoss).await;
                tokio::time::sleep(downtime).await;
                if self.running(replica).is_none()
                    && let Err(problem) = self.start(replica).await
                {
                    self.world.violation(problem);
                }
            }
            Victim::DataNode => {
                let busiest = self.data_nodes.iter().max_by_key(|node| node.work());
                let called = self.data_nodes.iter().find(|n| n.number == data_node);
                let Some(node) = called.or(busiest) else {
                    return;
                };
                node.kill();
                tokio::time::sleep(downtime).await;
                self.boot(node.number);
            }
        }
    }

    /// Whether the trap, if there is one, has sprung.
    pub fn trap_has_sprung(&self) -> bool {
        let trap = self.trap.lock().unwrap_or_else(PoisonError::into_inner);
        trap.as_ref().is_none_or(Set::has_sprung)
    }
}
