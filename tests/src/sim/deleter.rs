//! Deletes: of rows that are stored, sent to the channel's owner again and again until it has stored
//! them and was still the owner afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate_rpc::proto::quorate::node::GetCoverageRequest;
use quorate_rpc::proto::quorate::oracle::AllocTimestampRequest;

use super::client::{Repeat, Session};
use super::data_node::{Refusal, STREAM};
use super::ledger::Deleted;
use super::world::Place;

const PATIENCE: Duration = Duration::from_secs(4);
/// Rows deleted together at most.
const ROWS_MAX: u64 = 60;
/// An owner gets this long to store deletes before it is given them again.
const STORE_TIME: Duration = Duration::from_secs(6);

/// Deletes rows of one channel.
pub struct Deleter {
    /// Its connection to the cluster.
    pub session: Session,
    /// Its channel.
    pub channel: String,
    /// Where it sends from.
    pub place: Place,
    /// No new deletes any more; the last one is still finished.
    pub ending: AtomicBool,
    /// All deletes are stored.
    pub done: AtomicBool,
}

struct Owner {
    address: String,
    epoch: i64,
    stored: Vec<(u64, u64)>,
    checkpoint: u64,
}

impl Deleter {
    /// Deletes until no more is wanted.
    pub async fn run(self: Arc<Self>) {
        let world = self.session.cluster.world.clone();
        while !self.ending.load(Ordering::Relaxed) {
            let pause = world.between(Duration::from_millis(300), Duration::from_millis(2500));
            tokio::time::sleep(pause).await;
            if let Some(owner) = self.look_up().await {
                let ordinals = self.choose(&owner.stored);
                if !ordinals.is_empty() {
                    self.delete(ordinals).await;
                }
            }
        }
        self.done.store(true, Ordering::Relaxed);
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
        let answer = answer.ok()?.value;
        Some(Owner {
            address: answer.node_address,
            epoch: answer.assignment_epoch,
            stored: answer
                .ranges
                .iter()
                .map(|range| (range.from, range.to))
                .collect(),
            checkpoint: answer.checkpoint_ts,
        })
    }

    /// Some rows beside each other, or far from each other.
    fn choose(&self, stored: &[(u64, u64)]) -> Vec<u64> {
        let world = &self.session.cluster.world;
        let at = usize::try_from(world.draw(0, stored.len() as u64)).unwrap_or(0);
        let Some(&(from, to)) = stored.get(at) else {
            return Vec::new();
        };
        let count = world.draw(1, ROWS_MAX);
        if world.chance(600) {
            let first = world.draw(from, to);
            (first..to.min(first + count)).collect()
        } else {
            (0..count / 4).map(|_| world.draw(from, to)).collect()
        }
    }

    async fn delete(&self, ordinals: Vec<u64>) {
        let world = &self.session.cluster.world;
        let index = {
            let mut promises = self.session.cluster.ledger.hold();
            promises.deleted.push(Deleted {
                channel: self.channel.clone(),
                ordinals: ordinals.clone(),
                begun: world.now_ns(),
                done: None,
            });
            promises.deleted.len() - 1
        };
        while !self.try_once(&ordinals).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        world.note(format_args!(
            "{} rows of {} deleted",
            ordinals.len(),
            self.channel
        ));
        let mut promises = self.session.cluster.ledger.hold();
        promises.deleted[index].done = Some(world.now_ns());
    }

    async fn try_once(&self, ordinals: &[u64]) -> bool {
        let Some(owner) = self.look_up().await else {
            return false;
        };
        let stamp = self
            .session
            .ask("timestamp", PATIENCE, Repeat::Always, |c| async move {
                c.alloc_timestamp(AllocTimestampRequest { count: 1 }).await
            })
            .await;
        let Some(ts) = stamp.ok().map(|served| served.value.first) else {
            return false;
        };
        if !matches!(self.send(&owner, ts, ordinals).await, Some(Ok(()))) {
            return false;
        }
        let since = tokio::time::Instant::now();
        while since.elapsed() < STORE_TIME {
            tokio::time::sleep(Duration::from_millis(300)).await;
            match self.look_up().await {
                Some(now) if now.epoch != owner.epoch || now.address != owner.address => {
                    return false;
                }
                Some(now) if now.checkpoint >= ts => return true,
                _ => {}
            }
        }
        false
    }

    async fn send(&self, owner: &Owner, ts: u64, ordinals: &[u64]) -> Option<Result<(), Refusal>> {
        let cluster = &self.session.cluster;
        let mut nodes = cluster.data_nodes.iter();
        let node = nodes.find(|node| node.address == owner.address)?;
        let place = Place::DataNode(node.number);
        let exchange = async {
            if !cluster.world.carry(self.place, place, "delete").await {
                futures::future::pending::<()>().await;
            }
            let taken = node.delete(&self.channel, owner.epoch, ts, ordinals);
            if !cluster.world.carry(place, self.place, "delete").await {
                futures::future::pending::<()>().await;
            }
            taken
        };
        tokio::time::timeout(Duration::from_secs(1), exchange)
            .await
            .ok()
    }
}
