//! How a follower deals with calls that only the leader answers: it forwards them, one hop, or
//! names the leader to a caller that would rather go there itself.
//!
//! Invariants: a forwarded call is never forwarded again; every refusal made here says that the
//! call had no effect, and only those do; no forwarded call waits without a deadline.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code as GrpcCode, Status};
use tower::{Layer, Service, ServiceExt};

use crate::channel::{self, ChannelOptions};
use crate::client::is_connect_error;
use crate::status::{Code, not_applied, to_grpc, with_leader};
use crate::{headers, methods};

/// What a forwarded call gets when the caller set no deadline.
const DEADLINE: Duration = Duration::from_secs(30);
/// Connections kept; there is one leader at a time.
const CHANNELS_MAX: usize = 16;

/// Where the leader is, as a replica knows at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leader {
    /// This replica leads, or answers for itself why it does not serve.
    Here,
    /// Another replica leads.
    There {
        /// Where clients reach it, `host:port`.
        client_addr: String,
    },
    /// Nobody is known to lead.
    Unknown,
}

/// Who leads. Asked for each call, so it must not block.
pub trait Leadership: Send + Sync {
    /// Where the leader is now.
    fn leader(&self) -> Leader;
}

/// The layer to put around a replica's gRPC services.
#[derive(Clone)]
pub struct ForwardLayer {
    shared: Arc<Shared>,
}

struct Shared {
    leadership: Arc<dyn Leadership>,
    options: ChannelOptions,
    channels: Mutex<HashMap<String, Channel>>,
}

impl ForwardLayer {
    /// Forwards as `leadership` says, over connections with these settings.
    pub fn new(leadership: Arc<dyn Leadership>, options: ChannelOptions) -> Self {
        Self {
            shared: Arc::new(Shared {
                leadership,
                options,
                channels: Mutex::new(HashMap::new()),
            }),
        }
    }
}

impl<S> Layer<S> for ForwardLayer {
    type Service = Forward<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Forward {
            inner,
            shared: self.shared.clone(),
        }
    }
}

/// The service of [`ForwardLayer`].
#[derive(Clone)]
pub struct Forward<S> {
    inner: S,
    shared: Arc<Shared>,
}

enum Route {
    Pass,
    Refuse(Status),
    Forward { client_addr: String },
}

impl Shared {
    fn route(&self, request: &http::Request<Body>) -> Route {
        let headers = request.headers();
        if !methods::needs_leader(request.uri().path())
            || headers.get(headers::READ) == Some(&HeaderValue::from_static(headers::READ_STALE))
        {
            return Route::Pass;
        }
        match self.leadership.leader() {
            Leader::Here => Route::Pass,
            Leader::Unknown => Route::Refuse(not_applied(to_grpc(
                Code::ServiceUnavailable,
                "no leader known, an election is under way; try again",
            ))),
            Leader::There { client_addr } if headers.contains_key(headers::FORWARDED) => {
                let status = to_grpc(
                    Code::ServiceUnavailable,
                    format!("not the leader any more, it is at {client_addr}; try again"),
                );
                Route::Refuse(not_applied(with_leader(status, &client_addr)))
            }
            Leader::There { client_addr } if headers.contains_key(headers::REDIRECT) => {
                let status = to_grpc(
                    Code::ServiceUnavailable,
                    format!("not the leader, it is at {client_addr}"),
                );
                Route::Refuse(not_applied(with_leader(status, &client_addr)))
            }
            Leader::There { client_addr } => Route::Forward { client_addr },
        }
    }

    async fn forward(
        &self,
        client_addr: String,
        mut request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Status> {
        let channel = self.channel(&client_addr)?;
        let headers = request.headers_mut();
        headers.insert(headers::FORWARDED, HeaderValue::from_static("1"));
        // The connection sets its own authority; whatever named this replica stays behind.
        headers.remove(http::header::HOST);
        let timeout = headers.get("grpc-timeout").and_then(parse_timeout);
        if timeout.is_none() {
            headers.insert("grpc-timeout", HeaderValue::from_static("30S"));
        }

        let send = async {
            let ready = channel.ready_oneshot().await?;
            ready.oneshot(request).await
        };
        let answer = tokio::time::timeout(timeout.unwrap_or(DEADLINE), send).await;
        let error = match answer {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => error,
            Err(_) => {
                return Err(to_grpc(
                    Code::Timeout,
                    format!("no answer from the leader at {client_addr} before the deadline"),
                ));
            }
        };
        self.drop_channel(&client_addr);
        let error = Status::from_error(error.into());
        tracing::debug!(leader = %client_addr, %error, "forwarding failed");
        if is_connect_error(&error) {
            return Err(not_applied(to_grpc(
                Code::ServiceUnavailable,
                format!(
                    "cannot reach the leader at {client_addr}: {}",
                    error.message()
                ),
            )));
        }
        Err(if error.code() == GrpcCode::Cancelled {
            to_grpc(
                Code::Timeout,
                format!("no answer from the leader at {client_addr} before the deadline"),
            )
        } else {
            to_grpc(
                Code::ServiceUnavailable,
                format!(
                    "lost the leader at {client_addr}, the call may have been applied: {}",
                    error.message()
                ),
            )
        })
    }

    fn channel(&self, address: &str) -> Result<Channel, Status> {
        let mut channels = self.channels();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = channel::connect_lazy(address, &self.options).map_err(|error| {
            not_applied(to_grpc(
                Code::ServiceInternal,
                format!("the leader's client address cannot be used: {error}"),
            ))
        })?;
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    fn drop_channel(&self, address: &str) {
        self.channels().remove(address);
    }

    fn channels(&self) -> std::sync::MutexGuard<'_, HashMap<String, Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value of a `grpc-timeout` header; none when it is malformed.
fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

impl<S> Service<http::Request<Body>> for Forward<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.shared.route(&request) {
            Route::Pass => Box::pin(self.inner.call(request)),
            Route::Refuse(status) => Box::pin(async move { Ok(status.into_http()) }),
            Route::Forward { client_addr } => {
                let shared = self.shared.clone();
                Box::pin(async move {
                    Ok(match shared.forward(client_addr, request).await {
                        Ok(response) => response,
                        Err(status) => status.into_http(),
                    })
                })
            }
        }
    }
}

#[cfg(test)]
mod tests;
