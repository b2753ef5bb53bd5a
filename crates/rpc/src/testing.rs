//! Real servers on loopback for this crate's tests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::runtime::Runtime;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::ChannelOptions;
use crate::proto::quorate::oracle::{
    AllocIdRequest, AllocIdResponse, AllocTimestampRequest, AllocTimestampResponse,
    oracle_server::{Oracle, OracleServer},
};

/// A server on a runtime of its own, so that it can be killed with its open connections, as a
/// process is.
pub(crate) struct TestServer {
    pub(crate) address: String,
    runtime: Option<Runtime>,
}

impl TestServer {
    /// Serves `routes` behind `layer` on a free port.
    pub(crate) fn start<L>(layer: L, routes: Routes) -> Self
    where
        L: tower::Layer<Routes> + Clone + Send + 'static,
        L::Service: tower::Service<
                http::Request<tonic::body::Body>,
                Response = http::Response<tonic::body::Body>,
                Error = std::convert::Infallible,
            > + Clone
            + Send
            + 'static,
        <L::Service as tower::Service<http::Request<tonic::body::Body>>>::Future: Send,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self::start_on(listener, layer, routes)
    }

    /// Serves at an address a killed server had, as soon as that one has let go of it.
    pub(crate) fn start_again_at(address: &str, routes: Routes) -> Self {
        loop {
            if let Ok(listener) = std::net::TcpListener::bind(address) {
                let layer = tower::layer::util::Identity::new();
                return Self::start_on(listener, layer, routes);
            }
            std::thread::yield_now();
        }
    }

    fn start_on<L>(listener: std::net::TcpListener, layer: L, routes: Routes) -> Self
    where
        L: tower::Layer<Routes> + Clone + Send + 'static,
        L::Service: tower::Service<
                http::Request<tonic::body::Body>,
                Response = http::Response<tonic::body::Body>,
                Error = std::convert::Infallible,
            > + Clone
            + Send
            + 'static,
        <L::Service as tower::Service<http::Request<tonic::body::Body>>>::Future: Send,
    {
        listener.set_nonblocking(true).unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            crate::channel::server(&ChannelOptions::default())
                .layer(layer)
                .add_routes(routes)
                .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self {
            address: address.to_string(),
            runtime: Some(runtime),
        }
    }

    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An address at which nobody listens.
pub(crate) fn dead_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// What a fake answers to its n-th call, counted from 1.
pub(crate) enum Answer {
    First(i64),
    Refuse(Status),
    Never,
}

/// An oracle that answers as told and keeps the metadata of every call.
#[derive(Clone)]
pub(crate) struct FakeOracle {
    answer: Arc<dyn Fn(usize) -> Answer + Send + Sync>,
    seen: Arc<Mutex<Vec<MetadataMap>>>,
    arrived: Arc<tokio::sync::Semaphore>,
}

impl FakeOracle {
    pub(crate) fn new(answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        Self {
            answer: Arc::new(answer),
            seen: Arc::default(),
            arrived: Arc::new(tokio::sync::Semaphore::new(0)),
        }
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub(crate) fn metadata(&self, call: usize) -> MetadataMap {
        self.seen.lock().unwrap()[call].clone()
    }

    /// Waits until one more call is being handled.
    pub(crate) async fn next_arrival(&self) {
        self.arrived.acquire().await.unwrap().forget();
    }

    pub(crate) fn serve(&self) -> TestServer {
        TestServer::start(tower::layer::util::Identity::new(), self.routes())
    }

    pub(crate) fn routes(&self) -> Routes {
        Routes::new(OracleServer::new(self.clone()))
    }
}

#[tonic::async_trait]
impl Oracle for FakeOracle {
    async fn alloc_id(
        &self,
        request: Request<AllocIdRequest>,
    ) -> Result<Response<AllocIdResponse>, Status> {
        let call = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(request.metadata().clone());
            seen.len()
        };
        self.arrived.add_permits(1);
        match (self.answer)(call) {
            Answer::First(first) => Ok(Response::new(AllocIdResponse {
                first,
                count: request.get_ref().count,
            })),
            Answer::Refuse(status) => Err(status),
            Answer::Never => std::future::pending().await,
        }
    }

    async fn alloc_timestamp(
        &self,
        _: Request<AllocTimestampRequest>,
    ) -> Result<Response<AllocTimestampResponse>, Status> {
        Err(Status::internal("not asked for in these tests"))
    }
}
