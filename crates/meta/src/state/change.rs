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
    /// A collection is forgotten.
    ForgetCollection(CollectionId),
    /// A segment is forgotten, with its positions and log files.
    ForgetSegment(SegmentId),
    /// A log file leaves a segment's list (cold).
    ForgetBinlog(SegmentId, pb::BinlogRef),
    /// A compaction task.
    Compaction(Arc<pb::CompactionRow>),
    /// A compaction task is forgotten.
    ForgetCompaction(i64),
    /// An index.
    Index(Arc<pb::IndexRow>),
    /// An index is forgotten.
    ForgetIndex(i64),
    /// The index of one segment.
    Build(Arc<pb::BuildRow>),
    /// The index of one segment is forgotten.
    ForgetBuild(i64),
    /// What a segment was made of.
    Lineage {
        /// The output.
        child: SegmentId,
        /// The inputs.
        parents: Vec<SegmentId>,
    },
    /// What a segment was made of is forgotten.
    ForgetLineage(SegmentId),
    /// A delete log belongs to other segments than its path says.
    Carried(i64, pb::CarriedRow),
    /// Nobody holds a carried delete log any more.
    ForgetCarried(i64),
    /// A pause of garbage collection.
    GcPause(pb::GcPauseRow),
    /// A pause of garbage collection is over.
    ForgetGcPause {
        /// Its collection; 0 = all.
        collection: i64,
        /// Its ticket.
        ticket: String,
    },
}

/// A row write as bytes. Keys have the table byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowWrite {
    /// Sets a row.
    Put {
        /// Its key.
        key: Vec<u8>,
        /// Its new value.
        value: Vec<u8>,
    },
    /// Removes a row.
    Delete {
        /// Its key.
        key: Vec<u8>,
    },
    /// Removes every row from `from` up to but not including `to`.
    DeleteRange {
        /// First key.
        from: Vec<u8>,
        /// The key after the last one.
        to: Vec<u8>,
    },
}

impl Change {
    /// The rows to write for this change, in order.
    pub fn to_rows(&self) -> Vec<RowWrite> {
        if let Change::ForgetSegment(id) = self {
            let files = key::binlogs(*id);
            return vec![
                delete(key::segment(*id)),
                delete(key::position(*id, true)),
                delete(key::position(*id, false)),
                RowWrite::DeleteRange {
                    to: key::prefix_end(&files),
                    from: files,
                },
            ];
        }
        vec![self.to_row()]
    }

    fn to_row(&self) -> RowWrite {
        match self {
            Change::Singleton(row) => put(key::singleton(), row),
            Change::Collection(row) => put(key::collection(row.id), row),
            Change::Segment(segment) => put(key::segment(segment.id), &segment.to_row()),
            Change::Position {
                segment,
                is_start,
                position,
            } => put(key::position(*segment, *is_start), position),
            Change::Binlog(id, file) => put(key::binlog(*id, file), file),
            Change::Channel(row) => put(key::channel(&row.name), row),
            Change::ForgetChannel(name) => delete(key::channel(name)),
            Change::Coverage {
                channel,
                stream,
                stored,
            } => put(
                key::coverage(channel, stream),
                &pb::CoverageRow {
                    bounds: stored.to_bounds(),
                },
            ),
            Change::ForgetCoverage { channel, stream } => delete(key::coverage(channel, stream)),
            Change::Node(row) => put(key::node(row.id), row),
            Change::ForgetNode(id) => delete(key::node(*id)),
            Change::Annotation(row) => put(key::annotation(&row.key), row),
            Change::ForgetAnnotation(name) => delete(key::annotation(name)),
            Change::Token(token, row) => put(key::token(token), row),
            Change::ForgetToken(token) => delete(key::token(token)),
            Change::ForgetCollection(id) => delete(key::collection(id.0)),
            Change::ForgetSegment(id) => delete(key::segment(*id)),
            Change::ForgetBinlog(id, file) => delete(key::binlog(*id, file)),
            Change::Compaction(row) => put(key::compaction(plan_id(row)), row.as_ref()),
            Change::ForgetCompaction(id) => delete(key::compaction(*id)),
            Change::Index(row) => put(key::index(index_id(row)), row.as_ref()),
            Change::ForgetIndex(id) => delete(key::index(*id)),
            Change::Build(row) => put(key::build(row.build_id), row.as_ref()),
            Change::ForgetBuild(id) => delete(key::build(*id)),
            Change::Lineage { child, parents } => put(
                key::lineage(*child),
                &pb::LineageRow {
                    parents: parents.iter().map(|parent| parent.0).collect(),
                },
            ),
            Change::ForgetLineage(child) => delete(key::lineage(*child)),
            Change::Carried(log_id, row) => put(key::carried(*log_id), row),
            Change::ForgetCarried(log_id) => delete(key::carried(*log_id)),
            Change::GcPause(row) => put(key::gc_pause(row.collection_id, &row.ticket), row),
            Change::ForgetGcPause { collection, ticket } => {
                delete(key::gc_pause(*collection, ticket))
            }
        }
    }
}

fn put(key: Vec<u8>, row: &impl Message) -> RowWrite {
    RowWrite::Put {
        key,
        value: row.encode_to_vec(),
    }
}

fn delete(key: Vec<u8>) -> RowWrite {
    RowWrite::Delete { key }
}

/// A task's id; 0 when its row has lost its plan, which no command writes.
pub(crate) fn plan_id(row: &pb::CompactionRow) -> i64 {
    row.plan.as_ref().map_or(0, |plan| plan.plan_id)
}

/// An index's id; 0 when its row has lost its definition, which no command writes.
pub(crate) fn index_id(row: &pb::IndexRow) -> i64 {
    row.index.as_ref().map_or(0, |index| index.index_id)
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
    /// A segment became Flushed: there may be something to compact or to index.
    Flushed(SegmentId),
    /// A compaction task changed.
    Compaction(i64),
    /// An index build changed; 0 = an index was created or dropped.
    Build(i64),
    /// There may be something to collect, or collection was paused or resumed.
    Gc,
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
    /// Adds a compaction task's new row, and the hint that it changed.
    pub fn put_compaction(&mut self, row: pb::CompactionRow) {
        self.events.push(Event::Compaction(plan_id(&row)));
        self.changes.push(Change::Compaction(Arc::new(row)));
    }

    /// Adds an index build's new row, and the hint that it changed.
    pub fn put_build(&mut self, row: pb::BuildRow) {
        self.events.push(Event::Build(row.build_id));
        self.changes.push(Change::Build(Arc::new(row)));
    }
}
