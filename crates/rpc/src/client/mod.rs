//! A client of the replicas that finds the leader, follows it, and says honestly how a call ended.
//!
//! Every call ends in one of three ways: answered; *certainly not applied*; or *unknown* — it was
//! sent, and no answer came. A call that may not be repeated blindly ([`Retry::IfNotApplied`]) is
//! repeated only while every earlier attempt is certainly not applied.
//!
//! Invariants: no call outlives its deadline; an attempt that ended unknown is never forgotten,
//! whatever the attempts after it say.

mod attempt;
mod targets;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::channel::{self, ChannelOptions, ConnectError};
use crate::headers;
use crate::status::not_applied;
use attempt::Ended;
pub(crate) use attempt::is_connect_error;
use targets::{Targets, Turn};

/// How a [`Client`] behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// How long a call may take with all its attempts.
    pub deadline: Duration,
    /// How long one attempt may take.
    pub attempt_timeout: Duration,
    /// Wait after every known address was tried once without success; doubled each time.
    pub backoff_initial: Duration,
    /// Longest such wait. The waits are jittered between half and the whole.
    pub backoff_max: Duration,
    /// Settings of the connections.
    pub channel: ChannelOptions,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            attempt_timeout: Duration::from_secs(5),
            backoff_initial: Duration::from_millis(20),
            backoff_max: Duration::from_millis(500),
            channel: ChannelOptions::default(),
        }
    }
}

/// When a call may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Always: it has a natural key, an expected revision or a request token, or only reads.
    Idempotent,
    /// Only when the earlier attempt was surely not applied: it was refused before anything was
    /// proposed, or the connection could not be opened.
    IfNotApplied,
}

/// What is known of the effect of a call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Certainly none.
    NotApplied,
    /// It may have been applied, or may be applied yet.
    Unknown,
}

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// An address is wrong.
    #[error(transparent)]
    Address(#[from] ConnectError),
    /// One given replica cannot be reached; nothing was sent.
    #[error(transparent)]
    Unreachable(ConnectError),
    /// Nobody took the call before its deadline; it certainly had no effect.
    #[error(
        "no leader reached in {elapsed:.1?} and {attempts} attempts, the last at {address}: {}",
        describe(last)
    )]
    Unavailable {
        /// Who was asked last.
        address: String,
        /// How the last attempt ended.
        last: Status,
        /// Attempts made.
        attempts: u32,
        /// Time spent.
        elapsed: Duration,
    },
    /// A definite answer: no.
    #[error("{}", describe(.0))]
    Refused(Status),
    /// A definite answer, but an earlier attempt of the same call ended unknown.
    #[error("{} (an earlier attempt of this call got no answer and may have been applied)", describe(.0))]
    RefusedAfterUnknown(Status),
    /// No answer came, and the call may have been applied.
    #[error(
        "no answer in {elapsed:.1?} and {attempts} attempts, the last at {address}; the call may have been applied: {}",
        describe(last)
    )]
    Unknown {
        /// Who was asked last.
        address: String,
        /// How the last attempt ended.
        last: Status,
        /// Attempts made.
        attempts: u32,
        /// Time spent.
        elapsed: Duration,
    },
}

impl ClientError {
    /// What is known of the effect of the call.
    pub fn effect(&self) -> Effect {
        match self {
            Self::Address(_)
            | Self::Unreachable(_)
            | Self::Unavailable { .. }
            | Self::Refused(_) => Effect::NotApplied,
            Self::RefusedAfterUnknown(_) | Self::Unknown { .. } => Effect::Unknown,
        }
    }

    /// The status behind the error: the refusal, or how the last attempt ended.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Address(_) | Self::Unreachable(_) => None,
            Self::Unavailable { last, .. } | Self::Unknown { last, .. } => Some(last),
            Self::Refused(status) | Self::RefusedAfterUnknown(status) => Some(status),
        }
    }

    /// The gRPC code of a definite answer; none when no definite answer came.
    pub fn refusal(&self) -> Option<tonic::Code> {
        match self {
            Self::Refused(status) | Self::RefusedAfterUnknown(status) => Some(status.code()),
            _ => None,
        }
    }
}

/// The message of a status, and the cause at the root of it when the message does not say it.
fn describe(status: &Status) -> String {
    let mut text = if status.message().is_empty() {
        status.code().description().to_lowercase()
    } else {
        status.message().to_owned()
    };
    let mut root = std::error::Error::source(status);
    while let Some(cause) = root.and_then(std::error::Error::source) {
        root = Some(cause);
    }
    if let Some(root) = root.map(ToString::to_string)
        && !text.contains(&root)
    {
        text.push_str(": ");
        text.push_str(&root);
    }
    if let Some(meaning) = crate::tls::explain_status(status) {
        text.push_str(&format!(" ({meaning})"));
    }
    text
}

/// What a client has seen since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientStats {
    /// Attempts beyond the first of their call, redirects not counted.
    pub retries: u64,
    /// Attempts that went to the leader because a replica named it.
    pub redirects: u64,
    /// Longest time from the start of the first failed attempt of a call to its success.
    pub longest_gap: Duration,
    /// Client address of the leader, as far as known.
    pub leader: Option<String>,
}

/// A connection to one replica that marks its calls; what [`Client::call`] hands to its closure,
/// to be wrapped into a generated client.
pub type LeaderChannel = InterceptedService<Channel, RedirectInterceptor>;

/// Adds `quorate-redirect` and a `grpc-timeout` to each request.
#[derive(Clone, Debug)]
pub struct RedirectInterceptor {
    redirect: bool,
    timeout: Duration,
}

impl tonic::service::Interceptor for RedirectInterceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if self.redirect {
            request.metadata_mut().insert(
                headers::REDIRECT,
                tonic::metadata::MetadataValue::from_static("1"),
            );
        }
        if !request.metadata().contains_key("grpc-timeout") {
            request.set_timeout(self.timeout);
        }
        Ok(request)
    }
}

/// Calls replicas through whoever leads them. Cheap to clone; clones share what they learn.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use quorate_rpc::proto::quorate::oracle::{AllocIdRequest, oracle_client::OracleClient};
/// use quorate_rpc::{Client, ClientOptions, Retry};
///
/// let client = Client::new(["127.0.0.1:13333".to_owned()], ClientOptions::default())?;
/// let ids = client
///     .call(Retry::Idempotent, |leader| async move {
///         OracleClient::new(leader).alloc_id(AllocIdRequest { count: 10 }).await
///     })
///     .await?;
/// assert_eq!(ids.count, 10);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: ClientOptions,
    endpoints: Vec<String>,
    targets: Mutex<Targets>,
    /// Addresses where a TLS handshake was seen to succeed.
    admitted: Mutex<BTreeSet<String>>,
}

impl Client {
    /// A client of the replicas at `endpoints` (`host:port`), one of which is enough to find the
    /// others' leader. Opens no connection yet.
    pub fn new(
        endpoints: impl IntoIterator<Item = String>,
        options: ClientOptions,
    ) -> Result<Self, ConnectError> {
        let mut known: Vec<String> = Vec::new();
        for endpoint in endpoints {
            let endpoint = endpoint.trim().to_owned();
            channel::check_address(&endpoint)?;
            if !known.contains(&endpoint) {
                known.push(endpoint);
            }
        }
        if known.is_empty() {
            return Err(ConnectError::NoAddress);
        }
        Ok(Self {
            shared: Arc::new(Shared {
                targets: Mutex::new(Targets::new(known.clone())),
                endpoints: known,
                admitted: Mutex::default(),
                options,
            }),
        })
    }

    /// Runs `call` against the leader, within the client's deadline.
    ///
    /// The leader is learnt from the `quorate-leader` metadata of a refusal or of any reply, and
    /// kept; while it is not known, the endpoints are tried in turn. After every address known was
    /// tried once, the client backs off.
    pub async fn call<T, F, Fut>(&self, retry: Retry, call: F) -> Result<T, ClientError>
    where
        F: Fn(LeaderChannel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_within(self.shared.options.deadline, retry, call)
            .await
    }

    /// [`call`](Self::call) with a deadline of its own.
    pub async fn call_within<T, F, Fut>(
        &self,
        deadline: Duration,
        retry: Retry,
        call: F,
    ) -> Result<T, ClientError>
    where
        F: Fn(LeaderChannel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let options = &self.shared.options;
        let started = Instant::now();
        let ends = started + deadline;
        let mut turn = Turn::new(options.backoff_initial, options.backoff_max);
        let mut attempts: u32 = 0;
        let mut unknown = false;
        let mut first_failure: Option<Instant> = None;
        let mut address = String::from("none");
        let mut last = Status::unavailable("the deadline was over before the first attempt");

        loop {
            let Some(target) = self.targets().next(&mut turn) else {
                let pause = turn.next_round();
                if Instant::now() + pause >= ends {
                    break;
                }
                tokio::time::sleep(pause).await;
                continue;
            };
            let attempt_started = Instant::now();
            let left = ends.saturating_duration_since(attempt_started);
            if left.is_zero() {
                break;
            }
            let timeout = left.min(options.attempt_timeout);
            let channel = self.channel(&target.address)?;
            attempts += 1;
            self.targets().count_attempt(attempts, target.named);

            let leader = intercepted(channel, true, timeout);
            let attempt = async {
                match self.tls_refusal(&target.address, timeout).await {
                    Some(refusal) => Err(not_applied(Status::unavailable(refusal.to_string()))),
                    None => call(leader).await,
                }
            };
            let status = match tokio::time::timeout(timeout, attempt).await {
                Ok(Ok(response)) => {
                    let mut targets = self.targets();
                    targets.succeeded(&target.address, attempt::leader_named(response.metadata()));
                    if let Some(since) = first_failure {
                        targets.note_gap(since.elapsed());
                    }
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!(
                    "no answer from {} in {timeout:.1?}",
                    target.address
                )),
            };
            let ended = attempt::classify(&status);
            if let Ended::Answered = ended {
                return Err(if unknown {
                    ClientError::RefusedAfterUnknown(status)
                } else {
                    ClientError::Refused(status)
                });
            }
            first_failure.get_or_insert(attempt_started);
            unknown |= ended == Ended::Unknown;
            let named = attempt::leader_named(status.metadata());
            self.targets().failed(&mut turn, &target.address, named);
            tracing::debug!(address = %target.address, %status, ?ended, "attempt failed");
            (last, address) = (status, target.address);
            if unknown && retry == Retry::IfNotApplied {
                break;
            }
        }

        let elapsed = started.elapsed();
        Err(if unknown {
            ClientError::Unknown {
                address,
                last,
                attempts,
                elapsed,
            }
        } else {
            ClientError::Unavailable {
                address,
                last,
                attempts,
                elapsed,
            }
        })
    }

    /// A connection to one given replica, for calls about that replica itself: no redirect, no
    /// repetition. A call without a timeout of its own gets the client's attempt timeout.
    pub async fn at(&self, endpoint: &str) -> Result<LeaderChannel, ClientError> {
        let options = &self.shared.options;
        if let Some(refusal) = self.tls_refusal(endpoint, options.attempt_timeout).await {
            return Err(ClientError::Unreachable(refusal));
        }
        let cached = self.targets().cached(endpoint);
        let channel = match cached {
            Some(channel) => channel,
            None => {
                let channel = channel::connect(endpoint, &options.channel).await.map_err(
                    |error| match error {
                        ConnectError::Connect { .. } => ClientError::Unreachable(error),
                        other => ClientError::Address(other),
                    },
                )?;
                self.targets().keep(endpoint, channel.clone());
                channel
            }
        };
        Ok(intercepted(channel, false, options.attempt_timeout))
    }

    /// Before the first call over TLS to an address: whether the two sides let each other in. A
    /// refusal that comes in the middle of a call would leave open what became of it.
    async fn tls_refusal(&self, address: &str, timeout: Duration) -> Option<ConnectError> {
        let tls = self.shared.options.channel.tls.as_ref()?;
        let admitted = || {
            self.shared
                .admitted
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if admitted().contains(address) {
            return None;
        }
        let reason = match tls.refusal(address, timeout).await {
            Ok(()) => {
                admitted().insert(address.to_owned());
                return None;
            }
            // The call itself finds out what is wrong.
            Err(None) => return None,
            Err(Some(reason)) => reason,
        };
        Some(ConnectError::Refused {
            address: address.to_owned(),
            reason,
        })
    }

    /// The addresses the client was made with.
    pub fn endpoints(&self) -> Vec<String> {
        self.shared.endpoints.clone()
    }

    /// What this client and its clones have seen so far.
    pub fn stats(&self) -> ClientStats {
        self.targets().stats()
    }

    fn channel(&self, address: &str) -> Result<Channel, ConnectError> {
        let mut targets = self.targets();
        if let Some(channel) = targets.cached(address) {
            return Ok(channel);
        }
        let channel = channel::connect_lazy(address, &self.shared.options.channel)?;
        targets.keep(address, channel.clone());
        Ok(channel)
    }

    fn targets(&self) -> std::sync::MutexGuard<'_, Targets> {
        self.shared
            .targets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn intercepted(channel: Channel, redirect: bool, timeout: Duration) -> LeaderChannel {
    InterceptedService::new(channel, RedirectInterceptor { redirect, timeout })
}
