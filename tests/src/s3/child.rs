//! The server as a process of its own, driven over its stdin.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use quorate_binlog::ObjectStoreConfig;
use quorate_binlog::open::Secret;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{ACCESS_KEY, BUCKET, Faults, SECRET_KEY};

/// How long the process may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `quorate-s3`. Dropping it ends it.
pub struct S3Process {
    _child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    endpoint: String,
}

impl S3Process {
    /// The binary of this build: beside the folder of the test executable.
    ///
    /// # Errors
    /// It has not been built.
    pub fn binary() -> anyhow::Result<PathBuf> {
        let own = std::env::current_exe()?;
        let path = own
            .parent()
            .and_then(Path::parent)
            .context("tests are in target/PROFILE/deps")?
            .join("quorate-s3");
        anyhow::ensure!(path.exists(), "{} has not been built", path.display());
        Ok(path)
    }

    /// Starts it on a folder.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(folder: &Path, seed: u64) -> anyhow::Result<Self> {
        let mut child = Command::new(Self::binary()?)
            .arg("--folder")
            .arg(folder)
            .args(["--seed", &seed.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take().context("stdin is piped")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let mut process = Self {
            _child: child,
            stdin,
            stdout: BufReader::new(stdout).lines(),
            endpoint: String::new(),
        };
        let first = process.line().await?;
        process.endpoint = first
            .split_whitespace()
            .find_map(|word| word.strip_prefix("endpoint="))
            .with_context(|| format!("no endpoint in {first:?}"))?
            .to_owned();
        Ok(process)
    }

    /// How to reach its bucket, below a prefix.
    pub fn config(&self, prefix: &str) -> ObjectStoreConfig {
        ObjectStoreConfig {
            endpoint: self.endpoint.clone(),
            region: "us-east-1".into(),
            access_key: ACCESS_KEY.into(),
            secret_key: Secret::new(SECRET_KEY),
            allow_http: true,
            ..ObjectStoreConfig::at(format!("s3://{BUCKET}/{prefix}"))
        }
    }

    /// Variables that make any of our processes reach it.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("QUORATE_S3_ENDPOINT", self.endpoint.clone()),
            ("QUORATE_S3_REGION", "us-east-1".into()),
            ("QUORATE_S3_ACCESS_KEY", ACCESS_KEY.into()),
            ("QUORATE_S3_SECRET_KEY", SECRET_KEY.into()),
            ("QUORATE_S3_ALLOW_HTTP", "true".into()),
        ]
    }

    /// Sets the faults of the requests to come.
    ///
    /// # Errors
    /// The process does not answer.
    pub async fn set_faults(&mut self, faults: Faults) -> anyhow::Result<()> {
        self.command(&format!("faults {faults}")).await.map(drop)
    }

    /// Refuses connections for a time.
    ///
    /// # Errors
    /// The process does not answer.
    pub async fn go(&mut self, time: Duration) -> anyhow::Result<()> {
        let command = format!("gone {}", time.as_millis());
        self.command(&command).await.map(drop)
    }

    /// One command, and the line it answers.
    async fn command(&mut self, command: &str) -> anyhow::Result<String> {
        self.stdin
            .write_all(format!("{command}\n").as_bytes())
            .await?;
        let answer = self.line().await?;
        if !answer.starts_with("ok") {
            bail!("{command}: {answer}");
        }
        Ok(answer)
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        tokio::time::timeout(PATIENCE, self.stdout.next_line())
            .await
            .context("the S3 server does not answer")??
            .context("the S3 server has ended")
    }
}
