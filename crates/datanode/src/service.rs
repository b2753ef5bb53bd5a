//! The gRPC services of the data node, on one port.

mod data_node;
mod index_node;
mod rows;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quorate_rpc::proto::milvus::common::StateCode;
use quorate_rpc::proto::milvus::data::data_node_server::DataNodeServer;
use quorate_rpc::proto::milvus::index::index_node_server::IndexNodeServer;
use quorate_rpc::proto::milvus::milvus::{ComponentInfo, ComponentStates};
use quorate_rpc::proto::quorate::node::rows_server::RowsServer;
use quorate_rpc::{ChannelOptions, channel, status};
use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;
use tonic::transport::server::TcpIncoming;

use crate::node::Node;

/// Requests of one connection handled at a time.
const REQUESTS_PER_CONNECTION: usize = 256;

/// Serves until the node ends. `_ended` is let go when serving is over, for whatever reason.
pub(crate) async fn serve(node: Arc<Node>, listener: TcpListener, _ended: DropGuard) {
    let limit = node.config.message_max_bytes;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<RowsServer<rows::RowsService>>().await;
    health
        .set_serving::<DataNodeServer<data_node::DataNodeService>>()
        .await;
    health
        .set_serving::<IndexNodeServer<index_node::IndexNodeService>>()
        .await;
    let rows =
        RowsServer::new(rows::RowsService::new(Arc::clone(&node))).max_decoding_message_size(limit);
    let data_node = DataNodeServer::new(data_node::DataNodeService::new(Arc::clone(&node)))
        .max_decoding_message_size(limit);
    let index_node = IndexNodeServer::new(index_node::IndexNodeService::new(Arc::clone(&node)))
        .max_decoding_message_size(limit);
    let stop = node.stop.clone();
    let served = channel::server(&ChannelOptions::default())
        .concurrency_limit_per_connection(REQUESTS_PER_CONNECTION)
        .add_service(health_service)
        .add_service(rows)
        .add_service(data_node)
        .add_service(index_node)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            stop.cancelled_owned(),
        )
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the data node's server failed");
    }
}

/// What the node answers about itself, in whatever role it is asked.
fn component_states(node: &Node, role: &str) -> ComponentStates {
    let node_id = node.node_id();
    let state = if node.stopping.load(Ordering::Acquire) {
        StateCode::Stopping
    } else if node_id == 0 {
        StateCode::Initializing
    } else {
        StateCode::Healthy
    };
    ComponentStates {
        state: Some(ComponentInfo {
            node_id,
            role: role.to_owned(),
            state_code: state.into(),
            extra_info: Vec::new(),
        }),
        subcomponent_states: Vec::new(),
        status: Some(status::ok()),
    }
}
