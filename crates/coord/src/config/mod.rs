//! Settings: defaults, then the YAML file, then `QUORATE_*` variables, then `--set key=value`.
//!
//! `dataCoord.*` keys are Milvus's own, so that a `milvus.yaml` can be pointed at; ours stand under
//! `quorate.*`. An unknown key under either is an error that names the nearest known one.

mod gc;
mod keys;
mod parse;
mod source;
mod work;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use quorate_binlog::ObjectStoreConfig;
use quorate_rpc::TlsFiles;

pub use gc::GcConfig;
pub use keys::{KEYS, Key};
pub use source::{ConfigError, Loaded, load};
pub use work::{CompactionConfig, WorkConfig};

/// The settings of one replica, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Folder of log, state and snapshots.
    pub data_dir: PathBuf,
    /// Where clients connect: gRPC and HTTP together.
    pub listen_client: SocketAddr,
    /// Where other replicas connect.
    pub listen_peer: SocketAddr,
    /// Health and metrics.
    pub listen_health: SocketAddr,
    /// Address clients are told, `host:port`; empty = the listening one.
    pub advertise_client: String,
    /// Address other replicas are told, `host:port`; empty = the listening one.
    pub advertise_peer: String,
    /// What this replica shows other replicas, and which of them it believes.
    pub peer_tls: TlsFiles,
    /// Replicas talk to each other without TLS.
    pub peer_insecure: bool,
    /// TLS on the clients' port; empty: none. With an authority, clients must show a certificate.
    pub client_tls: TlsFiles,
    /// Raft timing and log limits.
    pub raft: RaftConfig,
    /// Segments, flush and channels.
    pub policy: Policy,
    /// Where the data nodes' files are, for garbage collection.
    pub object_store: ObjectStoreConfig,
}

/// Raft timing and log limits.
#[derive(Clone, Debug, PartialEq)]
pub struct RaftConfig {
    /// Leader's heartbeat interval.
    pub heartbeat: Duration,
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout; also the length of the leader lease.
    pub election_max: Duration,
    /// Entries between two snapshots.
    pub snapshot_entries: u64,
    /// Entries kept in the log behind a snapshot.
    pub keep_entries: u64,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(200),
            election_max: Duration::from_millis(400),
            snapshot_entries: 100_000,
            keep_entries: 20_000,
        }
    }
}

/// What the leader decides by.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Capacity of a segment in bytes (`segment.maxSize`).
    pub segment_size_bytes_max: u64,
    /// Capacity of a segment in rows (`segment.maxRows`).
    pub segment_rows_max: i64,
    /// Part of the capacity at which a segment is sealed, per mille (`segment.sealProportion`).
    pub seal_permille: i64,
    /// Random part taken off the seal point, per mille (`segment.sealProportionJitter`).
    pub seal_jitter_permille: i64,
    /// Life of a grant (`segment.assignmentExpiration`).
    pub assignment_expiration: Duration,
    /// Age at which a segment is sealed whatever its size (`segment.maxLife`).
    pub segment_life_max: Duration,
    /// Insert files of one field at which a segment is sealed (`segment.maxBinlogFileNumber`).
    pub segment_binlog_files_max: u32,
    /// Age at which a segment of some size is sealed (`flush.maxIdleDuration`).
    pub flush_idle_max: Duration,
    /// That size (`flush.minSizeToFlush`).
    pub flush_size_bytes_min: u64,
    /// Least time between two flush dispatches of a segment (`segmentFlushInterval`).
    pub flush_interval: Duration,
    /// Period at which channel states are advanced (`channel.checkInterval`).
    pub channel_check_interval: Duration,
    /// Time a watch or release may go without progress (`channel.watchTimeoutInterval`).
    pub channel_watch_timeout: Duration,
    /// Deadline of one channel operation call (`channel.notifyChannelOperationTimeout`).
    pub channel_notify_timeout: Duration,
    /// Lease of a data node.
    pub node_lease: Duration,
    /// How often data nodes renew it.
    pub node_heartbeat: Duration,
    /// How far ahead timestamps are reserved on the log.
    pub clock_window: Duration,
    /// Ids reserved on the log at a time.
    pub id_window: u64,
    /// Commands that may wait to be proposed; more are refused.
    pub proposals_max: usize,
    /// How long a call waits for its command to be applied.
    pub propose_timeout: Duration,
    /// How long request tokens are remembered.
    pub token_ttl: Duration,
    /// Compactions.
    pub compaction: CompactionConfig,
    /// Index builds, and pauses after failures.
    pub work: WorkConfig,
    /// Garbage collection.
    pub gc: GcConfig,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            segment_size_bytes_max: 512 << 20,
            segment_rows_max: 1_000_000,
            seal_permille: 900,
            seal_jitter_permille: 100,
            assignment_expiration: Duration::from_millis(2000),
            segment_life_max: Duration::from_secs(86_400),
            segment_binlog_files_max: 32,
            flush_idle_max: Duration::from_secs(600),
            flush_size_bytes_min: 1 << 20,
            flush_interval: Duration::from_secs(2),
            channel_check_interval: Duration::from_secs(1),
            channel_watch_timeout: Duration::from_secs(120),
            channel_notify_timeout: Duration::from_secs(5),
            node_lease: Duration::from_secs(5),
            node_heartbeat: Duration::from_secs(1),
            clock_window: Duration::from_millis(500),
            id_window: 10_000,
            proposals_max: 8192,
            propose_timeout: Duration::from_secs(5),
            token_ttl: Duration::from_secs(600),
            compaction: CompactionConfig::default(),
            work: WorkConfig::default(),
            gc: GcConfig::default(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let at = |port| SocketAddr::from(([0, 0, 0, 0], port));
        Self {
            data_dir: PathBuf::new(),
            listen_client: at(13333),
            listen_peer: at(13334),
            listen_health: at(9091),
            advertise_client: String::new(),
            advertise_peer: String::new(),
            peer_tls: TlsFiles::default(),
            peer_insecure: false,
            client_tls: TlsFiles::default(),
            raft: RaftConfig::default(),
            policy: Policy::default(),
            object_store: ObjectStoreConfig::default(),
        }
    }
}

impl Config {
    /// Checks what single keys cannot: how settings fit together.
    ///
    /// # Errors
    /// What does not fit, and what to do.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let fail = |problem: &str| Err(ConfigError::Inconsistent(problem.to_owned()));
        if self.data_dir.as_os_str().is_empty() {
            return fail("quorate.dataDir is not set; name the folder for log and state");
        }
        let raft = &self.raft;
        if raft.election_min < raft.heartbeat * 2 {
            return fail("quorate.raft.electionMin must be at least twice quorate.raft.heartbeat");
        }
        if raft.election_max <= raft.election_min {
            return fail("quorate.raft.electionMax must be above quorate.raft.electionMin");
        }
        if self.policy.node_lease <= self.policy.node_heartbeat {
            return fail("quorate.node.lease must be longer than quorate.node.heartbeat");
        }
        let compaction = &self.policy.compaction;
        if compaction.merge_inputs.0 > compaction.merge_inputs.1 {
            return fail(
                "dataCoord.compaction.minSegmentToMerge must not be above \
                 dataCoord.compaction.maxSegmentToMerge",
            );
        }
        if self.peer_insecure && !self.peer_tls.is_empty() {
            return fail(
                "quorate.peer.insecure and quorate.peer.tls exclude each other; leave one out",
            );
        }
        for (files, section) in [
            (&self.peer_tls, "quorate.peer.tls"),
            (&self.client_tls, "quorate.client.tls"),
        ] {
            files.pair().map_err(|error| {
                ConfigError::Inconsistent(format!("{section}: {error}; set cert and key"))
            })?;
        }
        if self.client_tls.ca.is_some() && self.client_tls.cert.is_none() {
            return fail("quorate.client.tls.ca needs quorate.client.tls.cert and .key beside it");
        }
        Ok(())
    }

    /// The address clients are told.
    pub fn client_addr(&self) -> String {
        advertised(&self.advertise_client, self.listen_client)
    }

    /// The address other replicas are told.
    pub fn peer_addr(&self) -> String {
        advertised(&self.advertise_peer, self.listen_peer)
    }
}

fn advertised(given: &str, listen: SocketAddr) -> String {
    if !given.is_empty() {
        given.to_owned()
    } else if listen.ip().is_unspecified() {
        // Nothing better is known; right on one machine, wrong in a cluster, so the docs say to
        // set it.
        format!("127.0.0.1:{}", listen.port())
    } else {
        listen.to_string()
    }
}

#[cfg(test)]
mod tests;
