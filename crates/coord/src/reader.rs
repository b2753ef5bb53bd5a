//! Linearizable reads: one barrier serves all readers that queued before it started.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::consensus::Consensus;
use crate::error::{CoordError, Result};

/// Readers that may wait; more are refused.
const WAITING_MAX: usize = 16_384;

type Answer = oneshot::Sender<Result<()>>;

/// Shares barriers between readers.
pub struct Reader {
    queue: mpsc::Sender<Answer>,
}

impl Reader {
    /// Starts the task that runs the barriers; it ends with this value.
    pub fn new(consensus: Consensus, timeout: Duration) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Answer>(WAITING_MAX);
        tokio::spawn(async move {
            let mut readers = Vec::new();
            while waiting.recv_many(&mut readers, WAITING_MAX).await > 0 {
                let result = consensus.barrier(timeout).await;
                for reader in readers.drain(..) {
                    // The reader may have given up.
                    let _ = reader.send(result.clone());
                }
            }
        });
        Self { queue }
    }

    /// Waits for a barrier that starts after this call.
    ///
    /// # Errors
    /// As [`Consensus::barrier`]; `Overloaded` when too many readers wait.
    pub async fn barrier(&self) -> Result<()> {
        let (answer, result) = oneshot::channel();
        self.queue.try_send(answer).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                CoordError::Overloaded("too many readers wait".into())
            }
            mpsc::error::TrySendError::Closed(_) => {
                CoordError::NotReady("this replica is stopping".into())
            }
        })?;
        result
            .await
            .unwrap_or_else(|_| Err(CoordError::NotReady("this replica is stopping".into())))
    }
}
