//! One call, and what is known of its outcome.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate_rpc::{Client, ClientError, Effect, LeaderChannel, Retry, headers};
use tonic::{Response, Status};

use crate::history::Outcome;

/// The answer to a call and the term it was given under, where it says so.
pub(super) struct Answer<T> {
    pub(super) result: Result<T, ClientError>,
    pub(super) term: Option<u64>,
}

impl<T> Answer<T> {
    /// The outcome of a call that was not answered with success.
    pub(super) fn outcome(error: &ClientError) -> Outcome {
        match error.effect() {
            Effect::NotApplied => Outcome::Fail,
            Effect::Unknown => Outcome::Info,
        }
    }
}

/// Calls the leader, whoever that is. Every call of the workload may be repeated.
pub(super) async fn ask<T, F, Fut>(client: &Client, deadline: Duration, call: F) -> Answer<T>
where
    F: Fn(LeaderChannel) -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    let epoch = Arc::new(AtomicU64::new(0));
    let result = client
        .call_within(deadline, Retry::Idempotent, |leader| {
            let (epoch, answer) = (epoch.clone(), call(leader));
            async move {
                let answer = answer.await;
                if let Ok(answer) = &answer
                    && let Some(term) = answer.metadata().get(headers::EPOCH)
                    && let Some(term) = term.to_str().ok().and_then(|text| text.parse().ok())
                {
                    epoch.store(term, Ordering::Relaxed);
                }
                answer
            }
        })
        .await;
    let term = Some(epoch.load(Ordering::Relaxed)).filter(|term| *term != 0);
    Answer { result, term }
}
