//! A channel as its owner knows it: rows and deletes that are held, and how far it is durable.

use std::collections::{BTreeMap, BTreeSet};

use quorate_meta::ranges::RangeSet;
use tokio_util::sync::CancellationToken;

use super::objects::{Piece, rows};

/// What a channel's owner is doing with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Watching,
    Watched,
    Releasing,
}

/// A segment as its data node knows it.
#[derive(Debug, Default)]
pub(super) struct Segment {
    pub(super) partition: i64,
    pub(super) saved: i64,
    pub(super) pieces: Vec<Piece>,
    pub(super) syncing: Vec<Piece>,
    pub(super) busy: bool,
    pub(super) flush: bool,
}

/// Deletes of a channel: ordinals and timestamps.
#[derive(Debug, Default)]
pub(super) struct Deletes {
    pub(super) held: Vec<(u64, u64)>,
    pub(super) syncing: Vec<(u64, u64)>,
}

/// A channel owned.
pub(super) struct Own {
    pub(super) name: String,
    pub(super) collection: i64,
    pub(super) epoch: i64,
    pub(super) op_id: i64,
    pub(super) phase: Phase,
    pub(super) floor: u64,
    pub(super) known: RangeSet,
    pub(super) segments: BTreeMap<i64, Segment>,
    pub(super) flushed: BTreeSet<i64>,
    pub(super) deletes: Deletes,
    pub(super) flush_ts: u64,
    pub(super) checkpoint: u64,
    /// Cancelled when the ownership ends.
    pub(super) over: CancellationToken,
}

impl Own {
    /// Everything at or below this is durable.
    pub(super) fn durable_ts(&self) -> u64 {
        let rows = self
            .segments
            .values()
            .flat_map(|segment| segment.pieces.iter().chain(&segment.syncing))
            .map(|piece| piece.ts);
        let deletes = self.deletes.held.iter().chain(&self.deletes.syncing);
        let unsaved = rows.chain(deletes.map(|(_, ts)| *ts)).min();
        unsaved.map_or(self.floor, |ts| (ts - 1).min(self.floor))
    }

    /// Rows of each segment, saved and held; `careless`: saved ones only.
    pub(super) fn counts(&self, careless: bool) -> Vec<(i64, i64)> {
        self.segments
            .iter()
            .map(|(id, segment)| {
                let held = rows(&segment.pieces) + rows(&segment.syncing);
                let held = if careless { 0 } else { held };
                (*id, segment.saved + i64::try_from(held).unwrap_or(0))
            })
            .collect()
    }

    fn hurries(&self) -> bool {
        self.flush_ts > self.checkpoint || self.phase == Phase::Releasing
    }

    /// Segments with something to save now, `all` of them or only what was asked for.
    pub(super) fn due(&self, all: bool) -> Vec<i64> {
        let hurry = all || self.hurries();
        self.segments
            .iter()
            .filter(|(_, segment)| {
                !segment.busy && (segment.flush || (hurry && !segment.pieces.is_empty()))
            })
            .map(|(id, _)| *id)
            .collect()
    }

    /// Whether deletes are to be saved now.
    pub(super) fn deletes_due(&self, all: bool) -> bool {
        let idle = self.deletes.syncing.is_empty() && !self.deletes.held.is_empty();
        idle && (all || self.hurries())
    }

    /// Nothing is held any more.
    pub(super) fn is_drained(&self) -> bool {
        let deletes = &self.deletes;
        deletes.held.is_empty()
            && deletes.syncing.is_empty()
            && self
                .segments
                .values()
                .all(|segment| segment.pieces.is_empty() && !segment.busy)
    }
}
