//! What clients asked and what they were told, for the checkers.
//!
//! Outcome classes: *ok* was answered with success, *fail* surely had no effect, *info* may have
//! taken effect at any time after its invocation, or never.

use std::sync::{Mutex, PoisonError};

/// An operation with its argument and, once answered, its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Ids: how many, and the first one.
    AllocId {
        /// How many were asked for.
        count: u32,
        /// The first one.
        first: i64,
    },
    /// Timestamps: how many, and the first one.
    AllocTs {
        /// How many were asked for.
        count: u32,
        /// The first one.
        first: u64,
    },
    /// A register read, with what it held.
    Read {
        /// The register.
        key: u32,
        /// What it held.
        value: Option<u64>,
    },
    /// A blind write.
    Write {
        /// The register.
        key: u32,
        /// Unique for the key.
        value: u64,
    },
    /// A compare-and-set; `seen` is what a refused one reported.
    Cas {
        /// The register.
        key: u32,
        /// Expected.
        old: u64,
        /// Unique for the key.
        new: u64,
        /// `Some` = the value differed and was this.
        seen: Option<Option<u64>>,
    },
    /// Everything else, by name: it counts as acknowledged work, and for the terms.
    Other(&'static str),
}

impl Call {
    /// The name operations are counted under.
    pub fn name(&self) -> &'static str {
        match self {
            Call::AllocId { .. } => "alloc-id",
            Call::AllocTs { .. } => "alloc-ts",
            Call::Read { .. } => "read",
            Call::Write { .. } => "write",
            Call::Cas { .. } => "cas",
            Call::Other(name) => name,
        }
    }
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Acknowledged.
    Ok,
    /// Surely without effect.
    Fail,
    /// Unknown.
    Info,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Who asked.
    pub process: u64,
    /// What.
    pub call: Call,
    /// Simulated nanoseconds at the invocation.
    pub invoked: u64,
    /// Simulated nanoseconds at the answer; meaningless for *info*.
    pub completed: u64,
    /// How it ended.
    pub end: End,
    /// Replica and term that answered.
    pub by: Option<(u64, u64)>,
}

/// All operations of a run.
#[derive(Default)]
pub struct History {
    ops: Mutex<Vec<Op>>,
}

impl History {
    /// Adds an operation that has ended.
    pub fn add(&self, op: Op) {
        self.ops
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(op);
    }

    /// A copy of everything so far.
    pub fn ops(&self) -> Vec<Op> {
        self.ops
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
