//! One child process: its command line, its log, its life.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::error::CliError;

/// How much of a log is quoted when its process ends before it should.
const LAST_WORDS_BYTES: u64 = 2_000;

/// How to start a process.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) name: String,
    pub(super) binary: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) variables: Vec<(String, String)>,
    pub(super) client_addr: String,
    pub(super) peer_addr: String,
    pub(super) health_addr: String,
    pub(super) log: PathBuf,
}

/// A member of the cluster. Dropping it kills the process.
#[derive(Debug)]
pub struct Process {
    spec: Spec,
    child: Child,
    /// When it was seen to have ended, and whether that was expected or has been told.
    ended: Option<Ended>,
}

#[derive(Debug)]
struct Ended {
    at: Instant,
    status: String,
    told: bool,
}

impl Process {
    pub(super) fn start(spec: Spec) -> Result<Self, CliError> {
        let child = spawn(&spec)?;
        Ok(Self {
            spec,
            child,
            ended: None,
        })
    }

    /// `replica-1`, `data-node-2`, …
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Where clients reach it.
    pub fn client_addr(&self) -> &str {
        &self.spec.client_addr
    }

    /// Where other replicas reach it; empty for a data node.
    pub fn peer_addr(&self) -> &str {
        &self.spec.peer_addr
    }

    /// Where its health and metrics are; empty for a data node.
    pub fn health_addr(&self) -> &str {
        &self.spec.health_addr
    }

    /// Its process id; none once it was seen to have ended.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Where its output goes.
    pub fn log_path(&self) -> &Path {
        &self.spec.log
    }

    /// Whether it has not been seen to end.
    pub fn is_running(&self) -> bool {
        self.ended.is_none()
    }

    /// How it ended, if it did unasked since this was last called.
    pub(super) fn take_end(&mut self) -> Option<String> {
        if self.ended.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.note_end(status, false);
        }
        let ended = self.ended.as_mut().filter(|ended| !ended.told)?;
        ended.told = true;
        Some(ended.status.clone())
    }

    /// Whether it ended, at least so long ago.
    pub(super) fn ended_before(&self, delay: Duration) -> bool {
        self.ended
            .as_ref()
            .is_some_and(|ended| ended.at.elapsed() >= delay)
    }

    pub(super) fn start_again(&mut self) -> Result<u32, CliError> {
        self.child = spawn(&self.spec)?;
        self.ended = None;
        Ok(self.child.id().unwrap_or(0))
    }

    /// SIGKILL, and waits until the process is gone.
    pub(super) async fn kill(&mut self) -> std::io::Result<()> {
        if self.ended.is_none() {
            self.child.kill().await?;
            let status = self.child.wait().await?;
            self.note_end(status, true);
        }
        Ok(())
    }

    /// SIGTERM.
    pub(super) fn terminate(&self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended by itself meanwhile, which is as good.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    /// Waits until it has ended; kills it at the deadline.
    pub(super) async fn ended_by(&mut self, deadline: Instant) {
        let in_time = tokio::time::timeout_at(deadline, self.child.wait()).await;
        if let Ok(Ok(status)) = in_time {
            self.note_end(status, true);
        } else if let Err(error) = self.kill().await {
            tracing::warn!(name = self.name(), %error, "cannot kill the process");
        }
    }

    /// The end of its log, for an error message.
    pub(super) fn last_words(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = std::fs::File::open(&self.spec.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        match text.trim_end().lines().last() {
            Some(line) if !line.is_empty() => format!(": {line}"),
            _ => String::new(),
        }
    }

    fn note_end(&mut self, status: ExitStatus, told: bool) {
        self.ended = Some(Ended {
            at: Instant::now(),
            status: status.to_string(),
            told,
        });
    }
}

fn spawn(spec: &Spec) -> Result<Child, CliError> {
    let log = || OpenOptions::new().create(true).append(true).open(&spec.log);
    let run = || -> std::io::Result<Child> {
        Command::new(&spec.binary)
            .args(&spec.args)
            .envs(spec.variables.iter().map(|(name, value)| (name, value)))
            // Held open for as long as this process lives; its end tells the child to end.
            .stdin(Stdio::piped())
            .stdout(log()?)
            .stderr(log()?)
            // Ctrl-C in the terminal is for this process, which ends the others in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    };
    run().map_err(|error| {
        CliError::failed(error).context(format!(
            "cannot start {} ({})",
            spec.name,
            spec.binary.display()
        ))
    })
}
