//! What every part of a simulation shares: the seed's random numbers, simulated time, the trace,
//! and the state of the network.
//!
//! Invariants: every random choice outside openraft is drawn here, in the order of execution;
//! nothing reads the real clock; every choice and every outcome is fed into the trace hash.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

/// A machine or a program of the simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A coordinator replica.
    Replica(u64),
    /// A data node.
    DataNode(u64),
    /// A client.
    Client(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Replica(n) => write!(f, "r{n}"),
            Place::DataNode(n) => write!(f, "d{n}"),
            Place::Client(n) => write!(f, "c{n}"),
        }
    }
}

/// How the network is at the moment, everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Messages lost, per mille.
    pub loss_permille: u32,
    /// Messages that take long, per mille.
    pub slow_permille: u32,
    /// How long those take at most.
    pub slow_max: Duration,
}

/// A network without trouble.
pub const CALM: Weather = Weather {
    loss_permille: 0,
    slow_permille: 2,
    slow_max: Duration::from_millis(30),
};

/// A pipeline that is cut for longer than this breaks (the keep-alive of real connections).
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// How often a stalled pipeline looks whether it can go on.
const STALL_POLL: Duration = Duration::from_millis(20);

struct Inner {
    rng: SmallRng,
    hasher: blake3::Hasher,
    print: bool,
    events: u64,
    weather: Weather,
    /// Directed links that carry nothing, with how many faults cut them.
    cuts: BTreeMap<(Place, Place), u32>,
    paused: BTreeMap<Place, Instant>,
    resets: BTreeMap<(Place, Place), u64>,
    violations: Vec<String>,
    seen: BTreeSet<String>,
}

/// The shared world.
pub struct World {
    start: Instant,
    inner: Mutex<Inner>,
}

impl World {
    /// A world that follows from the seed. Must be made inside the simulation's runtime.
    pub fn new(seed: u64, print: bool) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_be_bytes());
        Self {
            start: Instant::now(),
            inner: Mutex::new(Inner {
                rng: SmallRng::seed_from_u64(seed),
                hasher,
                print,
                events: 0,
                weather: CALM,
                cuts: BTreeMap::new(),
                paused: BTreeMap::new(),
                resets: BTreeMap::new(),
                violations: Vec::new(),
                seen: BTreeSet::new(),
            }),
        }
    }

    fn hold(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Simulated time since the start.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The same in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.now().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Puts an event into the trace.
    pub fn note(&self, event: fmt::Arguments<'_>) {
        let now = self.now();
        let line = format!("{:>12.6} {event}\n", now.as_secs_f64());
        let mut inner = self.hold();
        inner.hasher.update(line.as_bytes());
        inner.events += 1;
        if inner.print {
            eprint!("{line}");
        }
    }

    /// Events noted, and the hash over them.
    pub fn trace(&self) -> (u64, String) {
        let inner = self.hold();
        (inner.events, inner.hasher.finalize().to_hex().to_string())
    }

    /// Something that must never be. Each finding is kept once.
    pub fn violation(&self, what: String) {
        if !self.hold().seen.insert(what.clone()) {
            return;
        }
        self.note(format_args!("VIOLATION {what}"));
        let at = self.now().as_secs_f64();
        self.hold().violations.push(format!("at {at:.3} s: {what}"));
    }

    /// What was found so far.
    pub fn violations(&self) -> Vec<String> {
        self.hold().violations.clone()
    }

    /// A number from `from` up to but not including `to`.
    pub fn draw(&self, from: u64, to: u64) -> u64 {
        self.hold().rng.random_range(from..to.max(from + 1))
    }

    /// True `permille` times of a thousand.
    pub fn chance(&self, permille: u64) -> bool {
        self.draw(0, 1000) < permille
    }

    /// A duration between the two.
    pub fn between(&self, from: Duration, to: Duration) -> Duration {
        let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.draw(us(from), us(to)))
    }

    /// The network's state from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.hold().weather = weather;
    }

    /// One more fault cuts this direction.
    pub fn cut(&self, from: Place, to: Place) {
        *self.hold().cuts.entry((from, to)).or_default() += 1;
    }

    /// One fault less cuts this direction.
    pub fn mend(&self, from: Place, to: Place) {
        let mut inner = self.hold();
        if let Some(count) = inner.cuts.get_mut(&(from, to)) {
            *count -= 1;
            if *count == 0 {
                inner.cuts.remove(&(from, to));
            }
        }
    }

    /// No cuts and no pauses any more, and a calm network.
    pub fn heal(&self) {
        let mut inner = self.hold();
        inner.cuts.clear();
        inner.paused.clear();
        inner.weather = CALM;
    }

    fn is_cut(&self, from: Place, to: Place) -> bool {
        self.hold().cuts.contains_key(&(from, to))
    }

    /// Nothing reaches or leaves this place until then; it all comes afterwards.
    pub fn pause(&self, place: Place, until: Instant) {
        let mut inner = self.hold();
        let end = inner.paused.entry(place).or_insert(until);
        *end = (*end).max(until);
    }

    /// Waits while a place is paused.
    async fn while_paused(&self, place: Place) {
        loop {
            let until = self.hold().paused.get(&place).copied();
            match until {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
                _ => return,
            }
        }
    }

    /// Breaks the open pipelines between two places.
    pub fn reset(&self, a: Place, b: Place) {
        let mut inner = self.hold();
        *inner.resets.entry((a, b)).or_default() += 1;
        *inner.resets.entry((b, a)).or_default() += 1;
    }

    /// Pipelines opened while this number was the same are still open.
    pub fn resets(&self, from: Place, to: Place) -> u64 {
        self.hold().resets.get(&(from, to)).copied().unwrap_or(0)
    }

    /// The time a message takes, and whether it is lost.
    fn transit(&self) -> (Duration, bool) {
        let mut inner = self.hold();
        let weather = inner.weather;
        let lost = inner.rng.random_range(0..1000) < weather.loss_permille;
        let mut us: u64 = inner.rng.random_range(100..1200);
        if inner.rng.random_range(0..1000) < weather.slow_permille {
            let max = u64::try_from(weather.slow_max.as_micros()).unwrap_or(u64::MAX);
            us += inner.rng.random_range(0..max.max(1));
        }
        (Duration::from_micros(us), lost)
    }

    /// Carries one message; false: it got lost, nobody will ever know.
    pub async fn carry(&self, from: Place, to: Place, what: &str) -> bool {
        let (delay, lost) = self.transit();
        self.while_paused(from).await;
        if lost || self.is_cut(from, to) {
            self.note(format_args!("{from}>{to} {what} lost"));
            return false;
        }
        tokio::time::sleep(delay).await;
        self.while_paused(to).await;
        let arrived = !self.is_cut(from, to);
        let end = if arrived { "" } else { " lost on the way" };
        self.note(format_args!("{from}>{to} {what}{end}"));
        arrived
    }

    /// When a message that is sent now arrives in a pipeline; a lost one is sent again.
    pub fn pipeline_transit(&self) -> Duration {
        let (mut delay, mut lost) = self.transit();
        while lost {
            delay += Duration::from_millis(200);
            lost = self.transit().1;
        }
        delay
    }

    /// Lets a message of a pipeline through, once it can pass; false: the pipeline is broken.
    pub async fn pass(&self, from: Place, to: Place, resets: u64, what: &str) -> bool {
        self.while_paused(from).await;
        self.while_paused(to).await;
        let since = Instant::now();
        while self.is_cut(from, to) {
            if since.elapsed() > KEEP_ALIVE {
                self.note(format_args!("{from}>{to} {what} pipeline timed out"));
                return false;
            }
            tokio::time::sleep(STALL_POLL).await;
        }
        let whole = self.resets(from, to) == resets;
        let end = if whole { "" } else { " pipeline reset" };
        self.note(format_args!("{from}>{to} {what}{end}"));
        whole
    }
}
