//! Why a data node does not start.

use std::net::SocketAddr;

/// Why a data node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting makes no sense.
    #[error("invalid data node settings: {0}")]
    Config(String),
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// Address from the settings.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A coordinator's address is wrong.
    #[error(transparent)]
    Coordinator(#[from] quorate_rpc::ConnectError),
    /// The object store cannot be opened.
    #[error(transparent)]
    ObjectStore(#[from] quorate_binlog::BinlogError),
}
