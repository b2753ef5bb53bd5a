//! Grants: rows of a segment promised to writers until an expiry. Volatile, by channel.
//!
//! A grant is not on the log. An old leader can have granted only below its clock's bound, so every
//! expiry it ever issued is at most bound + expiration: that is the *floor* of a new leader, and a
//! Growing segment it inherited takes no grants until its channel's time tick has passed the floor.
//! By then all old grants are over and their rows have been reported.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_meta::plan::allocate::Candidate;
use quorate_meta::state::State;
use quorate_meta::{CollectionId, PartitionId, SegmentId, Ts, model::SegmentState};

/// What the leader remembers of a channel.
#[derive(Debug, Default)]
pub struct ChannelGrants {
    /// Latest time tick.
    pub tick: Ts,
    segments: BTreeMap<SegmentId, SegmentGrants>,
}

#[derive(Debug, Default)]
struct SegmentGrants {
    /// Opened by this leader: no earlier one can have granted rows of it.
    own: bool,
    /// Being sealed: takes no grants.
    sealing: bool,
    live: Vec<(Ts, i64)>,
    last_expire: Ts,
    /// Rows the data node holds and has saved, as it reported; only grows.
    reported_rows: i64,
}

impl ChannelGrants {
    /// Notes a grant.
    pub fn grant(&mut self, segment: SegmentId, rows: i64, expire: Ts) {
        let entry = self.segments.entry(segment).or_default();
        entry.live.push((expire, rows));
        entry.last_expire = entry.last_expire.max(expire);
    }

    /// Notes a segment this leader opened.
    pub fn opened(&mut self, segment: SegmentId) {
        self.segments.entry(segment).or_default().own = true;
    }

    /// A time tick of the data node: reservations that ended are over, reported rows only grow.
    pub fn tick(&mut self, ts: Ts, rows: impl IntoIterator<Item = (SegmentId, i64)>) {
        self.tick = self.tick.max(ts);
        for (segment, rows) in rows {
            let entry = self.segments.entry(segment).or_default();
            entry.reported_rows = entry.reported_rows.max(rows);
        }
        for entry in self.segments.values_mut() {
            entry.live.retain(|(expire, _)| *expire > ts);
        }
    }

    /// Rows of a segment: saved ones and reported ones.
    pub fn rows(&self, segment: SegmentId, saved: i64) -> i64 {
        let reported = self.segments.get(&segment).map_or(0, |s| s.reported_rows);
        reported.max(saved)
    }

    /// Latest expiry of a grant of a segment that any leader can have issued.
    pub fn last_expire(&self, segment: SegmentId, floor: Ts) -> Ts {
        match self.segments.get(&segment) {
            Some(entry) if entry.own => entry.last_expire,
            Some(entry) => entry.last_expire.max(floor),
            None => floor,
        }
    }

    /// Marks segments as being sealed, or not any more because the proposal failed.
    pub fn set_sealing(&mut self, segments: impl IntoIterator<Item = SegmentId>, sealing: bool) {
        for segment in segments {
            self.segments.entry(segment).or_default().sealing = sealing;
        }
    }

    /// Forgets segments that take no rows any more.
    pub fn retain_growing(&mut self, state: &State) {
        self.segments.retain(|id, _| {
            state.segment(*id).is_some_and(|segment| {
                matches!(segment.state, SegmentState::Growing | SegmentState::Sealed)
            })
        });
    }

    /// Open segments of a group that may take rows.
    pub fn candidates(
        &self,
        state: &State,
        channel: &str,
        collection: CollectionId,
        partition: PartitionId,
        floor: Ts,
    ) -> Vec<Candidate> {
        state
            .unflushed_on(channel)
            .filter(|segment| {
                segment.collection == collection
                    && segment.partition == partition
                    && state.effective_state(segment) == SegmentState::Growing
            })
            .filter_map(|segment| {
                let entry = self.segments.get(&segment.id);
                let own = entry.is_some_and(|entry| entry.own);
                let sealing = entry.is_some_and(|entry| entry.sealing);
                if sealing || (!own && self.tick < floor) {
                    return None;
                }
                let live: i64 = entry.map_or(0, |e| e.live.iter().map(|(_, rows)| rows).sum());
                Some(Candidate {
                    segment: segment.id,
                    max_rows: segment.max_rows,
                    used_rows: self.rows(segment.id, segment.rows) + live,
                })
            })
            .collect()
    }
}

/// Grants of all channels. A channel is allocated from by one call at a time.
#[derive(Default)]
pub struct Grants {
    channels: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<ChannelGrants>>>>,
}

impl Grants {
    /// The grants of a channel.
    pub fn channel(&self, name: &str) -> Arc<tokio::sync::Mutex<ChannelGrants>> {
        let mut channels = self.channels.lock();
        match channels.get(name) {
            Some(grants) => grants.clone(),
            None => channels.entry(name.to_owned()).or_default().clone(),
        }
    }

    /// Forgets channels that are gone.
    pub fn retain_known(&self, state: &State) {
        self.channels.lock().retain(|name, grants| {
            // Somebody who holds it may be about to open the first segment of a channel nobody
            // announced; what is granted then must not be forgotten.
            Arc::strong_count(grants) > 1
                || state.channel(name).is_some()
                || state.unflushed_on(name).next().is_some()
        });
    }
}
