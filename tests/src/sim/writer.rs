//! Writers: each sends the rows of one channel, by dense ordinals, and sends again what is not
//! stored when a data node or a leader was lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quorate_meta::ranges::RangeSet;
use quorate_rpc::proto::milvus::data::{AssignSegmentIdRequest, SegmentIdRequest};
use quorate_rpc::proto::quorate::node::{GetCoverageRequest, GetCoverageResponse};
use quorate_rpc::proto::quorate::oracle::AllocTimestampRequest;
use tokio::time::Instant;

use super::client::{Repeat, Session};
use super::data_node::{Refusal, STREAM, missing};
use super::partitions::Partitions;
use super::world::Place;

const PATIENCE: Duration = Duration::from_secs(4);
/// How often a writer looks whether rows got lost behind it.
const LOOK_BACK: Duration = Duration::from_secs(3);
const BATCH_MAX: u64 = 25;

/// The writer of one channel.
pub struct Writer {
    /// Its connection to the cluster.
    pub session: Session,
    /// Its collection.
    pub collection: i64,
    /// The partitions it writes to.
    pub partitions: Arc<Partitions>,
    /// Its channel.
    pub channel: String,
    /// Where its data comes from.
    pub place: Place,
    /// Rows made so far: ordinals below this exist.
    pub made: AtomicU64,
    /// No new rows any more; what is missing is still sent.
    pub ending: AtomicBool,
    /// Everything made is stored.
    pub done: AtomicBool,
}

/// Who owns the channel and what of it is stored.
struct Owner {
    address: String,
    epoch: i64,
    stored: RangeSet,
}

fn owner_of(answer: GetCoverageResponse) -> Owner {
    let mut stored = RangeSet::new();
    for range in &answer.ranges {
        stored.insert(range.from, range.to);
    }
    Owner {
        address: answer.node_address,
        epoch: answer.assignment_epoch,
        stored,
    }
}

impl Writer {
    /// Writes until everything is stored and no more is wanted.
    pub async fn run(self: Arc<Self>) {
        loop {
            let Some(owner) = self.look_up().await else {
                continue;
            };
            let made = self.made.load(Ordering::Relaxed);
            let lost = missing(&owner.stored, 0, made);
            if self.ending.load(Ordering::Relaxed) && lost.is_empty() {
                self.done.store(true, Ordering::Relaxed);
                return;
            }
            if owner.address.is_empty() {
                tokio::time::sleep(Duration::from_millis(150)).await;
                continue;
            }
            self.send(&owner, lost).await;
        }
    }

    async fn look_up(&self) -> Option<Owner> {
        let request = GetCoverageRequest {
            channel: self.channel.clone(),
            stream: STREAM.to_vec(),
        };
        let answer = self
            .session
            .ask("coverage", PATIENCE, Repeat::Always, |c| {
                let request = request.clone();
                async move { c.get_coverage(request).await }
            })
            .await;
        answer.ok().map(|served| owner_of(served.value))
    }

    /// Sends what is missing, then new rows, until the owner changes or it is time to look back.
    async fn send(&self, owner: &Owner, lost: Vec<(u64, u64)>) {
        let world = self.session.cluster.world.clone();
        let since = Instant::now();
        let mut lost = lost.into_iter();
        let mut rest: Option<(u64, u64)> = None;
        while since.elapsed() < LOOK_BACK {
            let count = world.draw(1, BATCH_MAX + 1);
            let batch = match rest.take().or_else(|| lost.next()) {
                Some((from, to)) => {
                    let end = to.min(from + count);
                    rest = (end < to).then_some((end, to));
                    (from, end)
                }
                None if self.ending.load(Ordering::Relaxed) => {
                    // What is held over there is saved when it is flushed.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    return;
                }
                None => {
                    let from = self.made.fetch_add(count, Ordering::Relaxed);
                    (from, from + count)
                }
            };
            if !self.send_batch(owner, batch).await {
                return;
            }
            let pause = world.between(Duration::from_millis(20), Duration::from_millis(120));
            tokio::time::sleep(pause).await;
        }
    }

    /// Gets segments and a timestamp for a batch and sends it; false: look up the owner again.
    async fn send_batch(&self, owner: &Owner, (from, to): (u64, u64)) -> bool {
        for _ in 0..3 {
            let partition = self.partition();
            let Some(grants) = self.grants(to - from, partition).await else {
                return false;
            };
            let Some(ts) = self.timestamp().await else {
                return false;
            };
            match self.insert(owner, (partition, ts), grants, from).await {
                Some(Ok(())) => return true,
                Some(Err(Refusal::Late)) => {}
                Some(Err(Refusal::NotOwner)) | None => return false,
            }
        }
        false
    }

    /// The default partition, or now and then the one that comes and goes.
    fn partition(&self) -> i64 {
        let passing = self.partitions.passing();
        let world = &self.session.cluster.world;
        passing
            .filter(|_| world.chance(300))
            .unwrap_or(self.partitions.default_id())
    }

    async fn grants(&self, rows: u64, partition: i64) -> Option<Vec<(i64, u64, u64)>> {
        let request = AssignSegmentIdRequest {
            segment_id_requests: vec![SegmentIdRequest {
                count: u32::try_from(rows).unwrap_or(u32::MAX),
                channel_name: self.channel.clone(),
                collection_id: self.collection,
                partition_id: partition,
                ..SegmentIdRequest::default()
            }],
            ..AssignSegmentIdRequest::default()
        };
        let answer = self
            .session
            .ask("assign", PATIENCE, Repeat::Always, |c| {
                let request = request.clone();
                async move { c.assign_segment_id(request).await }
            })
            .await;
        let grants: Vec<(i64, u64, u64)> = answer
            .ok()?
            .value
            .seg_id_assignments
            .iter()
            .filter(|granted| granted.seg_id != 0)
            .map(|granted| {
                (
                    granted.seg_id,
                    u64::from(granted.count),
                    granted.expire_time,
                )
            })
            .collect();
        let granted: u64 = grants.iter().map(|(_, rows, _)| rows).sum();
        if granted != rows && !grants.is_empty() {
            self.session.cluster.world.violation(format!(
                "{rows} rows of {} were asked for, {granted} granted",
                self.channel
            ));
        }
        (granted == rows).then_some(grants)
    }

    async fn timestamp(&self) -> Option<u64> {
        let answer = self
            .session
            .ask("timestamp", PATIENCE, Repeat::Always, |c| async move {
                c.alloc_timestamp(AllocTimestampRequest { count: 1 }).await
            })
            .await;
        answer.ok().map(|served| served.value.first)
    }

    /// One call to the data node; `None`: no answer.
    async fn insert(
        &self,
        owner: &Owner,
        (partition, ts): (i64, u64),
        grants: Vec<(i64, u64, u64)>,
        from: u64,
    ) -> Option<Result<(), Refusal>> {
        let cluster = &self.session.cluster;
        let node = cluster
            .data_nodes
            .iter()
            .find(|node| node.address == owner.address)?;
        let place = Place::DataNode(node.number);
        let exchange = async {
            if !cluster.world.carry(self.place, place, "insert").await {
                futures::future::pending::<()>().await;
            }
            let taken = node.insert(&self.channel, (partition, owner.epoch), ts, &grants, from);
            if !cluster.world.carry(place, self.place, "insert").await {
                futures::future::pending::<()>().await;
            }
            taken
        };
        tokio::time::timeout(Duration::from_secs(1), exchange)
            .await
            .ok()
    }
}
