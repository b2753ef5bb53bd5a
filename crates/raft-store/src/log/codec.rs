//! Keys and values of the log database.
//!
//! An entry is stored as `format (1) | link (4) | link before (4) | protobuf`. Its *link* is a
//! crc32c over the link of the entry before it, its key and its protobuf: each link stands for the
//! whole log up to there, so an entry that is exchanged, or left over from an earlier history, is
//! found out by its neighbours. The first entry's predecessor is what was purged last, whose row
//! keeps its link; a log that starts at its beginning or behind an installed snapshot starts at
//! [`START`].
//!
//! The other rows are sealed (see `seal`).
//!
//! Invariant: a value that does not check is an error, never an entry.

use std::io;

use prost::Message;

use crate::codec::{
    CodecError, decode_entry, decode_log_id, decode_vote, encode_log_id, encode_vote, get_opt_id,
    proto,
};
use crate::engine::Write;
use crate::seal::{seal, unseal};
use crate::types::{Entry, LogId, Vote};
use crate::witness::Position;

const VOTE: &[u8] = b"mvote";
const COMMITTED: &[u8] = b"mcommitted";
const PURGED: &[u8] = b"mpurged";
const GROUP: &[u8] = b"mgroup";

/// The link before the first entry.
pub(super) const START: u32 = 0;

const ENTRY: u8 = b'e';
/// Format 1 had no link to the entry before.
const FORMAT: u8 = 2;
const HEADER: usize = 9;

/// The key of the entry at `index`.
pub(super) fn entry_key(index: u64) -> Vec<u8> {
    let mut key = vec![ENTRY];
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// The key after that of the last possible entry.
pub(super) fn after_entries() -> Vec<u8> {
    vec![ENTRY + 1]
}

/// The key after that of `index`.
pub(super) fn key_after(index: u64) -> Vec<u8> {
    index.checked_add(1).map_or_else(after_entries, entry_key)
}

fn damaged(index: u64, what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("log entry {index} is damaged: {what}"),
    )
}

fn link_of(before: u32, key: &[u8], body: &[u8]) -> u32 {
    let link = crc32c::crc32c(&before.to_be_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(link, key), body)
}

/// The bytes an entry whose protobuf has `body` bytes takes.
pub(super) fn stored_bytes(body: usize) -> usize {
    entry_key(0).len() + HEADER + body
}

/// The write of the entry at `index` behind one whose link is `before`, and its own link.
pub(super) fn put_entry(index: u64, before: u32, body: &[u8]) -> (Write, u32) {
    let key = entry_key(index);
    let link = link_of(before, &key, body);
    let mut value = Vec::with_capacity(HEADER + body.len());
    value.push(FORMAT);
    value.extend_from_slice(&link.to_be_bytes());
    value.extend_from_slice(&before.to_be_bytes());
    value.extend_from_slice(body);
    (Write::Put { key, value }, link)
}

/// The index in an entry's key.
pub(super) fn index_of(key: &[u8]) -> io::Result<u64> {
    key.strip_prefix(&[ENTRY])
        .and_then(|index| index.try_into().ok())
        .map(u64::from_be_bytes)
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the log holds a key of no entry",
            )
        })
}

/// A stored entry whose checksum is right.
pub(super) struct Stored<'a> {
    index: u64,
    pub(super) link: u32,
    pub(super) before: u32,
    body: &'a [u8],
}

impl<'a> Stored<'a> {
    /// Checks what is stored at `index`.
    pub(super) fn check(index: u64, value: &'a [u8]) -> io::Result<Self> {
        let cut = || damaged(index, "cut short");
        let (format, rest) = value.split_first().ok_or_else(cut)?;
        if *format != FORMAT {
            return Err(damaged(index, "unknown format"));
        }
        let (link, rest) = rest.split_first_chunk().ok_or_else(cut)?;
        let (before, body) = rest.split_first_chunk().ok_or_else(cut)?;
        let (link, before) = (u32::from_be_bytes(*link), u32::from_be_bytes(*before));
        if link != link_of(before, &entry_key(index), body) {
            return Err(damaged(index, "wrong checksum"));
        }
        Ok(Self {
            index,
            link,
            before,
            body,
        })
    }

    /// Fails unless it stands behind an entry whose link is `link`.
    pub(super) fn follows(&self, link: u32) -> io::Result<()> {
        if self.before == link {
            return Ok(());
        }
        Err(damaged(
            self.index,
            "it does not continue the entry before it",
        ))
    }

    /// Its position, without reading what it carries.
    pub(super) fn position(&self) -> io::Result<Position> {
        let head = proto::EntryHead::decode(self.body).map_err(CodecError::from)?;
        let log_id = get_opt_id(head.log_id)
            .filter(|id| id.index == self.index)
            .ok_or_else(|| damaged(self.index, "it holds another index"))?;
        Ok(Position {
            log_id,
            link: self.link,
        })
    }

    /// The bytes it takes, its key among them.
    pub(super) fn bytes(&self) -> usize {
        stored_bytes(self.body.len())
    }

    /// The entry itself.
    pub(super) fn entry(&self) -> io::Result<Entry> {
        let entry = decode_entry(self.body)?;
        if entry.log_id.index != self.index {
            return Err(damaged(self.index, "it holds another index"));
        }
        Ok(entry)
    }
}

fn put_row(key: &[u8], body: &[u8]) -> Write {
    Write::Put {
        key: key.to_vec(),
        value: seal(key, body),
    }
}

pub(super) fn put_vote(vote: &Vote) -> Write {
    put_row(VOTE, &encode_vote(vote))
}

pub(super) fn put_committed(committed: Option<LogId>) -> Write {
    match committed {
        Some(id) => put_row(COMMITTED, &encode_log_id(&id)),
        None => Write::Delete {
            key: COMMITTED.to_vec(),
        },
    }
}

pub(super) fn put_purged(purged: &Position) -> Write {
    let mut body = purged.link.to_be_bytes().to_vec();
    body.extend_from_slice(&encode_log_id(&purged.log_id));
    put_row(PURGED, &body)
}

pub(super) fn put_group(group: u64) -> Write {
    put_row(GROUP, &group.to_be_bytes())
}

/// The rows beside the entries.
#[derive(Default)]
pub(super) struct Meta {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<Position>,
    /// The number of the last synced group.
    pub(super) group: u64,
}

/// Reads and checks the rows beside the entries; `get` gives a row.
pub(super) fn get_meta(get: impl Fn(&[u8]) -> io::Result<Option<Vec<u8>>>) -> io::Result<Meta> {
    fn row<T>(
        key: &[u8],
        value: Option<Vec<u8>>,
        decode: impl FnOnce(&[u8]) -> io::Result<T>,
    ) -> io::Result<Option<T>> {
        value
            .map(|value| unseal(key, &value).and_then(decode))
            .transpose()
    }
    let short = || io::Error::new(io::ErrorKind::InvalidData, "a row of the log is cut short");
    Ok(Meta {
        vote: row(VOTE, get(VOTE)?, |body| Ok(decode_vote(body)?))?,
        committed: row(COMMITTED, get(COMMITTED)?, |body| Ok(decode_log_id(body)?))?,
        purged: row(PURGED, get(PURGED)?, |body| {
            let (link, id) = body.split_first_chunk().ok_or_else(short)?;
            Ok(Position {
                log_id: decode_log_id(id)?,
                link: u32::from_be_bytes(*link),
            })
        })?,
        group: row(GROUP, get(GROUP)?, |body| {
            let group = body.try_into().map_err(|_| short())?;
            Ok(u64::from_be_bytes(group))
        })?
        .unwrap_or(0),
    })
}
