//! The client that keeps house: compaction by hand, indexes, partitions that come and go, garbage
//! collection.

use std::time::Duration;

use quorate_rpc::proto::milvus::common::KeyValuePair;
use quorate_rpc::proto::milvus::index::{CreateIndexRequest, DropIndexRequest};
use quorate_rpc::proto::milvus::milvus::{GetCompactionStateRequest, ManualCompactionRequest};
use quorate_rpc::proto::quorate::admin::{
    PauseGcRequest, PlanGcRequest, ResumeGcRequest, RunGcRequest,
};
use quorate_rpc::proto::quorate::collection::{CreatePartitionRequest, DropPartitionRequest};
use tokio_util::sync::CancellationToken;

use super::client::Repeat;
use super::history::{Call, End};
use super::node_work::FIELDS;
use super::partitions::PASSING;
use super::workload::Client;

const INDEX: &str = "by_vector";

impl Client {
    /// Keeps house until it is told to stop.
    pub async fn keep_house(self, stop: CancellationToken) {
        let world = self.shared.cluster.world.clone();
        while !stop.is_cancelled() {
            match world.draw(0, 100) {
                0..20 => self.compact(&stop).await,
                20..34 => self.create_index().await,
                34..40 => self.drop_index().await,
                40..58 => self.create_partition().await,
                58..66 => self.drop_partition().await,
                66..88 => self.run_gc(world.chance(500)).await,
                88..92 => self.pause_gc().await,
                92..96 => self.resume_gc().await,
                _ => self.plan_gc().await,
            }
            let pause = world.between(Duration::from_millis(100), Duration::from_millis(1500));
            tokio::time::sleep(pause).await;
        }
        self.resume_gc().await;
        self.drop_partition().await;
    }

    /// A compaction by hand, followed for a while.
    async fn compact(&self, stop: &CancellationToken) {
        let request = ManualCompactionRequest {
            collection_id: self.shared.main,
            ..ManualCompactionRequest::default()
        };
        let served = self
            .op(
                Call::Other("compact"),
                Repeat::Always,
                |c| {
                    let request = request.clone();
                    async move { c.manual_compaction(request).await }
                },
                |_, _| End::Ok,
            )
            .await;
        let Some(id) = served.map(|served| served.value.compaction_id) else {
            return;
        };
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if stop.is_cancelled() || id < 0 {
                return;
            }
            let request = GetCompactionStateRequest { compaction_id: id };
            let served = self
                .op(
                    Call::Other("compaction-state"),
                    Repeat::Always,
                    |c| async move { c.get_compaction_state(request).await },
                    |_, _| End::Ok,
                )
                .await;
            if served.is_some_and(|served| served.value.executing_plan_no == 0) {
                return;
            }
        }
    }

    async fn create_index(&self) {
        let pair = |key: &str, value: &str| KeyValuePair {
            key: key.into(),
            value: value.into(),
        };
        let request = CreateIndexRequest {
            collection_id: self.shared.main,
            field_id: FIELDS[1],
            index_name: INDEX.into(),
            type_params: vec![pair("dim", "8")],
            index_params: vec![pair("index_type", "HNSW"), pair("metric_type", "L2")],
            ..CreateIndexRequest::default()
        };
        self.op(
            Call::Other("create-index"),
            Repeat::Always,
            |c| {
                let request = request.clone();
                async move { c.create_index(request).await }
            },
            |_, _| End::Ok,
        )
        .await;
    }

    async fn drop_index(&self) {
        let request = DropIndexRequest {
            collection_id: self.shared.main,
            index_name: INDEX.into(),
            ..DropIndexRequest::default()
        };
        self.op(
            Call::Other("drop-index"),
            Repeat::Always,
            |c| {
                let request = request.clone();
                async move { c.drop_index(request).await }
            },
            |_, _| End::Ok,
        )
        .await;
    }

    async fn create_partition(&self) {
        if self.shared.partitions.passing().is_some() {
            return;
        }
        let request = CreatePartitionRequest {
            collection_id: self.shared.main,
            name: PASSING.into(),
        };
        let served = self
            .op(
                Call::Other("create-partition"),
                Repeat::Always,
                |c| {
                    let request = request.clone();
                    async move { c.create_partition(request).await }
                },
                |_, _| End::Ok,
            )
            .await;
        let partition = served.and_then(|served| served.value.partition);
        if let Some(partition) = partition {
            self.shared.partitions.set_passing(Some(partition.id));
        }
    }

    async fn drop_partition(&self) {
        let Some(id) = self.shared.partitions.passing() else {
            return;
        };
        let world = &self.shared.cluster.world;
        let ledger = &self.shared.cluster.ledger;
        ledger
            .hold()
            .dropped
            .entry(id)
            .or_insert((world.now_ns(), None));
        let request = DropPartitionRequest {
            collection_id: self.shared.main,
            name: PASSING.into(),
        };
        let served = self
            .op(
                Call::Other("drop-partition"),
                Repeat::Always,
                |c| {
                    let request = request.clone();
                    async move { c.drop_partition(request).await }
                },
                |_, _| End::Ok,
            )
            .await;
        if served.is_some() {
            self.shared.partitions.set_passing(None);
            if let Some((_, ended)) = ledger.hold().dropped.get_mut(&id) {
                *ended = Some(world.now_ns());
            }
        }
    }

    /// One round of garbage collection.
    pub async fn run_gc(&self, orphans: bool) {
        let request = RunGcRequest { orphans };
        self.op(
            Call::Other("gc"),
            Repeat::Always,
            |c| async move { c.run_gc(request).await },
            |_, _| End::Ok,
        )
        .await;
    }

    async fn plan_gc(&self) {
        let request = PlanGcRequest { orphans: true };
        self.op(
            Call::Other("plan-gc"),
            Repeat::Always,
            |c| async move { c.plan_gc(request).await },
            |_, _| End::Ok,
        )
        .await;
    }

    async fn pause_gc(&self) {
        let request = PauseGcRequest {
            seconds: self.shared.cluster.world.draw(1, 5),
            collection_id: 0,
            ticket: "keeper".into(),
        };
        self.op(
            Call::Other("pause-gc"),
            Repeat::Always,
            |c| {
                let request = request.clone();
                async move { c.pause_gc(request).await }
            },
            |_, _| End::Ok,
        )
        .await;
    }

    async fn resume_gc(&self) {
        self.op(
            Call::Other("resume-gc"),
            Repeat::Always,
            |c| async move { c.resume_gc(ResumeGcRequest::default()).await },
            |_, _| End::Ok,
        )
        .await;
    }
}
