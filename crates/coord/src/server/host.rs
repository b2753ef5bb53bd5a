//! What this process is at the moment: a replica that waits to be told its cluster, or a member.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use openraft::async_runtime::watch::WatchReceiver;
use quorate_raft_store::{DataDir, Identity};
use quorate_rpc::channel::ChannelOptions;
use quorate_rpc::forward::{Leader, Leadership};
use quorate_rpc::proto::milvus::common::StateCode;
use quorate_rpc::proto::milvus::milvus::{ComponentInfo, ComponentStates};
use quorate_rpc::proto::quorate::admin::{Replica as Member, StatusResponse};
use quorate_rpc::status;
use tokio::sync::Mutex;
use tonic::Status;

use super::replica::Replica;
use super::security::Security;
use super::standing;
use super::{ServerError, bootstrap};
use crate::config::Config;
use crate::coordinator::Coordinator;

/// This process.
pub struct Host {
    config: Config,
    data_dir: DataDir,
    security: Security,
    replica: ArcSwapOption<Replica>,
    /// One change of identity at a time.
    changing: Mutex<()>,
    /// One change of members at a time.
    changing_members: Mutex<()>,
}

impl Host {
    /// Opens the folder; a folder that belongs to a cluster is taken up at once.
    pub(super) fn open(config: Config) -> Result<Arc<Self>, ServerError> {
        let security = Security::load(&config)?;
        let data_dir = DataDir::open(&config.data_dir)?;
        standing::check(&data_dir)?;
        let host = Arc::new(Self {
            config,
            data_dir,
            security,
            replica: ArcSwapOption::empty(),
            changing: Mutex::new(()),
            changing_members: Mutex::new(()),
        });
        Ok(host)
    }

    /// Takes up the cluster the folder belongs to, if it does.
    pub(super) async fn take_up(&self) -> Result<(), ServerError> {
        let _changing = self.changing.lock().await;
        if self.replica.load().is_some() {
            return Ok(());
        }
        let Some(identity) = self.data_dir.identity() else {
            return Ok(());
        };
        let replica =
            Replica::start(&self.config, &self.data_dir, identity, self.options()).await?;
        self.replica.store(Some(Arc::new(replica)));
        Ok(())
    }

    /// The settings.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Settings of connections to other replicas.
    pub(crate) fn options(&self) -> &ChannelOptions {
        &self.security.peers
    }

    /// TLS of the ports, and settings of connections to the leader's clients' port.
    pub(super) fn security(&self) -> &Security {
        &self.security
    }

    /// Held for as long as a change of members takes.
    pub(crate) fn changing_members(&self) -> &Mutex<()> {
        &self.changing_members
    }

    /// The data folder.
    pub(super) fn data_dir(&self) -> &DataDir {
        &self.data_dir
    }

    /// The member this process is.
    pub(super) fn replica(&self) -> Option<Arc<Replica>> {
        self.replica.load_full()
    }

    /// Which cluster the folder belongs to.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.data_dir.identity()
    }

    /// The coordinator.
    pub(crate) fn coordinator(&self) -> Result<Arc<Coordinator>, Status> {
        match self.replica() {
            Some(replica) => Ok(replica.coordinator().clone()),
            None => Err(status::not_applied(Status::unavailable(
                "this replica belongs to no cluster yet: form one with `quorate init`, or \
                 take it into one with `quorate member add`",
            ))),
        }
    }

    /// Becomes member `node_id` of a cluster. Repeating it with the same ids is fine.
    pub(super) async fn join(&self, cluster_id: &str, node_id: u64) -> Result<(), Status> {
        {
            let _changing = self.changing.lock().await;
            match self.data_dir.identity() {
                Some(own) if own.cluster_id == cluster_id && own.node_id == node_id => {}
                Some(own) => {
                    return Err(Status::failed_precondition(format!(
                        "this replica is node {} of cluster {}; it joins no other",
                        own.node_id, own.cluster_id
                    )));
                }
                None => self
                    .data_dir
                    .init(Identity {
                        format_version: quorate_raft_store::FORMAT_VERSION,
                        cluster_id: cluster_id.to_owned(),
                        node_id,
                    })
                    .map_err(|error| Status::internal(error.to_string()))?,
            }
        }
        self.take_up()
            .await
            .map_err(|error| Status::internal(error.to_string()))
    }

    /// Forms a new cluster, once.
    pub(crate) async fn init(&self, members: Vec<Member>) -> Result<String, Status> {
        bootstrap::init(self, members).await
    }

    /// This replica's own view.
    pub(crate) fn status(&self) -> StatusResponse {
        match self.replica() {
            Some(replica) => {
                let mut status = replica.coordinator().status(&replica.identity().cluster_id);
                if !replica.is_initialized() {
                    status.role = "waiting for init".into();
                }
                status
            }
            None => StatusResponse {
                role: "waiting for init".into(),
                version: env!("CARGO_PKG_VERSION").into(),
                ..Default::default()
            },
        }
    }

    /// Whether this replica serves.
    pub(crate) fn component_states(&self) -> ComponentStates {
        match self.replica() {
            Some(replica) => replica.coordinator().get_component_states(),
            None => ComponentStates {
                state: Some(ComponentInfo {
                    role: "datacoord".into(),
                    state_code: StateCode::Initializing.into(),
                    ..Default::default()
                }),
                status: Some(status::ok()),
                ..Default::default()
            },
        }
    }

    /// Whether this replica has applied everything it knew to be committed when it started.
    pub(super) fn is_ready(&self) -> bool {
        self.replica().is_some_and(|replica| replica.is_caught_up())
    }

    /// Waits until the member this process is stops by itself; says why.
    pub(super) async fn failed(&self) -> String {
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        loop {
            tick.tick().await;
            let Some(replica) = self.replica() else {
                continue;
            };
            let metrics = replica.coordinator().consensus().raft().metrics();
            let running = metrics.borrow_watched().running_state.clone();
            if let Err(fatal) = running {
                return fatal.to_string();
            }
        }
    }

    /// Hands leadership over and stops.
    pub(super) async fn stop(&self) {
        if let Some(replica) = self.replica() {
            replica.stop().await;
        }
    }
}

impl Leadership for Host {
    fn leader(&self) -> Leader {
        match self.replica() {
            Some(replica) => replica.coordinator().leader(),
            // Without a cluster this replica answers itself, saying so.
            None => Leader::Here,
        }
    }
}
