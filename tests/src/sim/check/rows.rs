//! Segments, flushes and checkpoints: what was promised is still there. What became of the rows of
//! a segment that was compacted or dropped is judged by what readers see, in [`super::view`].

use std::collections::{BTreeMap, BTreeSet};

use crate::sim::ledger::Promises;

/// A segment as a linearizable read shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Its channel.
    pub channel: String,
    /// Its state's name.
    pub state: String,
    /// Rows it counts.
    pub rows: i64,
    /// Rows it may hold.
    pub max_rows: i64,
    /// Log ids of the insert logs of its first field.
    pub log_ids: BTreeSet<i64>,
}

impl Segment {
    fn is_flushed(&self) -> bool {
        matches!(self.state.as_str(), "Flushing" | "Flushed" | "Indexed")
    }
}

/// What one read showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Simulated nanoseconds at which it was asked for.
    pub asked_at: u64,
    /// Segments, dropped ones included.
    pub segments: BTreeMap<i64, Segment>,
}

/// Promises a snapshot breaks. Only those made before it was asked for count.
pub fn snapshot(snapshot: &Snapshot, promises: &Promises) -> Vec<String> {
    let mut found = Vec::new();
    for (id, segment) in &snapshot.segments {
        if segment.max_rows > 0 && segment.rows > segment.max_rows {
            found.push(format!(
                "segment {id} holds {} rows, over its capacity of {}",
                segment.rows, segment.max_rows
            ));
        }
    }
    let before = promises.saved.iter().filter(|s| s.at < snapshot.asked_at);
    for saved in before.filter(|saved| saved.has_rows) {
        let id = saved.segment;
        let segment = snapshot.segments.get(&id);
        let Some(segment) = segment.filter(|segment| segment.state != "Dropped") else {
            continue;
        };
        if saved.last && !segment.is_flushed() {
            found.push(format!(
                "segment {id} had its final save acknowledged and is {}",
                segment.state
            ));
        }
        if let Some(log_id) = saved.log_id
            && !segment.log_ids.contains(&log_id)
        {
            found.push(format!("segment {id} lost its acknowledged log {log_id}"));
        }
    }
    found
}

/// What a channel is known to hold in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channel {
    /// Stored ordinals as the coordinator names them.
    pub stored: Vec<(u64, u64)>,
    /// Rows its writer made.
    pub made: u64,
}

/// Rows that are not stored in the end.
pub fn all_stored(channels: &BTreeMap<String, Channel>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, channel) in channels {
        let all: Vec<_> = (channel.made > 0)
            .then_some((0, channel.made))
            .into_iter()
            .collect();
        if channel.stored != all {
            found.push(format!(
                "of {} rows of {name} only {:?} are stored",
                channel.made, channel.stored
            ));
        }
    }
    found
}

/// Checkpoints as they were read: they never go back.
#[derive(Debug, Default)]
pub struct Checkpoints(BTreeMap<String, u64>);

impl Checkpoints {
    /// One more read, after all earlier ones were answered.
    pub fn read(&mut self, channel: &str, ts: u64) -> Option<String> {
        let highest = self.0.entry(channel.to_owned()).or_default();
        let back = ts < *highest;
        let problem = format!("checkpoint of {channel} went back from {highest} to {ts}");
        *highest = (*highest).max(ts);
        back.then_some(problem)
    }
}
