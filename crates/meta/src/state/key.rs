//! Keys of the state tables. The first byte names the table; ids are big-endian with the sign bit
//! flipped, so that rows lie in the order of their ids.

use crate::id::SegmentId;
use crate::pb;

/// Tables, by their first key byte. Numbers are never reused.
pub mod table {
    /// The one [`crate::pb::Singleton`].
    pub const SINGLETON: u8 = 1;
    /// Collections by id.
    pub const COLLECTION: u8 = 2;
    /// Segments by id: hot rows.
    pub const SEGMENT: u8 = 3;
    /// Start and last position by segment: cold.
    pub const POSITION: u8 = 4;
    /// Log files by (segment, kind, field, log id): cold.
    pub const BINLOG: u8 = 5;
    /// Channels by name.
    pub const CHANNEL: u8 = 6;
    /// Stored rows by (channel, stream).
    pub const COVERAGE: u8 = 7;
    /// Data nodes by id.
    pub const NODE: u8 = 8;
    /// Annotations by key.
    pub const ANNOTATION: u8 = 9;
    /// Request tokens.
    pub const TOKEN: u8 = 10;
    /// Compaction tasks by plan id.
    pub const COMPACTION: u8 = 11;
    /// Indexes by id.
    pub const INDEX: u8 = 12;
    /// Index builds by id.
    pub const BUILD: u8 = 13;
    /// Parents by child segment.
    pub const LINEAGE: u8 = 14;
    /// Delete logs that passed to other segments, by log id.
    pub const CARRIED: u8 = 15;
    /// Pauses of garbage collection by (collection, ticket).
    pub const GC_PAUSE: u8 = 16;
}

/// What a table is called, by the first byte of its keys.
pub fn table_name(table: u8) -> Option<&'static str> {
    Some(match table {
        table::SINGLETON => "windows",
        table::COLLECTION => "collections",
        table::SEGMENT => "segments",
        table::POSITION => "positions",
        table::BINLOG => "log files",
        table::CHANNEL => "channels",
        table::COVERAGE => "stored rows",
        table::NODE => "data nodes",
        table::ANNOTATION => "annotations",
        table::TOKEN => "request tokens",
        table::COMPACTION => "compactions",
        table::INDEX => "indexes",
        table::BUILD => "index builds",
        table::LINEAGE => "lineage",
        table::CARRIED => "carried delete logs",
        table::GC_PAUSE => "pauses of garbage collection",
        _ => return None,
    })
}

fn ordered(id: i64) -> [u8; 8] {
    ((id as u64) ^ (1 << 63)).to_be_bytes()
}

fn unordered(bytes: &[u8]) -> Option<i64> {
    Some((u64::from_be_bytes(bytes.try_into().ok()?) ^ (1 << 63)) as i64)
}

fn with_id(table: u8, id: i64) -> Vec<u8> {
    let mut key = vec![table];
    key.extend(ordered(id));
    key
}

fn with_bytes(table: u8, bytes: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + bytes.len());
    key.push(table);
    key.extend(bytes);
    key
}

/// Key of the singleton row.
pub fn singleton() -> Vec<u8> {
    vec![table::SINGLETON]
}

/// Key of a collection.
pub fn collection(id: i64) -> Vec<u8> {
    with_id(table::COLLECTION, id)
}

/// Key of a segment's hot row.
pub fn segment(id: SegmentId) -> Vec<u8> {
    with_id(table::SEGMENT, id.0)
}

/// Key of a segment's start or last position.
pub fn position(id: SegmentId, is_start: bool) -> Vec<u8> {
    let mut key = with_id(table::POSITION, id.0);
    key.push(u8::from(!is_start));
    key
}

/// Prefix of a segment's log files.
pub fn binlogs(id: SegmentId) -> Vec<u8> {
    with_id(table::BINLOG, id.0)
}

/// Key of one log file.
pub fn binlog(id: SegmentId, file: &pb::BinlogRef) -> Vec<u8> {
    let mut key = binlogs(id);
    key.push(file.kind as u8);
    key.extend(ordered(file.field_id));
    key.extend(ordered(file.log_id));
    key
}

/// Key of a channel.
pub fn channel(name: &str) -> Vec<u8> {
    with_bytes(table::CHANNEL, name.as_bytes())
}

/// Key of what is stored of a stream on a channel.
pub fn coverage(channel: &str, stream: &[u8]) -> Vec<u8> {
    // The length goes first, so that no (channel, stream) reads as another.
    let mut key = vec![table::COVERAGE];
    key.extend((channel.len() as u32).to_be_bytes());
    key.extend(channel.as_bytes());
    key.extend(stream);
    key
}

/// Channel and stream of a coverage key, behind its table byte.
pub fn parse_coverage(rest: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = rest.split_at_checked(4)?;
    let len = u32::from_be_bytes(len.try_into().ok()?) as usize;
    let (channel, stream) = rest.split_at_checked(len)?;
    Some((std::str::from_utf8(channel).ok()?, stream))
}

/// Id behind the table byte.
pub fn parse_id(rest: &[u8]) -> Option<i64> {
    unordered(rest)
}

/// Key of a data node.
pub fn node(id: i64) -> Vec<u8> {
    with_id(table::NODE, id)
}

/// Key of an annotation.
pub fn annotation(name: &str) -> Vec<u8> {
    with_bytes(table::ANNOTATION, name.as_bytes())
}

/// Key of a request token.
pub fn token(token: &[u8]) -> Vec<u8> {
    with_bytes(table::TOKEN, token)
}

/// Key of a compaction task.
pub fn compaction(plan_id: i64) -> Vec<u8> {
    with_id(table::COMPACTION, plan_id)
}

/// Key of an index.
pub fn index(id: i64) -> Vec<u8> {
    with_id(table::INDEX, id)
}

/// Key of an index build.
pub fn build(id: i64) -> Vec<u8> {
    with_id(table::BUILD, id)
}

/// Key of a segment's parents.
pub fn lineage(child: SegmentId) -> Vec<u8> {
    with_id(table::LINEAGE, child.0)
}

/// Key of a delete log that passed to other segments.
pub fn carried(log_id: i64) -> Vec<u8> {
    with_id(table::CARRIED, log_id)
}

/// Key of a pause of garbage collection; collection 0 = all.
pub fn gc_pause(collection: i64, ticket: &str) -> Vec<u8> {
    let mut key = with_id(table::GC_PAUSE, collection);
    key.extend(ticket.as_bytes());
    key
}

/// The key behind every key with this prefix.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return end;
        }
        end.pop();
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_order_in_keys() {
        let ids = [i64::MIN, -1, 0, 1, 7, i64::MAX];
        let keys: Vec<_> = ids.iter().map(|&id| collection(id)).collect();
        assert!(keys.is_sorted());
        for (id, key) in ids.iter().zip(&keys) {
            assert_eq!(parse_id(&key[1..]), Some(*id));
        }
    }

    #[test]
    fn coverage_keys_are_told_apart() {
        assert_ne!(coverage("a", b"bc"), coverage("ab", b"c"));
        let key = coverage("chan", b"\x00\xff");
        assert_eq!(parse_coverage(&key[1..]), Some(("chan", &b"\x00\xff"[..])));
        assert_eq!(parse_coverage(&[0, 0, 0, 9, 1]), None);
    }

    #[test]
    fn prefix_end_is_behind_the_prefix_only() {
        assert_eq!(prefix_end(&[1, 2]), vec![1, 3]);
        assert_eq!(prefix_end(&[1, 0xff]), vec![2]);
        assert_eq!(prefix_end(&[0xff]), Vec::<u8>::new());
    }
}
