//! Turns commands into log entries: all that wait travel in one entry.
//!
//! One task takes what is in the queue, up to an entry's limits, and proposes it while a few
//! entries are on their way: with a slow disk entries grow, with a fast one nobody waits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use prost::Message;
use quorate_meta::command::{
    COMMAND_BYTES_MAX, ENTRY_BYTES_TARGET, ENTRY_COMMANDS_MAX, Outcome, decode_outcomes,
    encode_entry,
};
use quorate_meta::decide::LogPos;
use quorate_meta::pb;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::consensus::Consensus;
use crate::error::{CoordError, Result};
use crate::metrics;

/// Entries on their way at a time.
const IN_FLIGHT_MAX: usize = 4;

struct Waiting {
    stamped: pb::Stamped,
    bytes: usize,
    answer: oneshot::Sender<Result<Outcome>>,
}

/// Where commands are handed in. Cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    queue: mpsc::Sender<Waiting>,
    consensus: Consensus,
    timeout: Duration,
}

impl Proposer {
    /// Starts the proposing task; it ends with `cancel`.
    pub fn start(
        consensus: Consensus,
        queue_max: usize,
        timeout: Duration,
        cancel: CancellationToken,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(queue_max.max(1));
        tokio::spawn(run(consensus.clone(), waiting, timeout, cancel));
        Self {
            queue,
            consensus,
            timeout,
        }
    }

    /// Proposes a command and waits for its outcome. A command that the state as it is now would
    /// refuse, or has seen before, is answered without a log entry, after a read barrier: the
    /// view here may be stale.
    ///
    /// # Errors
    /// `Overloaded`: surely not proposed. `Unknown`: it may yet be applied.
    pub async fn submit(&self, stamped: pb::Stamped) -> Result<Outcome> {
        if !matches!(self.decide_now(&stamped)?, Outcome::Done(_)) {
            self.consensus.barrier(self.timeout).await?;
            let outcome = self.decide_now(&stamped)?;
            if !matches!(outcome, Outcome::Done(_)) {
                return Ok(outcome);
            }
        }
        let bytes = stamped.encoded_len();
        if bytes > COMMAND_BYTES_MAX {
            return Err(CoordError::Invalid(format!(
                "the request makes a log entry of {bytes} bytes; at most {COMMAND_BYTES_MAX} are \
                 possible: split it"
            )));
        }
        let (answer, outcome) = oneshot::channel();
        let waiting = Waiting {
            stamped,
            bytes,
            answer,
        };
        self.queue.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                CoordError::Overloaded("too many commands wait to be proposed".into())
            }
            mpsc::error::TrySendError::Closed(_) => {
                CoordError::NotReady("this replica is stopping".into())
            }
        })?;
        match tokio::time::timeout(self.timeout * 2, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(CoordError::Unknown(
                "the proposal was not answered; it may yet be applied".into(),
            )),
        }
    }

    /// The same decision apply will make, on the state as it is here and now. A panic costs this
    /// request, not every replica at the same index.
    fn decide_now(&self, stamped: &pb::Stamped) -> Result<Outcome> {
        let machine = self.consensus.store().machine();
        let pos = LogPos {
            term: self.consensus.leading_term().unwrap_or_default(),
            index: machine.applied_index() + 1,
            ordinal: 0,
        };
        catch_unwind(AssertUnwindSafe(|| machine.read().decide(pos, stamped).0)).map_err(|_| {
            CoordError::Internal("deciding this request panicked; it was not proposed".into())
        })
    }
}

async fn run(
    consensus: Consensus,
    mut waiting: mpsc::Receiver<Waiting>,
    timeout: Duration,
    cancel: CancellationToken,
) {
    let consensus = Arc::new(consensus);
    let mut in_flight = FuturesUnordered::new();
    let mut held: Option<Waiting> = None;
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            Some(()) = in_flight.next() => {}
            next = next_waiting(&mut held, &mut waiting), if in_flight.len() < IN_FLIGHT_MAX => {
                let Some(first) = next else { return };
                let batch = fill(first, &mut held, &mut waiting);
                in_flight.push(propose(consensus.clone(), batch, timeout));
            }
        }
    }
}

async fn next_waiting(
    held: &mut Option<Waiting>,
    waiting: &mut mpsc::Receiver<Waiting>,
) -> Option<Waiting> {
    match held.take() {
        Some(first) => Some(first),
        None => waiting.recv().await,
    }
}

/// Everything that waits, up to the limits of an entry; what does not fit any more is held.
fn fill(
    first: Waiting,
    held: &mut Option<Waiting>,
    waiting: &mut mpsc::Receiver<Waiting>,
) -> Vec<Waiting> {
    let mut bytes = first.bytes;
    let mut batch = vec![first];
    while batch.len() < ENTRY_COMMANDS_MAX {
        let Ok(next) = waiting.try_recv() else { break };
        bytes += next.bytes;
        if bytes > ENTRY_BYTES_TARGET {
            *held = Some(next);
            break;
        }
        batch.push(next);
    }
    batch
}

async fn propose(consensus: Arc<Consensus>, batch: Vec<Waiting>, timeout: Duration) {
    let (commands, answers): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|waiting| (waiting.stamped, waiting.answer))
        .unzip();
    let started = tokio::time::Instant::now();
    let result = consensus.propose(encode_entry(commands), timeout).await;
    metrics::proposed(answers.len(), started.elapsed());
    match result {
        Ok(applied) => {
            let outcomes =
                decode_outcomes(&applied.reply).filter(|outcomes| outcomes.len() == answers.len());
            match outcomes {
                Some(outcomes) => {
                    for (answer, outcome) in answers.into_iter().zip(outcomes) {
                        // The caller may have given up.
                        let _ = answer.send(Ok(outcome));
                    }
                }
                None => answer_all(
                    answers,
                    &CoordError::Unknown("apply answered something unreadable".into()),
                ),
            }
        }
        Err(error) => answer_all(answers, &error),
    }
}

fn answer_all(answers: Vec<oneshot::Sender<Result<Outcome>>>, error: &CoordError) {
    for answer in answers {
        let _ = answer.send(Err(error.clone()));
    }
}
