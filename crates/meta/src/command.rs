//! Log entries as commands: decoding, outcomes, and the limits of an entry.

use bytes::Bytes;
use prost::Message;

use crate::decide::Reason;
use crate::pb;
use crate::time::Ts;

pub use pb::stamped::Command;

/// Most commands in one entry.
pub const ENTRY_COMMANDS_MAX: usize = 256;
/// Entries are filled up to this many bytes; a bigger command goes alone.
pub const ENTRY_BYTES_TARGET: usize = 1 << 20;
/// No command may be bigger than this.
pub const COMMAND_BYTES_MAX: usize = 32 << 20;

/// An entry that can't be carried out. Fatal: a replica stops rather than skip it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not protobuf.
    #[error("log entry cannot be decoded: {0}")]
    Malformed(String),
    /// A command of a newer release.
    #[error("log entry holds a command this release does not know; upgrade this replica")]
    UnknownCommand,
}

/// A command stamped by a leader's loop: refused unless its entry is of the same term.
pub fn fenced(term: u64, at: Ts, command: Command) -> pb::Stamped {
    pb::Stamped {
        fence: term,
        at: at.0,
        command: Some(command),
    }
}

/// A command that states a client's or a node's fact, whoever leads.
pub fn unfenced(at: Ts, command: Command) -> pb::Stamped {
    fenced(0, at, command)
}

/// Encodes an entry.
pub fn encode_entry(commands: Vec<pb::Stamped>) -> Bytes {
    Bytes::from(pb::Entry { commands }.encode_to_vec())
}

/// Decodes an entry.
///
/// # Errors
/// Malformed bytes, or a command this release does not know.
pub fn decode_entry(bytes: &[u8]) -> Result<Vec<pb::Stamped>, EntryError> {
    let entry =
        pb::Entry::decode(bytes).map_err(|error| EntryError::Malformed(error.to_string()))?;
    if entry
        .commands
        .iter()
        .any(|stamped| stamped.command.is_none())
    {
        return Err(EntryError::UnknownCommand);
    }
    Ok(entry.commands)
}

/// What a command came to. Replicated data, never an error.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Carried out.
    Done(pb::Reply),
    /// Had been carried out before; the answer is the same.
    Already(pb::Reply),
    /// Refused by a rule; left no trace.
    Rejected(Reason, String),
}

impl Outcome {
    /// Carried out, with nothing to say.
    pub fn done() -> Self {
        Self::Done(pb::Reply::default())
    }

    /// Carried out before, with nothing to say.
    pub fn already() -> Self {
        Self::Already(pb::Reply::default())
    }

    /// The reply of a command that is in force, else the refusal.
    ///
    /// # Errors
    /// The refusal.
    pub fn into_reply(self) -> Result<pb::Reply, (Reason, String)> {
        match self {
            Self::Done(reply) | Self::Already(reply) => Ok(reply),
            Self::Rejected(reason, detail) => Err((reason, detail)),
        }
    }

    fn to_pb(&self) -> pb::Outcome {
        use pb::outcome::Outcome as Kind;
        let kind = match self {
            Self::Done(reply) => Kind::Done(reply.clone()),
            Self::Already(reply) => Kind::Already(reply.clone()),
            Self::Rejected(reason, detail) => Kind::Rejected(pb::Rejected {
                reason: *reason as u32,
                detail: detail.clone(),
            }),
        };
        pb::Outcome {
            outcome: Some(kind),
        }
    }
}

/// Encodes the outcomes of an entry's commands, in their order.
pub fn encode_outcomes(outcomes: &[Outcome]) -> Bytes {
    let outcomes = outcomes.iter().map(Outcome::to_pb).collect();
    Bytes::from(pb::Outcomes { outcomes }.encode_to_vec())
}

/// Decodes the outcomes of an entry's commands. `None`: not ours.
pub fn decode_outcomes(bytes: &[u8]) -> Option<Vec<Outcome>> {
    use pb::outcome::Outcome as Kind;
    pb::Outcomes::decode(bytes)
        .ok()?
        .outcomes
        .into_iter()
        .map(|outcome| {
            Some(match outcome.outcome? {
                Kind::Done(reply) => Outcome::Done(reply),
                Kind::Already(reply) => Outcome::Already(reply),
                Kind::Rejected(pb::Rejected { reason, detail }) => {
                    Outcome::Rejected(Reason::from_u32(reason)?, detail)
                }
            })
        })
        .collect()
}
