//! A replica as a process: its folder, its sockets, its Raft node, its coordinator.

mod bootstrap;
mod host;
mod http;
mod links;
mod listen;
mod peer;
mod replica;
pub use replica::raft_settings;
mod security;
mod stamp;
mod standing;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use host::Host;
pub use listen::Listening;

use crate::config::Config;

/// How long stopping may take in all.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a replica does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The folder is in use, of another cluster, or of a newer release.
    #[error(transparent)]
    DataDir(#[from] quorate_raft_store::DataDirError),
    /// Log or state can't be opened.
    #[error(transparent)]
    Open(#[from] quorate_raft_store::OpenError),
    /// A port can't be had.
    #[error("cannot listen on {address} ({purpose}): {source}; is another process using the port?")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What it is for.
        purpose: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// TLS is missing, or its files can't be used.
    #[error("{0}")]
    Security(String),
    /// The cluster has removed this member.
    #[error("{0}")]
    Removed(String),
    /// The object store's settings can't be used.
    #[error(transparent)]
    ObjectStore(#[from] quorate_binlog::BinlogError),
    /// Raft refused its settings.
    #[error("raft settings: {0}")]
    Raft(String),
    /// The replica stopped by itself.
    #[error("this replica has stopped: {0}; see the log for what failed")]
    Stopped(String),
}

/// Runs a replica until `stop`, or until it fails. `ready` is told the bound addresses.
///
/// # Errors
/// What kept the replica from running, or stopped it.
pub async fn run(
    config: Config,
    stop: CancellationToken,
    ready: impl FnOnce(&Listening),
) -> Result<(), ServerError> {
    let listening = Listening::bind(&config).await?;
    let host = Host::open(config)?;
    host.take_up().await?;
    ready(&listening);
    let closed = CancellationToken::new();
    let sockets = tokio::spawn(listening.serve(host.clone(), closed.clone()));
    let outcome = tokio::select! {
        () = stop.cancelled() => Ok(()),
        reason = host.failed() => Err(ServerError::Stopped(reason)),
        reason = standing::removed(&host) => Err(ServerError::Removed(reason)),
    };
    // Leadership goes first, while the sockets still answer: clients are led to the successor.
    host.stop().await;
    closed.cancel();
    if tokio::time::timeout(STOP_TIMEOUT, sockets).await.is_err() {
        tracing::info!("some connections were still open at the end");
    }
    outcome
}
