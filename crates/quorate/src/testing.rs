//! A cluster of fakes on loopback, for the tests of the commands: replicas that answer as told,
//! over real connections.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_rpc::proto::milvus::data;
use quorate_rpc::proto::milvus::milvus as component;
use quorate_rpc::proto::quorate::{admin, collection, meta};
use tonic::{Request, Response, Status};

use crate::context::Context;

/// State shared by the fake replicas.
#[derive(Debug, Default)]
struct State {
    replicas: Vec<admin::Replica>,
    deposed: bool,
    corrupt: Option<usize>,
    collections: Vec<collection::Collection>,
    segments: usize,
    annotations: BTreeMap<String, meta::Annotation>,
    revision: u64,
    flush_polls: usize,
    flush_completes_at: usize,
}

#[derive(Clone)]
struct FakeReplica {
    index: usize,
    state: Arc<Mutex<State>>,
}

pub(crate) struct FakeCluster {
    state: Arc<Mutex<State>>,
}

impl FakeCluster {
    /// Replicas 1 to `count`; the first one leads.
    pub(crate) async fn start(count: usize) -> Self {
        let state = Arc::new(Mutex::new(State {
            collections: vec![collection_of(1, "docs", 2)],
            segments: 3,
            ..State::default()
        }));
        for index in 0..count {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            state.lock().unwrap().replicas.push(admin::Replica {
                node_id: index as u64 + 1,
                peer_address: format!("peer-{}:1", index + 1),
                client_address: address,
                voter: true,
            });
            let replica = FakeReplica {
                index,
                state: state.clone(),
            };
            tokio::spawn(
                quorate_rpc::channel::server(&Default::default())
                    .add_service(admin::admin_server::AdminServer::new(replica.clone()))
                    .add_service(collection::collections_server::CollectionsServer::new(
                        replica.clone(),
                    ))
                    .add_service(meta::meta_server::MetaServer::new(replica.clone()))
                    .add_service(data::data_coord_server::DataCoordServer::new(replica))
                    .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)),
            );
        }
        Self { state }
    }

    /// One more member that does not answer.
    pub(crate) async fn with_dead_replica(self) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let replicas = &mut self.state.lock().unwrap().replicas;
        replicas.push(admin::Replica {
            node_id: replicas.len() as u64 + 1,
            peer_address: "dead:1".to_owned(),
            client_address: listener.local_addr().unwrap().to_string(),
            voter: true,
        });
        drop(listener);
        Self {
            state: self.state.clone(),
        }
    }

    pub(crate) fn address(&self, index: usize) -> String {
        self.state.lock().unwrap().replicas[index]
            .client_address
            .clone()
    }

    pub(crate) fn context(&self) -> Context {
        self.context_of(0)
    }

    /// A context that knows only one of the replicas.
    pub(crate) fn context_of(&self, index: usize) -> Context {
        Context::to(vec![self.address(index)], Duration::from_secs(20))
    }

    pub(crate) fn depose(&self) {
        self.state.lock().unwrap().deposed = true;
    }

    pub(crate) fn corrupt(&self, index: usize) {
        self.state.lock().unwrap().corrupt = Some(index);
    }

    pub(crate) fn segments(&self, count: usize) {
        self.state.lock().unwrap().segments = count;
    }

    pub(crate) fn flush_completes_at_poll(&self, poll: usize) {
        self.state.lock().unwrap().flush_completes_at = poll;
    }
}

fn collection_of(id: i64, name: &str, channels: u32) -> collection::Collection {
    collection::Collection {
        id,
        name: name.to_owned(),
        partitions: vec![collection::Partition {
            id: id + 1,
            name: "_default".to_owned(),
        }],
        channels: (0..channels)
            .map(|n| format!("by-dev-{name}_{id}v{n}"))
            .collect(),
        ..Default::default()
    }
}

type Reply<T> = Result<Response<T>, Status>;

fn ok<T>(message: T) -> Reply<T> {
    Ok(Response::new(message))
}

fn not_faked<T>() -> Reply<T> {
    Err(Status::unimplemented("not faked"))
}

#[tonic::async_trait]
impl admin::admin_server::Admin for FakeReplica {
    async fn status(&self, _: Request<admin::StatusRequest>) -> Reply<admin::StatusResponse> {
        let state = self.state.lock().unwrap();
        let leads = self.index == 0 && !state.deposed;
        ok(admin::StatusResponse {
            cluster_id: "fake".to_owned(),
            node_id: self.index as u64 + 1,
            role: if leads { "leader" } else { "follower" }.to_owned(),
            term: 4,
            applied_index: 10,
            leading: leads,
            replicas: state.replicas.clone(),
            ..Default::default()
        })
    }

    async fn init(&self, _: Request<admin::InitRequest>) -> Reply<admin::InitResponse> {
        ok(admin::InitResponse {
            cluster_id: "fake".to_owned(),
        })
    }

    async fn list_segments(
        &self,
        request: Request<admin::ListSegmentsRequest>,
    ) -> Reply<admin::ListSegmentsResponse> {
        let request = request.into_inner();
        let count = self.state.lock().unwrap().segments as i64;
        let limit = match request.limit {
            0 => 10_000,
            limit => limit as usize,
        };
        let mut ids = (100..100 + count)
            .filter(|id| *id > request.after_id)
            .filter(|id| request.segment_ids.is_empty() || request.segment_ids.contains(id));
        let segments = ids.by_ref().take(limit).map(segment_of).collect();
        ok(admin::ListSegmentsResponse {
            segments,
            more: ids.next().is_some(),
        })
    }

    async fn list_channels(
        &self,
        _: Request<admin::ListChannelsRequest>,
    ) -> Reply<admin::ListChannelsResponse> {
        ok(admin::ListChannelsResponse {
            channels: vec![admin::Channel {
                name: "by-dev-docs_1v0".to_owned(),
                collection_id: 1,
                state: "Watched".to_owned(),
                node_id: 7,
                ..Default::default()
            }],
        })
    }

    async fn list_nodes(
        &self,
        _: Request<admin::ListNodesRequest>,
    ) -> Reply<admin::ListNodesResponse> {
        ok(admin::ListNodesResponse {
            nodes: vec![admin::Node {
                id: 7,
                address: "127.0.0.1:1".to_owned(),
                buffered_bytes: 1024,
                ..Default::default()
            }],
        })
    }

    async fn mark_check(
        &self,
        _: Request<admin::MarkCheckRequest>,
    ) -> Reply<admin::MarkCheckResponse> {
        ok(admin::MarkCheckResponse { index: 12 })
    }

    async fn get_check(
        &self,
        request: Request<admin::GetCheckRequest>,
    ) -> Reply<admin::GetCheckResponse> {
        let corrupt = self.state.lock().unwrap().corrupt == Some(self.index);
        ok(admin::GetCheckResponse {
            index: request.into_inner().index,
            digest: "d1".to_owned(),
            state_hash: if corrupt { "other" } else { "same" }.to_owned(),
            rows: 40,
            violations: Vec::new(),
        })
    }
}

fn segment_of(id: i64) -> admin::Segment {
    admin::Segment {
        info: Some(data::SegmentInfo {
            id,
            binlogs: vec![data::FieldBinlog {
                field_id: 100,
                binlogs: vec![data::Binlog {
                    log_id: 9,
                    log_path: format!("insert_log/1/2/{id}/100/9"),
                    ..Default::default()
                }],
            }],
            ..Default::default()
        }),
        state: "Growing".to_owned(),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl collection::collections_server::Collections for FakeReplica {
    async fn create_collection(
        &self,
        request: Request<collection::CreateCollectionRequest>,
    ) -> Reply<collection::CreateCollectionResponse> {
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        let found = state
            .collections
            .iter()
            .find(|c| c.name == request.name)
            .cloned();
        let created = found.is_none();
        let collection = found.unwrap_or_else(|| {
            let mut made = collection_of(1000, &request.name, request.shards);
            made.schema = request.schema;
            state.collections.push(made.clone());
            made
        });
        ok(collection::CreateCollectionResponse {
            collection: Some(collection),
            created,
        })
    }

    async fn drop_collection(
        &self,
        request: Request<collection::DropCollectionRequest>,
    ) -> Reply<collection::DropCollectionResponse> {
        let request = request.into_inner();
        let collections = &mut self.state.lock().unwrap().collections;
        let before = collections.len();
        collections.retain(|c| c.name != request.name && c.id != request.id);
        ok(collection::DropCollectionResponse {
            dropped: collections.len() < before,
        })
    }

    async fn describe_collection(
        &self,
        request: Request<collection::DescribeCollectionRequest>,
    ) -> Reply<collection::DescribeCollectionResponse> {
        let request = request.into_inner();
        let state = self.state.lock().unwrap();
        let found = state
            .collections
            .iter()
            .find(|c| c.name == request.name || c.id == request.id);
        match found {
            Some(found) => ok(collection::DescribeCollectionResponse {
                collection: Some(found.clone()),
            }),
            None => Err(quorate_rpc::status::to_grpc(
                quorate_rpc::status::Code::CollectionNotFound,
                "collection not found",
            )),
        }
    }

    async fn list_collections(
        &self,
        _: Request<collection::ListCollectionsRequest>,
    ) -> Reply<collection::ListCollectionsResponse> {
        ok(collection::ListCollectionsResponse {
            collections: self.state.lock().unwrap().collections.clone(),
        })
    }

    async fn create_partition(
        &self,
        _: Request<collection::CreatePartitionRequest>,
    ) -> Reply<collection::CreatePartitionResponse> {
        not_faked()
    }

    async fn drop_partition(
        &self,
        _: Request<collection::DropPartitionRequest>,
    ) -> Reply<collection::DropPartitionResponse> {
        not_faked()
    }
}

#[tonic::async_trait]
impl meta::meta_server::Meta for FakeReplica {
    async fn put(&self, request: Request<meta::PutRequest>) -> Reply<meta::PutResponse> {
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        let revision = state.revision;
        let annotation = meta::Annotation {
            key: request.key.clone(),
            value: request.value,
            revision,
        };
        state.annotations.insert(request.key, annotation);
        ok(meta::PutResponse { revision })
    }

    async fn get(&self, request: Request<meta::GetRequest>) -> Reply<meta::GetResponse> {
        let key = request.into_inner().key;
        ok(meta::GetResponse {
            annotation: self.state.lock().unwrap().annotations.get(&key).cloned(),
        })
    }

    async fn compare_and_set(
        &self,
        request: Request<meta::CompareAndSetRequest>,
    ) -> Reply<meta::CompareAndSetResponse> {
        use meta::compare_and_set_request::Expected;
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        let current = state.annotations.get(&request.key).cloned();
        let swapped = match request.expected {
            Some(Expected::Revision(revision)) => {
                current.as_ref().map_or(0, |c| c.revision) == revision
            }
            Some(Expected::Value(value)) => current.as_ref().map(|c| &c.value) == Some(&value),
            None => return Err(Status::invalid_argument("nothing expected")),
        };
        if swapped {
            state.revision += 1;
            let revision = state.revision;
            match request.new_value {
                Some(value) => {
                    let annotation = meta::Annotation {
                        key: request.key.clone(),
                        value,
                        revision,
                    };
                    state.annotations.insert(request.key.clone(), annotation);
                }
                None => {
                    state.annotations.remove(&request.key);
                }
            }
        }
        ok(meta::CompareAndSetResponse {
            swapped,
            current: state.annotations.get(&request.key).cloned(),
        })
    }

    async fn list(&self, _: Request<meta::ListRequest>) -> Reply<meta::ListResponse> {
        ok(meta::ListResponse {
            annotations: self
                .state
                .lock()
                .unwrap()
                .annotations
                .values()
                .cloned()
                .collect(),
            more: false,
        })
    }
}

#[tonic::async_trait]
impl data::data_coord_server::DataCoord for FakeReplica {
    async fn flush(&self, request: Request<data::FlushRequest>) -> Reply<data::FlushResponse> {
        ok(data::FlushResponse {
            collection_id: request.into_inner().collection_id,
            segment_i_ds: vec![100],
            flush_ts: 5 << 18,
            ..Default::default()
        })
    }

    async fn get_flush_state(
        &self,
        _: Request<data::GetFlushStateRequest>,
    ) -> Reply<component::GetFlushStateResponse> {
        let mut state = self.state.lock().unwrap();
        state.flush_polls += 1;
        ok(component::GetFlushStateResponse {
            flushed: state.flush_polls >= state.flush_completes_at,
            ..Default::default()
        })
    }

    async fn get_component_states(
        &self,
        _: Request<component::GetComponentStatesRequest>,
    ) -> Reply<component::ComponentStates> {
        not_faked()
    }

    async fn assign_segment_id(
        &self,
        _: Request<data::AssignSegmentIdRequest>,
    ) -> Reply<data::AssignSegmentIdResponse> {
        not_faked()
    }

    async fn save_binlog_paths(
        &self,
        _: Request<data::SaveBinlogPathsRequest>,
    ) -> Reply<quorate_rpc::proto::milvus::common::Status> {
        not_faked()
    }

    async fn get_segment_info(
        &self,
        _: Request<data::GetSegmentInfoRequest>,
    ) -> Reply<data::GetSegmentInfoResponse> {
        not_faked()
    }

    async fn get_segment_states(
        &self,
        _: Request<data::GetSegmentStatesRequest>,
    ) -> Reply<data::GetSegmentStatesResponse> {
        not_faked()
    }

    async fn get_recovery_info_v2(
        &self,
        _: Request<data::GetRecoveryInfoRequestV2>,
    ) -> Reply<data::GetRecoveryInfoResponseV2> {
        not_faked()
    }

    async fn drop_virtual_channel(
        &self,
        _: Request<data::DropVirtualChannelRequest>,
    ) -> Reply<data::DropVirtualChannelResponse> {
        not_faked()
    }

    async fn watch_channels(
        &self,
        _: Request<data::WatchChannelsRequest>,
    ) -> Reply<data::WatchChannelsResponse> {
        not_faked()
    }

    async fn report_data_node_tt_msgs(
        &self,
        _: Request<data::ReportDataNodeTtMsgsRequest>,
    ) -> Reply<quorate_rpc::proto::milvus::common::Status> {
        not_faked()
    }

    async fn update_channel_checkpoint(
        &self,
        _: Request<data::UpdateChannelCheckpointRequest>,
    ) -> Reply<quorate_rpc::proto::milvus::common::Status> {
        not_faked()
    }
}
