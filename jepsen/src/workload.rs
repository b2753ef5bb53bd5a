//! Clients that use a cluster at random and record what they were told.
//!
//! Every write carries a request token, so an attempt that is repeated is still one operation.
//! Values are unique.

mod call;
mod client;
mod read_back;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use quorate_rpc::proto::milvus::schema::{CollectionSchema, DataType, FieldSchema};
use quorate_rpc::proto::quorate::collection::collections_client::CollectionsClient;
use quorate_rpc::proto::quorate::collection::{Collection, CreateCollectionRequest};
use quorate_rpc::{Client, Retry};
use tokio::task::JoinSet;

use crate::history::{Call, History};
use crate::wait::until;
use client::Caller;

/// Clients of a load.
const CLIENTS: u64 = 8;
/// How long a client thinks between two operations.
const PAUSE: Duration = Duration::from_millis(4);
/// How long clients may take to finish the operations they are at.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// What the clients of a load share.
#[derive(Debug)]
struct Shared {
    client: Client,
    history: Arc<History>,
    collection: Collection,
    /// Keys of single writers that were written since they were last read back.
    dirty: Mutex<BTreeSet<String>>,
    /// Operations on shared registers, for choosing one.
    turn: AtomicU64,
    /// Times [`Load::read_back`] has run, for names.
    readers: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn mark(&self, key: &str) {
        self.dirty
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.to_owned());
    }
}

/// Clients at work.
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

impl Load {
    /// Makes what they work on, and starts them.
    ///
    /// # Errors
    /// The cluster does not serve.
    pub async fn start(client: Client, history: Arc<History>, seed: u64) -> Result<Self> {
        let collection = create_collection(&client, seed).await?;
        let shared = Arc::new(Shared {
            client,
            history,
            collection,
            dirty: Mutex::default(),
            turn: AtomicU64::new(0),
            readers: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let mut load = Self {
            shared,
            clients: JoinSet::new(),
        };
        load.run(seed);
        Ok(load)
    }

    /// A load that goes on from here, recorded elsewhere; no client of it runs yet, and everything
    /// written so far counts as not read back.
    pub fn fork(&self, history: Arc<History>) -> Self {
        let written = history.ops().into_iter().filter_map(|op| match op.call {
            Call::Write { key, .. } if read_back::covers(&key) => Some(key),
            _ => None,
        });
        Self {
            shared: Arc::new(Shared {
                client: self.shared.client.clone(),
                collection: self.shared.collection.clone(),
                dirty: Mutex::new(written.collect()),
                turn: AtomicU64::new(0),
                readers: AtomicU64::new(0),
                stop: AtomicBool::new(false),
                history,
            }),
            clients: JoinSet::new(),
        }
    }

    fn run(&mut self, seed: u64) {
        self.shared.stop.store(false, Ordering::Relaxed);
        for number in 0..CLIENTS {
            let caller = Caller::new(self.shared.clone(), seed, number);
            self.clients.spawn(caller.run());
        }
    }

    /// Waits until so many more operations are acknowledged.
    ///
    /// # Errors
    /// They are not, for long.
    pub async fn progress(&self, operations: usize) -> Result<()> {
        let goal = self.shared.history.acks() + operations;
        until("operations are acknowledged", async || {
            Ok((self.shared.history.acks() >= goal).then_some(()))
        })
        .await
    }

    /// Ends the clients, each after the operation it is at.
    ///
    /// # Errors
    /// One does not end, or panicked.
    pub async fn pause(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let all = async {
            while let Some(ended) = self.clients.join_next().await {
                ended.context("a client of the load panicked")?;
            }
            Ok(())
        };
        match tokio::time::timeout(STOP_TIMEOUT, all).await {
            Ok(ended) => ended,
            Err(_) => bail!("the clients do not finish in {STOP_TIMEOUT:?}"),
        }
    }

    /// Starts clients again after a [`pause`](Self::pause).
    pub fn resume(&mut self, seed: u64) {
        self.run(seed);
    }

    /// Reads every key that one client wrote alone since the last time, and all segments.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub async fn read_back(&self) -> Result<usize> {
        read_back::run(&self.shared).await
    }
}

async fn create_collection(client: &Client, seed: u64) -> Result<Collection> {
    let request = CreateCollectionRequest {
        name: format!("faults_{seed}"),
        schema: Some(CollectionSchema {
            fields: vec![FieldSchema {
                name: "id".to_owned(),
                is_primary_key: true,
                data_type: DataType::Int64.into(),
                ..FieldSchema::default()
            }],
            ..CollectionSchema::default()
        }),
        shards: 2,
    };
    let reply = client
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move {
                CollectionsClient::new(leader)
                    .create_collection(request)
                    .await
            }
        })
        .await
        .context("the workload's collection")?;
    reply.collection.context("the answer names no collection")
}
