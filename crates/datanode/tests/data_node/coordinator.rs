//! A small coordinator: hands out ids and timestamps, keeps what is saved, and misbehaves on
//! demand. Tests wait for what it has seen instead of sleeping.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_binlog::RowSet;
use quorate_rpc::proto::milvus::common::Status as Answer;
use quorate_rpc::proto::milvus::data::data_coord_server::{DataCoord, DataCoordServer};
use quorate_rpc::proto::milvus::data::*;
use quorate_rpc::proto::milvus::milvus::{
    ComponentStates, GetComponentStatesRequest, GetFlushStateResponse,
};
use quorate_rpc::proto::milvus::msg::{DataNodeTtMsg, MsgPosition};
use quorate_rpc::proto::milvus::{index, milvus};
use quorate_rpc::proto::quorate::node::nodes_server::{Nodes, NodesServer};
use quorate_rpc::proto::quorate::node::*;
use quorate_rpc::proto::quorate::oracle::oracle_server::{Oracle, OracleServer};
use quorate_rpc::proto::quorate::oracle::*;
use quorate_rpc::status::{self, Code};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// What happens to the next save.
#[derive(Clone)]
pub enum Fate {
    /// Taken, but the answer is lost.
    AnswerLost,
    /// Refused with this code.
    Refused(Code),
}

#[derive(Default)]
pub struct Seen {
    pub registrations: Vec<RegisterRequest>,
    pub heartbeats: Vec<HeartbeatRequest>,
    /// Every attempt of a save, also those that came to nothing.
    pub attempts: Vec<SaveBinlogPathsRequest>,
    /// Saves taken, each once.
    pub saves: Vec<SaveBinlogPathsRequest>,
    pub ticks: Vec<DataNodeTtMsg>,
    pub checkpoints: Vec<MsgPosition>,
    pub stored: RowSet,
    pub fates: VecDeque<Fate>,
    /// Saves are not answered at all.
    pub saves_held: bool,
    /// Heartbeats of this node id are answered with "expired".
    pub expired: Option<i64>,
    pub next_id: i64,
    pub last_ts: u64,
}

#[derive(Clone)]
pub struct Coordinator {
    seen: Arc<Mutex<Seen>>,
    changed: Arc<watch::Sender<()>>,
}

pub struct Running {
    pub coordinator: Coordinator,
    pub address: SocketAddr,
    _stop: DropGuard,
}

pub async fn start() -> Running {
    let coordinator = Coordinator {
        seen: Arc::new(Mutex::new(Seen {
            next_id: 1000,
            ..Seen::default()
        })),
        changed: Arc::new(watch::Sender::new(())),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let server = Server::builder()
        .add_service(DataCoordServer::new(coordinator.clone()))
        .add_service(NodesServer::new(coordinator.clone()))
        .add_service(OracleServer::new(coordinator.clone()))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.clone().cancelled_owned());
    tokio::spawn(server);
    Running {
        coordinator,
        address,
        _stop: stop.drop_guard(),
    }
}

impl Coordinator {
    pub fn with<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        let result = change(&mut self.seen.lock().unwrap());
        self.changed.send_replace(());
        result
    }

    /// Waits until what was seen is as it should be.
    pub async fn until<T>(&self, what: &str, mut check: impl FnMut(&mut Seen) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            loop {
                if let Some(found) = check(&mut self.seen.lock().unwrap()) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .unwrap_or_else(|_| panic!("waited in vain for: {what}"))
    }

    pub fn timestamp(&self) -> u64 {
        self.with(|seen| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            seen.last_ts = (seen.last_ts + 1).max((now.as_millis() as u64) << 18);
            seen.last_ts
        })
    }

    fn save(&self, request: SaveBinlogPathsRequest) -> Result<Answer, Status> {
        self.with(|seen| {
            seen.attempts.push(request.clone());
            if seen.saves_held {
                return Err(Status::unavailable("held by the test"));
            }
            let fate = seen.fates.pop_front();
            if let Some(Fate::Refused(code)) = fate {
                return Ok(status::fail(code, "refused by the test"));
            }
            if !seen.saves.contains(&request) {
                for range in &request.row_ranges {
                    let new = seen.stored.insert(&range.stream, range.from, range.to);
                    assert_eq!(new, range.to - range.from, "rows saved twice");
                }
                seen.saves.push(request);
            }
            match fate {
                Some(Fate::AnswerLost) => Err(Status::unavailable("lost by the test")),
                _ => Ok(status::ok()),
            }
        })
    }
}

#[tonic::async_trait]
impl Nodes for Coordinator {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let node_id = self.with(|seen| {
            seen.registrations.push(request.into_inner());
            seen.registrations.len() as i64
        });
        Ok(Response::new(RegisterResponse {
            node_id,
            lease_ms: 1000,
            heartbeat_interval_ms: 20,
            object_refresh_ms: 0,
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let request = request.into_inner();
        let expired = self.with(|seen| {
            seen.heartbeats.push(request.clone());
            seen.expired == Some(request.node_id)
        });
        if expired {
            return Err(status::to_grpc(Code::NodeNotFound, "the node was expired"));
        }
        Ok(Response::new(HeartbeatResponse {}))
    }

    async fn get_coverage(
        &self,
        _request: Request<GetCoverageRequest>,
    ) -> Result<Response<GetCoverageResponse>, Status> {
        Ok(Response::new(GetCoverageResponse {
            ranges: self.with(|seen| seen.stored.to_proto()),
            ..Default::default()
        }))
    }
}

#[tonic::async_trait]
impl Oracle for Coordinator {
    async fn alloc_id(
        &self,
        request: Request<AllocIdRequest>,
    ) -> Result<Response<AllocIdResponse>, Status> {
        let count = request.into_inner().count.max(1);
        let first = self.with(|seen| {
            seen.next_id += i64::from(count);
            seen.next_id - i64::from(count)
        });
        Ok(Response::new(AllocIdResponse { first, count }))
    }

    async fn alloc_timestamp(
        &self,
        _request: Request<AllocTimestampRequest>,
    ) -> Result<Response<AllocTimestampResponse>, Status> {
        let first = self.timestamp();
        Ok(Response::new(AllocTimestampResponse { first, count: 1 }))
    }
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("no data node calls this"))
}

#[tonic::async_trait]
impl DataCoord for Coordinator {
    async fn save_binlog_paths(
        &self,
        request: Request<SaveBinlogPathsRequest>,
    ) -> Result<Response<Answer>, Status> {
        self.save(request.into_inner()).map(Response::new)
    }

    async fn report_data_node_tt_msgs(
        &self,
        request: Request<ReportDataNodeTtMsgsRequest>,
    ) -> Result<Response<Answer>, Status> {
        self.with(|seen| seen.ticks = request.into_inner().msgs);
        Ok(Response::new(status::ok()))
    }

    async fn update_channel_checkpoint(
        &self,
        request: Request<UpdateChannelCheckpointRequest>,
    ) -> Result<Response<Answer>, Status> {
        self.with(|seen| {
            seen.checkpoints
                .extend(request.into_inner().channel_checkpoints)
        });
        Ok(Response::new(status::ok()))
    }

    async fn get_component_states(
        &self,
        _: Request<GetComponentStatesRequest>,
    ) -> Result<Response<ComponentStates>, Status> {
        unused()
    }
    async fn assign_segment_id(
        &self,
        _: Request<AssignSegmentIdRequest>,
    ) -> Result<Response<AssignSegmentIdResponse>, Status> {
        unused()
    }
    async fn flush(&self, _: Request<FlushRequest>) -> Result<Response<FlushResponse>, Status> {
        unused()
    }
    async fn get_flush_state(
        &self,
        _: Request<GetFlushStateRequest>,
    ) -> Result<Response<GetFlushStateResponse>, Status> {
        unused()
    }
    async fn get_segment_info(
        &self,
        _: Request<GetSegmentInfoRequest>,
    ) -> Result<Response<GetSegmentInfoResponse>, Status> {
        unused()
    }
    async fn get_segment_states(
        &self,
        _: Request<GetSegmentStatesRequest>,
    ) -> Result<Response<GetSegmentStatesResponse>, Status> {
        unused()
    }
    async fn get_recovery_info_v2(
        &self,
        _: Request<GetRecoveryInfoRequestV2>,
    ) -> Result<Response<GetRecoveryInfoResponseV2>, Status> {
        unused()
    }
    async fn drop_virtual_channel(
        &self,
        _: Request<DropVirtualChannelRequest>,
    ) -> Result<Response<DropVirtualChannelResponse>, Status> {
        unused()
    }
    async fn watch_channels(
        &self,
        _: Request<WatchChannelsRequest>,
    ) -> Result<Response<WatchChannelsResponse>, Status> {
        unused()
    }
    async fn manual_compaction(
        &self,
        _: Request<milvus::ManualCompactionRequest>,
    ) -> Result<Response<milvus::ManualCompactionResponse>, Status> {
        unused()
    }
    async fn get_compaction_state(
        &self,
        _: Request<milvus::GetCompactionStateRequest>,
    ) -> Result<Response<milvus::GetCompactionStateResponse>, Status> {
        unused()
    }
    async fn get_compaction_state_with_plans(
        &self,
        _: Request<milvus::GetCompactionPlansRequest>,
    ) -> Result<Response<milvus::GetCompactionPlansResponse>, Status> {
        unused()
    }
    async fn create_index(
        &self,
        _: Request<index::CreateIndexRequest>,
    ) -> Result<Response<Answer>, Status> {
        unused()
    }
    async fn describe_index(
        &self,
        _: Request<index::DescribeIndexRequest>,
    ) -> Result<Response<index::DescribeIndexResponse>, Status> {
        unused()
    }
    async fn get_index_state(
        &self,
        _: Request<index::GetIndexStateRequest>,
    ) -> Result<Response<index::GetIndexStateResponse>, Status> {
        unused()
    }
    async fn get_segment_index_state(
        &self,
        _: Request<index::GetSegmentIndexStateRequest>,
    ) -> Result<Response<index::GetSegmentIndexStateResponse>, Status> {
        unused()
    }
    async fn get_index_infos(
        &self,
        _: Request<index::GetIndexInfoRequest>,
    ) -> Result<Response<index::GetIndexInfoResponse>, Status> {
        unused()
    }
    async fn get_index_statistics(
        &self,
        _: Request<index::GetIndexStatisticsRequest>,
    ) -> Result<Response<index::GetIndexStatisticsResponse>, Status> {
        unused()
    }
    async fn get_index_build_progress(
        &self,
        _: Request<index::GetIndexBuildProgressRequest>,
    ) -> Result<Response<index::GetIndexBuildProgressResponse>, Status> {
        unused()
    }
    async fn drop_index(
        &self,
        _: Request<index::DropIndexRequest>,
    ) -> Result<Response<Answer>, Status> {
        unused()
    }
    async fn gc_confirm(
        &self,
        _: Request<GcConfirmRequest>,
    ) -> Result<Response<GcConfirmResponse>, Status> {
        unused()
    }
    async fn gc_control(&self, _: Request<GcControlRequest>) -> Result<Response<Answer>, Status> {
        unused()
    }
}
