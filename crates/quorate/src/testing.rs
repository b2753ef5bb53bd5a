//! A cluster of fakes on loopback, for the tests of the commands: replicas that answer as told,
//! over real connections.

mod admin_service;
mod data_coord_service;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_rpc::proto::milvus::{common, data, index, schema};
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
    compaction_polls: usize,
    compaction_ends_at: usize,
    index: Option<index::IndexInfo>,
    index_polls: usize,
    index_completes_at: usize,
    gc_pauses: Vec<String>,
}

impl State {
    fn partitions_of(&mut self, collection: i64) -> &mut Vec<collection::Partition> {
        let collections = &mut self.collections;
        let found = collections.iter_mut().find(|c| c.id == collection);
        &mut found.unwrap().partitions
    }
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
            collections: vec![collection::Collection {
                schema: Some(schema_of_docs()),
                ..collection_of(1, "docs", 2)
            }],
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

    /// A compaction has ended when asked for so often; 0: there is nothing to compact.
    pub(crate) fn compaction_ends_at_poll(&self, poll: usize) {
        self.state.lock().unwrap().compaction_ends_at = poll;
    }

    /// An index is complete when asked for so often.
    pub(crate) fn index_completes_at_poll(&self, poll: usize) {
        self.state.lock().unwrap().index_completes_at = poll;
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

fn schema_of_docs() -> schema::CollectionSchema {
    schema::CollectionSchema {
        fields: vec![schema::FieldSchema {
            field_id: 101,
            name: "v".to_owned(),
            data_type: schema::DataType::FloatVector as i32,
            type_params: vec![common::KeyValuePair {
                key: "dim".to_owned(),
                value: "4".to_owned(),
            }],
            ..Default::default()
        }],
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
        request: Request<collection::CreatePartitionRequest>,
    ) -> Reply<collection::CreatePartitionResponse> {
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        let partitions = state.partitions_of(request.collection_id);
        let found = partitions.iter().find(|p| p.name == request.name).cloned();
        let created = found.is_none();
        let partition = found.unwrap_or_else(|| {
            let made = collection::Partition {
                id: 2000 + partitions.len() as i64,
                name: request.name,
            };
            partitions.push(made.clone());
            made
        });
        ok(collection::CreatePartitionResponse {
            partition: Some(partition),
            created,
        })
    }

    async fn drop_partition(
        &self,
        request: Request<collection::DropPartitionRequest>,
    ) -> Reply<collection::DropPartitionResponse> {
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        let partitions = state.partitions_of(request.collection_id);
        let before = partitions.len();
        partitions.retain(|partition| partition.name != request.name);
        ok(collection::DropPartitionResponse {
            dropped: partitions.len() < before,
        })
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
