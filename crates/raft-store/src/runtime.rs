//! The async runtime given to openraft: tokio, with random numbers a simulation can seed.
//!
//! Invariant: without a seed on the thread the numbers come from the operating system;
//! with one, every number drawn on that thread follows from it.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use openraft::{AsyncRuntime, OptionalSend};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

// openraft points at a crate of its own for this type; the alias is the same type.
#[allow(deprecated)]
type Tokio = openraft::impls::TokioRuntime;

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Makes every random number openraft draws on this thread follow from `seed`.
///
/// ```
/// quorate_raft_store::runtime::seed_thread(7);
/// ```
pub fn seed_thread(seed: u64) {
    SEED.set(Some(seed));
}

/// A random number from 0 to `max`, from the same source as openraft's.
pub fn random_up_to(max: u64) -> u64 {
    Runtime::thread_rng().random_range(0..=max)
}

/// SplitMix64: the next state, well mixed.
fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// tokio, with a seedable generator.
#[derive(Debug)]
pub struct Runtime(Tokio);

impl AsyncRuntime for Runtime {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Tokio as AsyncRuntime>::Sleep;
    type Instant = <Tokio as AsyncRuntime>::Instant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Tokio as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = SmallRng;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        Tokio::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Tokio::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Tokio::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Tokio::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        match SEED.get() {
            Some(state) => {
                let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                SEED.set(Some(state));
                SmallRng::seed_from_u64(mix(state))
            }
            None => SmallRng::from_rng(&mut rand::rng()),
        }
    }

    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = <Tokio as AsyncRuntime>::Watch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn new(threads: usize) -> Self {
        Self(Tokio::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::Rng;

    fn draws() -> Vec<u64> {
        (0..4).map(|_| Runtime::thread_rng().next_u64()).collect()
    }

    #[test]
    fn a_seeded_thread_draws_the_same_numbers_again() {
        let run = |seed| {
            std::thread::spawn(move || {
                seed_thread(seed);
                draws()
            })
            .join()
            .unwrap()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn an_unseeded_thread_draws_fresh_numbers() {
        assert_ne!(draws(), draws());
    }
}
