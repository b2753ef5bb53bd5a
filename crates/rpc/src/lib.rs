//! What travels between processes, and how: the generated protocol, one table of status codes, a
//! client that finds the leader, and the layer by which a follower forwards to it.
//!
//! Knows nothing of segments, of the Raft log or of storage; depends on no other crate of ours.

pub mod channel;
pub mod client;
pub mod forward;
pub mod headers;
mod methods;
pub mod peer;
pub mod proto;
pub mod status;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod testing;
pub mod tls;
pub mod unimplemented;

pub use channel::{ChannelOptions, ConnectError, MAX_DECODE_BYTES, MAX_ENCODE_BYTES};
pub use client::{Client, ClientError, ClientOptions, ClientStats, Effect, LeaderChannel, Retry};
pub use forward::{ForwardLayer, Leader, Leadership};
pub use peer::PeerLink;
pub use proto::FILE_DESCRIPTOR_SET;
pub use tls::{ClientTls, ServerTls, TlsFiles};
pub use unimplemented::unimplemented_layer;
