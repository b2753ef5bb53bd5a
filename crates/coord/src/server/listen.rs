//! The three ports: clients (gRPC and HTTP together), peers, health and metrics.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use quorate_rpc::channel::{MAX_DECODE_BYTES, MAX_ENCODE_BYTES, server};
use quorate_rpc::forward::ForwardLayer;
use quorate_rpc::proto::milvus::data::data_coord_server::DataCoordServer;
use quorate_rpc::proto::quorate::admin::admin_server::AdminServer;
use quorate_rpc::proto::quorate::collection::collections_server::CollectionsServer;
use quorate_rpc::proto::quorate::meta::meta_server::MetaServer;
use quorate_rpc::proto::quorate::node::nodes_server::NodesServer;
use quorate_rpc::proto::quorate::oracle::oracle_server::OracleServer;
use quorate_rpc::proto::quorate::peer::peer_server::PeerServer;
use quorate_rpc::tls::incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::{InterceptorLayer, Routes};

use super::ServerError;
use super::host::Host;
use super::peer::PeerService;
use super::stamp::StampLayer;
use crate::config::Config;
use crate::metrics;
use crate::service::grpc::Services;

/// Bound sockets.
pub struct Listening {
    client: TcpListener,
    peer: TcpListener,
    health: TcpListener,
}

async fn bind(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServerError::Listen {
            address,
            purpose,
            source,
        })
}

impl Listening {
    pub(super) async fn bind(config: &Config) -> Result<Self, ServerError> {
        Ok(Self {
            client: bind(config.listen_client, "clients").await?,
            peer: bind(config.listen_peer, "peers").await?,
            health: bind(config.listen_health, "health and metrics").await?,
        })
    }

    /// The addresses in use: clients, peers, health.
    pub fn addresses(&self) -> [Option<SocketAddr>; 3] {
        [&self.client, &self.peer, &self.health].map(|socket| socket.local_addr().ok())
    }

    /// Serves all three until `closed`.
    pub(super) async fn serve(self, host: Arc<Host>, closed: CancellationToken) {
        let client = serve_clients(host.clone(), self.client, closed.clone());
        let peer = serve_peers(host.clone(), self.peer, closed.clone());
        let health = serve_health(host.clone(), self.health, closed);
        tokio::join!(client, peer, health);
    }
}

fn log_end(what: &str, result: Result<(), impl std::fmt::Display>) {
    if let Err(error) = result {
        tracing::error!(%error, "{what} ended");
    }
}

async fn serve_clients(host: Arc<Host>, listener: TcpListener, closed: CancellationToken) {
    let services = Services::new(host.clone());
    macro_rules! sized {
        ($server:ident) => {
            $server::new(services.clone())
                .max_decoding_message_size(MAX_DECODE_BYTES)
                .max_encoding_message_size(MAX_ENCODE_BYTES)
        };
    }
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    let reflection = |descriptors| {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
    };
    let routes = Routes::new(health)
        .add_service(sized!(DataCoordServer))
        .add_service(sized!(CollectionsServer))
        .add_service(sized!(OracleServer))
        .add_service(sized!(NodesServer))
        .add_service(sized!(MetaServer))
        .add_service(sized!(AdminServer));
    let routes = match (
        reflection(quorate_rpc::FILE_DESCRIPTOR_SET).build_v1(),
        reflection(quorate_rpc::FILE_DESCRIPTOR_SET).build_v1alpha(),
    ) {
        (Ok(v1), Ok(v1alpha)) => routes.add_service(v1).add_service(v1alpha),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "no server reflection");
            routes
        }
    };
    let router = routes
        .into_axum_router()
        .merge(super::http::routes(host.clone()));
    let served = server(host.options())
        .accept_http1(true)
        .layer(StampLayer(host.clone()))
        .layer(quorate_rpc::unimplemented_layer(env!("CARGO_PKG_VERSION")))
        .layer(ForwardLayer::new(
            host.clone(),
            host.security().forward.clone(),
        ))
        .add_routes(Routes::from(router))
        .serve_with_incoming_shutdown(
            incoming(listener, host.security().client_port.clone(), "clients"),
            closed.cancelled_owned(),
        )
        .await;
    log_end("the clients' port", served);
}

async fn serve_peers(host: Arc<Host>, listener: TcpListener, closed: CancellationToken) {
    let service = PeerService::new(host.clone());
    let tls = host.security().peer_port.clone();
    let gate = service.gate(tls.is_some());
    let service = PeerServer::new(service)
        .max_decoding_message_size(MAX_DECODE_BYTES)
        .max_encoding_message_size(MAX_ENCODE_BYTES);
    let served = server(host.options())
        .layer(InterceptorLayer::new(gate))
        .add_service(service)
        .serve_with_incoming_shutdown(incoming(listener, tls, "peers"), closed.cancelled_owned())
        .await;
    log_end("the peers' port", served);
}

async fn serve_health(host: Arc<Host>, listener: TcpListener, closed: CancellationToken) {
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render_metrics))
        .with_state(host);
    let served = axum::serve(listener, app)
        .with_graceful_shutdown(closed.cancelled_owned())
        .await;
    log_end("the health port", served);
}

async fn readyz(State(host): State<Arc<Host>>) -> impl IntoResponse {
    if host.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: no cluster yet, or still applying the log\n",
        )
    }
}

/// The recorder is one a process, whatever the number of replicas in it.
fn recorder() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            PrometheusBuilder::new()
                .install_recorder()
                .inspect_err(|error| tracing::error!(%error, "no metrics"))
                .ok()
        })
        .as_ref()
}

async fn render_metrics(State(host): State<Arc<Host>>) -> String {
    let Some(recorder) = recorder() else {
        return String::new();
    };
    let status = host.status();
    metrics::raft(&metrics::RaftGauges {
        node_id: status.node_id,
        role: match status.role.as_str() {
            "leader" => 1.0,
            "learner" => 2.0,
            _ => 0.0,
        },
        term: status.term,
        committed: status.committed_index,
        applied: status.applied_index,
    });
    recorder.render()
}
