//! General clients: ids, timestamps, registers, segments nobody fills, collections that come and
//! go, flushes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate_coord::{CoordError, Coordinator};
use quorate_rpc::proto::milvus::common::KeyValuePair;
use quorate_rpc::proto::milvus::data::{
    AssignSegmentIdRequest, FlushRequest, GetFlushStateRequest, SegmentIdRequest,
};
use quorate_rpc::proto::milvus::schema::{CollectionSchema, DataType, FieldSchema};
use quorate_rpc::proto::quorate::collection::{
    Collection, CreateCollectionRequest, DescribeCollectionRequest, DropCollectionRequest,
};
use quorate_rpc::proto::quorate::meta::{
    CompareAndSetRequest, GetRequest, PutRequest, compare_and_set_request::Expected,
};
use quorate_rpc::proto::quorate::oracle::{AllocIdRequest, AllocTimestampRequest};
use tokio_util::sync::CancellationToken;

use super::client::{Outcome, Repeat, Session};
use super::history::{Call, End, History, Op};
use super::partitions::Partitions;
use super::replica::{Cluster, Served};
use super::world::Place;

const PATIENCE: Duration = Duration::from_secs(3);
/// Registers.
pub const KEYS: u32 = 4;

/// What all clients share.
pub struct Shared {
    /// The replicas.
    pub cluster: Arc<Cluster>,
    /// Every operation.
    pub history: Arc<History>,
    /// The next value of a register and the next token: none is used twice.
    pub unique: AtomicU64,
    /// The collection rows are written to.
    pub main: i64,
    /// Its channels.
    pub channels: Vec<String>,
    /// Its partitions.
    pub partitions: Arc<Partitions>,
}

/// One client.
pub struct Client {
    pub(super) shared: Arc<Shared>,
    session: Session,
    number: u64,
    /// What this client believes the registers hold.
    beliefs: [u64; KEYS as usize],
}

/// A schema with an id and a vector.
pub fn schema() -> CollectionSchema {
    let field = |field_id, name: &str, data_type: DataType| FieldSchema {
        field_id,
        name: name.into(),
        is_primary_key: field_id == 100,
        data_type: data_type.into(),
        type_params: vec![KeyValuePair {
            key: "dim".into(),
            value: "8".into(),
        }],
        ..FieldSchema::default()
    };
    CollectionSchema {
        fields: vec![
            field(100, "id", DataType::Int64),
            field(101, "vector", DataType::FloatVector),
        ],
        ..CollectionSchema::default()
    }
}

/// Creates a collection, however long it takes.
pub async fn create(session: &Session, name: &str, shards: u32) -> Collection {
    let request = CreateCollectionRequest {
        name: name.to_owned(),
        schema: Some(schema()),
        shards,
    };
    loop {
        let answer = session
            .ask("create", PATIENCE, Repeat::Always, |c| {
                let request = request.clone();
                async move { c.create_collection(request).await }
            })
            .await;
        if let Some(collection) = answer.ok().and_then(|served| served.value.collection) {
            return collection;
        }
    }
}

impl Client {
    /// A client that knows nothing yet.
    pub fn new(shared: Arc<Shared>, number: u64) -> Self {
        Self {
            session: Session::new(shared.cluster.clone(), Place::Client(number)),
            shared,
            number,
            beliefs: [0; KEYS as usize],
        }
    }

    /// Works until it is told to stop; the operation under way is finished.
    pub async fn run(mut self, stop: CancellationToken) {
        let world = self.shared.cluster.world.clone();
        while !stop.is_cancelled() {
            match world.draw(0, 100) {
                0..20 => self.alloc_id().await,
                20..45 => self.alloc_ts().await,
                45..60 => self.read().await,
                60..70 => self.write().await,
                70..85 => self.cas().await,
                85..93 => self.assign().await,
                93..97 => self.collections().await,
                _ => self.flush(&stop).await,
            }
            let pause = world.between(Duration::from_millis(5), Duration::from_millis(90));
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks, and writes down what came of it; `done` fills the answer in, if it is a success.
    pub(super) async fn op<T, F, Fut>(
        &self,
        call: Call,
        repeat: Repeat,
        make: F,
        done: impl FnOnce(&T, &mut Call) -> End,
    ) -> Option<Served<T>>
    where
        T: Send + 'static,
        F: Fn(Arc<Coordinator>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, CoordError>> + Send + 'static,
    {
        let world = &self.shared.cluster.world;
        let invoked = world.now_ns();
        let mut call = call;
        let name = call.name();
        world.note(format_args!("c{} invokes {call:?}", self.number));
        let outcome = self.session.ask(name, PATIENCE, repeat, make).await;
        let (end, by) = match &outcome {
            Outcome::Ok(served) => (
                done(&served.value, &mut call),
                served.term.map(|term| (served.node, term)),
            ),
            Outcome::Fail | Outcome::Refused(_) => (End::Fail, None),
            Outcome::RefusedLate(_) | Outcome::Info => (End::Info, None),
        };
        if let Outcome::Refused(error) | Outcome::RefusedLate(error) = &outcome {
            world.note(format_args!("c{} {name} refused: {error}", self.number));
        }
        world.note(format_args!("c{} {end:?} by {by:?} {call:?}", self.number));
        self.shared.history.add(Op {
            process: self.number,
            call,
            invoked,
            completed: world.now_ns(),
            end,
            by,
        });
        outcome.ok()
    }

    async fn alloc_id(&self) {
        let count = u32::try_from(self.shared.cluster.world.draw(1, 20)).unwrap_or(1);
        let call = Call::AllocId { count, first: 0 };
        self.op(
            call,
            Repeat::Always,
            move |c| async move { c.alloc_id(AllocIdRequest { count }).await },
            |answer, call| {
                let first = answer.first;
                *call = Call::AllocId { count, first };
                End::Ok
            },
        )
        .await;
    }

    async fn alloc_ts(&self) {
        let count = u32::try_from(self.shared.cluster.world.draw(1, 50)).unwrap_or(1);
        let call = Call::AllocTs { count, first: 0 };
        self.op(
            call,
            Repeat::Always,
            move |c| async move { c.alloc_timestamp(AllocTimestampRequest { count }).await },
            |answer, call| {
                let first = answer.first;
                *call = Call::AllocTs { count, first };
                End::Ok
            },
        )
        .await;
    }

    fn key(&self) -> u32 {
        u32::try_from(self.shared.cluster.world.draw(0, u64::from(KEYS))).unwrap_or(0)
    }

    /// A token for half of the operations; with one they may be repeated.
    fn token(&self) -> (Vec<u8>, Repeat) {
        if self.shared.cluster.world.chance(500) {
            let unique = self.shared.unique.fetch_add(1, Ordering::Relaxed);
            let token = format!("token-{unique:020}").into_bytes();
            (token, Repeat::Always)
        } else {
            (Vec::new(), Repeat::IfUntouched)
        }
    }

    async fn read(&mut self) {
        let key = self.key();
        if let Some(value) = self.read_key(key).await {
            self.beliefs[key as usize] = value;
        }
    }

    /// Reads a register and writes it down.
    pub async fn read_key(&self, key: u32) -> Option<u64> {
        let request = GetRequest {
            key: format!("register-{key}"),
        };
        let served = self
            .op(
                Call::Read { key, value: None },
                Repeat::Always,
                |c| {
                    let request = request.clone();
                    async move { c.get(request).await }
                },
                |answer, call| {
                    let row = answer.annotation.as_ref();
                    let value = row.map(|row| parse(&row.value));
                    *call = Call::Read { key, value };
                    End::Ok
                },
            )
            .await?;
        served.value.annotation.map(|row| parse(&row.value))
    }

    async fn write(&mut self) {
        let key = self.key();
        let value = self.shared.unique.fetch_add(1, Ordering::Relaxed);
        let (token, repeat) = self.token();
        let request = PutRequest {
            key: format!("register-{key}"),
            value: value.to_string().into_bytes(),
            token,
        };
        self.op(
            Call::Write { key, value },
            repeat,
            |c| {
                let request = request.clone();
                async move { c.put(request).await }
            },
            |_, _| End::Ok,
        )
        .await;
        self.beliefs[key as usize] = value;
    }

    async fn cas(&mut self) {
        let key = self.key();
        let old = self.beliefs[key as usize];
        let new = self.shared.unique.fetch_add(1, Ordering::Relaxed);
        let (token, repeat) = self.token();
        let request = CompareAndSetRequest {
            key: format!("register-{key}"),
            expected: Some(Expected::Value(old.to_string().into_bytes())),
            new_value: Some(new.to_string().into_bytes()),
            token,
        };
        let call = Call::Cas {
            key,
            old,
            new,
            seen: None,
        };
        let served = self
            .op(
                call,
                repeat,
                |c| {
                    let request = request.clone();
                    async move { c.compare_and_set(request).await }
                },
                |answer, call| {
                    if answer.swapped {
                        return End::Ok;
                    }
                    let seen = answer.current.as_ref().map(|row| parse(&row.value));
                    *call = Call::Cas {
                        key,
                        old,
                        new,
                        seen: Some(seen),
                    };
                    End::Fail
                },
            )
            .await;
        if let Some(current) = served.and_then(|served| served.value.current) {
            self.beliefs[key as usize] = parse(&current.value);
        }
    }

    /// Grants that are never used: they must expire without harm.
    async fn assign(&self) {
        let channels = &self.shared.channels;
        let shard = self.shared.cluster.world.draw(0, channels.len() as u64);
        let rows = u32::try_from(self.shared.cluster.world.draw(1, 40)).unwrap_or(1);
        let request = AssignSegmentIdRequest {
            segment_id_requests: vec![SegmentIdRequest {
                count: rows,
                channel_name: channels[usize::try_from(shard).unwrap_or(0)].clone(),
                collection_id: self.shared.main,
                partition_id: 7,
                ..SegmentIdRequest::default()
            }],
            ..AssignSegmentIdRequest::default()
        };
        let world = self.shared.cluster.world.clone();
        self.op(
            Call::Other("assign"),
            Repeat::Always,
            |c| {
                let request = request.clone();
                async move { c.assign_segment_id(request).await }
            },
            move |answer, _| {
                let granted: u32 = answer.seg_id_assignments.iter().map(|a| a.count).sum();
                // An item may carry an error of its own.
                let all_good = answer.seg_id_assignments.iter().all(|a| a.seg_id != 0);
                if all_good && granted != rows {
                    world.violation(format!("{rows} rows asked for, {granted} granted"));
                }
                if all_good { End::Ok } else { End::Fail }
            },
        )
        .await;
    }

    async fn collections(&self) {
        let name = format!("passing-{}", self.shared.cluster.world.draw(0, 5));
        match self.shared.cluster.world.draw(0, 3) {
            0 => {
                let request = CreateCollectionRequest {
                    name,
                    schema: Some(schema()),
                    shards: 1,
                };
                self.op(
                    Call::Other("create"),
                    Repeat::Always,
                    |c| {
                        let request = request.clone();
                        async move { c.create_collection(request).await }
                    },
                    |_, _| End::Ok,
                )
                .await;
            }
            1 => {
                let request = DropCollectionRequest { name, id: 0 };
                self.op(
                    Call::Other("drop"),
                    Repeat::Always,
                    |c| {
                        let request = request.clone();
                        async move { c.drop_collection(request).await }
                    },
                    |_, _| End::Ok,
                )
                .await;
            }
            _ => {
                let request = DescribeCollectionRequest { name, id: 0 };
                self.op(
                    Call::Other("describe"),
                    Repeat::Always,
                    |c| {
                        let request = request.clone();
                        async move { c.describe_collection(request).await }
                    },
                    |_, _| End::Ok,
                )
                .await;
            }
        }
    }

    /// A manual flush, followed until it is done or the patience is over.
    async fn flush(&self, stop: &CancellationToken) {
        let Some((segments, flush_ts)) = self.ask_flush().await else {
            return;
        };
        for _ in 0..20 {
            if stop.is_cancelled() || self.is_flushed(&segments, flush_ts).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Asks for a flush of the main collection.
    pub async fn ask_flush(&self) -> Option<(Vec<i64>, u64)> {
        let request = FlushRequest {
            collection_id: self.shared.main,
            ..FlushRequest::default()
        };
        let served = self
            .op(
                Call::Other("flush"),
                Repeat::Always,
                |c| {
                    let request = request.clone();
                    async move { c.flush(request).await }
                },
                |_, _| End::Ok,
            )
            .await?;
        Some((served.value.segment_i_ds, served.value.flush_ts))
    }

    /// Whether a flush is done; remembered as promised if it is.
    pub async fn is_flushed(&self, segments: &[i64], flush_ts: u64) -> bool {
        let request = GetFlushStateRequest {
            segment_i_ds: segments.to_vec(),
            flush_ts,
            collection_id: self.shared.main,
            ..GetFlushStateRequest::default()
        };
        let served = self
            .op(
                Call::Other("flush-state"),
                Repeat::Always,
                |c| {
                    let request = request.clone();
                    async move { c.get_flush_state(request).await }
                },
                |_, _| End::Ok,
            )
            .await;
        let flushed = served.is_some_and(|served| served.value.flushed);
        if flushed {
            let promise = (segments.to_vec(), flush_ts);
            self.shared.cluster.ledger.hold().flushed.push(promise);
        }
        flushed
    }
}

/// A register's value. What no client ever wrote counts as the largest one.
fn parse(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(u64::MAX)
}
