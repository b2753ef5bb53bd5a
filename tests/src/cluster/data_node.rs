//! A data node that accepts everything and does nothing: what the test does in its name is all
//! that happens to the channels it owns.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_rpc::proto::milvus::common::{MsgBase, Status as Answer};
use quorate_rpc::proto::milvus::data::data_node_server::{DataNode, DataNodeServer};
use quorate_rpc::proto::milvus::data::{
    ChannelOperationProgressResponse, ChannelOperationsRequest, ChannelWatchInfo,
    ChannelWatchState, CompactionPlan, CompactionStateRequest, CompactionStateResponse,
    DropCompactionPlanRequest, FlushChannelsRequest, FlushSegmentsRequest,
};
use quorate_rpc::proto::milvus::milvus::{ComponentStates, GetComponentStatesRequest};
use quorate_rpc::proto::quorate::node::nodes_client::NodesClient;
use quorate_rpc::proto::quorate::node::{HeartbeatRequest, RegisterRequest};
use quorate_rpc::{Client, Retry, status};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::Cluster;

const HEARTBEAT: Duration = Duration::from_millis(500);

/// A registered data node with a live lease. Dropping it ends its heartbeats and its server.
pub struct FakeDataNode {
    /// The id it was given.
    pub id: i64,
    /// Where the coordinator calls it.
    pub address: String,
    flushes: Arc<Mutex<Vec<i64>>>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl FakeDataNode {
    /// Serves at the cluster's address and registers.
    pub async fn start(cluster: &Cluster) -> Self {
        let address: Ipv4Addr = cluster.address();
        let listener = TcpListener::bind((address, 0))
            .await
            .expect("a port is free at an address of our own");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address")
            .to_string();
        let service = Service::default();
        let flushes = service.flushes.clone();
        let server = tokio::spawn(async move {
            let served = Server::builder()
                .add_service(DataNodeServer::new(service))
                .serve_with_incoming(TcpIncoming::from(listener))
                .await;
            served.expect("the fake data node serves");
        });
        let session = format!("fake-{}", rand::random::<u64>());
        let request = RegisterRequest {
            address: address.clone(),
            session: session.clone(),
            version: "fake".to_owned(),
        };
        let client = cluster.client().clone();
        let registered = client
            .call(Retry::Idempotent, |leader| {
                let request = request.clone();
                async move { NodesClient::new(leader).register(request).await }
            })
            .await
            .expect("a data node can register");
        let id = registered.node_id;
        let heartbeats = tokio::spawn(beat(client, id, session));
        Self {
            id,
            address,
            flushes,
            _tasks: [server, heartbeats].map(AbortOnDropHandle::new),
        }
    }

    /// What its requests carry: who speaks.
    pub fn base(&self) -> Option<MsgBase> {
        Some(MsgBase {
            source_id: self.id,
            ..MsgBase::default()
        })
    }

    /// Segments it was asked to flush, in order, repeats included.
    pub fn flushes(&self) -> Vec<i64> {
        self.flushes.lock().expect("no holder panics").clone()
    }
}

async fn beat(client: Client, node_id: i64, session: String) {
    loop {
        let request = HeartbeatRequest {
            node_id,
            session: session.clone(),
            ..HeartbeatRequest::default()
        };
        // During an election nobody takes it; the next one will be taken.
        let _ = client
            .call_within(Duration::from_secs(2), Retry::Idempotent, |leader| {
                let request = request.clone();
                async move { NodesClient::new(leader).heartbeat(request).await }
            })
            .await;
        tokio::time::sleep(HEARTBEAT).await;
    }
}

#[derive(Default)]
struct Service {
    flushes: Arc<Mutex<Vec<i64>>>,
}

#[tonic::async_trait]
impl DataNode for Service {
    async fn get_component_states(
        &self,
        _: Request<GetComponentStatesRequest>,
    ) -> Result<Response<ComponentStates>, Status> {
        Ok(Response::new(ComponentStates {
            status: Some(status::ok()),
            ..ComponentStates::default()
        }))
    }

    async fn flush_segments(
        &self,
        request: Request<FlushSegmentsRequest>,
    ) -> Result<Response<Answer>, Status> {
        let asked = request.into_inner().segment_i_ds;
        self.flushes.lock().expect("no holder panics").extend(asked);
        Ok(Response::new(status::ok()))
    }

    async fn flush_channels(
        &self,
        _: Request<FlushChannelsRequest>,
    ) -> Result<Response<Answer>, Status> {
        Ok(Response::new(status::ok()))
    }

    async fn notify_channel_operation(
        &self,
        _: Request<ChannelOperationsRequest>,
    ) -> Result<Response<Answer>, Status> {
        Ok(Response::new(status::ok()))
    }

    async fn check_channel_operation_progress(
        &self,
        request: Request<ChannelWatchInfo>,
    ) -> Result<Response<ChannelOperationProgressResponse>, Status> {
        let asked = request.into_inner();
        let state = match asked.state() {
            ChannelWatchState::ToRelease => ChannelWatchState::ReleaseSuccess,
            _ => ChannelWatchState::WatchSuccess,
        };
        Ok(Response::new(ChannelOperationProgressResponse {
            status: Some(status::ok()),
            op_id: asked.op_id,
            state: state.into(),
            progress: 100,
        }))
    }

    async fn compaction_v2(&self, _: Request<CompactionPlan>) -> Result<Response<Answer>, Status> {
        Err(Status::unimplemented("this data node does not compact"))
    }

    async fn get_compaction_state(
        &self,
        _: Request<CompactionStateRequest>,
    ) -> Result<Response<CompactionStateResponse>, Status> {
        Ok(Response::new(CompactionStateResponse {
            status: Some(status::ok()),
            ..CompactionStateResponse::default()
        }))
    }

    async fn drop_compaction_plan(
        &self,
        _: Request<DropCompactionPlanRequest>,
    ) -> Result<Response<Answer>, Status> {
        Ok(Response::new(status::ok()))
    }
}
