//! Checksums of the single rows that say where a member stands: vote, committed, purged, applied.
//!
//! A sealed value is `format (1) | crc32c of key and body (4) | body`.
//!
//! Invariants: opening is total; a value whose bits changed, or that stands under another key,
//! is an error and never a body.

use std::io;

/// Format 1 was a body alone, without a checksum.
const FORMAT: u8 = 2;
const HEADER: usize = 5;

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), body)
}

/// The value to store under `key` for `body`.
pub(crate) fn seal(key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEADER + body.len());
    value.push(FORMAT);
    value.extend_from_slice(&checksum(key, body).to_be_bytes());
    value.extend_from_slice(body);
    value
}

/// The body of the `value` stored under `key`.
pub(crate) fn unseal<'a>(key: &[u8], value: &'a [u8]) -> io::Result<&'a [u8]> {
    let damaged = |what: &str| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("row {} is damaged: {what}", key.escape_ascii()),
        )
    };
    let (head, body) = value
        .split_at_checked(HEADER)
        .ok_or_else(|| damaged("cut short"))?;
    if head.first() != Some(&FORMAT) {
        return Err(damaged("unknown format"));
    }
    if head.get(1..) != Some(&checksum(key, body).to_be_bytes()[..]) {
        return Err(damaged("wrong checksum"));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_sealed_body_comes_back_under_its_own_key_only() {
        let value = seal(b"mvote", b"body");
        assert_eq!(unseal(b"mvote", &value).unwrap(), b"body");
        assert!(unseal(b"mcommitted", &value).is_err());
    }

    #[test]
    fn any_changed_bit_and_any_cut_is_an_error() {
        let value = seal(b"mvote", b"body");
        for bit in 0..value.len() * 8 {
            let mut value = value.clone();
            value[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(b"mvote", &value).is_err(), "bit {bit}");
        }
        for length in 0..value.len() {
            assert!(
                unseal(b"mvote", &value[..length]).is_err(),
                "{length} bytes"
            );
        }
    }
}
