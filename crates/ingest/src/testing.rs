//! A coordinator and data nodes in memory, on loopback, that do what tests tell them to.

#![allow(clippy::unwrap_used)]

mod coordinator;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_array::{ArrayRef, Float32Array, Int64Array, RecordBatch, StringArray};
use async_trait::async_trait;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use quorate_binlog::RowSet;
use quorate_rpc::proto::milvus::data;
use quorate_rpc::proto::milvus::data::data_coord_server::DataCoordServer;
use quorate_rpc::proto::quorate::collection::collections_server::CollectionsServer;
use quorate_rpc::proto::quorate::node::column::Values;
use quorate_rpc::proto::quorate::node::nodes_server::NodesServer;
use quorate_rpc::proto::quorate::node::rows_server::{Rows, RowsServer};
use quorate_rpc::proto::quorate::oracle::oracle_server::OracleServer;
use quorate_rpc::proto::quorate::{collection, node};
use quorate_rpc::{Client, ClientOptions, headers};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use coordinator::FakeCoordinator;

pub(crate) const COLLECTION_ID: i64 = 77;
pub(crate) const PARTITION_ID: i64 = 78;

/// The sample that the project ships.
pub(crate) fn sample() -> PathBuf {
    PathBuf::from("../../tests/data/sample.parquet")
}

/// Writes a Parquet file with row groups of 100 rows.
pub(crate) fn write_parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(100))
        .build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// Vectors of two values: row and half of it.
pub(crate) fn vectors(rows: std::ops::Range<i64>) -> ArrayRef {
    let values = rows.flat_map(|row| [row as f32, row as f32 / 2.0]);
    let values = Arc::new(Float32Array::from_iter_values(values));
    let item = Arc::new(arrow_schema::Field::new(
        "item",
        arrow_schema::DataType::Float32,
        false,
    ));
    Arc::new(arrow_array::FixedSizeListArray::new(item, 2, values, None))
}

/// A file with columns id (row + 1000), name and vector.
pub(crate) fn small_file(path: &Path, rows: i64) {
    write_parquet(
        path,
        vec![
            (
                "id",
                Arc::new(Int64Array::from_iter_values(1000..1000 + rows)),
            ),
            (
                "name",
                Arc::new(StringArray::from_iter_values(
                    (0..rows).map(|row| format!("row {row}")),
                )),
            ),
            ("vector", vectors(0..rows)),
        ],
    );
}

/// What a data node does with the next insert instead of taking it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trick {
    /// Answers that the timestamp is late.
    Late,
    /// Answers that buffers are full.
    Busy,
    /// Refuses for good.
    Invalid,
    /// Takes the rows and lets the answer get lost.
    LoseAnswer,
    /// Has stored so many rows of the channel, and is replaced by the other node, unnoticed.
    Replaced { stored: u64 },
    /// Is replaced while it does not answer.
    Dead,
}

/// One insert as a node saw it.
#[derive(Debug, Clone)]
pub(crate) struct SeenInsert {
    pub(crate) node: usize,
    pub(crate) timestamp: u64,
    pub(crate) rows: u64,
    pub(crate) segments: Vec<i64>,
    pub(crate) ordinals: Vec<(u64, u64)>,
}

#[derive(Debug, Default)]
pub(crate) struct ChannelState {
    pub(crate) owner: Option<usize>,
    pub(crate) epoch: i64,
    pub(crate) stored: RowSet,
    /// In memory of the owner.
    pub(crate) buffered: RowSet,
    /// Primary key by ordinal, of rows that were taken.
    pub(crate) keys: BTreeMap<u64, i64>,
    pub(crate) deleted: Vec<i64>,
    pub(crate) deletes_buffered: Vec<i64>,
}

#[derive(Debug, Default)]
pub(crate) struct FakeState {
    pub(crate) collection: Option<collection::Collection>,
    pub(crate) channels: HashMap<String, ChannelState>,
    pub(crate) addresses: Vec<String>,
    pub(crate) clock: u64,
    pub(crate) next_segment: i64,
    /// Inserts let through before the trick, per trick in order.
    pub(crate) tricks: Vec<(usize, Trick)>,
    pub(crate) inserts: Vec<SeenInsert>,
    pub(crate) insert_calls: usize,
    pub(crate) creates: usize,
    /// Grants expired already, for so many calls.
    pub(crate) stale_grants: usize,
    /// AssignSegmentID fails retriably for so many calls.
    pub(crate) assign_failures: usize,
    /// Syncs that answer well and lose everything.
    pub(crate) lossy_syncs: usize,
    /// Syncs during which the channel moves to the other node.
    pub(crate) moving_syncs: usize,
    pub(crate) syncs: usize,
    pub(crate) unowned: bool,
    /// What recovery info and segment info answer.
    pub(crate) segments: Vec<data::SegmentInfo>,
}

impl FakeState {
    fn move_away(&mut self, channel: &str) {
        let nodes = self.addresses.len();
        let state = self.channels.get_mut(channel).unwrap();
        state.owner = state.owner.map(|owner| (owner + 1) % nodes);
        state.epoch += 1;
        state.buffered = RowSet::new();
        state.deletes_buffered.clear();
    }
}

/// A cluster of one coordinator and two data nodes.
#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) state: Arc<Mutex<FakeState>>,
    pub(crate) client: Client,
}

impl Fake {
    pub(crate) async fn start() -> Fake {
        let state = Arc::new(Mutex::new(FakeState {
            clock: 1000,
            next_segment: 1,
            ..FakeState::default()
        }));
        for index in 0..2 {
            let service = FakeNode {
                index,
                state: Arc::clone(&state),
            };
            let address = serve(|router| {
                router.add_service(RowsServer::new(service).max_decoding_message_size(64 << 20))
            })
            .await;
            state.lock().unwrap().addresses.push(address);
        }
        let coordinator = FakeCoordinator {
            state: Arc::clone(&state),
        };
        let address = serve(|router| {
            router
                .add_service(DataCoordServer::new(coordinator.clone()))
                .add_service(CollectionsServer::new(coordinator.clone()))
                .add_service(NodesServer::new(coordinator.clone()))
                .add_service(OracleServer::new(coordinator))
        })
        .await;
        let options = ClientOptions {
            deadline: Duration::from_secs(5),
            ..ClientOptions::default()
        };
        Fake {
            state,
            client: Client::new([address], options).unwrap(),
        }
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut FakeState) -> T) -> T {
        act(&mut self.state.lock().unwrap())
    }
}

async fn serve(
    services: impl FnOnce(&mut tonic::transport::Server) -> tonic::transport::server::Router,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = services(&mut tonic::transport::Server::builder());
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

struct FakeNode {
    index: usize,
    state: Arc<Mutex<FakeState>>,
}

#[async_trait]
impl Rows for FakeNode {
    async fn insert(
        &self,
        request: Request<node::InsertRequest>,
    ) -> Result<Response<node::InsertResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        let channel = state
            .channels
            .get(&request.channel)
            .ok_or_else(|| Status::failed_precondition("no such channel"))?;
        if channel.owner != Some(self.index) || channel.epoch != request.assignment_epoch {
            return Err(Status::failed_precondition("not the owner of the channel"));
        }
        state.insert_calls += 1;
        let mut trick = None;
        if let Some((after, _)) = state.tricks.first_mut() {
            match *after {
                0 => trick = Some(state.tricks.remove(0).1),
                _ => *after -= 1,
            }
        }
        match &trick {
            Some(Trick::Late) => {
                let mut late = Status::failed_precondition("the timestamp is late");
                let one = "1".parse().unwrap();
                late.metadata_mut().insert(headers::LATE, one);
                return Err(late);
            }
            Some(Trick::Busy) => return Err(Status::resource_exhausted("buffers are full")),
            Some(Trick::Invalid) => return Err(Status::invalid_argument("field x, row 3: bad")),
            Some(Trick::Replaced { stored }) => {
                let channel = state.channels.get_mut(&request.channel).unwrap();
                let stream = &request.batches[0].ordinals[0].stream;
                channel.stored.insert(stream, 0, *stored);
                state.move_away(&request.channel);
                return Err(Status::failed_precondition("not the owner of the channel"));
            }
            Some(Trick::Dead) => {
                state.move_away(&request.channel);
                return Err(Status::unavailable("connection reset"));
            }
            Some(Trick::LoseAnswer) | None => {}
        }
        let (accepted, skipped) = take(&mut state, self.index, &request)?;
        if trick == Some(Trick::LoseAnswer) {
            return Err(Status::unavailable("connection reset"));
        }
        Ok(Response::new(node::InsertResponse {
            accepted_rows: accepted,
            skipped_rows: skipped,
        }))
    }

    async fn delete(
        &self,
        request: Request<node::DeleteRequest>,
    ) -> Result<Response<node::DeleteResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        let channel = state.channels.get_mut(&request.channel).unwrap();
        if channel.owner != Some(self.index) || channel.epoch != request.assignment_epoch {
            return Err(Status::failed_precondition("not the owner of the channel"));
        }
        let Some(Values::Longs(keys)) = request.primary_keys.and_then(|keys| keys.values) else {
            return Err(Status::invalid_argument("no keys"));
        };
        let accepted_rows = keys.data.len() as u64;
        channel.deletes_buffered.extend(keys.data);
        Ok(Response::new(node::DeleteResponse { accepted_rows }))
    }

    async fn sync(
        &self,
        request: Request<node::SyncRequest>,
    ) -> Result<Response<node::SyncResponse>, Status> {
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        state.syncs += 1;
        for name in request.into_inner().channels {
            if state.moving_syncs > 0 {
                state.moving_syncs -= 1;
                state.move_away(&name);
                continue;
            }
            let channel = state.channels.get_mut(&name).unwrap();
            if channel.owner != Some(self.index) {
                return Err(Status::failed_precondition("not the owner of the channel"));
            }
            let buffered = std::mem::take(&mut channel.buffered);
            if state.lossy_syncs > 0 {
                state.lossy_syncs -= 1;
            } else {
                channel.stored.union(&buffered);
                channel.deleted.append(&mut channel.deletes_buffered);
            }
        }
        Ok(Response::new(node::SyncResponse::default()))
    }
}

/// What a data node checks, and then remembers.
fn take(
    state: &mut FakeState,
    node: usize,
    request: &node::InsertRequest,
) -> Result<(u64, u64), Status> {
    let batch = &request.batches[0];
    let rows = u64::from(batch.rows);
    let wrong = |what: &str| Err(Status::invalid_argument(what.to_owned()));
    if request.collection_id != COLLECTION_ID || batch.partition_id != PARTITION_ID {
        return wrong("collection or partition");
    }
    if batch.grants.iter().map(|g| u64::from(g.rows)).sum::<u64>() != rows {
        return wrong("grants do not add up");
    }
    if batch
        .grants
        .iter()
        .any(|g| g.expire_ts <= request.timestamp)
    {
        return wrong("a grant has expired");
    }
    if batch.ordinals.iter().map(|r| r.to - r.from).sum::<u64>() != rows {
        return wrong("ordinals do not add up");
    }
    let Some(Values::Longs(keys)) = &batch.columns[0].values else {
        return wrong("no keys");
    };
    let channel = state.channels.get_mut(&request.channel).unwrap();
    let (mut accepted, mut at) = (0, 0);
    for range in &batch.ordinals {
        for ordinal in range.from..range.to {
            let here = channel.stored.contains(&range.stream, ordinal)
                || channel.buffered.contains(&range.stream, ordinal);
            if !here {
                channel.buffered.insert(&range.stream, ordinal, ordinal + 1);
                accepted += 1;
            }
            let key = keys.data[at];
            if *channel.keys.entry(ordinal).or_insert(key) != key {
                return wrong("another row had this ordinal");
            }
            at += 1;
        }
    }
    state.inserts.push(SeenInsert {
        node,
        timestamp: request.timestamp,
        rows,
        segments: batch.grants.iter().map(|grant| grant.segment_id).collect(),
        ordinals: batch.ordinals.iter().map(|r| (r.from, r.to)).collect(),
    });
    Ok((accepted, rows - accepted))
}
