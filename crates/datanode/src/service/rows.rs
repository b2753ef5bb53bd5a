//! `quorate.node.v1.Rows`: rows and deletes of writers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use quorate_rpc::headers;
use quorate_rpc::proto::quorate::node::rows_server::Rows;
use quorate_rpc::proto::quorate::node::{
    DeleteRequest, DeleteResponse, InsertRequest, InsertResponse, SyncRequest, SyncResponse,
};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use crate::batch;
use crate::channel::Refusal;
use crate::node::Node;
use crate::ownership::{Ownership, not_ours};

/// How long a sync may take when the caller sets no deadline.
const SYNC_TIMEOUT: Duration = Duration::from_secs(60);
/// Memory a request of deletes takes besides them.
const DELETES_OVERHEAD_BYTES: usize = 128;
/// Memory a delete takes besides its key.
const DELETE_OVERHEAD_BYTES: usize = size_of::<u64>();

pub(crate) struct RowsService {
    node: Arc<Node>,
}

impl RowsService {
    pub fn new(node: Arc<Node>) -> RowsService {
        RowsService { node }
    }

    fn owner(&self, channel: &str) -> Result<Arc<Ownership>, Status> {
        if self.node.stopping.load(Ordering::Acquire) {
            return Err(Status::unavailable("the data node is stopping"));
        }
        self.node
            .channel(channel)
            .ok_or_else(|| refuse(not_ours(channel)))
    }

    fn reserve(&self, bytes: u64) -> Result<crate::memory::Reservation, Status> {
        let memory = &self.node.memory;
        if bytes > memory.max_bytes() {
            return Err(Status::invalid_argument(format!(
                "the request holds {bytes} bytes of rows, the buffers of this node {} in all; send smaller batches",
                memory.max_bytes()
            )));
        }
        memory.reserve(bytes).ok_or_else(|| {
            self.node.relieve();
            Status::resource_exhausted(format!(
                "buffers are full ({} of {} bytes); try again later",
                memory.used_bytes(),
                memory.max_bytes()
            ))
        })
    }

    fn insert(&self, request: InsertRequest) -> Result<InsertResponse, Status> {
        let own = self.owner(&request.channel)?;
        let (timestamp, epoch) = (request.timestamp, request.assignment_epoch);
        let schema = {
            let state = own.lock_for(epoch).map_err(refuse)?;
            check_collection(state.channel.collection_id, request.collection_id)?;
            state.channel.check_time(timestamp).map_err(refuse)?;
            Arc::clone(&state.channel.schema)
        };
        // Outside the lock: checking touches every value.
        let batches = batch::check(request.batches, &schema)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let bytes = batches.iter().map(batch::Batch::memory_size).sum();
        let memory = self.reserve(bytes)?;
        let accepted = {
            let mut state = own.lock_for(epoch).map_err(refuse)?;
            state
                .channel
                .check_insert(timestamp, &batches)
                .map_err(refuse)?;
            state
                .channel
                .insert(timestamp, batches, memory, Instant::now())
        };
        self.node.schedule(&own);
        Ok(InsertResponse {
            accepted_rows: accepted.accepted,
            skipped_rows: accepted.skipped,
        })
    }

    fn delete(&self, request: DeleteRequest) -> Result<DeleteResponse, Status> {
        let own = self.owner(&request.channel)?;
        let (timestamp, epoch) = (request.timestamp, request.assignment_epoch);
        let partition_id = request.partition_id;
        let schema = {
            let state = own.lock_for(epoch).map_err(refuse)?;
            check_collection(state.channel.collection_id, request.collection_id)?;
            state.channel.check_time(timestamp).map_err(refuse)?;
            Arc::clone(&state.channel.schema)
        };
        let keys = batch::check_keys(request, &schema)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let rows = keys.len();
        let memory = {
            let values = keys.memory_size() + rows * DELETE_OVERHEAD_BYTES;
            self.reserve((values + DELETES_OVERHEAD_BYTES) as u64)?
        };
        own.lock_for(epoch)
            .map_err(refuse)?
            .channel
            .delete(partition_id, keys, timestamp, memory, Instant::now())
            .map_err(refuse)?;
        self.node.schedule(&own);
        Ok(DeleteResponse {
            accepted_rows: rows as u64,
        })
    }

    async fn sync(&self, channels: Vec<String>) -> Result<SyncResponse, Status> {
        let mut waits = Vec::with_capacity(channels.len());
        let mut total = SyncResponse::default();
        for channel in &channels {
            let own = self.owner(channel)?;
            let (upto, losses) = {
                let mut state = own.lock();
                let (rows, bytes) = state.channel.held();
                total.rows += rows;
                total.bytes += bytes;
                (state.channel.sync_all(), state.channel.losses())
            };
            self.node.schedule(&own);
            waits.push((own, upto, losses));
        }
        for (own, upto, losses) in waits {
            wait_saved(&own, upto, losses).await?;
        }
        Ok(total)
    }
}

/// Waits until all that was accepted before `upto` is saved.
async fn wait_saved(own: &Ownership, upto: u64, losses: u64) -> Result<(), Status> {
    let mut changed = own.subscribe();
    loop {
        {
            let state = own.lock();
            if own.token.is_cancelled() {
                return Err(refuse(not_ours(&own.name)));
            }
            if state.channel.losses() != losses {
                return Err(Status::failed_precondition(format!(
                    "the coordinator refused rows or deletes of channel {}; look up what is stored and send the rest again",
                    own.name
                )));
            }
            if state.channel.is_saved_upto(upto) {
                return Ok(());
            }
        }
        // The sender lives in `own`, so this waits for a change and nothing else.
        let _ = changed.changed().await;
    }
}

fn check_collection(own: i64, asked: i64) -> Result<(), Status> {
    if own == asked {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "the channel belongs to collection {own}, not to {asked}"
    )))
}

fn refuse(refusal: Refusal) -> Status {
    match &refusal {
        Refusal::NotOwner(_) => Status::failed_precondition(refusal.to_string()),
        Refusal::Full(_) => Status::resource_exhausted(refusal.to_string()),
        Refusal::Late(_) => {
            let mut status = Status::failed_precondition(refusal.to_string());
            status
                .metadata_mut()
                .insert(headers::LATE, MetadataValue::from_static("1"));
            status
        }
    }
}

/// The caller's own deadline, if it sets one that can be read.
fn deadline<T>(request: &Request<T>) -> Option<Duration> {
    let text = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value.checked_mul(3600)?)),
        "M" => Some(Duration::from_secs(value.checked_mul(60)?)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[tonic::async_trait]
impl Rows for RowsService {
    async fn insert(
        &self,
        request: Request<InsertRequest>,
    ) -> Result<Response<InsertResponse>, Status> {
        RowsService::insert(self, request.into_inner()).map(Response::new)
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        RowsService::delete(self, request.into_inner()).map(Response::new)
    }

    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<SyncResponse>, Status> {
        let timeout = deadline(&request)
            .unwrap_or(SYNC_TIMEOUT)
            .min(SYNC_TIMEOUT * 5);
        let channels = request.into_inner().channels;
        match tokio::time::timeout(timeout, RowsService::sync(self, channels)).await {
            Ok(result) => result.map(Response::new),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "rows were not saved within {} ms; they are kept and saved later",
                timeout.as_millis()
            ))),
        }
    }
}
