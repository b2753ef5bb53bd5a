//! Which sealed segments may be flushed at a channel's time tick (`semantics.md` §4.2).

use crate::model::{Level, Segment, SegmentState};
use crate::time::Ts;

/// Why a segment is not flushed at this tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotYet {
    /// It is not Sealed, or holds deletes only.
    NotSealed,
    /// A writer may still hold a grant on it: its reservations end after the tick.
    GrantsLive,
    /// It has no rows; a checkpoint will drop it.
    Empty,
}

/// Whether a segment may be flushed at channel time `tick`. `rows` counts saved and reported ones.
///
/// `LastExpireTime ≤ tick` is the safety condition: all writers' reservations are over, and their
/// data lies before the tick.
///
/// # Errors
/// Not an error: why it is not flushed at this tick.
pub fn flushable(segment: &Segment, rows: i64, tick: Ts) -> Result<(), NotYet> {
    if segment.state != SegmentState::Sealed || segment.level == Level::L0 {
        Err(NotYet::NotSealed)
    } else if segment.last_expire > tick {
        Err(NotYet::GrantsLive)
    } else if rows == 0 {
        Err(NotYet::Empty)
    } else {
        Ok(())
    }
}
