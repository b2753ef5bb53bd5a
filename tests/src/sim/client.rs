//! How every client of the simulation finds the leader, retries, and tells what is unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate_coord::{CoordError, Coordinator};
use tokio::time::Instant;

use super::replica::{Cluster, NoAnswer, Served, client_addr};
use super::world::Place;

/// How an operation with its retries ended.
#[derive(Clone, Debug)]
pub enum Outcome<T> {
    /// Acknowledged.
    Ok(Served<T>),
    /// Surely without effect.
    Fail,
    /// Refused by a rule of the domain, and no earlier try can have had an effect.
    Refused(CoordError),
    /// Refused by a rule of the domain after a try whose end is unknown.
    RefusedLate(CoordError),
    /// Unknown.
    Info,
}

impl<T> Outcome<T> {
    /// The answer, if there is one.
    pub fn ok(self) -> Option<Served<T>> {
        match self {
            Outcome::Ok(served) => Some(served),
            _ => None,
        }
    }
}

/// Whether an operation may be sent again after a try whose end is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It may: it is idempotent, or a second effect is harmless.
    Always,
    /// Only if the try before surely had no effect.
    IfUntouched,
}

/// One client's connection to the cluster.
pub struct Session {
    /// The replicas.
    pub cluster: Arc<Cluster>,
    place: Place,
    target: AtomicU64,
}

/// One try takes at most this long.
const TRY: Duration = Duration::from_millis(1500);

impl Session {
    /// A client at this place; it knows no leader yet.
    pub fn new(cluster: Arc<Cluster>, place: Place) -> Self {
        Self {
            cluster,
            place,
            target: AtomicU64::new(1),
        }
    }

    fn anyone(&self) -> u64 {
        let ids = self.cluster.ids();
        let at = self.cluster.world.draw(0, ids.len() as u64);
        usize::try_from(at)
            .ok()
            .and_then(|at| ids.get(at).copied())
            .unwrap_or(1)
    }

    fn of_address(&self, address: &str) -> Option<u64> {
        let ids = self.cluster.ids();
        ids.into_iter().find(|id| client_addr(*id) == address)
    }

    /// Asks until there is an answer or `patience` is over.
    pub async fn ask<T, F, Fut>(
        &self,
        what: &'static str,
        patience: Duration,
        repeat: Repeat,
        make: F,
    ) -> Outcome<T>
    where
        T: Send + 'static,
        F: Fn(Arc<Coordinator>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, CoordError>> + Send + 'static,
    {
        let world = &self.cluster.world;
        let deadline = Instant::now() + patience;
        let mut touched = false;
        // Some calls go anywhere, as through a balancer.
        if world.chance(50) {
            self.target.store(self.anyone(), Ordering::Relaxed);
        }
        while Instant::now() < deadline {
            let target = self.target.load(Ordering::Relaxed);
            let timeout = TRY.min(deadline - Instant::now());
            let answer = self
                .cluster
                .call(self.place, target, what, timeout, &make)
                .await;
            let mut next = self.anyone();
            let mut pause = world.between(Duration::from_millis(10), Duration::from_millis(60));
            match answer {
                Ok(served) => return Outcome::Ok(served),
                Err(NoAnswer::Error(CoordError::NotLeader { hint })) => {
                    if let Some(leader) = hint.and_then(|address| self.of_address(&address)) {
                        next = leader;
                        pause = Duration::from_millis(1);
                    }
                }
                Err(
                    NoAnswer::Refused
                    | NoAnswer::Error(CoordError::NotReady(_) | CoordError::Overloaded(_)),
                ) => {}
                Err(
                    NoAnswer::Silence
                    | NoAnswer::Error(CoordError::Unknown(_) | CoordError::Internal(_)),
                ) => {
                    touched = true;
                    if repeat == Repeat::IfUntouched {
                        return Outcome::Info;
                    }
                }
                Err(NoAnswer::Error(error)) => {
                    return if touched {
                        Outcome::RefusedLate(error)
                    } else {
                        Outcome::Refused(error)
                    };
                }
            }
            self.target.store(next, Ordering::Relaxed);
            tokio::time::sleep(pause).await;
        }
        if touched {
            Outcome::Info
        } else {
            Outcome::Fail
        }
    }
}
