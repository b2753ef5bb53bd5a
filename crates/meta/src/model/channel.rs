//! The life of a channel: who owns it and how ownership moves (`semantics.md` §5).

use crate::pb::{ChannelRow, ChannelState};

/// Whether `node` owns the channel: it was assigned to it and has not given it back.
///
/// `epoch` is the assignment the writer speaks under; 0 = the writer does not know assignments
/// (an unmodified Milvus data node), then the node id alone decides.
pub fn owned_by(channel: &ChannelRow, node: i64, epoch: i64) -> bool {
    channel.node_id != 0
        && channel.node_id == node
        && (epoch == 0 || epoch == channel.assignment_epoch)
        && channel.state() != ChannelState::Standby
}

/// The state after the operation under way succeeded or failed; `None` = it does not move.
pub fn step(state: ChannelState, success: bool) -> Option<ChannelState> {
    use ChannelState::*;
    match (state, success) {
        (ToWatch, true) => Some(Watching),
        (Watching, true) => Some(Watched),
        (ToRelease, true) => Some(Releasing),
        (Releasing, _) | (Watching, false) => Some(Standby),
        _ => None,
    }
}

/// The name users see.
pub fn state_name(state: ChannelState) -> &'static str {
    match state {
        ChannelState::Standby => "Standby",
        ChannelState::ToWatch => "ToWatch",
        ChannelState::Watching => "Watching",
        ChannelState::Watched => "Watched",
        ChannelState::ToRelease => "ToRelease",
        ChannelState::Releasing => "Releasing",
    }
}
