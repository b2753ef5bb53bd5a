//! One ownership of a channel: from the operation that made us watch it until it is released,
//! forfeited or replaced.
//!
//! Invariant: the token is cancelled under the state's lock, so whoever holds the lock and sees it
//! alive acts for the current owner; rows of a cancelled ownership are gone.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::channel::{Channel, Refusal};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Asking the coordinator what is stored; takes no rows yet.
    Watching,
    Watched,
    /// Takes no rows any more; syncs what it has.
    Releasing,
}

pub(crate) struct State {
    pub phase: Phase,
    /// The operation under way or last done.
    pub op_id: i64,
    pub channel: Channel,
}

pub(crate) struct Ownership {
    pub name: String,
    pub epoch: i64,
    /// The operation that began it; never taken up again.
    pub watch_op_id: i64,
    pub token: CancellationToken,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl Ownership {
    pub fn new(epoch: i64, op_id: i64, channel: Channel, token: CancellationToken) -> Self {
        Ownership {
            name: channel.name.clone(),
            epoch,
            watch_op_id: op_id,
            token,
            state: Mutex::new(State {
                phase: Phase::Watching,
                op_id,
                channel,
            }),
            changed: watch::Sender::new(()),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, as long as the ownership is alive and under `epoch`, and its channel watched.
    pub fn lock_for(&self, epoch: i64) -> Result<MutexGuard<'_, State>, Refusal> {
        let state = self.lock();
        let name = &self.name;
        if self.token.is_cancelled() {
            return Err(not_ours(name));
        }
        if self.epoch != epoch {
            return Err(Refusal::NotOwner(format!(
                "channel {name} is owned here under assignment {}, not {epoch}; look its owner up again",
                self.epoch
            )));
        }
        match state.phase {
            Phase::Watched => Ok(state),
            Phase::Watching => Err(Refusal::NotOwner(format!(
                "channel {name} is not watched yet; try again"
            ))),
            Phase::Releasing => Err(Refusal::NotOwner(format!(
                "channel {name} is being released; look its owner up again"
            ))),
        }
    }

    /// Ends the ownership; whoever waits for it is woken.
    pub fn cancel(&self) {
        let state = self.lock();
        self.token.cancel();
        drop(state);
        self.notify();
    }

    /// Wakes those who wait for a change of the state.
    pub fn notify(&self) {
        self.changed.send_replace(());
    }

    /// To be taken before looking at the state, so that no change is missed.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

pub(crate) fn not_ours(channel: &str) -> Refusal {
    Refusal::NotOwner(format!(
        "channel {channel} is not owned by this data node; look its owner up again"
    ))
}
