//! Which rows of a file go to which channel, and with which ordinal.
//!
//! Invariants: every row of the file has exactly one (channel, ordinal); the ordinals of a channel
//! are dense from 0 and follow the order of the file. The plan takes one byte a row and an index
//! entry per channel every [`STRIDE`] rows.

use std::ops::Range;

/// Rows between two entries of the index.
const STRIDE: usize = 4096;
/// Most channels a plan can tell apart.
pub(crate) const CHANNELS_MAX: usize = 256;

/// A finished plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Channel of each row.
    channel_of: Vec<u8>,
    /// For each channel: how many of its rows lie before row `STRIDE * n`.
    before: Vec<Vec<u64>>,
    /// Rows of each channel.
    totals: Vec<u64>,
}

impl Plan {
    /// A plan without rows yet.
    ///
    /// # Panics
    /// When there are no channels or more than [`CHANNELS_MAX`].
    pub(crate) fn new(channels: usize) -> Plan {
        assert!(
            (1..=CHANNELS_MAX).contains(&channels),
            "the number of channels is checked by the caller"
        );
        Plan {
            channel_of: Vec::new(),
            before: vec![Vec::new(); channels],
            totals: vec![0; channels],
        }
    }

    /// Adds the next row of the file; answers its ordinal.
    ///
    /// # Panics
    /// When there is no such channel.
    pub(crate) fn push(&mut self, channel: usize) -> u64 {
        if self.channel_of.len().is_multiple_of(STRIDE) {
            for (before, total) in self.before.iter_mut().zip(&self.totals) {
                before.push(*total);
            }
        }
        let ordinal = self.totals[channel];
        self.totals[channel] += 1;
        self.channel_of.push(channel as u8);
        ordinal
    }

    /// Number of channels.
    pub(crate) fn channels(&self) -> usize {
        self.totals.len()
    }

    /// Rows of all channels.
    pub(crate) fn rows(&self) -> u64 {
        self.channel_of.len() as u64
    }

    /// Rows of one channel.
    pub(crate) fn rows_of(&self, channel: usize) -> u64 {
        self.totals[channel]
    }

    /// Appends the rows of the file that have these ordinals on the channel, in order. Ordinals
    /// beyond the last one are left out.
    pub(crate) fn locate(&self, channel: usize, ordinals: Range<u64>, out: &mut Vec<u64>) {
        if ordinals.is_empty() || ordinals.start >= self.totals[channel] {
            return;
        }
        let before = &self.before[channel];
        // The last entry with at most `start` rows before it: the first row wanted follows it.
        let entry = before.partition_point(|count| *count <= ordinals.start) - 1;
        let mut ordinal = before[entry];
        let first = entry * STRIDE;
        for (at, owner) in self.channel_of[first..].iter().enumerate() {
            if ordinal >= ordinals.end {
                break;
            }
            if usize::from(*owner) == channel {
                if ordinal >= ordinals.start {
                    out.push((first + at) as u64);
                }
                ordinal += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
