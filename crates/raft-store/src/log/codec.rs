//! Keys and values of the log database.
//!
//! An entry is stored as `format (1) | crc32c (4) | protobuf`; the checksum covers index,
//! term and payload. The format byte leaves room for a chained checksum.
//!
//! Invariant: a value that does not check is an error, never an entry.

use std::io;

use crate::codec::{decode_entry, encode_entry};
use crate::engine::Write;
use crate::types::Entry;

pub(super) const VOTE: &[u8] = b"mvote";
pub(super) const COMMITTED: &[u8] = b"mcommitted";
pub(super) const PURGED: &[u8] = b"mpurged";

const ENTRY: u8 = b'e';
const FORMAT: u8 = 1;
const HEADER: usize = 5;

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
        format!(
            "log entry {index} is damaged: {what}; this member must not go on, rejoin it as a new node"
        ),
    )
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), body)
}

pub(super) fn put_entry(entry: &Entry) -> Write {
    let key = entry_key(entry.log_id.index);
    let body = encode_entry(entry);
    let mut value = Vec::with_capacity(HEADER + body.len());
    value.push(FORMAT);
    value.extend_from_slice(&checksum(&key, &body).to_be_bytes());
    value.extend_from_slice(&body);
    Write::Put { key, value }
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

/// Checks and decodes the entry stored at `index`.
pub(super) fn get_entry(index: u64, value: &[u8]) -> io::Result<Entry> {
    let (head, body) = value
        .split_at_checked(HEADER)
        .ok_or_else(|| damaged(index, "cut short"))?;
    if head.first() != Some(&FORMAT) {
        return Err(damaged(index, "unknown format"));
    }
    if head.get(1..) != Some(&checksum(&entry_key(index), body).to_be_bytes()[..]) {
        return Err(damaged(index, "wrong checksum"));
    }
    let entry = decode_entry(body)?;
    if entry.log_id.index != index {
        return Err(damaged(index, "it holds another index"));
    }
    Ok(entry)
}
