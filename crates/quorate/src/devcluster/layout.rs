//! Which process listens where. Written once, when the folder is new: the addresses of the
//! replicas are part of the cluster's own state.

use std::net::TcpListener;
use std::path::Path;

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::DevOptions;
use crate::error::CliError;

/// First port of a cluster when none is asked for.
pub const BASE_PORT: u16 = 13333;
/// From one replica's ports to the next one's.
const REPLICA_STEP: u16 = 10;
/// From the first port to that of the first data node.
const DATA_NODE_OFFSET: u16 = 100;
/// Free ports are looked for here, below those the system gives to outgoing connections.
const FREE_PORTS: std::ops::Range<u16> = 15_000..31_000;
const FREE_PORTS_TRIES: usize = 200;
const FILE: &str = "cluster.json";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layout {
    pub(super) base_port: u16,
    pub(super) replicas: Vec<ReplicaPorts>,
    pub(super) data_nodes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReplicaPorts {
    pub(super) client: String,
    pub(super) peer: String,
    pub(super) health: String,
}

impl Layout {
    /// The layout of the folder; a new one when the folder has none.
    pub(super) fn load_or_create(options: &DevOptions) -> Result<Self, CliError> {
        std::fs::create_dir_all(options.data_dir.join("logs")).map_err(|error| {
            CliError::failed(error).context(format!("cannot create {}", options.data_dir.display()))
        })?;
        let path = options.data_dir.join(FILE);
        let mut layout = match std::fs::read(&path) {
            Ok(text) => Self::parse(&text, &path)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::create(options)?,
            Err(error) => {
                return Err(
                    CliError::failed(error).context(format!("cannot read {}", path.display()))
                );
            }
        };
        layout.suit(options, &path)?;
        layout.must_be_free()?;
        layout.save(&path)?;
        Ok(layout)
    }

    fn parse(text: &[u8], path: &Path) -> Result<Self, CliError> {
        serde_json::from_slice(text).map_err(|error| {
            CliError::failed(error)
                .context(format!("cannot understand {}", path.display()))
                .hint("if the cluster in it is not needed any more, delete the folder")
        })
    }

    fn create(options: &DevOptions) -> Result<Self, CliError> {
        let replicas = options.replicas.unwrap_or(3);
        let data_nodes = options.data_nodes.unwrap_or(2);
        if let Some(base) = options.base_port {
            return Ok(Self::at(base, replicas, data_nodes));
        }
        let mut rng = rand::rng();
        (0..FREE_PORTS_TRIES)
            .map(|_| Self::at(rng.random_range(FREE_PORTS), replicas, data_nodes))
            .find(|layout| layout.taken().is_none())
            .ok_or_else(|| CliError::failed(anyhow::anyhow!("found no free ports on 127.0.0.1")))
    }

    fn at(base: u16, replicas: usize, data_nodes: usize) -> Self {
        let address = |port: usize| format!("127.0.0.1:{}", usize::from(base) + port);
        Self {
            base_port: base,
            replicas: (0..replicas)
                .map(|index| index * usize::from(REPLICA_STEP))
                .map(|port| ReplicaPorts {
                    client: address(port),
                    peer: address(port + 1),
                    health: address(port + 2),
                })
                .collect(),
            data_nodes: (0..data_nodes)
                .map(|index| address(usize::from(DATA_NODE_OFFSET) + index))
                .collect(),
        }
    }

    /// Checks what was asked for against what the folder has. Data nodes may come and go.
    fn suit(&mut self, options: &DevOptions, path: &Path) -> Result<(), CliError> {
        let other = |what: String| {
            Err(CliError::usage(format!(
                "the cluster in {} {what}",
                options.data_dir.display()
            ))
            .hint("leave the option out, or take another --data-dir"))
        };
        if let Some(asked) = options.replicas
            && asked != self.replicas.len()
        {
            return other(format!("has {} replicas, not {asked}", self.replicas.len()));
        }
        if let Some(asked) = options.base_port
            && options.base_port_is_firm
            && asked != self.base_port
        {
            return other(format!("begins at port {}, not {asked}", self.base_port));
        }
        if self.replicas.is_empty() {
            return other(format!("has no replicas; {} is damaged", path.display()));
        }
        if let Some(asked) = options.data_nodes {
            self.data_nodes = Self::at(self.base_port, 0, asked).data_nodes;
        }
        Ok(())
    }

    fn addresses(&self) -> impl Iterator<Item = &String> {
        self.replicas
            .iter()
            .flat_map(|ports| [&ports.client, &ports.peer, &ports.health])
            .chain(&self.data_nodes)
    }

    /// The first address that somebody listens on, with the reason.
    fn taken(&self) -> Option<(&String, std::io::Error)> {
        self.addresses()
            .find_map(|address| Some((address, TcpListener::bind(address).err()?)))
    }

    fn must_be_free(&self) -> Result<(), CliError> {
        match self.taken() {
            None => Ok(()),
            Some((address, error)) => Err(CliError::failed(error)
                .context(format!("cannot listen on {address}"))
                .hint("end the process that does, or start a new cluster with another --base-port and --data-dir")),
        }
    }

    fn save(&self, path: &Path) -> Result<(), CliError> {
        let text = serde_json::to_vec_pretty(self).map_err(CliError::failed)?;
        std::fs::write(path, text).map_err(|error| {
            CliError::failed(error).context(format!("cannot write {}", path.display()))
        })
    }

    pub(super) fn endpoints(&self) -> Vec<String> {
        self.replicas
            .iter()
            .map(|ports| ports.client.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: &Path) -> DevOptions {
        DevOptions::new(dir)
    }

    #[test]
    fn a_folder_keeps_its_layout() {
        let dir = tempfile::tempdir().unwrap();
        let first = Layout::load_or_create(&options(dir.path())).unwrap();
        assert_eq!((first.replicas.len(), first.data_nodes.len()), (3, 2));
        let second = Layout::load_or_create(&options(dir.path())).unwrap();
        assert_eq!(first, second);
    }

    #[test]
    fn a_folder_with_another_number_of_replicas_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Layout::load_or_create(&options(dir.path())).unwrap();
        let other = DevOptions {
            replicas: Some(5),
            ..options(dir.path())
        };
        let error = Layout::load_or_create(&other).unwrap_err();
        assert!(
            error.to_string().contains("has 3 replicas, not 5"),
            "{error}"
        );
    }

    #[test]
    fn data_nodes_may_be_added() {
        let dir = tempfile::tempdir().unwrap();
        let first = Layout::load_or_create(&options(dir.path())).unwrap();
        let more = DevOptions {
            data_nodes: Some(4),
            ..options(dir.path())
        };
        let second = Layout::load_or_create(&more).unwrap();
        assert_eq!(second.replicas, first.replicas);
        assert_eq!(second.data_nodes[..2], first.data_nodes);
        assert_eq!(second.data_nodes.len(), 4);
    }

    #[test]
    fn a_port_in_use_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::load_or_create(&options(dir.path())).unwrap();
        let address = layout.replicas[1].peer.clone();
        let _listener = TcpListener::bind(&address).unwrap();
        let error = Layout::load_or_create(&options(dir.path())).unwrap_err();
        assert!(error.to_string().contains(&address), "{error}");
    }

    #[test]
    fn a_damaged_layout_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        std::fs::write(&path, "{").unwrap();
        assert!(Layout::load_or_create(&options(dir.path())).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"{");
    }
}
