//! What the opaque `msgID` of a `MsgPosition` holds: for each stream of a channel, the ordinal up
//! to which its rows lie before the position.
//!
//! Encoding: one version byte (1), then a protobuf message with the ranges
//! `{stream, 0, next ordinal}` as its repeated field 1, in the order of the streams. Never empty,
//! since an empty `msgID` means "no position" to coordinators.

use std::collections::BTreeMap;

use prost::Message;
use quorate_rpc::proto::quorate::row::RowRange;

const VERSION: u8 = 1;

/// Next ordinal of each stream.
pub type Next = BTreeMap<Vec<u8>, u64>;

/// Bytes that are no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message id is no position of this system: {reason}")]
pub struct PositionError {
    /// What is wrong.
    pub reason: String,
}

#[derive(Clone, PartialEq, Message)]
struct Ranges {
    #[prost(message, repeated, tag = "1")]
    ranges: Vec<RowRange>,
}

/// Encodes a position.
pub fn encode(next: &Next) -> Vec<u8> {
    let ranges = Ranges {
        ranges: next
            .iter()
            .map(|(stream, next)| RowRange {
                stream: stream.clone(),
                from: 0,
                to: *next,
            })
            .collect(),
    };
    let mut out = Vec::with_capacity(1 + ranges.encoded_len());
    out.push(VERSION);
    out.extend(ranges.encode_to_vec());
    out
}

/// Decodes a position. Never panics.
pub fn decode(msg_id: &[u8]) -> Result<Next, PositionError> {
    let wrong = |reason: String| PositionError { reason };
    let (version, body) = msg_id
        .split_first()
        .ok_or_else(|| wrong("it is empty".into()))?;
    if *version != VERSION {
        return Err(wrong(format!("version {version} is not known")));
    }
    let mut next = Next::new();
    for range in Ranges::decode(body)
        .map_err(|e| wrong(e.to_string()))?
        .ranges
    {
        if range.from != 0 {
            return Err(wrong(format!("a range begins at {}, not at 0", range.from)));
        }
        if next.insert(range.stream, range.to).is_some() {
            return Err(wrong("a stream is named twice".into()));
        }
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_position_reads_back(next in prop::collection::btree_map(
            prop::collection::vec(any::<u8>(), 0..20), any::<u64>(), 0..8)) {
            let bytes = encode(&next);
            prop_assert!(!bytes.is_empty());
            prop_assert_eq!(decode(&bytes).unwrap(), next);
        }

        #[test]
        fn decoding_is_total(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&bytes);
            let _ = decode(&[&[VERSION], &bytes[..]].concat());
        }
    }

    #[test]
    fn foreign_message_ids_are_refused() {
        assert!(decode(&[]).is_err());
        assert!(decode(&[11, 0, 8, 127]).is_err());
    }
}
