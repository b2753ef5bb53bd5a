//! A whole Raft node on the store: what a disk that fails once does to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{Config, OptionalSend};
use quorate_raft_store::testing::{Action, Step, open_mem_with_faults};
use quorate_raft_store::{MemDisk, Member, NodeId, Payload, Raft, SnapshotData, TypeConfig, Vote};

use crate::fixture::Kv;

/// A network with nobody else in it.
struct Alone;

impl RaftNetworkFactory<TypeConfig> for Alone {
    type Network = Alone;

    async fn new_client(&mut self, _target: NodeId, _node: &Member) -> Alone {
        Alone
    }
}

fn nobody() -> Unreachable<TypeConfig> {
    Unreachable::new(&std::io::Error::other("there is nobody else"))
}

impl RaftNetworkV2<TypeConfig> for Alone {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(RPCError::Unreachable(nobody()))
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(RPCError::Unreachable(nobody()))
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(StreamingError::Unreachable(nobody()))
    }
}

async fn put(raft: &Raft<Kv>, number: u64) -> bool {
    let text = format!("key=value {number}");
    raft.client_write(Payload(Bytes::from(text))).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_disk_fails_once_stops_for_good() {
    for (action, name) in [
        (Action::Write, "log"),
        (Action::Sync, "log"),
        (Action::Write, "witness"),
        (Action::Sync, "witness"),
    ] {
        let failing = Arc::new(AtomicBool::new(false));
        let switch = failing.clone();
        let faults = move |step: &Step| {
            let hit = step.action == action && step.name == name;
            if hit && switch.swap(false, Ordering::SeqCst) {
                return Err(std::io::Error::other("the disk says no"));
            }
            Ok(())
        };
        let (log, state) = open_mem_with_faults(
            &MemDisk::new(),
            Arc::<Kv>::default(),
            Duration::ZERO,
            Arc::new(faults),
        )
        .unwrap();
        let config = Arc::new(Config::default().validate().unwrap());
        let raft = &Raft::new(1, config, Alone, log, state).await.unwrap();
        let members = BTreeMap::from([(1, Member::default())]);
        raft.initialize(members).await.unwrap();
        raft.wait(Some(Duration::from_secs(60)))
            .current_leader(1, "it leads")
            .await
            .unwrap();
        assert!(put(raft, 1).await);
        failing.store(true, Ordering::SeqCst);
        assert!(!put(raft, 2).await, "{action:?} of {name}");
        assert!(
            !failing.load(Ordering::SeqCst),
            "{action:?} of {name} never came"
        );
        // The disk is fine again; the node stays down.
        assert!(!put(raft, 3).await, "{action:?} of {name}");
        assert!(raft.is_initialized().await.is_err(), "{action:?} of {name}");
    }
}
