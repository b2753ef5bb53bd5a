//! What a decision changes: typed rows for the index in memory, and the same as bytes for disk.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::key;
use crate::id::{CollectionId, SegmentId};
use crate::model::Segment;
use crate::pb;
use crate::ranges::RangeSet;

/// One changed row.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The singleton.
    Singleton(pb::Singleton),
    /// A collection, new or changed.
    Collection(pb::CollectionRow),
    /// A segment's hot row.
    Segment(Segment),
    /// A segment's start or last position (cold).
    Position {
        /// The segment.
        segment: SegmentId,
        /// The start position, else the last one.
        is_start: bool,
        /// The position.
        position: pb::Position,
    },
    /// A log file of a segment (cold).
    Binlog(SegmentId, pb::BinlogRef),
    /// A channel.
    Channel(pb::ChannelRow),
    /// A channel is forgotten, with all that is known of its streams.
    ForgetChannel(String),
    /// What is stored of a stream on a channel.
    Coverage {
        /// Channel name.
        channel: String,
        /// Stream id.
        stream: Bytes,
        /// Stored ordinals.
        stored: RangeSet,
    },
    /// Forgets a stream of a channel.
    ForgetCoverage {
        /// Channel name.
        channel: String,
        /// Stream id.
        stream: Bytes,
    },
    /// A data node.
    Node(pb::NodeRow),
    /// A data node is forgotten.
    ForgetNode(i64),
    /// An annotation.
    Annotation(pb::Annotation),
    /// An annotation is forgotten.
    ForgetAnnotation(String),
    /// A request token and its answer.
    Token(Bytes, pb::TokenRow),
    /// A request token is forgotten.
    ForgetToken(Bytes),
}

/// A row write as bytes: `value` absent = delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowWrite {
    /// Key, with the table byte.
    pub key: Vec<u8>,
    /// Value.
    pub value: Option<Vec<u8>>,
}

impl Change {
    /// The row to write for this change.
    pub fn to_row(&self) -> RowWrite {
        let (key, value) = match self {
            Change::Singleton(row) => (key::singleton(), Some(row.encode_to_vec())),
            Change::Collection(row) => (key::collection(row.id), Some(row.encode_to_vec())),
            Change::Segment(segment) => (
                key::segment(segment.id),
                Some(segment.to_row().encode_to_vec()),
            ),
            Change::Position {
                segment,
                is_start,
                position,
            } => (
                key::position(*segment, *is_start),
                Some(position.encode_to_vec()),
            ),
            Change::Binlog(id, file) => (key::binlog(*id, file), Some(file.encode_to_vec())),
            Change::Channel(row) => (key::channel(&row.name), Some(row.encode_to_vec())),
            Change::ForgetChannel(name) => (key::channel(name), None),
            Change::Coverage {
                channel,
                stream,
                stored,
            } => (
                key::coverage(channel, stream),
                Some(
                    pb::CoverageRow {
                        bounds: stored.to_bounds(),
                    }
                    .encode_to_vec(),
                ),
            ),
            Change::ForgetCoverage { channel, stream } => (key::coverage(channel, stream), None),
            Change::Node(row) => (key::node(row.id), Some(row.encode_to_vec())),
            Change::ForgetNode(id) => (key::node(*id), None),
            Change::Annotation(row) => (key::annotation(&row.key), Some(row.encode_to_vec())),
            Change::ForgetAnnotation(name) => (key::annotation(name), None),
            Change::Token(token, row) => (key::token(token), Some(row.encode_to_vec())),
            Change::ForgetToken(token) => (key::token(token), None),
        };
        RowWrite { key, value }
    }
}

/// Something the leader's loops want to look at. A hint: a loop that missed it finds the work at
/// its next sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A segment was opened, sealed, saved to, flushed or dropped.
    Segment(SegmentId),
    /// A segment's final save came in.
    SegmentFlushing(SegmentId),
    /// A channel changed its owner or state.
    Channel(Arc<str>),
    /// A data node came or went.
    Node(i64),
    /// A collection or a part of it was dropped.
    Dropped(CollectionId),
    /// Hash the whole state as it is right behind this command.
    CheckMarked,
}

/// What a command does to the state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// Changed rows, in order.
    pub changes: Vec<Change>,
    /// Hints for the leader's loops.
    pub events: Vec<Event>,
}

impl Delta {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.events.is_empty()
    }

    /// Adds a segment's new row, and the hint that it changed.
    pub fn put_segment(&mut self, segment: Segment) {
        self.events.push(Event::Segment(segment.id));
        self.changes.push(Change::Segment(segment));
    }

    /// Adds a channel's new row, and the hint that it changed.
    pub fn put_channel(&mut self, channel: pb::ChannelRow) {
        self.events
            .push(Event::Channel(Arc::from(channel.name.as_str())));
        self.changes.push(Change::Channel(channel));
    }
}
