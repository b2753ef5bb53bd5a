//! The table of keys: name, default, unit, meaning, and where a value goes.

use quorate_binlog::open::Secret;

use super::Config;
use super::parse::{
    H, MS, S, address, bytes, duration, flag, host_port, number, permille, permille_from,
    segment_size,
};

/// One setting.
pub struct Key {
    /// Full name, as in the file.
    pub name: &'static str,
    /// Default, as shown to people.
    pub default: &'static str,
    /// What it does, for `docs/config.md`.
    pub meaning: &'static str,
    /// Puts a value into the configuration, or says what is wrong with it.
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
}

fn yes_no(text: &str) -> Result<bool, String> {
    match text.trim() {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("`{other}` is neither true nor false")),
    }
}

/// A file; empty means none, so that a variable can take a setting of the file back.
fn file(text: &str) -> Option<std::path::PathBuf> {
    Some(text.trim())
        .filter(|path| !path.is_empty())
        .map(Into::into)
}

macro_rules! key {
    ($name:literal, $default:literal, $meaning:literal, |$config:ident, $text:ident| $set:expr) => {
        Key {
            name: $name,
            default: $default,
            meaning: $meaning,
            set: |$config, $text| {
                $set;
                Ok(())
            },
        }
    };
}

/// Every key, in the order of the documentation.
pub static KEYS: &[Key] = &[
    key!(
        "quorate.dataDir",
        "(none)",
        "folder of log, state and snapshots",
        |c, t| c.data_dir = t.into()
    ),
    key!(
        "quorate.listen.client",
        "0.0.0.0:13333",
        "where clients connect, gRPC and HTTP together",
        |c, t| c.listen_client = address(t)?
    ),
    key!(
        "quorate.listen.peer",
        "0.0.0.0:13334",
        "where other replicas connect",
        |c, t| c.listen_peer = address(t)?
    ),
    key!(
        "quorate.listen.health",
        "0.0.0.0:9091",
        "health and metrics",
        |c, t| c.listen_health = address(t)?
    ),
    key!(
        "quorate.advertise.client",
        "(listen.client)",
        "address clients are told, host:port",
        |c, t| c.advertise_client = host_port(t)?
    ),
    key!(
        "quorate.advertise.peer",
        "(listen.peer)",
        "address other replicas are told, host:port",
        |c, t| c.advertise_peer = host_port(t)?
    ),
    key!(
        "quorate.peer.tls.cert",
        "(none)",
        "this replica's certificate, which other replicas check (PEM)",
        |c, t| c.peer_tls.cert = file(t)
    ),
    key!(
        "quorate.peer.tls.key",
        "(none)",
        "its private key (PEM)",
        |c, t| c.peer_tls.key = file(t)
    ),
    key!(
        "quorate.peer.tls.ca",
        "(none)",
        "authority that signs the certificates of replicas (PEM)",
        |c, t| c.peer_tls.ca = file(t)
    ),
    key!(
        "quorate.peer.insecure",
        "false",
        "true: replicas talk to each other without TLS",
        |c, t| c.peer_insecure = yes_no(t)?
    ),
    key!(
        "quorate.client.tls.cert",
        "(none)",
        "certificate of the clients' port; without it that port has no TLS (PEM)",
        |c, t| c.client_tls.cert = file(t)
    ),
    key!(
        "quorate.client.tls.key",
        "(none)",
        "its private key (PEM)",
        |c, t| c.client_tls.key = file(t)
    ),
    key!(
        "quorate.client.tls.ca",
        "(none)",
        "authority of clients' certificates; with it, clients must show one (PEM)",
        |c, t| c.client_tls.ca = file(t)
    ),
    key!(
        "quorate.raft.heartbeat",
        "50ms",
        "interval of the leader's heartbeats",
        |c, t| c.raft.heartbeat = duration(t, MS)?
    ),
    key!(
        "quorate.raft.electionMin",
        "200ms",
        "shortest election timeout",
        |c, t| c.raft.election_min = duration(t, MS)?
    ),
    key!(
        "quorate.raft.electionMax",
        "400ms",
        "longest election timeout, and length of the leader lease",
        |c, t| c.raft.election_max = duration(t, MS)?
    ),
    key!(
        "quorate.raft.snapshotEntries",
        "100000",
        "log entries between two snapshots",
        |c, t| c.raft.snapshot_entries = number(t)?
    ),
    key!(
        "quorate.raft.keepEntries",
        "20000",
        "log entries kept behind a snapshot",
        |c, t| c.raft.keep_entries = number(t)?
    ),
    key!(
        "quorate.node.lease",
        "5s",
        "time without a heartbeat after which a data node is expired",
        |c, t| c.policy.node_lease = duration(t, S)?
    ),
    key!(
        "quorate.node.heartbeat",
        "1s",
        "how often data nodes renew their lease",
        |c, t| c.policy.node_heartbeat = duration(t, S)?
    ),
    key!(
        "quorate.clock.window",
        "500ms",
        "how far ahead timestamps are reserved on the log",
        |c, t| c.policy.clock_window = duration(t, MS)?
    ),
    key!(
        "quorate.ids.window",
        "10000",
        "ids reserved on the log at a time",
        |c, t| c.policy.id_window = number(t)?
    ),
    key!(
        "quorate.limits.proposals",
        "8192",
        "commands that may wait to be proposed",
        |c, t| c.policy.proposals_max = number(t)?
    ),
    key!(
        "quorate.limits.proposeTimeout",
        "5s",
        "how long a call waits for its command to be applied",
        |c, t| c.policy.propose_timeout = duration(t, S)?
    ),
    key!(
        "quorate.tokens.ttl",
        "600s",
        "how long request tokens are remembered",
        |c, t| c.policy.token_ttl = duration(t, S)?
    ),
    key!(
        "dataCoord.port",
        "13333",
        "port of quorate.listen.client",
        |c, t| c.listen_client.set_port(number(t)?)
    ),
    key!(
        "dataCoord.segment.maxSize",
        "512MB",
        "capacity of a segment; values below 1 MiB are megabytes",
        |c, t| c.policy.segment_size_bytes_max = segment_size(t)?
    ),
    key!(
        "dataCoord.segment.maxRows",
        "1000000",
        "capacity of a segment in rows",
        |c, t| c.policy.segment_rows_max = number::<u32>(t)?.max(1).into()
    ),
    key!(
        "dataCoord.segment.sealProportion",
        "0.9",
        "part of the capacity at which a segment is sealed",
        |c, t| c.policy.seal_permille = permille(t)?
    ),
    key!(
        "dataCoord.segment.sealProportionJitter",
        "0.1",
        "random part taken off the seal point",
        |c, t| c.policy.seal_jitter_permille = permille(t)?
    ),
    key!(
        "dataCoord.segment.assignmentExpiration",
        "2000",
        "life of a grant, ms",
        |c, t| c.policy.assignment_expiration = duration(t, MS)?
    ),
    key!(
        "dataCoord.segment.maxLife",
        "86400",
        "age at which a segment is sealed whatever its size, s",
        |c, t| c.policy.segment_life_max = duration(t, S)?
    ),
    key!(
        "dataCoord.segment.maxBinlogFileNumber",
        "32",
        "insert files of one field at which a segment is sealed",
        |c, t| c.policy.segment_binlog_files_max = number(t)?
    ),
    key!(
        "dataCoord.flush.maxIdleDuration",
        "600",
        "age at which a segment of some size is sealed, s",
        |c, t| c.policy.flush_idle_max = duration(t, S)?
    ),
    key!(
        "dataCoord.flush.minSizeToFlush",
        "1048576",
        "that size, bytes",
        |c, t| c.policy.flush_size_bytes_min = bytes(t)?
    ),
    key!(
        "dataCoord.segmentFlushInterval",
        "2",
        "least time between two flush dispatches of a segment, s",
        |c, t| c.policy.flush_interval = duration(t, S)?
    ),
    key!(
        "dataCoord.channel.checkInterval",
        "1",
        "period at which channel states are advanced, s",
        |c, t| c.policy.channel_check_interval = duration(t, S)?
    ),
    key!(
        "dataCoord.channel.watchTimeoutInterval",
        "120",
        "time a watch or release may go without progress, s",
        |c, t| c.policy.channel_watch_timeout = duration(t, S)?
    ),
    key!(
        "dataCoord.channel.notifyChannelOperationTimeout",
        "5",
        "deadline of one channel operation call, s",
        |c, t| c.policy.channel_notify_timeout = duration(t, S)?
    ),
    key!(
        "dataCoord.enableCompaction",
        "true",
        "whether there is compaction, manual included",
        |c, t| c.policy.compaction.enabled = flag(t)?
    ),
    key!(
        "dataCoord.compaction.enableAutoCompaction",
        "true",
        "whether compactions are planned without being asked for",
        |c, t| c.policy.compaction.auto = flag(t)?
    ),
    key!(
        "dataCoord.compaction.triggerInterval",
        "600",
        "period of the scan for compaction candidates, s",
        |c, t| c.policy.compaction.scan_interval = duration(t, S)?
    ),
    key!(
        "dataCoord.compaction.global.interval",
        "600",
        "older name of dataCoord.compaction.triggerInterval",
        |c, t| c.policy.compaction.scan_interval = duration(t, S)?
    ),
    key!(
        "dataCoord.compaction.levelzero.triggerInterval",
        "10",
        "period at which channels with level-zero segments are looked at, s",
        |c, t| c.policy.compaction.level0_interval = duration(t, S)?
    ),
    key!(
        "dataCoord.compaction.check.interval",
        "1",
        "period at which running compactions and index builds are asked about, s",
        |c, t| c.policy.compaction.check_interval = duration(t, S)?
    ),
    key!(
        "dataCoord.compaction.rpcTimeout",
        "10",
        "deadline of calls to data nodes about compactions and index builds, s",
        |c, t| c.policy.compaction.rpc_timeout = duration(t, S)?
    ),
    key!(
        "dataCoord.compaction.workerMaxParallelTaskNum",
        "2",
        "compactions running at once on one data node",
        |c, t| c.policy.compaction.tasks_per_node = number::<u32>(t)?.max(1)
    ),
    key!(
        "dataCoord.compaction.taskQueueCapacity",
        "100000",
        "compactions waiting or running above which none is planned without being asked for",
        |c, t| c.policy.compaction.tasks_max = number(t)?
    ),
    key!(
        "dataCoord.compaction.timeout",
        "900",
        "time a compaction may run, s",
        |c, t| c.policy.compaction.timeout = duration(t, S)?
    ),
    key!(
        "dataCoord.compaction.dropTolerance",
        "3600",
        "how long ended compactions are remembered, s",
        |c, t| c.policy.compaction.keep_ended = duration(t, S)?
    ),
    key!(
        "dataCoord.compaction.minSegmentToMerge",
        "4",
        "least segments merged at a time",
        |c, t| c.policy.compaction.merge_inputs.0 = number::<usize>(t)?.max(2)
    ),
    key!(
        "dataCoord.compaction.maxSegmentToMerge",
        "30",
        "most segments merged at a time",
        |c, t| c.policy.compaction.merge_inputs.1 = number::<usize>(t)?.max(2)
    ),
    key!(
        "dataCoord.compaction.single.ratio.threshold",
        "0.2",
        "deleted part of a segment's rows that makes it worth a rewrite",
        |c, t| c.policy.compaction.delete_ratio_permille = permille(t)? as u32
    ),
    key!(
        "dataCoord.compaction.single.deltalog.maxsize",
        "16777216",
        "bytes of delete logs that make a segment worth a rewrite",
        |c, t| c.policy.compaction.delta_bytes_max = bytes(t)?
    ),
    key!(
        "dataCoord.compaction.single.deltalog.maxnum",
        "200",
        "delete logs that make a segment worth a rewrite",
        |c, t| c.policy.compaction.delta_files_max = number(t)?
    ),
    key!(
        "dataCoord.compaction.levelzero.forceTrigger.minSize",
        "8388608",
        "bytes of level-zero segments that start a compaction",
        |c, t| c.policy.compaction.level0_bytes.0 = bytes(t)?
    ),
    key!(
        "dataCoord.compaction.levelzero.forceTrigger.maxSize",
        "67108864",
        "most bytes of level-zero segments in one compaction",
        |c, t| c.policy.compaction.level0_bytes.1 = bytes(t)?
    ),
    key!(
        "dataCoord.compaction.levelzero.forceTrigger.deltalogMinNum",
        "10",
        "level-zero delete logs that start a compaction",
        |c, t| c.policy.compaction.level0_files.0 = number::<usize>(t)?.max(1)
    ),
    key!(
        "dataCoord.compaction.levelzero.forceTrigger.deltalogMaxNum",
        "1000",
        "most level-zero delete logs in one compaction",
        |c, t| c.policy.compaction.level0_files.1 = number::<usize>(t)?.max(1)
    ),
    key!(
        "dataCoord.segment.smallProportion",
        "0.5",
        "segments below this part of the capacity are small",
        |c, t| c.policy.compaction.small_permille = permille(t)? as u32
    ),
    key!(
        "dataCoord.segment.compactableProportion",
        "0.85",
        "part of the capacity a merged segment must reach",
        |c, t| c.policy.compaction.full_permille = permille(t)? as u32
    ),
    key!(
        "dataCoord.segment.expansionRate",
        "1.25",
        "how far a merged segment may exceed the capacity",
        |c, t| c.policy.compaction.expansion_permille = permille_from(t)?
    ),
    key!(
        "quorate.node.indexBuilds",
        "2",
        "index builds running at once on one data node",
        |c, t| c.policy.work.builds_per_node = number::<u32>(t)?.max(1)
    ),
    key!(
        "dataCoord.taskRetryBackoffInterval",
        "1",
        "first pause before a failed compaction or index build is tried again, doubling, s",
        |c, t| c.policy.work.retry_min = duration(t, S)?
    ),
    key!(
        "dataCoord.taskRetryBackoffMaxInterval",
        "60",
        "longest such pause, s",
        |c, t| c.policy.work.retry_max = duration(t, S)?
    ),
    key!(
        "dataCoord.enableGarbageCollection",
        "true",
        "whether anything is ever deleted",
        |c, t| c.policy.gc.enabled = flag(t)?
    ),
    key!(
        "dataCoord.gc.interval",
        "1800",
        "period of garbage collection, s",
        |c, t| c.policy.gc.interval = duration(t, S)?
    ),
    key!(
        "dataCoord.gc.scanInterval",
        "168",
        "period of the scan of the object store for objects nobody knows, hours",
        |c, t| c.policy.gc.scan_interval = duration(t, H)?
    ),
    key!(
        "dataCoord.gc.dropTolerance",
        "86400",
        "time what is dropped is kept, s",
        |c, t| c.policy.gc.drop_tolerance = duration(t, S)?
    ),
    key!(
        "dataCoord.gc.missingTolerance",
        "86400",
        "age an object nobody knows must have to be deleted, s",
        |c, t| c.policy.gc.missing_tolerance = duration(t, S)?
    ),
    key!(
        "dataCoord.gc.removeConcurrent",
        "32",
        "objects deleted at once",
        |c, t| c.policy.gc.concurrency = number::<usize>(t)?.clamp(1, 1024)
    ),
    key!(
        "quorate.gc.condemnGrace",
        "60s",
        "time readers have to finish with a segment that has left all views",
        |c, t| c.policy.gc.condemn_grace = duration(t, S)?
    ),
    key!(
        "quorate.gc.deletesPerSecond",
        "500",
        "objects deleted a second",
        |c, t| c.policy.gc.deletes_per_second = number::<u32>(t)?.max(1)
    ),
    key!(
        "quorate.objectStore.url",
        "(none)",
        "the data nodes' object store: a path, file:///path or s3://bucket/prefix; without it nothing is collected",
        |c, t| c.object_store.url = t.trim().into()
    ),
    key!(
        "quorate.objectStore.endpoint",
        "(QUORATE_S3_ENDPOINT)",
        "address of an S3 server that is not Amazon's",
        |c, t| c.object_store.endpoint = t.trim().into()
    ),
    key!(
        "quorate.objectStore.region",
        "(QUORATE_S3_REGION)",
        "region of the bucket",
        |c, t| c.object_store.region = t.trim().into()
    ),
    key!(
        "quorate.objectStore.accessKey",
        "(QUORATE_S3_ACCESS_KEY)",
        "access key id",
        |c, t| c.object_store.access_key = t.trim().into()
    ),
    key!(
        "quorate.objectStore.secretKey",
        "(QUORATE_S3_SECRET_KEY)",
        "secret access key; better given as a variable than in a file",
        |c, t| c.object_store.secret_key = Secret::new(t.trim())
    ),
    key!(
        "quorate.objectStore.allowHttp",
        "false",
        "whether requests to the object store may go unencrypted",
        |c, t| c.object_store.allow_http = flag(t)?
    ),
    key!(
        "quorate.objectStore.timeout",
        "20s",
        "deadline of one request to the object store",
        |c, t| c.object_store.timeout = duration(t, S)?
    ),
];

/// Keys of Milvus that this release knows but does not use: accepted with a warning.
pub(super) static MILVUS_KEYS: &str = include_str!("milvus_keys.txt");
