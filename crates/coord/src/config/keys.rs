//! The table of keys: name, default, unit, meaning, and where a value goes.

use std::time::Duration;

use super::Config;

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

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("`{text}` is not a whole number in range"))
}

/// A duration: `500ms`, `10s`, `5m`, `1h`, or a bare number in `unit`.
fn duration(text: &str, bare: Duration) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (value, unit) = text.split_at(digits);
    let unit = match unit.trim() {
        "" => bare,
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        other => return Err(format!("`{other}` is no unit of time; use ms, s, m or h")),
    };
    let value: f64 = value
        .parse()
        .map_err(|_| format!("`{text}` is not a duration such as 500ms or 10s"))?;
    let seconds = value * unit.as_secs_f64();
    if seconds > 0.0 && seconds < 1e9 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("`{text}` is out of range"))
    }
}

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// A size in bytes: `1048576`, `64KB`, `512MB`, `1GB`.
fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (value, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "KB" | "KiB" => 1 << 10,
        "MB" | "MiB" => 1 << 20,
        "GB" | "GiB" => 1 << 30,
        other => return Err(format!("`{other}` is no unit of size; use KB, MB or GB")),
    };
    number::<u64>(value)?
        .checked_mul(unit)
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| format!("`{text}` is out of range"))
}

/// `segment.maxSize`: the seeds give bytes, Milvus megabytes for the same key; values below 1 MiB
/// are megabytes.
fn segment_size(text: &str) -> Result<u64, String> {
    let value = bytes(text)?;
    Ok(if value < 1 << 20 { value << 20 } else { value })
}

fn permille(text: &str) -> Result<i64, String> {
    let value: f64 = text
        .trim()
        .parse()
        .map_err(|_| format!("`{text}` is not a proportion such as 0.9"))?;
    if (0.0..=1.0).contains(&value) {
        Ok((value * 1000.0).round() as i64)
    } else {
        Err(format!("`{text}` is not between 0 and 1"))
    }
}

fn address(text: &str) -> Result<std::net::SocketAddr, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("`{text}` is not an address such as 0.0.0.0:13333"))
}

fn host_port(text: &str) -> Result<String, String> {
    quorate_rpc::channel::check_address(text.trim()).map_err(|error| error.to_string())?;
    Ok(text.trim().to_owned())
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
];

/// Keys of Milvus that this release knows but does not use: accepted with a warning.
pub(super) static MILVUS_KEYS: &str = include_str!("milvus_keys.txt");
