//! A cluster for development, tests and measurements: replicas and data nodes as child processes
//! of this one, on loopback.
//!
//! The folder keeps everything, the layout of ports included, so a cluster started again in the
//! same folder is the same cluster. Children end when this process does, however it ends: each
//! holds the reading end of a pipe from here and leaves when it closes.

mod certificates;
mod layout;
mod process;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_rpc::proto::quorate::admin::admin_client::AdminClient;
use quorate_rpc::proto::quorate::admin::{
    InitRequest, ListNodesRequest, Replica, StatusRequest, StatusResponse,
};
use quorate_rpc::{Client, ClientOptions, Retry};
use tokio::time::Instant;

pub use layout::BASE_PORT;
use layout::Layout;
pub use process::Process;
use process::Spec;

use crate::error::CliError;

/// Time between two looks at whether something has come about.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long a process that was told to end may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a data node may take to write out what it holds; the rest is for its end.
const DATA_NODE_STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Wait before a process that ended is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// How long one call to a starting replica may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// What to start, and where.
#[derive(Clone, Debug)]
pub struct DevOptions {
    /// The `quorate` binary; this process's own by default.
    pub binary: PathBuf,
    /// Folder for state, objects and logs.
    pub data_dir: PathBuf,
    /// Number of replicas; none: 3, or as many as the folder has.
    pub replicas: Option<usize>,
    /// Number of data nodes; none: 2, or as many as the folder has.
    pub data_nodes: Option<usize>,
    /// First port of a new cluster; none: ports that are free now.
    pub base_port: Option<u16>,
    /// Whether a folder laid out for another first port is an error.
    pub base_port_is_firm: bool,
    /// Configuration file of the replicas.
    pub config: Option<PathBuf>,
    /// Address of the object store; none: a folder beside the others.
    pub object_store: Option<String>,
    /// Environment variables for all processes.
    pub variables: Vec<(String, String)>,
    /// More arguments for `quorate server`.
    pub server_args: Vec<String>,
    /// More arguments for `quorate datanode`.
    pub data_node_args: Vec<String>,
    /// Whether [`DevCluster::watch`] starts processes again that ended.
    pub restart: bool,
    /// How long everything may take to come up.
    pub start_timeout: Duration,
}

impl DevOptions {
    /// Three replicas and two data nodes in this folder, at free ports.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            binary: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("quorate")),
            data_dir: data_dir.into(),
            replicas: None,
            data_nodes: None,
            base_port: None,
            base_port_is_firm: false,
            config: None,
            object_store: None,
            variables: Vec::new(),
            server_args: Vec::new(),
            data_node_args: Vec::new(),
            restart: false,
            start_timeout: Duration::from_secs(60),
        }
    }
}

/// What [`DevCluster::watch`] saw.
#[derive(Debug)]
pub enum Event {
    /// A process ended that nobody had told to.
    Ended {
        /// Which.
        name: String,
        /// How.
        status: String,
    },
    /// It was started again.
    Restarted {
        /// Which.
        name: String,
        /// Its new process id.
        pid: u32,
    },
    /// It could not be started again; it will be tried once more.
    Failed {
        /// Which.
        name: String,
        /// Why not.
        error: String,
    },
}

/// A running cluster. Dropping it kills its processes; [`stop`](Self::stop) ends them properly.
#[derive(Debug)]
pub struct DevCluster {
    options: DevOptions,
    layout: Layout,
    client: Client,
    replicas: Vec<Process>,
    data_nodes: Vec<Process>,
}

impl DevCluster {
    /// Starts the cluster in its folder, forms it when it is new, and waits until a leader serves
    /// and every data node is registered.
    pub async fn start(options: DevOptions) -> Result<Self, CliError> {
        let layout = Layout::load_or_create(&options)?;
        let mut cluster = Self {
            client: Client::new(layout.endpoints(), ClientOptions::default())?,
            replicas: Vec::new(),
            data_nodes: Vec::new(),
            layout,
            options,
        };
        certificates::make(&cluster.options.data_dir, cluster.layout.replicas.len())?;
        for index in 0..cluster.layout.replicas.len() {
            let process = Process::start(cluster.replica_spec(index))?;
            cluster.replicas.push(process);
        }
        let deadline = Instant::now() + cluster.options.start_timeout;
        cluster.form(deadline).await?;
        for index in 0..cluster.layout.data_nodes.len() {
            let process = Process::start(cluster.data_node_spec(index))?;
            cluster.data_nodes.push(process);
        }
        cluster.wait_until_serving(deadline).await?;
        Ok(cluster)
    }

    /// The replicas, in the order of their numbers.
    pub fn replicas(&self) -> &[Process] {
        &self.replicas
    }

    /// The data nodes, in the order of their numbers.
    pub fn data_nodes(&self) -> &[Process] {
        &self.data_nodes
    }

    /// Replicas and data nodes.
    pub fn members(&self) -> impl Iterator<Item = &Process> {
        self.replicas.iter().chain(&self.data_nodes)
    }

    /// Client addresses of the replicas.
    pub fn endpoints(&self) -> Vec<String> {
        self.layout.endpoints()
    }

    /// Where the data nodes put their log files.
    pub fn object_store(&self) -> String {
        match &self.options.object_store {
            Some(url) => url.clone(),
            None => display(&self.options.data_dir.join("objects")),
        }
    }

    /// A client of the cluster; all of them share what they learn.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The index of the replica that leads now, with its status; none during an election.
    pub async fn leader(&self) -> Option<(usize, StatusResponse)> {
        let mut leader: Option<(usize, StatusResponse)> = None;
        for (index, replica) in self.replicas.iter().enumerate() {
            if !replica.is_running() {
                continue;
            }
            if let Ok(status) = self.status(replica.client_addr()).await
                && status.leading
                && leader
                    .as_ref()
                    .is_none_or(|(_, other)| other.term < status.term)
            {
                leader = Some((index, status));
            }
        }
        leader
    }

    /// Kills a replica as a power loss would end it, and waits until it is gone.
    pub async fn kill_replica(&mut self, index: usize) -> Result<(), CliError> {
        Ok(self.replicas[index].kill().await?)
    }

    /// Kills a data node as a power loss would end it, and waits until it is gone.
    pub async fn kill_data_node(&mut self, index: usize) -> Result<(), CliError> {
        Ok(self.data_nodes[index].kill().await?)
    }

    /// Starts a replica again that was killed or ended. Does not wait until it serves.
    pub async fn restart_replica(&mut self, index: usize) -> Result<(), CliError> {
        self.replicas[index].kill().await?;
        self.replicas[index] = Process::start(self.replica_spec(index))?;
        Ok(())
    }

    /// Starts a data node again that was killed or ended. Does not wait until it is registered.
    pub async fn restart_data_node(&mut self, index: usize) -> Result<(), CliError> {
        self.data_nodes[index].kill().await?;
        self.data_nodes[index] = Process::start(self.data_node_spec(index))?;
        Ok(())
    }

    /// The leader as [`leader`](Self::leader) tells it, waited for while there is none.
    pub async fn wait_for_leader(&self) -> Result<(usize, StatusResponse), CliError> {
        let deadline = Instant::now() + self.options.start_timeout;
        loop {
            if let Some(leader) = self.leader().await {
                return Ok(leader);
            }
            if Instant::now() >= deadline {
                return Err(CliError::unavailable(anyhow::anyhow!(
                    "the replicas elected no leader in {:?}",
                    self.options.start_timeout
                )));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until a leader serves and every data node is registered, as after a restart.
    pub async fn wait_until_ready(&mut self) -> Result<(), CliError> {
        let deadline = Instant::now() + self.options.start_timeout;
        self.wait_until_serving(deadline).await
    }

    /// Looks after the processes: says which ended and, with `restart`, starts them again a
    /// second later. To be called every now and then.
    pub async fn watch(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let restart = self.options.restart;
        for process in self.replicas.iter_mut().chain(&mut self.data_nodes) {
            if let Some(status) = process.take_end() {
                events.push(Event::Ended {
                    name: process.name().to_owned(),
                    status,
                });
            }
            if !restart || !process.ended_before(RESTART_DELAY) {
                continue;
            }
            let name = process.name().to_owned();
            match process.start_again() {
                Ok(pid) => events.push(Event::Restarted { name, pid }),
                Err(error) => events.push(Event::Failed {
                    name,
                    error: error.to_string(),
                }),
            }
        }
        events
    }

    /// Ends all processes: data nodes first, so that they can still save what they hold.
    pub async fn stop(mut self) {
        for processes in [&mut self.data_nodes, &mut self.replicas] {
            for process in processes.iter() {
                process.terminate();
            }
            let deadline = Instant::now() + STOP_TIMEOUT;
            for process in processes.iter_mut() {
                process.ended_by(deadline).await;
            }
        }
    }

    async fn status(&self, address: &str) -> Result<StatusResponse, String> {
        let ask = async {
            let replica = self.client.at(address).await.map_err(|e| e.to_string())?;
            let answer = AdminClient::new(replica).status(StatusRequest {}).await;
            answer
                .map(tonic::Response::into_inner)
                .map_err(|status| status.message().to_owned())
        };
        tokio::time::timeout(CALL_TIMEOUT, ask)
            .await
            .unwrap_or_else(|_| Err(format!("no answer in {CALL_TIMEOUT:?}")))
    }

    /// Waits until every replica answers, and forms a cluster of them if they wait for that.
    async fn form(&mut self, deadline: Instant) -> Result<(), CliError> {
        let mut waiting = 0;
        for index in 0..self.replicas.len() {
            loop {
                self.must_run(deadline, "did not start")?;
                let address = self.replicas[index].client_addr().to_owned();
                if let Ok(status) = self.status(&address).await {
                    waiting += usize::from(status.cluster_id.is_empty());
                    break;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
        if waiting < self.replicas.len() {
            return Ok(());
        }
        let members = self.layout.replicas.iter().map(|ports| Replica {
            node_id: 0,
            peer_address: ports.peer.clone(),
            client_address: ports.client.clone(),
            voter: true,
        });
        let request = InitRequest {
            members: members.collect(),
        };
        let first = self.client.at(self.replicas[0].client_addr()).await?;
        let mut request = tonic::Request::new(request);
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        AdminClient::new(first)
            .init(request)
            .await
            .map_err(|status| {
                CliError::from(quorate_rpc::ClientError::Refused(status))
                    .context("the replicas did not form a cluster")
            })?;
        Ok(())
    }

    async fn wait_until_serving(&mut self, deadline: Instant) -> Result<(), CliError> {
        while self.leader().await.is_none() {
            self.must_run(deadline, "elected no leader")?;
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let registered = self
                .client
                .call_within(
                    left.min(CALL_TIMEOUT),
                    Retry::Idempotent,
                    |leader| async move {
                        AdminClient::new(leader)
                            .list_nodes(ListNodesRequest {})
                            .await
                    },
                )
                .await
                .map(|reply| reply.nodes)
                .unwrap_or_default();
            let there = |process: &Process| {
                let address = process.client_addr();
                registered.iter().any(|node| node.address == address)
            };
            if self.data_nodes.iter().all(there) {
                return Ok(());
            }
            self.must_run(deadline, "did not register all data nodes")?;
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Fails when a process has ended while the cluster comes up, or the time for that is over.
    fn must_run(&mut self, deadline: Instant, otherwise: &str) -> Result<(), CliError> {
        for process in self.replicas.iter_mut().chain(&mut self.data_nodes) {
            if let Some(status) = process.take_end() {
                let log = process.log_path().display().to_string();
                return Err(CliError::failed(anyhow::anyhow!(
                    "{} ended while the cluster was starting ({status}){}",
                    process.name(),
                    process.last_words()
                ))
                .hint(format!("its log is {log}")));
            }
        }
        if Instant::now() >= deadline {
            let logs = self.options.data_dir.join("logs").display().to_string();
            return Err(CliError::unavailable(anyhow::anyhow!(
                "the cluster {otherwise} in {:?}",
                self.options.start_timeout
            ))
            .hint(format!("the logs are in {logs}")));
        }
        Ok(())
    }

    fn replica_spec(&self, index: usize) -> Spec {
        let ports = &self.layout.replicas[index];
        let number = index + 1;
        let data_dir = &self.options.data_dir;
        let mut args: Vec<String> = vec!["server".to_owned()];
        if let Some(config) = &self.options.config {
            args.extend(["--config".to_owned(), config.display().to_string()]);
        }
        args.extend([
            "--data-dir".to_owned(),
            display(&data_dir.join(format!("replica-{number}"))),
            "--client-listen".to_owned(),
            ports.client.clone(),
            "--peer-listen".to_owned(),
            ports.peer.clone(),
            "--health-listen".to_owned(),
            ports.health.clone(),
            "--exit-with-parent".to_owned(),
        ]);
        args.extend(certificates::settings(data_dir, number));
        let url = self.object_store();
        args.extend(["--set".to_owned(), format!("quorate.objectStore.url={url}")]);
        args.extend(self.options.server_args.iter().cloned());
        Spec {
            name: format!("replica-{number}"),
            binary: self.options.binary.clone(),
            args,
            variables: self.options.variables.clone(),
            client_addr: ports.client.clone(),
            peer_addr: ports.peer.clone(),
            health_addr: ports.health.clone(),
            log: self.log_of(&format!("replica-{number}")),
        }
    }

    fn data_node_spec(&self, index: usize) -> Spec {
        let address = &self.layout.data_nodes[index];
        let number = index + 1;
        let mut args: Vec<String> = vec![
            "datanode".to_owned(),
            "--endpoints".to_owned(),
            self.layout.endpoints().join(","),
            "--listen".to_owned(),
            address.clone(),
            "--advertise".to_owned(),
            address.clone(),
            "--object-store".to_owned(),
            self.object_store(),
            "--stop-timeout-ms".to_owned(),
            DATA_NODE_STOP_TIMEOUT.as_millis().to_string(),
            "--exit-with-parent".to_owned(),
        ];
        args.extend(self.options.data_node_args.iter().cloned());
        Spec {
            name: format!("data-node-{number}"),
            binary: self.options.binary.clone(),
            args,
            variables: self.options.variables.clone(),
            client_addr: address.clone(),
            peer_addr: String::new(),
            health_addr: String::new(),
            log: self.log_of(&format!("data-node-{number}")),
        }
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.options
            .data_dir
            .join("logs")
            .join(format!("{name}.log"))
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}
