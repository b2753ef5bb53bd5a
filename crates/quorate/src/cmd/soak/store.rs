//! The object store of the soak: a folder, or an S3 server of its own that fails now and then.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use quorate_binlog::open::Secret;
use quorate_binlog::{LogStore, ObjectStoreConfig};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::error::CliError;

/// How long reading one object may take, with retries.
const OBJECT_DEADLINE: Duration = Duration::from_secs(15);
/// How long the S3 server may take to answer a command.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where objects are.
pub(super) struct Store {
    config: ObjectStoreConfig,
    server: Option<Server>,
}

/// The S3 server, which takes commands on its stdin. Dropping it ends it.
struct Server {
    _child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Store {
    /// A folder.
    pub(super) fn folder(folder: &Path) -> Self {
        Self {
            config: ObjectStoreConfig::at(folder.display().to_string()),
            server: None,
        }
    }

    /// A server of its own on a folder; its faults come from the seed.
    pub(super) async fn s3(binary: &Path, folder: &Path, seed: u64) -> Result<Self, CliError> {
        let failed = |error: anyhow::Error| {
            CliError::failed(error)
                .context(format!("cannot run the S3 server {}", binary.display()))
        };
        std::fs::create_dir_all(folder)?;
        let mut child = Command::new(binary)
            .arg("--folder")
            .arg(folder)
            .args(["--seed", &seed.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(error.into()))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(anyhow::anyhow!("it has no stdin or stdout")));
        };
        let mut server = Server {
            _child: child,
            stdin,
            stdout: BufReader::new(stdout).lines(),
        };
        let hello = server.line().await.map_err(failed)?;
        let value = |name: &str| {
            let words = hello.split(' ').filter_map(|word| word.split_once('='));
            words
                .filter(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
                .next()
                .ok_or_else(|| failed(anyhow::anyhow!("it does not say its {name}: {hello}")))
        };
        let config = ObjectStoreConfig {
            endpoint: value("endpoint")?,
            region: "us-east-1".to_owned(),
            access_key: value("access_key")?,
            secret_key: Secret::new(value("secret_key")?),
            allow_http: true,
            ..ObjectStoreConfig::at(format!("s3://{}/soak", value("bucket")?))
        };
        Ok(Self {
            config,
            server: Some(server),
        })
    }

    /// Its address for data nodes and replicas.
    pub(super) fn url(&self) -> String {
        self.config.url.clone()
    }

    /// What the processes have to know beside the address.
    pub(super) fn variables(&self) -> Vec<(String, String)> {
        if self.server.is_none() {
            return Vec::new();
        }
        let config = &self.config;
        [
            ("ENDPOINT", config.endpoint.clone()),
            ("REGION", config.region.clone()),
            ("ACCESS_KEY", config.access_key.clone()),
            ("SECRET_KEY", config.secret_key.reveal().to_owned()),
            ("ALLOW_HTTP", "true".to_owned()),
        ]
        .map(|(name, value)| (format!("QUORATE_S3_{name}"), value))
        .into()
    }

    pub(super) fn logs(&self) -> Result<LogStore, CliError> {
        let (store, root) = self.config.open().map_err(CliError::failed)?;
        Ok(LogStore::new(store, root, OBJECT_DEADLINE))
    }

    pub(super) fn objects(&self) -> Result<super::super::inventory::Objects, CliError> {
        super::super::inventory::Objects::of(&self.config)
    }

    pub(super) fn is_s3(&self) -> bool {
        self.server.is_some()
    }

    /// Tells the S3 server how to fail from now on; nothing for a folder.
    pub(super) async fn command(&mut self, command: &str) -> Result<(), CliError> {
        let Some(server) = &mut self.server else {
            return Ok(());
        };
        let answer = async {
            server
                .stdin
                .write_all(format!("{command}\n").as_bytes())
                .await?;
            server.stdin.flush().await?;
            server.line().await
        };
        let answer: anyhow::Result<String> = answer.await;
        match answer.map_err(CliError::failed)? {
            answer if answer.starts_with("ok") => Ok(()),
            answer => Err(CliError::failed(anyhow::anyhow!(
                "the S3 server refuses {command:?}: {answer}"
            ))),
        }
    }
}

impl Server {
    async fn line(&mut self) -> anyhow::Result<String> {
        let line = tokio::time::timeout(PATIENCE, self.stdout.next_line()).await??;
        line.ok_or_else(|| anyhow::anyhow!("it ended"))
    }
}

/// The S3 server of the tests, beside this binary when it was built from the same sources.
pub(super) fn server_binary(given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(|| {
        let own = std::env::current_exe().unwrap_or_default();
        own.with_file_name("quorate-s3")
    })
}
