//! One client: an operation after the other, chosen at random.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate_rpc::ClientError;
use quorate_rpc::proto::milvus::data::data_coord_client::DataCoordClient;
use quorate_rpc::proto::milvus::data::{AssignSegmentIdRequest, SegmentIdRequest};
use quorate_rpc::proto::quorate::meta::compare_and_set_request::Expected;
use quorate_rpc::proto::quorate::meta::meta_client::MetaClient;
use quorate_rpc::proto::quorate::meta::{CompareAndSetRequest, GetRequest, PutRequest};
use quorate_rpc::proto::quorate::oracle::oracle_client::OracleClient;
use quorate_rpc::proto::quorate::oracle::{AllocIdRequest, AllocTimestampRequest};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::call::{Answer, ask};
use super::{PAUSE, Shared};
use crate::history::{Call, Open, Outcome};

/// How long one operation may take with all its attempts.
const DEADLINE: Duration = Duration::from_secs(20);
/// Keys each client writes in turn, alone.
const SLOTS: u64 = 300;
/// Operations on a shared register before the next one takes its place: a search for an order
/// takes longer the more there are.
const REGISTER_OPS: u64 = 200;
/// Rows asked for at a time; a segment takes four such.
const ROWS: u32 = 250_000;

pub(super) struct Caller {
    shared: Arc<Shared>,
    rng: StdRng,
    number: u64,
    /// Grows after each operation nobody answered: what it was called then stays open for ever.
    generation: u64,
    writes: u64,
    /// The register last used and the value it had.
    seen: (String, Option<String>),
    seed: u64,
}

impl Caller {
    pub(super) fn new(shared: Arc<Shared>, seed: u64, number: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            shared,
            number,
            generation: 0,
            writes: 0,
            seen: Default::default(),
            seed,
        }
    }

    pub(super) async fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            match self.rng.random_range(0..100) {
                0..45 => self.write_own().await,
                45..70 => self.register().await,
                70..82 => self.alloc_id().await,
                82..94 => self.alloc_ts().await,
                _ => self.assign().await,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn process(&self) -> String {
        format!("{:x}.{}.{}", self.seed, self.number, self.generation)
    }

    fn invoke(&self, call: &Call) -> Open {
        self.shared.history.invoke(&self.process(), call)
    }

    /// Records the end: `answered` turns an answer into the operation with its result.
    fn record<T>(
        &mut self,
        open: Open,
        call: Call,
        answer: Answer<T>,
        answered: impl FnOnce(&T) -> (Call, Outcome, Option<String>),
    ) -> Option<T> {
        let (call, outcome, error) = match &answer.result {
            Ok(reply) => answered(reply),
            Err(error) => (call, Answer::<T>::outcome(error), Some(told(error))),
        };
        if outcome == Outcome::Info {
            self.generation += 1;
        }
        self.shared
            .history
            .complete(open, call, outcome, answer.term, error);
        answer.result.ok()
    }

    fn token(&mut self) -> Vec<u8> {
        self.rng.random::<[u8; 16]>().to_vec()
    }

    fn value(&mut self) -> String {
        self.writes += 1;
        format!("{:x}.{}.{}", self.seed, self.number, self.writes)
    }

    async fn write_own(&mut self) {
        let value = self.value();
        let key = format!("w/{:02}/{:04}", self.number, self.writes % SLOTS);
        self.shared.mark(&key);
        self.write(key, value).await;
    }

    async fn write(&mut self, key: String, value: String) {
        let request = PutRequest {
            key: key.clone(),
            value: value.clone().into(),
            token: self.token(),
        };
        let call = Call::Write { key, value };
        let open = self.invoke(&call);
        let answer = ask(&self.shared.client, DEADLINE, |leader| {
            let request = request.clone();
            async move { MetaClient::new(leader).put(request).await }
        })
        .await;
        self.record(open, call.clone(), answer, |_| (call, Outcome::Ok, None));
    }

    /// A read, a write or a compare-and-set of a register that others use at the same time.
    async fn register(&mut self) {
        let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed);
        let key = format!("r/{:x}/{}", self.seed, turn / REGISTER_OPS);
        if self.seen.0 != key {
            self.seen = (key.clone(), None);
        }
        match (self.rng.random_range(0..10), self.seen.1.clone()) {
            (0..3, _) => {
                let value = self.value();
                self.write(key, value).await;
            }
            (3..7, Some(old)) => self.cas(key, old).await,
            _ => self.read(key).await,
        }
    }

    async fn read(&mut self, key: String) {
        let call = Call::Read {
            key: key.clone(),
            value: None,
        };
        let open = self.invoke(&call);
        let answer = ask(&self.shared.client, DEADLINE, |leader| {
            let key = key.clone();
            async move { MetaClient::new(leader).get(GetRequest { key }).await }
        })
        .await;
        let mut value = None;
        self.record(open, call, answer, |reply| {
            value = reply.annotation.as_ref().map(|row| text(&row.value));
            let call = Call::Read {
                key: key.clone(),
                value: value.clone(),
            };
            (call, Outcome::Ok, None)
        });
        self.seen = (key, value);
    }

    async fn cas(&mut self, key: String, old: String) {
        let new = self.value();
        let request = CompareAndSetRequest {
            key: key.clone(),
            expected: Some(Expected::Value(old.clone().into())),
            new_value: Some(new.clone().into()),
            token: self.token(),
        };
        let call = Call::Cas {
            key: key.clone(),
            old: old.clone(),
            new: new.clone(),
            seen: None,
        };
        let open = self.invoke(&call);
        let answer = ask(&self.shared.client, DEADLINE, |leader| {
            let request = request.clone();
            async move { MetaClient::new(leader).compare_and_set(request).await }
        })
        .await;
        let reply = self.record(open, call.clone(), answer, |reply| {
            if reply.swapped {
                return (call, Outcome::Ok, None);
            }
            let seen = reply.current.as_ref().map(|row| text(&row.value));
            let seen = Some(seen);
            (
                Call::Cas {
                    key,
                    old,
                    new,
                    seen,
                },
                Outcome::Fail,
                None,
            )
        });
        self.seen.1 = reply
            .and_then(|reply| reply.current)
            .map(|row| text(&row.value));
    }

    async fn alloc_id(&mut self) {
        let count = self.rng.random_range(1..=2000);
        let call = Call::AllocId { count, first: 0 };
        let open = self.invoke(&call);
        let answer = ask(&self.shared.client, DEADLINE, |leader| async move {
            OracleClient::new(leader)
                .alloc_id(AllocIdRequest { count })
                .await
        })
        .await;
        self.record(open, call, answer, |reply| {
            let (count, first) = (reply.count, reply.first);
            (Call::AllocId { count, first }, Outcome::Ok, None)
        });
    }

    async fn alloc_ts(&mut self) {
        let count = self.rng.random_range(1..=64);
        let call = Call::AllocTs { count, first: 0 };
        let open = self.invoke(&call);
        let answer = ask(&self.shared.client, DEADLINE, |leader| async move {
            OracleClient::new(leader)
                .alloc_timestamp(AllocTimestampRequest { count })
                .await
        })
        .await;
        self.record(open, call, answer, |reply| {
            let (count, first) = (reply.count, reply.first);
            (Call::AllocTs { count, first }, Outcome::Ok, None)
        });
    }

    async fn assign(&mut self) {
        let collection = &self.shared.collection;
        let channels = &collection.channels;
        let Some(channel) = channels.get(self.rng.random_range(0..channels.len().max(1))) else {
            return;
        };
        let channel = channel.clone();
        let request = AssignSegmentIdRequest {
            segment_id_requests: vec![SegmentIdRequest {
                count: ROWS,
                channel_name: channel.clone(),
                collection_id: collection.id,
                partition_id: collection
                    .partitions
                    .first()
                    .map_or(0, |partition| partition.id),
                ..SegmentIdRequest::default()
            }],
            ..AssignSegmentIdRequest::default()
        };
        let call = Call::Assign {
            channel: channel.clone(),
            rows: ROWS,
            granted: None,
        };
        let open = self.invoke(&call);
        let answer = ask(&self.shared.client, DEADLINE, |leader| {
            let request = request.clone();
            async move {
                DataCoordClient::new(leader)
                    .assign_segment_id(request)
                    .await
            }
        })
        .await;
        self.record(open, call.clone(), answer, |reply| {
            let refused = |code: i32, reason: &str| {
                let error = Some(format!("code {code}: {reason}"));
                // A promise of rows is volatile: an answer that is no promise has no effect.
                (call.clone(), Outcome::Fail, error)
            };
            let status = reply.status.clone().unwrap_or_default();
            if status.code != 0 {
                return refused(status.code, &status.reason);
            }
            let Some(given) = reply.seg_id_assignments.first() else {
                return refused(0, "no segment in the answer");
            };
            let status = given.status.clone().unwrap_or_default();
            if status.code != 0 {
                return refused(status.code, &status.reason);
            }
            let granted = Some((given.seg_id, given.count));
            let call = Call::Assign {
                channel,
                rows: ROWS,
                granted,
            };
            (call, Outcome::Ok, None)
        });
    }
}

/// A value of this workload, which is always text.
pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

fn told(error: &ClientError) -> String {
    error.to_string()
}
