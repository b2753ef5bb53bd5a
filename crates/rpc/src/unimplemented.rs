//! Tells callers of an unknown method which method, of which service, and of which version of
//! Quorate, where tonic would answer with the bare code.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::HeaderValue;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::methods;

/// A layer that puts a message into UNIMPLEMENTED answers that have none.
pub fn unimplemented_layer(version: &'static str) -> UnimplementedLayer {
    UnimplementedLayer { version }
}

/// See [`unimplemented_layer`].
#[derive(Clone, Debug)]
pub struct UnimplementedLayer {
    version: &'static str,
}

impl<S> Layer<S> for UnimplementedLayer {
    type Service = Unimplemented<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Unimplemented {
            inner,
            version: self.version,
        }
    }
}

/// The service of [`UnimplementedLayer`].
#[derive(Clone, Debug)]
pub struct Unimplemented<S> {
    inner: S,
    version: &'static str,
}

impl<S> Service<http::Request<Body>> for Unimplemented<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future =
        Pin<Box<dyn Future<Output = Result<http::Response<Body>, S::Error>> + Send + 'static>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let uri = request.uri().clone();
        let version = self.version;
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            if !is_bare_unimplemented(response.headers()) {
                return Ok(response);
            }
            let message = match methods::split(uri.path()) {
                Some((service, method)) => {
                    format!(
                        "method {method} of service {service} is not supported by Quorate {version}"
                    )
                }
                None => format!("path {} is not supported by Quorate {version}", uri.path()),
            };
            Ok(Status::unimplemented(message).into_http())
        })
    }
}

fn is_bare_unimplemented(headers: &http::HeaderMap) -> bool {
    headers.get("grpc-status") == Some(&HeaderValue::from_static("12"))
        && headers
            .get("grpc-message")
            .is_none_or(HeaderValue::is_empty)
}
