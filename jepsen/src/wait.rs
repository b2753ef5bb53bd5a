//! Waiting for something to come about, never for ever.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything may take that is waited for and has no limit of its own.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `look` finds something.
///
/// # Errors
/// It does not come about within [`PATIENCE`], or `look` fails.
pub async fn until<T>(what: &str, look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    until_within(PATIENCE, what, look).await
}

/// [`until`] with a limit of its own.
///
/// # Errors
/// It does not come about in time, or `look` fails.
pub async fn until_within<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if started.elapsed() > limit {
            bail!("waited {limit:?} in vain: {what}");
        }
        tokio::time::sleep(POLL).await;
    }
}
