//! Stamps replies with the log index applied here and the epoch under which this replica leads, so
//! that clients and checkers can tell who answered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::HeaderValue;
use quorate_rpc::headers;
use tower::{Layer, Service};

use super::host::Host;

/// The layer.
#[derive(Clone)]
pub(super) struct StampLayer(pub(super) Arc<Host>);

impl<S> Layer<S> for StampLayer {
    type Service = Stamp<S>;

    fn layer(&self, inner: S) -> Stamp<S> {
        Stamp {
            inner,
            host: self.0.clone(),
        }
    }
}

/// The service of [`StampLayer`].
#[derive(Clone)]
pub(super) struct Stamp<S> {
    inner: S,
    host: Arc<Host>,
}

impl<S, B, R> Service<http::Request<B>> for Stamp<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future =
        Pin<Box<dyn Future<Output = Result<http::Response<R>, S::Error>> + Send + 'static>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let host = self.host.clone();
        let answering = self.inner.call(request);
        Box::pin(async move {
            let mut response = answering.await?;
            if let Some(replica) = host.replica()
                && let Ok(scope) = replica.coordinator().scope()
            {
                let machine = replica.coordinator().consensus().store().machine();
                let map = response.headers_mut();
                map.insert(headers::APPLIED, HeaderValue::from(machine.applied_index()));
                map.insert(headers::EPOCH, HeaderValue::from(scope.term));
            }
            Ok(response)
        })
    }
}
