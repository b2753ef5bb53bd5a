//! What goes wrong, drawn from one seed.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Faults the server injects into each request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A request waits so long before anything happens.
    pub delay: Duration,
    /// So many requests of a thousand are answered with 503. Half of these are carried out all the
    /// same: the client cannot know.
    pub errors_permille: u32,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let delay_ms = self.delay.as_millis();
        write!(
            f,
            "delay-ms={delay_ms} errors-permille={}",
            self.errors_permille
        )
    }
}

impl FromStr for Faults {
    type Err = String;

    /// `delay-ms=200 errors-permille=300`; what is not named is off.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut faults = Faults::default();
        for word in text.split_whitespace() {
            let (name, value) = word
                .split_once('=')
                .ok_or_else(|| format!("{word:?} is not name=number"))?;
            let number: u32 = value
                .parse()
                .map_err(|_| format!("{value:?} of {name} is not a number"))?;
            match name {
                "delay-ms" => faults.delay = Duration::from_millis(number.into()),
                "errors-permille" if number <= 1000 => faults.errors_permille = number,
                "errors-permille" => return Err("errors-permille is at most 1000".into()),
                _ => return Err(format!("{name:?} is neither delay-ms nor errors-permille")),
            }
        }
        Ok(faults)
    }
}

/// What was served so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that came.
    pub requests: u64,
    /// Those answered with an injected 503.
    pub errors: u64,
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Served,
    /// 503 without effect.
    Refused,
    /// Carried out, and 503.
    InDoubt,
}

/// The faults in force and their random numbers.
pub(super) struct Injector {
    inner: Mutex<Inner>,
}

struct Inner {
    faults: Faults,
    counts: Counts,
    random: StdRng,
}

impl Injector {
    pub(super) fn new(faults: Faults, seed: u64) -> Self {
        let inner = Inner {
            faults,
            counts: Counts::default(),
            random: StdRng::seed_from_u64(seed),
        };
        Self {
            inner: Mutex::new(inner),
        }
    }

    pub(super) fn set(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// How long the next request waits, and its fate.
    pub(super) fn draw(&self) -> (Duration, Fate) {
        let mut inner = self.lock();
        inner.counts.requests += 1;
        let drawn = inner.random.random_range(0..2000);
        let fate = match inner.faults.errors_permille * 2 {
            twice if drawn >= twice => Fate::Served,
            _ if drawn % 2 == 0 => Fate::Refused,
            _ => Fate::InDoubt,
        };
        if fate != Fate::Served {
            inner.counts.errors += 1;
        }
        (inner.faults.delay, fate)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn faults_are_read_as_they_are_written() {
        let faults = Faults {
            delay: Duration::from_millis(20),
            errors_permille: 300,
        };
        assert_eq!(faults.to_string().parse(), Ok(faults));
        assert_eq!("".parse(), Ok(Faults::default()));
        assert!("errors-permille=1001".parse::<Faults>().is_err());
        assert!("color=red".parse::<Faults>().is_err());
    }

    #[test]
    fn the_share_of_errors_is_kept_and_both_kinds_occur() {
        let faults = Faults {
            errors_permille: 300,
            ..Faults::default()
        };
        let injector = Injector::new(faults, 7);
        let fates: Vec<Fate> = (0..10_000).map(|_| injector.draw().1).collect();
        let of = |fate| fates.iter().filter(|&&drawn| drawn == fate).count();
        assert!((1300..1700).contains(&of(Fate::Refused)));
        assert!((1300..1700).contains(&of(Fate::InDoubt)));
        assert_eq!(injector.counts().requests, 10_000);
    }
}
