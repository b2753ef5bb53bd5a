//! The portable form of a snapshot: frames, each with a checksum of its own.
//!
//! A file is `head (20)` and then frames; between replicas the frames travel alone. The head is
//! `"QUORSNAP" | format (4) | zero (4) | crc32c of the 16 before (4)`. A frame is
//! `body length (4) | kind (1) | sequence (4) | crc32c of all the rest (4) | body`, numbers
//! big-endian: first the manifest, then rows in the order of their keys, then the end with their
//! count and hash. The body of rows is `length (4) | LZ4 block` of that many bytes of rows, each as
//! in [`hash`](super::hash).
//!
//! Invariants: decoding is total; every byte is under a checksum; the head never changes, so that a
//! later format is recognised.

use std::io;

use bytes::{Buf, Bytes, BytesMut};

/// The format this release writes, and the newest it reads.
pub const SNAPSHOT_FORMAT: u32 = 1;

pub(super) const MANIFEST: u8 = 1;
pub(super) const ROWS: u8 = 2;
pub(super) const END: u8 = 3;
const FRAME_HEAD: usize = 13;
const MAGIC: &[u8; 8] = b"QUORSNAP";
const FILE_HEAD: usize = 20;
/// No frame has a longer body: a chunk, and one row of any length that a state may hold.
const BODY_BYTES_MAX: usize = 256 << 20;

pub(super) fn damaged(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("damaged snapshot: {what}; use another copy of it"),
    )
}

fn newer(format: u32) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "the snapshot has format {format}, this release reads up to {SNAPSHOT_FORMAT}; use a newer release"
        ),
    )
}

pub(super) fn check_format(format: u32) -> io::Result<()> {
    match format {
        0 => Err(damaged("no format is named")),
        1..=SNAPSHOT_FORMAT => Ok(()),
        _ => Err(newer(format)),
    }
}

pub(super) fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b))
}

/// What a snapshot file begins with.
pub fn snapshot_file_head() -> [u8; 20] {
    head_of(SNAPSHOT_FORMAT)
}

pub(super) fn head_of(format: u32) -> [u8; FILE_HEAD] {
    let mut head = [0; FILE_HEAD];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&format.to_be_bytes());
    let sum = crc32c::crc32c(&head[..16]);
    head[16..].copy_from_slice(&sum.to_be_bytes());
    head
}

fn check_head(head: &[u8]) -> io::Result<()> {
    if head.get(..8) != Some(&MAGIC[..]) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "this is no snapshot file, or its beginning is damaged",
        ));
    }
    let sum = number(head.get(16..20).unwrap_or_default());
    if sum != crc32c::crc32c(head.get(..16).unwrap_or_default()) {
        return Err(damaged("wrong checksum of the file's head"));
    }
    check_format(number(head.get(8..12).unwrap_or_default()))
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), body)
}

/// Makes a frame.
pub(super) fn seal(kind: u8, sequence: u32, body: &[u8]) -> io::Result<Bytes> {
    if body.len() > BODY_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a row of {} bytes is too long for a snapshot", body.len()),
        ));
    }
    let mut frame = Vec::with_capacity(FRAME_HEAD + body.len());
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.push(kind);
    frame.extend_from_slice(&sequence.to_be_bytes());
    let sum = checksum(&frame, body);
    frame.extend_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(body);
    Ok(frame.into())
}

/// Makes a frame of encoded rows.
pub(super) fn seal_rows(sequence: u32, rows: &[u8]) -> io::Result<Bytes> {
    let mut body = (rows.len() as u32).to_be_bytes().to_vec();
    body.extend_from_slice(&lz4_flex::block::compress(rows));
    seal(ROWS, sequence, &body)
}

/// A frame whose checksum is right and whose turn it is.
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) body: &'a [u8],
}

impl<'a> Frame<'a> {
    pub(super) fn check(frame: &'a [u8], sequence: u32) -> io::Result<Self> {
        let (head, body) = frame
            .split_at_checked(FRAME_HEAD)
            .ok_or_else(|| damaged("a frame is too short"))?;
        let part = |from: usize, to: usize| number(head.get(from..to).unwrap_or_default());
        if part(9, 13) != checksum(head.get(..9).unwrap_or_default(), body) {
            return Err(damaged(&format!("wrong checksum of frame {}", part(5, 9))));
        }
        if part(0, 4) as usize != body.len() {
            return Err(damaged("a frame of another length than it says"));
        }
        if part(5, 9) != sequence {
            return Err(damaged(&format!(
                "frame {} where {sequence} was next",
                part(5, 9)
            )));
        }
        let kind = head.get(4).copied().unwrap_or_default();
        Ok(Self { kind, body })
    }
}

/// The number a frame says it has; `None` for what is no frame. Nothing is checked.
pub fn snapshot_frame_number(frame: &[u8]) -> Option<u32> {
    frame.get(5..9).map(number)
}

/// The rows of a frame's body.
pub(super) fn open_rows(body: &[u8]) -> io::Result<Vec<u8>> {
    let (length, block) = body
        .split_at_checked(4)
        .ok_or_else(|| damaged("rows cut short"))?;
    let length = number(length) as usize;
    if length > BODY_BYTES_MAX {
        return Err(damaged("more rows than a frame may hold"));
    }
    let rows = lz4_flex::block::decompress(block, length)
        .map_err(|error| damaged(&format!("rows cannot be unpacked: {error}")))?;
    if rows.len() != length {
        return Err(damaged("rows of another length than it says"));
    }
    Ok(rows)
}

/// Takes rows off the front of unpacked ones.
pub(super) struct Rows<'a>(pub(super) &'a [u8]);

impl<'a> Rows<'a> {
    pub(super) fn next(&mut self) -> io::Result<Option<(&'a [u8], &'a [u8])>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.part()?;
        Ok(Some((key, self.part()?)))
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

/// Cuts the bytes of a snapshot file, as they come, into its frames.
///
/// Only the file's head is checked here; [`SnapshotVerifier`](super::SnapshotVerifier) or
/// [`Staging`](crate::Staging) check the frames.
#[derive(Debug, Default)]
pub struct SnapshotCutter {
    bytes: BytesMut,
    head_read: bool,
}

impl SnapshotCutter {
    /// Takes the next bytes of the file.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` = more bytes are needed.
    ///
    /// # Errors
    /// It is no snapshot file, of a newer format, or damaged.
    pub fn next_frame(&mut self) -> io::Result<Option<Bytes>> {
        if !self.head_read {
            if self.bytes.len() < FILE_HEAD {
                return Ok(None);
            }
            check_head(self.bytes.get(..FILE_HEAD).unwrap_or_default())?;
            self.bytes.advance(FILE_HEAD);
            self.head_read = true;
        }
        let Some(length) = self.bytes.get(..4) else {
            return Ok(None);
        };
        let length = number(length) as usize;
        if length > BODY_BYTES_MAX {
            return Err(damaged("a frame longer than any can be"));
        }
        if self.bytes.len() < FRAME_HEAD + length {
            return Ok(None);
        }
        Ok(Some(self.bytes.split_to(FRAME_HEAD + length).freeze()))
    }

    /// Says that the file has ended.
    ///
    /// # Errors
    /// In the middle of a frame.
    pub fn finish(&self) -> io::Result<()> {
        if !self.head_read {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "this is no snapshot file: it is too short",
            ));
        }
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(damaged("it is cut short"))
    }
}
