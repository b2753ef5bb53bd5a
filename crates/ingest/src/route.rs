//! Which channel of a collection a row belongs to.
//!
//! The rule is part of the stored data: a repeated ingest and a delete must find the channel that
//! earlier rows with the same key went to. It never changes.

use quorate_binlog::{PrimaryKey, Value};

/// Keeps these hashes apart from every other use of the same function.
const DOMAIN: &[u8] = b"quorate channel of key\0";

/// Index of the channel, in shard order, of the row with this primary key.
///
/// The first 8 bytes of BLAKE3(`"quorate channel of key\0"` ‖ `i` ‖ key as 8 bytes, or ‖ `s` ‖ the
/// key's UTF-8 bytes), read as a little-endian number, modulo the number of channels.
///
/// # Panics
/// When there are no channels.
pub fn channel_of(key: &PrimaryKey, channels: usize) -> usize {
    match key {
        PrimaryKey::Int64(key) => of_bytes(b'i', &key.to_le_bytes(), channels),
        PrimaryKey::VarChar(key) => of_bytes(b's', key.as_bytes(), channels),
    }
}

/// The same for a borrowed value; none when it cannot be a primary key.
pub(crate) fn channel_of_value(key: Value<'_>, channels: usize) -> Option<usize> {
    match key {
        Value::Int64(key) => Some(of_bytes(b'i', &key.to_le_bytes(), channels)),
        Value::VarChar(key) => Some(of_bytes(b's', key.as_bytes(), channels)),
        _ => None,
    }
}

fn of_bytes(tag: u8, key: &[u8], channels: usize) -> usize {
    assert!(channels > 0, "a collection has at least one channel");
    let mut hasher = blake3::Hasher::new();
    hasher.update(DOMAIN).update(&[tag]).update(key);
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    (u64::from_le_bytes(first) % channels as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_never_changes() {
        let ints: Vec<usize> = [0, 1, 2, -1, i64::MAX]
            .map(|key| channel_of(&PrimaryKey::Int64(key), 1000))
            .to_vec();
        let texts: Vec<usize> = ["", "a", "é"]
            .map(|key| channel_of(&PrimaryKey::VarChar(key.into()), 1000))
            .to_vec();
        assert_eq!((ints, texts), (GOLDEN_INTS.to_vec(), GOLDEN_TEXTS.to_vec()));
    }

    const GOLDEN_INTS: [usize; 5] = [182, 126, 317, 618, 0];
    const GOLDEN_TEXTS: [usize; 3] = [110, 304, 943];

    #[test]
    fn keys_spread_evenly() {
        let mut counts = [0u32; 4];
        for key in 0..4000 {
            counts[channel_of(&PrimaryKey::Int64(key), 4)] += 1;
        }
        assert!(
            counts.iter().all(|count| (850..1150).contains(count)),
            "{counts:?}"
        );
    }
}
