//! What is done to the collections at random.
//!
//! Each place has one collection at a time and two tasks. The *writer* changes which rows there
//! are, one change after the other, each repeated until it is acknowledged: so what is in doubt is
//! never more than one change. The *operator* does what must change no row.

use std::sync::Arc;
use std::time::Duration;

use quorate_ingest::{DeleteKeys, DeleteOptions, IngestOptions, IngestProgress};
use quorate_rpc::Client;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::model::{DEFAULT_PARTITION, Keys};
use super::shared::Shared;
use crate::cmd::source::{Slice, Source};
use crate::cmd::{collections, compact, flush, gc, index, partitions};
use crate::error::{CliError, Exit};

/// Rows of an ingest.
const ROWS: std::ops::Range<usize> = 40..400;
/// With more rows alive, rather some go.
const ROWS_MAX: usize = 4_000;
/// Named partitions of a collection at most.
const PARTITIONS_MAX: usize = 3;
/// Pause of a writer between two changes, ms.
const WRITER_PAUSE_MS: std::ops::Range<u64> = 50..1_500;
/// Pause of an operator, ms.
const OPERATOR_PAUSE_MS: std::ops::Range<u64> = 500..4_000;
/// Pause before an order that failed is given again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// An order that is not acknowledged for so long is a failure of its own.
const PATIENCE: Duration = Duration::from_secs(180);
/// The vectors.
const FIELD: &str = "embedding";

/// A place for one collection at a time.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) shared: Shared,
    pub(super) client: Client,
    pub(super) source: Arc<Mutex<Source>>,
    /// Number of the place.
    pub(super) number: usize,
    /// Name of the collection that is there now.
    pub(super) collection: Arc<std::sync::Mutex<String>>,
}

impl Place {
    fn collection(&self) -> String {
        let name = self.collection.lock();
        name.unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    fn begin_collection(&self, generation: u32) -> String {
        let name = format!("soak_{}_{generation}", self.number);
        self.shared.model(|model| model.add_collection(&name));
        let mut now = self
            .collection
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        now.clone_from(&name);
        name
    }

    /// Changes rows until the random part ends. What was ordered is seen through.
    pub(super) async fn write(self, mut rng: StdRng) -> Result<(), CliError> {
        let mut generation = 1;
        let mut name = self.begin_collection(generation);
        let mut partition = 0;
        self.ingest(&mut rng, &name, DEFAULT_PARTITION).await?;
        while self.shared.pause(pause(&mut rng, WRITER_PAUSE_MS)).await {
            let full = self.shared.model(|model| model.alive(&name)) > ROWS_MAX;
            match rng.random_range(0..100) {
                0..60 if !full => {
                    let partition = self.partition(&mut rng, &name, &mut partition);
                    self.ingest(&mut rng, &name, &partition).await?;
                }
                0..85 => self.delete(&mut rng, &name).await?,
                85..97 => self.drop_partition(&mut rng, &name).await?,
                _ => {
                    self.drop_collection(&name).await?;
                    generation += 1;
                    name = self.begin_collection(generation);
                    self.ingest(&mut rng, &name, DEFAULT_PARTITION).await?;
                }
            }
        }
        Ok(())
    }

    /// The default partition, one that is there, or a new one.
    fn partition(&self, rng: &mut StdRng, collection: &str, last: &mut u32) -> String {
        let there = self.shared.model(|model| model.partitions(collection));
        match rng.random_range(0..6) {
            0..3 => DEFAULT_PARTITION.to_owned(),
            3 if there.len() < PARTITIONS_MAX => {
                *last += 1;
                format!("part_{last}")
            }
            _ if there.is_empty() => DEFAULT_PARTITION.to_owned(),
            _ => there[rng.random_range(0..there.len())].clone(),
        }
    }

    async fn ingest(
        &self,
        rng: &mut StdRng,
        collection: &str,
        partition: &str,
    ) -> Result<(), CliError> {
        let (from, count) = (rng.random_range(0..1 << 20), rng.random_range(ROWS));
        let cut = self.source.lock().await.cut(from, count)?;
        let slice = Slice::of(cut).await?;
        let rows = slice.rows.len() as u64;
        let batch = self
            .shared
            .model(|model| model.order_ingest(collection, partition, &slice.rows));
        let options = IngestOptions {
            channels: 2,
            create: true,
            partition: (partition != DEFAULT_PARTITION).then(|| partition.to_owned()),
            ..IngestOptions::new(&slice.file, collection)
        };
        self.see_through("ingest", || {
            let options = options.clone();
            async move {
                let progress = watch::Sender::new(IngestProgress::default());
                let stop = CancellationToken::new();
                quorate_ingest::ingest(&self.client, options, progress, stop)
                    .await
                    .map(drop)
                    .map_err(CliError::failed)
            }
        })
        .await?;
        self.shared
            .model(|model| model.acknowledge_ingest(collection, batch));
        self.shared.count("ingests", 1);
        self.shared.count("rows ingested", rows);
        Ok(())
    }

    /// Deletes a part of the rows of some batch.
    async fn delete(&self, rng: &mut StdRng, collection: &str) -> Result<(), CliError> {
        let mut batches = self.shared.model(|model| model.deletable(collection));
        if batches.is_empty() {
            return Ok(());
        }
        let batch = batches.swap_remove(rng.random_range(0..batches.len()));
        let share = rng.random_range(1..=100);
        let mut keys: Keys = batch
            .into_iter()
            .filter(|_| rng.random_range(0..100) < share)
            .collect();
        keys.truncate(ROWS.end);
        if keys.is_empty() {
            return Ok(());
        }
        self.shared
            .model(|model| model.order_delete(collection, &keys));
        let ids: Vec<i64> = keys.iter().map(|(id, _)| *id).collect();
        let options = DeleteOptions::new(collection, DeleteKeys::Ids(ids));
        self.see_through("delete", || {
            let options = options.clone();
            async move {
                quorate_ingest::delete(&self.client, options)
                    .await
                    .map(drop)
                    .map_err(CliError::failed)
            }
        })
        .await?;
        self.shared
            .model(|model| model.acknowledge_delete(collection, &keys));
        self.shared.count("deletes", 1);
        self.shared.count("rows deleted", keys.len() as u64);
        Ok(())
    }

    async fn drop_partition(&self, rng: &mut StdRng, collection: &str) -> Result<(), CliError> {
        let there = self.shared.model(|model| model.partitions(collection));
        if there.is_empty() {
            return Ok(());
        }
        let partition = &there[rng.random_range(0..there.len())];
        self.shared
            .model(|model| model.order_partition_drop(collection, partition));
        self.see_through("drop of a partition", || {
            let command = partitions::Command::Drop {
                name: partition.clone(),
                collection: collection.to_owned(),
            };
            async move {
                partitions::run(&self.shared.context, command)
                    .await
                    .map(drop)
            }
        })
        .await?;
        self.shared
            .model(|model| model.acknowledge_partition_drop(collection, partition));
        self.shared.count("partitions dropped", 1);
        Ok(())
    }

    async fn drop_collection(&self, collection: &str) -> Result<(), CliError> {
        self.shared
            .model(|model| model.order_collection_drop(collection));
        self.see_through("drop of a collection", || {
            let command = collections::Command::Drop {
                collection: collection.to_owned(),
            };
            async move {
                collections::run(&self.shared.context, command)
                    .await
                    .map(drop)
            }
        })
        .await?;
        self.shared
            .model(|model| model.acknowledge_collection_drop(collection));
        self.shared.count("collections dropped", 1);
        Ok(())
    }

    /// Repeats an order until it is acknowledged; one that never is, is a failure of the soak.
    async fn see_through<F, Fut>(&self, what: &str, order: F) -> Result<(), CliError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<(), CliError>>,
    {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let error = match tokio::time::timeout_at(deadline, order()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_) => CliError::failed(anyhow::anyhow!("it takes too long")),
            };
            self.shared.count("orders repeated", 1);
            if tokio::time::Instant::now() + RETRY_PAUSE >= deadline {
                let text = format!("{what} is not acknowledged in {PATIENCE:?}: {error}");
                self.shared.violation(text);
                return Err(error);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Orders what changes no row, until the random part ends.
    pub(super) async fn operate(self, mut rng: StdRng) -> Result<(), CliError> {
        let context = &self.shared.context;
        while self.shared.pause(pause(&mut rng, OPERATOR_PAUSE_MS)).await {
            let name = self.collection();
            let order = rng.random_range(0..100);
            let ordered = match order {
                0..35 => flush::run(context, flush::Args::ordering(&name)).await,
                35..65 => compact::run(context, compact::Args::ordering(&name)).await,
                65..80 => {
                    let kind = ["HNSW", "FLAT", "AUTOINDEX"][rng.random_range(0..3)];
                    let args = index::CreateArgs::new(&name, FIELD, kind, "L2");
                    index::run(context, index::Command::Create(args)).await
                }
                80..90 => {
                    let command = index::Command::Drop {
                        name: None,
                        collection: name,
                        all: true,
                    };
                    index::run(context, command).await
                }
                _ => gc::run(context, gc::Command::Run { orphans: true }).await,
            };
            let what = match order {
                0..35 => "flushes",
                35..65 => "compactions ordered",
                65..80 => "indexes created",
                80..90 => "indexes dropped",
                _ => "rounds of garbage collection",
            };
            match ordered {
                Ok(_) => self.shared.count(what, 1),
                // Of a collection that was dropped meanwhile, or another index is there.
                Err(error) if error.exit() == Exit::Failed => {
                    self.shared.count("orders refused", 1);
                }
                Err(_) => self.shared.count("orders not answered", 1),
            }
        }
        Ok(())
    }
}

fn pause(rng: &mut StdRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}
