//! What clients asked and what they were told, as the format in `faults/history.md` has it.
//!
//! Invariants: lines are written in the order of their times; every operation has one `invoke` and
//! at most one completion; what has none may take effect at any time after its `invoke`, or never.

mod call;
mod line;
mod recorder;

pub use call::Call;
pub use line::read_file;
pub use recorder::{History, Open};

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged.
    Ok,
    /// Certainly without effect.
    Fail,
    /// Unknown: it may have taken effect, or may do so later.
    Info,
}

/// One operation with its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Who asked; one operation at a time.
    pub process: String,
    /// What was asked and, once answered, the result.
    pub call: Call,
    /// Nanoseconds at the invocation, on the history's clock.
    pub invoked: u64,
    /// Nanoseconds at the completion; `u64::MAX` where there is none.
    pub completed: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// The Raft term under which it was answered, as the answer says.
    pub term: Option<u64>,
    /// What was wrong, in words.
    pub error: Option<String>,
}

impl Op {
    /// Whether it was acknowledged.
    pub fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }
}
