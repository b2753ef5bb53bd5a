//! Puts the rows of a file into a collection, playing Milvus's proxy and message queue.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate_rpc::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::collection::{self, KnownCollection};
use crate::coordinator::Coordinator;
use crate::error::{CollectionError, IngestError};
use crate::pace::Pace;
use crate::progress::{IngestProgress, Tracker};
use crate::source::{BlockReader, BoundSource, SourceFile};
use crate::worker::{ChannelReport, Job, Worker};

/// Most channels a collection can be created with.
const CHANNELS_MAX: u32 = 64;
/// Most rows of one batch.
const BATCH_ROWS_MAX: u32 = 65_536;
/// Decoded rows kept for the other channels, in bytes.
const CACHE_BYTES_MAX: usize = 64 << 20;
/// Readers kept open on the file.
const READERS_MAX: usize = 8;
/// How often the coordinator is asked what is stored by now, for the progress only.
const DURABLE_INTERVAL: Duration = Duration::from_millis(500);
const DURABLE_DEADLINE: Duration = Duration::from_secs(2);

/// What to ingest, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestOptions {
    /// Parquet file.
    pub file: PathBuf,
    /// Name of the collection.
    pub collection: String,
    /// Channels of the collection when it is created, 1 to 64.
    pub channels: u32,
    /// Whether to create the collection (and the partition) when it is not there.
    pub create: bool,
    /// Most rows a second over all channels.
    pub rate_rows_per_s: Option<u32>,
    /// Rows sent at a time.
    pub batch_rows: u32,
    /// Name of the partition; the default one when none is given.
    pub partition: Option<String>,
    /// Name of the primary key's column; `id` or the first int64 or string column when none.
    pub primary_key: Option<String>,
    /// Give up when nothing moved on a channel for so long.
    pub stall_timeout: Duration,
}

impl IngestOptions {
    /// Defaults for a file and a collection.
    pub fn new(file: impl Into<PathBuf>, collection: impl Into<String>) -> IngestOptions {
        IngestOptions {
            file: file.into(),
            collection: collection.into(),
            ..IngestOptions::default()
        }
    }

    fn check(&self) -> Result<(), IngestError> {
        let wrong = |option, reason: String| Err(IngestError::Option { option, reason });
        if self.collection.is_empty() {
            return wrong("the collection's name", "is empty".into());
        }
        if !(1..=CHANNELS_MAX).contains(&self.channels) {
            return wrong(
                "the number of channels",
                format!("must be 1 to {CHANNELS_MAX}, not {}", self.channels),
            );
        }
        if !(1..=BATCH_ROWS_MAX).contains(&self.batch_rows) {
            return wrong(
                "the number of rows of a batch",
                format!("must be 1 to {BATCH_ROWS_MAX}, not {}", self.batch_rows),
            );
        }
        if self.rate_rows_per_s == Some(0) {
            return wrong("the rate", "must be at least 1 row a second".into());
        }
        if self.stall_timeout.is_zero() {
            return wrong("the stall timeout", "must be longer than nothing".into());
        }
        Ok(())
    }
}

impl Default for IngestOptions {
    fn default() -> Self {
        IngestOptions {
            file: PathBuf::new(),
            collection: String::new(),
            channels: 2,
            create: false,
            rate_rows_per_s: None,
            batch_rows: 256,
            partition: None,
            primary_key: None,
            stall_timeout: Duration::from_secs(60),
        }
    }
}

/// How an ingest went: every row of the file is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestReport {
    /// Name of the collection.
    pub collection: String,
    /// Its id.
    pub collection_id: i64,
    /// Whether this run created it.
    pub created: bool,
    /// Id of the stream of rows: collection and contents of the file.
    pub stream: [u8; 16],
    /// Counts over all channels.
    pub progress: IngestProgress,
    /// Each channel, in shard order.
    pub channels: Vec<ChannelReport>,
    /// Time it took.
    pub elapsed: Duration,
}

/// The id of the stream of rows that a file is for a collection: the first 16 bytes of
/// BLAKE3(`"quorate stream"` ‖ collection id as 8 bytes, little-endian ‖ BLAKE3 of the file).
pub fn stream_id(collection_id: i64, file_hash: &[u8; 32]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(b"quorate stream")
        .update(&collection_id.to_le_bytes())
        .update(file_hash);
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    id
}

/// Stores every row of a file in a collection, each once; rows that are stored already are left
/// alone, so repeating an ingest that ended early, or one that did not, is safe.
///
/// Nothing is created and nothing is sent before the whole file was read and found good.
pub async fn ingest(
    client: &Client,
    options: IngestOptions,
    progress: watch::Sender<IngestProgress>,
    cancel: CancellationToken,
) -> Result<IngestReport, IngestError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(IngestError::Cancelled),
        result = run(client, options, progress) => result,
    }
}

async fn run(
    client: &Client,
    options: IngestOptions,
    progress: watch::Sender<IngestProgress>,
) -> Result<IngestReport, IngestError> {
    let started = Instant::now();
    options.check()?;
    let tracker = Tracker::new(progress);
    let coordinator = Coordinator::new(client);
    let (path, key) = (options.file.clone(), options.primary_key.clone());
    let file = blocking(move || Ok(SourceFile::open(&path, key.as_deref())?)).await?;
    let file = Arc::new(file);
    let hashed = {
        let file = Arc::clone(&file);
        blocking(move || Ok(file.hash()?))
    };

    let found = collection::find(&coordinator, &options.collection).await?;
    if found.is_none() && !options.create {
        return Err(CollectionError::Absent {
            name: options.collection.clone(),
        }
        .into());
    }
    if let Some(collection) = &found {
        collection::check(collection, &file, options.primary_key.as_deref())?;
    }
    let hash = hashed.await?;
    let (collection, created, plan) = match found {
        Some(collection) => {
            let channels = collection.channels().len();
            let plan = plan(&file, &collection, channels).await?;
            (collection, false, plan)
        }
        None => create(&coordinator, &options, &file).await?,
    };
    let partition_id = collection::partition(
        &coordinator,
        &collection,
        options.partition.as_deref(),
        options.create,
    )
    .await?;

    let stream = stream_id(collection.id(), &hash);
    tracker.begin(plan.rows(), plan.channels());
    let bound = BoundSource::new(file, Arc::clone(&collection.schema));
    let fields = collection.schema.fields().iter();
    let job = Arc::new(Job {
        coordinator,
        collection_id: collection.id(),
        partition_id,
        stream: stream.to_vec(),
        plan,
        field_ids: fields.map(|field| field.id).collect(),
        blocks: BlockReader::new(bound, CACHE_BYTES_MAX, READERS_MAX),
        batch_rows: options.batch_rows,
        pace: Pace::new(options.rate_rows_per_s),
        tracker,
        stall_timeout: options.stall_timeout,
    });
    let channels = work(&job, collection.channels()).await?;
    job.tracker.leader(job.coordinator.leader());
    Ok(IngestReport {
        collection: collection.name().to_owned(),
        collection_id: collection.id(),
        created,
        stream,
        progress: job.tracker.snapshot(),
        channels,
        elapsed: started.elapsed(),
    })
}

/// Creates the collection once the file is known to be good.
async fn create(
    coordinator: &Coordinator,
    options: &IngestOptions,
    file: &Arc<SourceFile>,
) -> Result<(KnownCollection, bool, crate::plan::Plan), IngestError> {
    let planned = {
        let (file, channels) = (Arc::clone(file), options.channels as usize);
        blocking(move || {
            let schema = collection::draft_schema(&file)?;
            Ok(BoundSource::new(file, Arc::new(schema)).plan(channels)?)
        })
        .await?
    };
    let (collection, created) =
        collection::create(coordinator, &options.collection, file, options.channels).await?;
    collection::check(&collection, file, options.primary_key.as_deref())?;
    // Somebody else may have created it meanwhile, with other limits or channels.
    let plan = match created {
        true if collection.channels().len() == planned.channels() => planned,
        _ => plan(file, &collection, collection.channels().len()).await?,
    };
    Ok((collection, created, plan))
}

async fn plan(
    file: &Arc<SourceFile>,
    collection: &KnownCollection,
    channels: usize,
) -> Result<crate::plan::Plan, IngestError> {
    let bound = BoundSource::new(Arc::clone(file), Arc::clone(&collection.schema));
    blocking(move || Ok(bound.plan(channels)?)).await
}

/// One worker a channel, until all are done or one fails; and a task that looks what is stored.
async fn work(job: &Arc<Job>, channels: &[String]) -> Result<Vec<ChannelReport>, IngestError> {
    let mut workers = JoinSet::new();
    for (index, channel) in channels.iter().enumerate() {
        let worker = Worker::new(Arc::clone(job), index, channel.clone());
        workers.spawn(async move { worker.run().await.map(|report| (index, report)) });
    }
    let mut watching = JoinSet::new();
    watching.spawn(watch_durable(Arc::clone(job), channels.to_vec()));
    let mut reports = Vec::with_capacity(channels.len());
    // Leaving early drops the set, which ends the others.
    while let Some(ended) = workers.join_next().await {
        let report =
            ended.map_err(|error| IngestError::Internal(format!("a worker failed: {error}")))??;
        reports.push(report);
    }
    reports.sort_by_key(|(index, _)| *index);
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}

async fn watch_durable(job: Arc<Job>, channels: Vec<String>) {
    loop {
        tokio::time::sleep(DURABLE_INTERVAL).await;
        for (index, channel) in channels.iter().enumerate() {
            let total = job.plan.rows_of(index);
            let answer = job
                .coordinator
                .coverage(DURABLE_DEADLINE, channel, &job.stream)
                .await;
            job.tracker.leader(job.coordinator.leader());
            if let Ok(coverage) = answer {
                let rows = coverage.stored.len_of(&job.stream).min(total);
                job.tracker.durable(index, rows);
            }
        }
    }
}

/// Runs work that reads files.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IngestError> + Send + 'static,
) -> Result<T, IngestError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| IngestError::Internal(format!("reading the file failed: {error}")))?
}

#[cfg(test)]
mod tests;
