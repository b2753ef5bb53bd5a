//! Settings of a data node.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use quorate_rpc::ClientTls;

use crate::error::Error;

/// Settings of a data node.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// `host:port` under which coordinator and writers reach this node; empty: the address it
    /// listens on.
    pub advertise: String,
    /// Addresses of the coordinator's replicas, `host:port`; one that works is enough.
    pub coordinators: Vec<String>,
    /// TLS towards the coordinator's replicas; none: without.
    pub coordinator_tls: Option<ClientTls>,
    /// Object store for log files: a path or `file:///path`.
    pub object_store: String,
    /// Rows held in memory at most; beyond it writers are told to wait.
    pub buffer_max_bytes: u64,
    /// A segment is synced when it has buffered so much.
    pub segment_sync_bytes: u64,
    /// A segment is synced when its oldest buffered row is so old.
    pub sync_interval: Duration,
    /// Time between two time ticks; a writer has one to two of them for a timestamp it took.
    pub tick_interval: Duration,
    /// Segments synced at a time.
    pub syncs_at_once: usize,
    /// Compactions carried out at a time.
    pub compactions_at_once: usize,
    /// Compactions that may wait for their turn; beyond it new ones are refused.
    pub compactions_queued: usize,
    /// Indexes built at a time; each holds its segment's vectors in memory about three times.
    pub index_jobs_at_once: usize,
    /// Index builds that may wait for their turn; beyond it new ones are refused.
    pub index_jobs_queued: usize,
    /// How long a release may sync before the rest is left to be sent again.
    pub release_timeout: Duration,
    /// How long stopping may sync before the rest is left to be sent again.
    pub stop_timeout: Duration,
    /// Deadline of one operation on the object store.
    pub object_store_timeout: Duration,
    /// Deadline of one call to the coordinator.
    pub coordinator_timeout: Duration,
    /// Largest request taken in.
    pub message_max_bytes: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            advertise: String::new(),
            coordinators: vec!["127.0.0.1:13333".to_owned()],
            coordinator_tls: None,
            object_store: "data/objects".to_owned(),
            buffer_max_bytes: 256 << 20,
            segment_sync_bytes: 16 << 20,
            sync_interval: Duration::from_secs(10),
            tick_interval: Duration::from_millis(200),
            syncs_at_once: 4,
            compactions_at_once: 2,
            compactions_queued: 8,
            index_jobs_at_once: 1,
            index_jobs_queued: 64,
            release_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(10),
            object_store_timeout: Duration::from_secs(30),
            coordinator_timeout: Duration::from_secs(5),
            message_max_bytes: 64 << 20,
        }
    }
}

impl Config {
    /// Checks what the types cannot say.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |reason: &str| Err(Error::Config(reason.to_owned()));
        if self.buffer_max_bytes == 0 || self.segment_sync_bytes == 0 {
            return wrong("buffer_max_bytes and segment_sync_bytes must be above 0");
        }
        if self.tick_interval.is_zero() || self.sync_interval.is_zero() {
            return wrong("tick_interval and sync_interval must be above 0");
        }
        if self.syncs_at_once == 0 {
            return wrong("syncs_at_once must be above 0");
        }
        if self.compactions_at_once == 0 {
            return wrong("compactions_at_once must be above 0");
        }
        if self.index_jobs_at_once == 0 {
            return wrong("index_jobs_at_once must be above 0");
        }
        if self.advertise.is_empty() && self.listen.ip().is_unspecified() {
            return wrong(
                "listening on all addresses needs advertise: the host:port others reach this node at",
            );
        }
        Ok(())
    }
}
