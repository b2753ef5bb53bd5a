//! AssignSegmentID, AllocId and AllocTimestamp (`semantics.md` §2).

use quorate_meta::command::Command;
use quorate_meta::plan::allocate::{Placement, place};
use quorate_meta::{CollectionId, PartitionId, Reason, SegmentId, Ts, pb};
use quorate_rpc::proto::milvus::data::{
    AssignSegmentIdRequest, AssignSegmentIdResponse, SegmentIdAssignment, SegmentIdRequest,
};
use quorate_rpc::proto::quorate::oracle::{
    AllocIdRequest, AllocIdResponse, AllocTimestampRequest, AllocTimestampResponse,
};
use quorate_rpc::status;

use crate::coordinator::Coordinator;
use crate::error::{CoordError, Result};
use crate::leader::Scope;
use crate::metrics;

/// Most items in one request.
const ITEMS_MAX: usize = 10_000;
/// Most segments one item may open.
const OPENED_MAX: i64 = 1000;
/// Most ids in one request.
const IDS_MAX: u32 = 1_000_000;
/// Most timestamps in one request.
const TIMESTAMPS_MAX: u32 = 65_536;

/// Capacity of a new segment.
struct Capacity {
    rows: i64,
    size_bytes: u64,
}

impl Coordinator {
    /// Segments for rows to come. Each item is answered by itself: an item that fails carries its
    /// own status; an unknown collection or a count of 0 gets no assignment at all, as in Milvus.
    ///
    /// # Errors
    /// This replica does not lead, or lost its quorum on the way.
    pub async fn assign_segment_id(
        &self,
        request: AssignSegmentIdRequest,
    ) -> Result<AssignSegmentIdResponse> {
        let started = tokio::time::Instant::now();
        let scope = self.scope()?;
        if request.segment_id_requests.len() > ITEMS_MAX {
            return Err(CoordError::Invalid(format!(
                "{} items in one request; at most {ITEMS_MAX} are possible",
                request.segment_id_requests.len()
            )));
        }
        let mut assignments = Vec::new();
        for item in &request.segment_id_requests {
            match self.assign_item(&scope, item).await {
                Ok(granted) => assignments.extend(granted),
                Err(CoordError::Rejected(Reason::CollectionNotFound, _)) => {}
                Err(error) if error.is_transport() => return Err(error),
                Err(error) => assignments.push(SegmentIdAssignment {
                    channel_name: item.channel_name.clone(),
                    collection_id: item.collection_id,
                    partition_id: item.partition_id,
                    status: Some(error.to_body()),
                    ..Default::default()
                }),
            }
        }
        scope.confirm()?;
        metrics::assigned(started.elapsed());
        Ok(AssignSegmentIdResponse {
            seg_id_assignments: assignments,
            status: Some(status::ok()),
        })
    }

    async fn assign_item(
        &self,
        scope: &Scope,
        item: &SegmentIdRequest,
    ) -> Result<Vec<SegmentIdAssignment>> {
        let rows = i64::from(item.count);
        if rows == 0 {
            return Ok(Vec::new());
        }
        if item.channel_name.is_empty() {
            return Err(CoordError::Invalid("an item without a channel name".into()));
        }
        let collection = CollectionId(item.collection_id);
        let partition = PartitionId(item.partition_id);
        let capacity = self.capacity(collection, &item.channel_name)?;
        if rows / capacity.rows > OPENED_MAX {
            return Err(CoordError::Invalid(format!(
                "{rows} rows at once would open over {OPENED_MAX} segments; ask in parts"
            )));
        }
        let policy = &self.config().policy;

        // One call at a time allocates from a channel; the lock spans opening segments too.
        let grants = scope.grants.channel(&item.channel_name);
        let mut grants = grants.lock().await;
        let placements = {
            let state = self.state();
            let open = grants.candidates(
                &state,
                &item.channel_name,
                collection,
                partition,
                scope.floor,
            );
            place(&open, rows, capacity.rows, policy.seal_permille)
        };
        let opened = placements
            .iter()
            .filter(|placement| matches!(placement, Placement::New { .. }))
            .count();
        let mut fresh = match u32::try_from(opened) {
            Ok(0) => 0,
            Ok(count) => scope.alloc_ids(count).await?,
            Err(_) => return Err(CoordError::Invalid("too many rows at once".into())),
        };
        let mut placed = Vec::with_capacity(placements.len());
        let mut opening = Vec::new();
        for placement in placements {
            match placement {
                Placement::Existing { segment, rows } => placed.push((segment, rows, false)),
                Placement::New { rows } => {
                    placed.push((SegmentId(fresh), rows, true));
                    opening.push(scope.propose(Command::OpenSegment(pb::OpenSegment {
                        id: fresh,
                        collection_id: item.collection_id,
                        partition_id: item.partition_id,
                        channel: item.channel_name.clone(),
                        max_rows: capacity.rows,
                        seal_rows: self.seal_rows(capacity.rows),
                        max_size_bytes: capacity.size_bytes,
                    })));
                    fresh += 1;
                }
            }
        }
        // A lost answer leaves an empty segment at worst; sealing and a checkpoint remove it.
        futures::future::try_join_all(opening).await?;
        let now = scope.clock.alloc(1).await?;
        let expiration = u64::try_from(policy.assignment_expiration.as_millis()).unwrap_or(0);
        let expire = now.plus_ms(expiration);
        for &(segment, rows, is_new) in &placed {
            if is_new {
                grants.opened(segment);
            }
            grants.grant(segment, rows, expire);
        }
        Ok(placed
            .into_iter()
            .map(|(segment, rows, _)| granted(item, segment, rows, expire))
            .collect())
    }

    /// How much a new segment of a collection holds.
    fn capacity(&self, collection: CollectionId, channel: &str) -> Result<Capacity> {
        let policy = &self.config().policy;
        let state = self.state();
        let row = state.live_collection(collection).ok_or_else(|| {
            CoordError::Rejected(
                Reason::CollectionNotFound,
                format!("collection not found[collection={collection}]"),
            )
        })?;
        if state
            .channel(channel)
            .is_some_and(|row| row.dropped_at != 0)
        {
            return Err(CoordError::Rejected(
                Reason::ChannelNotFound,
                format!("channel not found[channel={channel}]"),
            ));
        }
        if row.row_size_bytes == 0 {
            return Err(CoordError::Internal(format!(
                "the schema of collection {collection} gives no row size"
            )));
        }
        let by_size = policy.segment_size_bytes_max / u64::from(row.row_size_bytes);
        Ok(Capacity {
            rows: i64::try_from(by_size)
                .unwrap_or(i64::MAX)
                .min(policy.segment_rows_max)
                .max(1),
            size_bytes: policy.segment_size_bytes_max,
        })
    }

    /// The seal point in rows, with its jitter: drawn here and recorded in the command.
    fn seal_rows(&self, capacity_rows: i64) -> i64 {
        let policy = &self.config().policy;
        let jitter =
            quorate_raft_store::runtime::random_up_to(policy.seal_jitter_permille.unsigned_abs());
        let jitter = i64::try_from(jitter).unwrap_or(0);
        let permille = policy.seal_permille * (1000 - jitter) / 1000;
        (capacity_rows.saturating_mul(permille) / 1000).max(1)
    }

    /// Ids, unique for ever.
    ///
    /// # Errors
    /// Too many asked for, or this replica does not lead.
    pub async fn alloc_id(&self, request: AllocIdRequest) -> Result<AllocIdResponse> {
        let count = request.count.max(1);
        if count > IDS_MAX {
            return Err(CoordError::Invalid(format!(
                "{count} ids at once; at most {IDS_MAX} are possible"
            )));
        }
        let first = self.scope()?.alloc_ids(count).await?;
        Ok(AllocIdResponse { first, count })
    }

    /// Timestamps, unique for ever, increasing in real time.
    ///
    /// # Errors
    /// Too many asked for, or this replica does not lead.
    pub async fn alloc_timestamp(
        &self,
        request: AllocTimestampRequest,
    ) -> Result<AllocTimestampResponse> {
        let count = request.count.max(1);
        if count > TIMESTAMPS_MAX {
            return Err(CoordError::Invalid(format!(
                "{count} timestamps at once; at most {TIMESTAMPS_MAX} are possible"
            )));
        }
        let first = self.scope()?.alloc_ts(count).await?;
        Ok(AllocTimestampResponse {
            first: first.0,
            count,
        })
    }
}

fn granted(
    item: &SegmentIdRequest,
    segment: SegmentId,
    rows: i64,
    expire: Ts,
) -> SegmentIdAssignment {
    SegmentIdAssignment {
        seg_id: segment.0,
        channel_name: item.channel_name.clone(),
        count: u32::try_from(rows).unwrap_or(u32::MAX),
        collection_id: item.collection_id,
        partition_id: item.partition_id,
        expire_time: expire.0,
        status: Some(status::ok()),
    }
}
