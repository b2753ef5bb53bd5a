//! Whom to ask next, and what has been learnt: the leader, open connections, counters.
//!
//! A call goes in rounds. Within a round no address is tried twice, so replicas that name each
//! other as leader cannot keep a client spinning; between rounds it backs off.

use std::collections::HashMap;
use std::time::Duration;

use rand::RngExt;
use tonic::transport::Channel;

use super::ClientStats;

/// Connections kept at most; replicas are few, so more only come from leaders that moved a lot.
const CHANNELS_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Targets {
    endpoints: Vec<String>,
    /// Where the search starts while no leader is known.
    cursor: usize,
    channels: HashMap<String, Channel>,
    stats: ClientStats,
}

/// An address to try.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: String,
    /// Whether a replica named it as leader during this call.
    pub(super) named: bool,
}

/// One call's way through the addresses.
#[derive(Debug)]
pub(super) struct Turn {
    tried: Vec<String>,
    named: Option<String>,
    backoff: Duration,
    backoff_max: Duration,
}

impl Turn {
    pub(super) fn new(backoff_initial: Duration, backoff_max: Duration) -> Self {
        Self {
            tried: Vec::new(),
            named: None,
            backoff: backoff_initial.max(Duration::from_millis(1)),
            backoff_max,
        }
    }

    /// Starts another round and says how long to wait before it.
    pub(super) fn next_round(&mut self) -> Duration {
        self.tried.clear();
        let whole = self.backoff.min(self.backoff_max);
        self.backoff = self.backoff.saturating_mul(2).min(self.backoff_max);
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

impl Targets {
    pub(super) fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            cursor: 0,
            channels: HashMap::new(),
            stats: ClientStats::default(),
        }
    }

    /// The leader if known and not yet tried in this round, else the next endpoint; none when
    /// the round is over.
    pub(super) fn next(&mut self, turn: &mut Turn) -> Option<Target> {
        let leader = self.stats.leader.as_ref();
        let address = match leader.filter(|leader| !turn.tried.contains(leader)) {
            Some(leader) => leader.clone(),
            None => {
                let count = self.endpoints.len();
                let offset = (0..count).find(|offset| {
                    !turn
                        .tried
                        .contains(&self.endpoints[(self.cursor + offset) % count])
                })?;
                self.cursor = (self.cursor + offset) % count;
                self.endpoints[self.cursor].clone()
            }
        };
        turn.tried.push(address.clone());
        let named = turn.named.take().as_ref() == Some(&address);
        Some(Target { address, named })
    }

    pub(super) fn count_attempt(&mut self, attempts: u32, named: bool) {
        if named {
            self.stats.redirects += 1;
        } else if attempts > 1 {
            self.stats.retries += 1;
        }
    }

    /// `address` answered. It leads, unless it names another.
    pub(super) fn succeeded(&mut self, address: &str, named: Option<String>) {
        let leader = named.unwrap_or_else(|| address.to_owned());
        if self.stats.leader.as_ref() != Some(&leader) {
            self.stats.leader = Some(leader);
        }
    }

    /// `address` did not serve the call; it may have named the one who would.
    pub(super) fn failed(&mut self, turn: &mut Turn, address: &str, named: Option<String>) {
        match named {
            Some(leader) if leader != address => {
                turn.named = Some(leader.clone());
                self.stats.leader = Some(leader);
            }
            _ => {
                if self.stats.leader.as_deref() == Some(address) {
                    self.stats.leader = None;
                }
            }
        }
    }

    pub(super) fn note_gap(&mut self, gap: Duration) {
        self.stats.longest_gap = self.stats.longest_gap.max(gap);
    }

    pub(super) fn stats(&self) -> ClientStats {
        self.stats.clone()
    }

    pub(super) fn cached(&self, address: &str) -> Option<Channel> {
        self.channels.get(address).cloned()
    }

    pub(super) fn keep(&mut self, address: &str, channel: Channel) {
        if self.channels.len() >= CHANNELS_MAX {
            self.channels.clear();
        }
        self.channels.insert(address.to_owned(), channel);
    }
}
