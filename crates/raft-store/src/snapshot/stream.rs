//! The portable form of a snapshot: its rows in key order, in checked chunks.
//!
//! A chunk is `kind (1) | sequence (4) | crc32c of all the rest (4) | rows`, a row
//! `key length (4) | key | value length (4) | value`, numbers big-endian. The last chunk,
//! of another kind, holds no rows but their count (8) and a blake3 hash over all of them.
//!
//! Invariants: decoding is total; the order of rows is strict.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::SnapshotData;

const ROWS: u8 = 1;
const END: u8 = 2;
const HEADER: usize = 9;

fn damaged(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("damaged snapshot chunk: {what}; send the snapshot again"),
    )
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b))
}

fn checksum(kind: u8, sequence: u32, body: &[u8]) -> u32 {
    let head = [&[kind][..], &sequence.to_be_bytes()].concat();
    crc32c::crc32c_append(crc32c::crc32c(&head), body)
}

fn seal(kind: u8, sequence: u32, body: &[u8]) -> Bytes {
    let mut chunk = Vec::with_capacity(HEADER + body.len());
    chunk.push(kind);
    chunk.extend_from_slice(&sequence.to_be_bytes());
    chunk.extend_from_slice(&checksum(kind, sequence, body).to_be_bytes());
    chunk.extend_from_slice(body);
    chunk.into()
}

fn put_part(body: &mut Vec<u8>, part: &[u8]) -> io::Result<()> {
    let length = u32::try_from(part.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a row above 4 GiB"))?;
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(part);
    Ok(())
}

/// Counts and hashes rows; equal on both sides of a stream.
#[derive(Default)]
pub(crate) struct RowHasher {
    rows: u64,
    hash: blake3::Hasher,
}

impl RowHasher {
    /// `encoded` as it stands in a chunk.
    fn row(&mut self, encoded: &[u8]) {
        self.rows += 1;
        self.hash.update(encoded);
    }

    pub(crate) fn trailer(&self) -> Vec<u8> {
        let mut trailer = self.rows.to_be_bytes().to_vec();
        trailer.extend_from_slice(self.hash.finalize().as_bytes());
        trailer
    }
}

/// Reads a snapshot chunk by chunk.
pub struct SnapshotReader {
    data: SnapshotData,
    chunk_bytes: usize,
    /// The first key not yet sent; `None` once all were.
    next_key: Option<Vec<u8>>,
    sequence: u32,
    hasher: RowHasher,
    ended: bool,
}

impl SnapshotReader {
    pub(super) fn new(data: SnapshotData, chunk_bytes: usize) -> Self {
        Self {
            data,
            chunk_bytes: chunk_bytes.max(1),
            next_key: Some(Vec::new()),
            sequence: 0,
            hasher: RowHasher::default(),
            ended: false,
        }
    }

    /// The next chunk; `None` after the last.
    pub fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let sequence = self.sequence;
        self.sequence = sequence
            .checked_add(1)
            .ok_or_else(|| io::Error::other("the snapshot needs too many chunks"))?;
        let body = self.rows()?;
        if body.is_empty() {
            self.ended = true;
            return Ok(Some(seal(END, sequence, &self.hasher.trailer())));
        }
        Ok(Some(seal(ROWS, sequence, &body)))
    }

    fn rows(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        let Some(from) = self.next_key.take() else {
            return Ok(body);
        };
        let (chunk_bytes, hasher) = (self.chunk_bytes, &mut self.hasher);
        let mut next_key = None;
        let mut failed = None;
        self.data.database().view(|view| {
            view.scan(&from, &[], &mut |key, value| {
                if body.len() >= chunk_bytes {
                    next_key = Some(key.to_vec());
                    return ControlFlow::Break(());
                }
                let start = body.len();
                if let Err(error) =
                    put_part(&mut body, key).and_then(|()| put_part(&mut body, value))
                {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
                hasher.row(body.get(start..).unwrap_or_default());
                ControlFlow::Continue(())
            })
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        self.next_key = next_key;
        Ok(body)
    }
}

/// A chunk that was checked.
pub(crate) enum Chunk<'a> {
    Rows(Rows<'a>),
    End { trailer: &'a [u8] },
}

impl<'a> Chunk<'a> {
    /// Checks kind, order and checksum.
    pub(crate) fn check(chunk: &'a [u8], sequence: u32) -> io::Result<Self> {
        let (head, body) = chunk
            .split_at_checked(HEADER)
            .ok_or_else(|| damaged("too short"))?;
        let kind = head.first().copied().unwrap_or_default();
        let got = number(head.get(1..5).unwrap_or_default());
        if number(head.get(5..9).unwrap_or_default()) != checksum(kind, got, body) {
            return Err(damaged("wrong checksum"));
        }
        if got != sequence {
            return Err(damaged(&format!("number {got} where {sequence} was next")));
        }
        match kind {
            ROWS => Ok(Chunk::Rows(Rows(body))),
            END => Ok(Chunk::End { trailer: body }),
            _ => Err(damaged("unknown kind")),
        }
    }
}

/// The rows of a chunk.
pub(crate) struct Rows<'a>(&'a [u8]);

impl<'a> Rows<'a> {
    /// The next row, counted in `hasher`.
    pub(crate) fn next(
        &mut self,
        hasher: &mut RowHasher,
    ) -> io::Result<Option<(&'a [u8], &'a [u8])>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let start = self.0;
        let key = self.part()?;
        let value = self.part()?;
        hasher.row(start.get(..start.len() - self.0.len()).unwrap_or_default());
        Ok(Some((key, value)))
    }

    fn part(&mut self) -> io::Result<&'a [u8]> {
        let cut = || damaged("row cut short");
        let (length, rest) = self.0.split_at_checked(4).ok_or_else(cut)?;
        let (part, rest) = rest
            .split_at_checked(number(length) as usize)
            .ok_or_else(cut)?;
        self.0 = rest;
        Ok(part)
    }
}
