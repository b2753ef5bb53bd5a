//! Clusters of real processes, for tests of behaviour from outside: gRPC, the command line, files.
//!
//! Every cluster has a folder and a loopback address of its own, so any number of them run side by
//! side and a replica finds its ports free when it comes back. Dropping a cluster kills its
//! processes. Waiting is for events, and [`PATIENCE`] is only there to end a test that would hang.

mod calls;
mod data_node;
mod process;
mod raw;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use quorate_rpc::proto::quorate::admin::StatusResponse;
use quorate_rpc::{Client, ClientOptions};
use rand::RngExt;
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

pub use calls::small_schema;
pub use data_node::FakeDataNode;
pub use process::{Process, binary, run};
pub use raw::call_raw;

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two looks at whether something has come about.
const POLL: Duration = Duration::from_millis(50);
/// How long one replica may take to answer for itself.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

/// Lines of a log shown when a test fails.
const LAST_LINES: usize = 20;

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of replicas.
    pub replicas: usize,
    /// Number of data nodes.
    pub data_nodes: usize,
    /// More arguments for every `quorate server`.
    pub server_args: Vec<String>,
    /// More arguments for every `quorate datanode`.
    pub data_node_args: Vec<String>,
}

impl Options {
    /// So many replicas and data nodes, with default settings.
    pub fn new(replicas: usize, data_nodes: usize) -> Self {
        Self {
            replicas,
            data_nodes,
            server_args: Vec::new(),
            data_node_args: Vec::new(),
        }
    }

    /// With a setting of the replicas.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.server_args
            .extend(["--set".to_owned(), format!("{key}={value}")]);
        self
    }

    /// With an argument of the data nodes.
    #[must_use]
    pub fn data_node_arg(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.data_node_args
            .extend([name.to_owned(), value.to_string()]);
        self
    }
}

/// Addresses of a replica.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Where clients connect.
    pub client: SocketAddr,
    /// Where other replicas connect.
    pub peer: SocketAddr,
    /// Health and metrics.
    pub health: SocketAddr,
}

/// A loopback address nobody else uses. Listening on it never competes for a port with another
/// test or with an outgoing connection.
pub fn own_address() -> Ipv4Addr {
    let mut rng = rand::rng();
    let mut draw = || {
        Ipv4Addr::new(
            127,
            rng.random_range(1..=254),
            rng.random_range(0..=255),
            rng.random_range(1..=254),
        )
    };
    (0..100)
        .map(|_| draw())
        .find(|address| TcpListener::bind((*address, 13333)).is_ok())
        .expect("the loopback network has 16 million addresses")
}

impl Ports {
    /// The ports of replica `index` at an address.
    pub fn of(address: Ipv4Addr, index: usize) -> Self {
        let base = 13333 + 10 * u16::try_from(index).expect("a few replicas");
        let at = |port| SocketAddr::from((address, port));
        Self {
            client: at(base),
            peer: at(base + 1),
            health: at(base + 2),
        }
    }
}

/// A cluster of processes.
pub struct Cluster {
    folder: tempfile::TempDir,
    options: Options,
    address: Ipv4Addr,
    client: Client,
    replicas: Vec<Option<Process>>,
    data_nodes: Vec<Option<Process>>,
}

impl Cluster {
    /// Starts the processes, forms the cluster and waits until it serves.
    pub async fn start(options: Options) -> Self {
        let mut cluster = Self::prepare(options);
        for index in 0..cluster.options.replicas {
            cluster.start_replica(index);
        }
        cluster.form().await;
        for index in 0..cluster.options.data_nodes {
            cluster.start_data_node(index);
        }
        cluster.serves().await;
        cluster
    }

    /// The folder and the addresses, and nothing started yet.
    pub fn prepare(options: Options) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("quorate-test-")
            .tempdir()
            .expect("the temporary folder is writable");
        let address = own_address();
        let endpoints = (0..options.replicas).map(|i| Ports::of(address, i).client.to_string());
        let client = Client::new(
            endpoints,
            ClientOptions {
                deadline: PATIENCE,
                ..ClientOptions::default()
            },
        )
        .expect("the addresses are well formed");
        Self {
            replicas: (0..options.replicas).map(|_| None).collect(),
            data_nodes: (0..options.data_nodes).map(|_| None).collect(),
            folder,
            options,
            address,
            client,
        }
    }

    /// Waits until every replica answers, then runs `quorate init`.
    pub async fn form(&self) {
        for index in 0..self.options.replicas {
            until("a replica answers", async || self.status(index).await).await;
        }
        let output = self.init().await;
        assert!(output.status.success(), "init: {output:?}");
    }

    /// Runs `quorate init` with all replicas.
    pub async fn init(&self) -> Output {
        let members: Vec<String> = (0..self.options.replicas)
            .map(|index| Ports::of(self.address, index))
            .map(|ports| format!("{}={}", ports.peer, ports.client))
            .collect();
        self.cli(&["init", "--timeout", "60", "--members", &members.join(",")])
            .await
    }

    /// Waits until a leader serves and every data node of this cluster is registered.
    pub async fn serves(&self) {
        self.leader().await;
        let wanted: Vec<String> = (0..self.data_nodes.len())
            .filter(|index| self.data_nodes[*index].is_some())
            .map(|index| self.data_node_address(index).to_string())
            .collect();
        until("all data nodes are registered", async || {
            let nodes = self.list_nodes().await;
            wanted
                .iter()
                .all(|address| nodes.iter().any(|node| node.address == *address))
                .then_some(())
        })
        .await;
    }

    /// The folder of the cluster.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder of a replica.
    pub fn replica_folder(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("replica-{}", index + 1))
    }

    /// Where the data nodes put log files.
    pub fn object_store(&self) -> PathBuf {
        self.folder.path().join("objects")
    }

    /// Addresses of a replica.
    pub fn ports(&self, index: usize) -> Ports {
        Ports::of(self.address, index)
    }

    /// Address of a data node.
    pub fn data_node_address(&self, index: usize) -> SocketAddr {
        let port = 13433 + u16::try_from(index).expect("a few data nodes");
        SocketAddr::from((self.address, port))
    }

    /// The loopback address of the cluster.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Client addresses of all replicas.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.options.replicas)
            .map(|index| self.ports(index).client.to_string())
            .collect()
    }

    /// Our own client: it finds the leader.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A connection of a client that knows nothing of Quorate, to one replica.
    pub async fn plain(&self, index: usize) -> Channel {
        let address = format!("http://{}", self.ports(index).client);
        let endpoint = Endpoint::from_shared(address).expect("the address is well formed");
        until("a replica accepts connections", async || {
            endpoint.connect().await.ok()
        })
        .await
    }

    /// The command line of a replica, without its settings.
    fn server_args(&self, index: usize) -> Vec<String> {
        let ports = self.ports(index);
        let mut args: Vec<String> = vec!["server".to_owned()];
        for (name, value) in [
            (
                "--data-dir",
                self.replica_folder(index).display().to_string(),
            ),
            ("--client-listen", ports.client.to_string()),
            ("--peer-listen", ports.peer.to_string()),
            ("--health-listen", ports.health.to_string()),
        ] {
            args.extend([name.to_owned(), value]);
        }
        args.push("--exit-with-parent".to_owned());
        // Certificates are the business of `make cluster-test` and of the development cluster.
        args.extend(["--set".to_owned(), "quorate.peer.insecure=true".to_owned()]);
        args.extend([
            "--set".to_owned(),
            format!("quorate.objectStore.url={}", self.object_store().display()),
        ]);
        args.extend(self.options.server_args.iter().cloned());
        args
    }

    /// Starts a replica; does not wait until it answers.
    pub fn start_replica(&mut self, index: usize) {
        let args = self.server_args(index);
        let log = self.log_of(&format!("replica-{}", index + 1));
        self.replicas[index] = Some(Process::start(&args, &log));
    }

    /// Starts a data node; does not wait until it is registered.
    pub fn start_data_node(&mut self, index: usize) {
        let address = self.data_node_address(index).to_string();
        let mut args = vec![
            "datanode".to_owned(),
            "--endpoints".to_owned(),
            self.endpoints().join(","),
            "--listen".to_owned(),
            address.clone(),
            "--advertise".to_owned(),
            address,
            "--object-store".to_owned(),
            self.object_store().display().to_string(),
            "--exit-with-parent".to_owned(),
        ];
        args.extend(self.options.data_node_args.iter().cloned());
        let log = self.log_of(&format!("data-node-{}", index + 1));
        self.data_nodes[index] = Some(Process::start(&args, &log));
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// The process of a replica that was started.
    pub fn replica(&mut self, index: usize) -> &mut Process {
        self.replicas[index].as_mut().expect("it was started")
    }

    /// What a replica has logged.
    pub fn replica_log(&self, index: usize) -> String {
        let path = self.log_of(&format!("replica-{}", index + 1));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// SIGKILL of a replica; returns when it is gone.
    pub async fn kill_replica(&mut self, index: usize) {
        if let Some(mut process) = self.replicas[index].take() {
            process.kill().await;
        }
    }

    /// SIGKILL of a data node; returns when it is gone.
    pub async fn kill_data_node(&mut self, index: usize) {
        if let Some(mut process) = self.data_nodes[index].take() {
            process.kill().await;
        }
    }

    /// What a replica says of itself; none when it does not answer.
    pub async fn status(&self, index: usize) -> Option<StatusResponse> {
        calls::status(&self.client, &self.ports(index).client.to_string()).await
    }

    /// The replica that leads; waits for one.
    pub async fn leader(&self) -> usize {
        until("a leader serves", async || {
            let mut leader: Option<(u64, usize)> = None;
            for index in 0..self.options.replicas {
                if let Some(status) = self.status(index).await
                    && status.leading
                {
                    leader = leader.max(Some((status.term, index)));
                }
            }
            leader.map(|(_, index)| index)
        })
        .await
    }

    /// A replica that does not lead.
    pub async fn follower(&self) -> usize {
        (self.leader().await + 1) % self.options.replicas
    }

    /// Runs a command against this cluster.
    pub async fn cli(&self, args: &[&str]) -> Output {
        let endpoints = self.endpoints().join(",");
        let store = self.object_store().display().to_string();
        let variables = [
            ("QUORATE_ENDPOINTS", endpoints),
            ("QUORATE_OBJECT_STORE", store),
        ];
        run(args, &variables).await
    }

    /// The JSON a command prints, which must succeed.
    pub async fn json(&self, args: &[&str]) -> Value {
        let args = [args, &["-o", "json"]].concat();
        let output = self.cli(&args).await;
        assert!(
            output.status.success(),
            "{args:?}: {}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("-o json prints JSON")
    }

    /// All replicas hold the same state, row by row, and break no invariant.
    pub async fn is_equal_everywhere(&self) {
        let check = self.json(&["check", "--full"]).await;
        let replicas = check["replicas"].as_array().expect("a list of replicas");
        assert_eq!(replicas.len(), self.options.replicas, "{check:#}");
        assert_eq!(check["equal"], true, "{check:#}");
        assert_eq!(check["complete"], true, "{check:#}");
        assert!(
            replicas.iter().all(|replica| replica["state_hash"]
                .as_str()
                .is_some_and(|hash| !hash.is_empty())),
            "{check:#}"
        );
    }
}

impl Drop for Cluster {
    /// Of a test that failed, shows the end of each log: the folder goes with it.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let replicas = (1..=self.replicas.len()).map(|number| format!("replica-{number}"));
        let data_nodes = (1..=self.data_nodes.len()).map(|number| format!("data-node-{number}"));
        for name in replicas.chain(data_nodes) {
            let text = std::fs::read_to_string(self.log_of(&name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- the end of the log of {name}");
            for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// Waits until `look` finds something.
///
/// # Panics
/// When it does not come about within [`PATIENCE`].
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = tokio::time::Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "waited {PATIENCE:?} until {what}"
        );
        tokio::time::sleep(POLL).await;
    }
}
