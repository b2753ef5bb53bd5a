//! The witness: a second file that remembers what this member has promised.
//!
//! RocksDB cannot tell that it lost acknowledged writes: a write-ahead log that is cut, zeroed or
//! gone opens as a shorter one. A Raft member that forgets an entry it acknowledged or a vote it
//! cast can help to elect a leader that lacks committed entries. So what was promised last is kept
//! a second time, in a file of its own, and compared at every start.
//!
//! # Order of writes
//!
//! The log's writer numbers its synced groups; a group carries its number as a row of its batch.
//! For each group, strictly one after the other:
//!
//! 1. if the group truncates below what the witness names: the witness is **lowered** to the
//!    lowest position the group truncates to, and synced;
//! 2. the batch is written to the log and synced (all of it or nothing);
//! 3. the witness is written with the new last entry, vote and group number, and synced;
//! 4. whoever waits for the group is told.
//!
//! # What must hold at start, and why it is neither a false alarm nor hides a loss
//!
//! With `w` the newest testimony and `l` what the log holds:
//!
//! * *the group* of `l` is that of `w`, or the next one. Between 2 and 3 the log is one ahead; it is
//!   never behind, for 3 comes after 2, and never two ahead, for the next group starts after 3. So a
//!   log that lost any synced group, be it one that only purged, is found, and so is an old copy of
//!   the witness.
//! * *the last entry* of `w` stands in `l` with the same term and the same link of the chain, or
//!   behind the purged part. A crash between 2 and 3 leaves a log that grew, or was purged, beyond
//!   `w`. A crash between 1 and 2 leaves a log that still holds what was to be truncated, and the
//!   lowered position is an entry of both the log before the group and the log after it: of all
//!   positions the group truncates to it is the lowest.
//! * *the vote* of `w` is at most that of `l`.
//!
//! Lowering hides nothing that matters: openraft truncates only what conflicts with the log of a
//! leader of a higher term, whose vote is on disk before. A leader has every committed entry, so
//! what conflicts with its log was not committed, and nobody counts on it.
//!
//! Entries of `l` beyond `w` were never acknowledged. openraft takes every entry it finds for
//! flushed, so before it starts the log is synced and the witness raised to all of it.
//!
//! # The file
//!
//! Two slots take turns: record *n* goes to slot *n* mod 2. Each record is written twice, to places
//! 8 KiB apart, and synced once. A record is one sector of 512 bytes, with a checksum over all of
//! it; the file never changes its size, so a sync is one write in place.
//!
//! * Normally the slots hold *n* and *n* − 1. A power cut during the write of *n* + 1 leaves the
//!   slot of *n* − 1 with each copy old or new: both are sound evidence.
//! * One damaged copy: its twin says what it said. Had record *n* + 1 been acknowledged, both copies
//!   of its slot held it, so a twin that shows *n* − 1 proves that it was not.
//! * Both copies of a slot damaged: they may have held a newer record than the other slot. That is
//!   doubt, and the member does not start.

use std::io;
use std::sync::Arc;

use crate::engine::Block;
use crate::types::{LogId, Vote, log_id, term_of};

/// The file's name in the data folder.
pub(crate) const NAME: &str = "witness";

const MAGIC: &[u8; 8] = b"quorumW2";
const RECORD_BYTES: usize = 512;
const BODY_BYTES: usize = RECORD_BYTES - 4;
const SLOT_BYTES: usize = 4096;
const COPY_BYTES: usize = 2 * SLOT_BYTES;
const FILE_BYTES: usize = 2 * COPY_BYTES;

/// An entry of the log and its link in the chain of checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) log_id: LogId,
    pub(crate) link: u32,
}

/// What the member has promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Testimony {
    /// The number of the log's last synced group.
    pub(crate) group: u64,
    /// The last entry acknowledged.
    pub(crate) last: Option<Position>,
    /// The last vote cast.
    pub(crate) vote: Option<Vote>,
}

/// The witness of an open log.
pub(crate) struct Witness {
    block: Arc<dyn Block>,
    sequence: u64,
    testimony: Testimony,
}

fn doubt(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// The witness file of a member that has promised nothing.
pub(crate) fn blank() -> Vec<u8> {
    let mut bytes = vec![0; FILE_BYTES];
    for sequence in 0..2 {
        let record = encode(sequence, &Testimony::default());
        for offset in offsets(sequence) {
            if let Some(place) = bytes.get_mut(offset..offset + RECORD_BYTES) {
                place.copy_from_slice(&record);
            }
        }
    }
    bytes
}

/// Where the two copies of a record go.
fn offsets(sequence: u64) -> [usize; 2] {
    let slot = if sequence.is_multiple_of(2) {
        0
    } else {
        SLOT_BYTES
    };
    [slot, slot + COPY_BYTES]
}

fn encode(sequence: u64, testimony: &Testimony) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_BYTES);
    record.extend_from_slice(MAGIC);
    record.extend_from_slice(&sequence.to_be_bytes());
    record.extend_from_slice(&testimony.group.to_be_bytes());
    let (last, vote) = (&testimony.last, &testimony.vote);
    let flags = u8::from(last.is_some())
        | u8::from(vote.is_some()) << 1
        | u8::from(vote.is_some_and(|vote| vote.committed)) << 2;
    record.push(flags);
    let id = last.map(|last| last.log_id);
    record.extend_from_slice(&id.map_or(0, |id| term_of(&id)).to_be_bytes());
    record.extend_from_slice(&id.map_or(0, |id| id.index).to_be_bytes());
    record.extend_from_slice(&last.map_or(0, |last| last.link).to_be_bytes());
    let leader = vote.map(|vote| vote.leader_id);
    record.extend_from_slice(&leader.map_or(0, |leader| leader.term).to_be_bytes());
    record.extend_from_slice(&leader.map_or(0, |leader| leader.voted_for).to_be_bytes());
    record.resize(BODY_BYTES, 0);
    record.extend_from_slice(&crc32c::crc32c(&record).to_be_bytes());
    record
}

/// Takes `N` bytes off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

/// Reads one record; `None` if any bit of it is wrong.
fn decode(record: &[u8]) -> Option<(u64, Testimony)> {
    let (body, checksum) = record.split_at_checked(BODY_BYTES)?;
    if checksum != crc32c::crc32c(body).to_be_bytes() {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let mut number = || take(&mut rest).map(u64::from_be_bytes);
    let (sequence, group) = (number()?, number()?);
    let [flags] = take(&mut rest)?;
    let term = u64::from_be_bytes(take(&mut rest)?);
    let index = u64::from_be_bytes(take(&mut rest)?);
    let link = u32::from_be_bytes(take(&mut rest)?);
    let vote_term = u64::from_be_bytes(take(&mut rest)?);
    let vote_node = u64::from_be_bytes(take(&mut rest)?);
    let vote = match flags & 0b110 {
        0b010 => Some(Vote::new(vote_term, vote_node)),
        0b110 => Some(Vote::new_committed(vote_term, vote_node)),
        _ => None,
    };
    let last = (flags & 1 == 1).then(|| Position {
        log_id: log_id(term, index),
        link,
    });
    Some((sequence, Testimony { group, last, vote }))
}

/// What a whole witness file says: the newest record and its number.
fn read(bytes: &[u8]) -> io::Result<(u64, Testimony)> {
    let copies = |parity: u64| {
        offsets(parity).map(|offset| {
            bytes
                .get(offset..offset + RECORD_BYTES)
                .and_then(decode)
                .filter(|(sequence, _)| sequence % 2 == parity)
        })
    };
    let slots = [copies(0), copies(1)];
    let records = || slots.iter().flatten().flatten();
    let Some((newest, testimony)) = records().max_by_key(|(sequence, _)| *sequence).copied() else {
        return Err(doubt("every record is damaged"));
    };
    let other = slots.get(usize::from(newest.is_multiple_of(2)));
    let proves = |copy: &Option<(u64, Testimony)>| {
        copy.is_some_and(|(sequence, _)| sequence.checked_add(1) == Some(newest))
    };
    if !other.is_some_and(|copies| copies.iter().any(proves)) {
        return Err(doubt(format!(
            "both copies of the record beside number {newest} are damaged; they may have been newer"
        )));
    }
    if records().any(|(sequence, other)| *sequence == newest && *other != testimony) {
        return Err(doubt(format!("the copies of record {newest} differ")));
    }
    if records().count() < 4 {
        tracing::warn!(
            record = newest,
            "a copy of a witness record is damaged; its twin is whole"
        );
    }
    Ok((newest, testimony))
}

impl Witness {
    /// Reads the newest testimony.
    pub(crate) fn open(block: Arc<dyn Block>) -> io::Result<Self> {
        let (sequence, testimony) = read(&block.read(FILE_BYTES)?)?;
        Ok(Self {
            block,
            sequence,
            testimony,
        })
    }

    /// What was promised last.
    pub(crate) fn testimony(&self) -> &Testimony {
        &self.testimony
    }

    /// Puts down a testimony; it is on disk on return.
    pub(crate) fn record(&mut self, testimony: Testimony) -> io::Result<()> {
        let sequence = self
            .sequence
            .checked_add(1)
            .ok_or_else(|| io::Error::other("the witness ran out of numbers"))?;
        let record = encode(sequence, &testimony);
        for offset in offsets(sequence) {
            self.block.write(offset as u64, &record)?;
        }
        self.block.sync()?;
        self.sequence = sequence;
        self.testimony = testimony;
        Ok(())
    }

    /// Puts down a testimony in all four places, which heals a damaged one.
    pub(crate) fn renew(&mut self, testimony: Testimony) -> io::Result<()> {
        self.record(testimony)?;
        self.record(testimony)
    }
}

/// What a log holds, as far as its witness can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The number of its last synced group.
    pub(crate) group: u64,
    pub(crate) purged: Option<LogId>,
    pub(crate) last: Option<LogId>,
    pub(crate) vote: Option<Vote>,
    /// What stands where the witness's last entry must be.
    pub(crate) at_last: Option<Position>,
}

impl Testimony {
    /// Whether nothing was ever promised.
    pub(crate) fn is_blank(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a log may hold `found` after this testimony; if not, why.
    pub(crate) fn check(&self, found: &Found) -> io::Result<()> {
        if let Some(last) = self.last {
            let id = last.log_id;
            let purged = found
                .purged
                .is_some_and(|purged| purged.index > id.index || purged == id);
            if !purged {
                match found.at_last {
                    Some(held) if held == last => {}
                    Some(held) if held.log_id == id => {
                        return Err(doubt(format!(
                            "log entry {} is not the one that was acknowledged",
                            id.index
                        )));
                    }
                    Some(held) => {
                        return Err(doubt(format!(
                            "log entry {} is {}, but {id} was acknowledged there",
                            id.index, held.log_id
                        )));
                    }
                    None => {
                        return Err(doubt(format!(
                            "the log lost acknowledged entries: it ends at {}, but entry {id} was acknowledged",
                            found
                                .last
                                .map_or_else(|| "nothing".to_owned(), |last| last.to_string()),
                        )));
                    }
                }
            }
        }
        if let Some(vote) = self.vote
            && !found.vote.is_some_and(|held| held >= vote)
        {
            return Err(doubt(format!(
                "the log lost a vote: it holds {}, but {vote} was cast",
                found
                    .vote
                    .map_or_else(|| "none".to_owned(), |vote| vote.to_string()),
            )));
        }
        if found.group < self.group {
            return Err(doubt(format!(
                "the log lost synced writes: it ends with group {}, but group {} was written",
                found.group, self.group
            )));
        }
        if found.group - self.group > 1 {
            return Err(doubt(format!(
                "the witness is an old one: it knows of group {}, the log of group {}",
                self.group, found.group
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
