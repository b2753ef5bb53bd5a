//! The hot index: everything apply and the planners look at, in memory.
//!
//! The rows on disk are the truth; this is rebuilt from them at start and after a snapshot. Cold
//! tables (log files, positions) are not here: apply never reads the disk.

pub mod change;
pub mod key;
mod lifecycle;
mod read;
mod read_lifecycle;
mod segments;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

pub use change::{Change, Delta, Event, RowWrite};
pub(crate) use lifecycle::{Compactions, Indexes, Lineage};

use crate::id::{CollectionId, PartitionId, SegmentId};
use crate::model::Segment;
use crate::pb;
use crate::ranges::RangeSet;

/// Ids below this one are never handed out.
pub const FIRST_ID: i64 = 1000;

/// A row that can't be read: written by a newer release, or damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("state row {key:02x?} of table {table} cannot be read: {problem}")]
pub struct LoadError {
    /// First key byte.
    pub table: u8,
    /// The whole key.
    pub key: Vec<u8>,
    /// What is wrong with it.
    pub problem: String,
}

/// Annotations may take this much memory in all, keys and values.
pub const ANNOTATION_BYTES_MAX: usize = 256 << 20;

/// The state machine's memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    pub(crate) singleton: pb::Singleton,
    pub(crate) collections: BTreeMap<CollectionId, Arc<pb::CollectionRow>>,
    /// Live collections by name.
    pub(crate) names: BTreeMap<String, CollectionId>,
    /// Boxed: the map's nodes are half empty when ids come in order, as they do.
    pub(crate) segments: BTreeMap<SegmentId, Box<Segment>>,
    /// Segments of each collection, dropped ones included.
    pub(crate) by_collection: BTreeMap<CollectionId, BTreeSet<SegmentId>>,
    /// Segments of each channel that are not stored as dropped.
    pub(crate) by_channel: BTreeMap<Arc<str>, BTreeSet<SegmentId>>,
    /// Growing, Sealed and Flushing segments of each channel: what the loops work on.
    pub(crate) unflushed: BTreeMap<Arc<str>, BTreeSet<SegmentId>>,
    /// Segments stored as Flushed: what is compacted together. Not those of level zero.
    pub(crate) flushed: BTreeMap<(CollectionId, PartitionId, Arc<str>), BTreeSet<SegmentId>>,
    /// Level-zero segments of each channel that are not stored as dropped.
    pub(crate) level0: BTreeMap<Arc<str>, BTreeSet<SegmentId>>,
    /// Segments stored as Dropped that are not condemned.
    pub(crate) dropped: BTreeSet<SegmentId>,
    pub(crate) condemned: BTreeSet<SegmentId>,
    /// Segments stored as Flushed that lack a build of a live index.
    pub(crate) unindexed: BTreeSet<SegmentId>,
    pub(crate) compactions: Compactions,
    pub(crate) indexes: Indexes,
    pub(crate) lineage: Lineage,
    /// Pauses of garbage collection by (collection, ticket); collection 0 = all.
    pub(crate) gc_pauses: BTreeMap<(i64, String), pb::GcPauseRow>,
    pub(crate) channels: BTreeMap<Arc<str>, Arc<pb::ChannelRow>>,
    pub(crate) coverage: BTreeMap<Arc<str>, BTreeMap<Bytes, RangeSet>>,
    pub(crate) nodes: BTreeMap<i64, Arc<pb::NodeRow>>,
    /// Data nodes by (address, session).
    pub(crate) sessions: BTreeMap<(String, String), i64>,
    pub(crate) annotations: BTreeMap<String, Arc<pb::Annotation>>,
    pub(crate) annotation_bytes: usize,
    pub(crate) tokens: BTreeMap<Bytes, pb::TokenRow>,
    /// Tokens by expiry.
    pub(crate) token_expiry: BTreeSet<(u64, Bytes)>,
    interned: Interner,
}

/// Channel names, shared by every segment of the channel. What it remembers depends on the history
/// of this process, so it never counts when states are compared.
#[derive(Clone, Debug, Default)]
struct Interner(BTreeSet<Arc<str>>);

impl PartialEq for Interner {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl State {
    /// The empty state.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts one stored row into memory. Rows of cold tables are passed over.
    ///
    /// # Errors
    /// The row was written by a newer release or is damaged.
    pub fn load_row(&mut self, key: &[u8], value: &[u8]) -> Result<(), LoadError> {
        let fail = |problem: String| LoadError {
            table: key.first().copied().unwrap_or_default(),
            key: key.to_vec(),
            problem,
        };
        let Some((&table, rest)) = key.split_first() else {
            return Err(fail("empty key".into()));
        };
        macro_rules! decode {
            ($row:ty) => {
                <$row>::decode(value).map_err(|error| fail(error.to_string()))?
            };
        }
        let change = match table {
            key::table::SINGLETON => Change::Singleton(decode!(pb::Singleton)),
            key::table::COLLECTION => Change::Collection(decode!(pb::CollectionRow)),
            key::table::SEGMENT => {
                let row = decode!(pb::SegmentRow);
                let segment = Segment::from_row(&row, |name| self.intern(name))
                    .ok_or_else(|| fail("unknown segment state or level".into()))?;
                Change::Segment(segment)
            }
            key::table::POSITION | key::table::BINLOG => return Ok(()),
            key::table::CHANNEL => Change::Channel(decode!(pb::ChannelRow)),
            key::table::COVERAGE => {
                let row = decode!(pb::CoverageRow);
                let (channel, stream) =
                    key::parse_coverage(rest).ok_or_else(|| fail("malformed key".into()))?;
                Change::Coverage {
                    channel: channel.to_owned(),
                    stream: Bytes::copy_from_slice(stream),
                    stored: RangeSet::from_bounds(&row.bounds),
                }
            }
            key::table::NODE => Change::Node(decode!(pb::NodeRow)),
            key::table::ANNOTATION => Change::Annotation(decode!(pb::Annotation)),
            key::table::TOKEN => Change::Token(Bytes::copy_from_slice(rest), decode!(pb::TokenRow)),
            key::table::COMPACTION => Change::Compaction(Arc::new(decode!(pb::CompactionRow))),
            key::table::INDEX => Change::Index(Arc::new(decode!(pb::IndexRow))),
            key::table::BUILD => Change::Build(Arc::new(decode!(pb::BuildRow))),
            key::table::LINEAGE => {
                let child = key::parse_id(rest).ok_or_else(|| fail("malformed key".into()))?;
                let row = decode!(pb::LineageRow);
                Change::Lineage {
                    child: SegmentId(child),
                    parents: row.parents.into_iter().map(SegmentId).collect(),
                }
            }
            key::table::CARRIED => {
                let log_id = key::parse_id(rest).ok_or_else(|| fail("malformed key".into()))?;
                Change::Carried(log_id, decode!(pb::CarriedRow))
            }
            key::table::GC_PAUSE => Change::GcPause(decode!(pb::GcPauseRow)),
            _ => return Err(fail("unknown table; written by a newer release?".into())),
        };
        self.merge_change(change);
        Ok(())
    }

    /// Merges a decided delta: generic, no rule of the domain in it.
    pub fn merge(&mut self, delta: &Delta) {
        for change in &delta.changes {
            self.merge_change(change.clone());
        }
    }

    fn merge_change(&mut self, change: Change) {
        match change {
            Change::Singleton(row) => self.singleton = row,
            Change::Collection(row) => self.put_collection(row),
            Change::Segment(segment) => self.put_segment(segment),
            Change::Position { .. } | Change::Binlog(..) | Change::ForgetBinlog(..) => {}
            Change::ForgetCollection(id) => self.forget_collection(id),
            Change::ForgetSegment(id) => self.forget_segment(id),
            Change::Compaction(row) => self.compactions.put(row),
            Change::ForgetCompaction(id) => self.compactions.forget(id),
            Change::Index(row) => self.put_index(row),
            Change::ForgetIndex(id) => self.indexes.forget(id),
            Change::Build(row) => self.put_build(row),
            Change::ForgetBuild(id) => self.forget_build(id),
            Change::Lineage { child, parents } => self.lineage.put(child, parents),
            Change::ForgetLineage(child) => self.lineage.forget(child),
            Change::Carried(log_id, row) => self.lineage.carry(log_id, row),
            Change::ForgetCarried(log_id) => self.lineage.forget_carried(log_id),
            Change::GcPause(row) => {
                let key = (row.collection_id, row.ticket.clone());
                self.gc_pauses.insert(key, row);
            }
            Change::ForgetGcPause { collection, ticket } => {
                self.gc_pauses.remove(&(collection, ticket));
            }
            Change::Channel(row) => {
                let name = self.intern(&row.name);
                self.channels.insert(name, Arc::new(row));
            }
            Change::ForgetChannel(name) => {
                self.channels.remove(name.as_str());
            }
            Change::Coverage {
                channel,
                stream,
                stored,
            } => {
                let channel = self.intern(&channel);
                self.coverage
                    .entry(channel)
                    .or_default()
                    .insert(stream, stored);
            }
            Change::ForgetCoverage { channel, stream } => {
                if let Some(streams) = self.coverage.get_mut(channel.as_str()) {
                    streams.remove(&stream);
                    if streams.is_empty() {
                        self.coverage.remove(channel.as_str());
                    }
                }
            }
            Change::Node(row) => {
                self.sessions
                    .insert((row.address.clone(), row.session.clone()), row.id);
                self.nodes.insert(row.id, Arc::new(row));
            }
            Change::ForgetNode(id) => {
                if let Some(row) = self.nodes.remove(&id) {
                    self.sessions
                        .remove(&(row.address.clone(), row.session.clone()));
                }
            }
            Change::Annotation(row) => {
                self.forget_annotation(&row.key);
                self.annotation_bytes += row.key.len() + row.value.len();
                self.annotations.insert(row.key.clone(), Arc::new(row));
            }
            Change::ForgetAnnotation(name) => self.forget_annotation(&name),
            Change::Token(token, row) => {
                self.token_expiry.insert((row.expires_at, token.clone()));
                self.tokens.insert(token, row);
            }
            Change::ForgetToken(token) => {
                if let Some(row) = self.tokens.remove(&token) {
                    self.token_expiry.remove(&(row.expires_at, token));
                }
            }
        }
    }

    fn forget_annotation(&mut self, name: &str) {
        if let Some(old) = self.annotations.remove(name) {
            self.annotation_bytes -= old.key.len() + old.value.len();
        }
    }

    fn put_collection(&mut self, row: pb::CollectionRow) {
        let id = CollectionId(row.id);
        if row.dropped_at == 0 {
            self.names.insert(row.name.clone(), id);
        } else if self.names.get(&row.name) == Some(&id) {
            self.names.remove(&row.name);
        }
        self.collections.insert(id, Arc::new(row));
    }

    fn forget_collection(&mut self, id: CollectionId) {
        if let Some(row) = self.collections.remove(&id)
            && self.names.get(&row.name) == Some(&id)
        {
            self.names.remove(&row.name);
        }
    }

    /// The shared copy of a channel's name.
    pub(crate) fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(shared) = self.interned.0.get(name) {
            return shared.clone();
        }
        let shared: Arc<str> = Arc::from(name);
        self.interned.0.insert(shared.clone());
        shared
    }

    /// The shared copy of a channel's name where there is one, else a new one.
    pub(crate) fn shared_name(&self, name: &str) -> Arc<str> {
        self.interned
            .0
            .get(name)
            .cloned()
            .unwrap_or_else(|| Arc::from(name))
    }
}
