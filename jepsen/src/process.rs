//! A child process: its environment, its log, its end.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::{Child, ChildStdin, Command};

/// How long a killed process may take to be gone.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two looks at whether it is.
const POLL: Duration = Duration::from_millis(5);

/// A command that no variable of the caller's environment changes.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    command.kill_on_drop(true);
    command
}

/// A running child. Dropping it kills it and waits until it is gone.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    /// Held open for as long as this lives: its end tells the process to end.
    _stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts it, with its output appended to the log.
    ///
    /// # Errors
    /// The log cannot be written, or the program cannot be started.
    pub fn start(
        program: &Path,
        args: &[String],
        variables: &[(String, String)],
        log: &Path,
    ) -> Result<Self> {
        let open = || {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(log)
                .with_context(|| format!("cannot open {}", log.display()))
        };
        let mut child = command(program)
            .args(args)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(open()?)
            .stderr(open()?)
            // Ctrl-C in the terminal is for the harness, which ends the others in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let stdin = child.stdin.take();
        Ok(Self {
            child,
            log: log.to_owned(),
            _stdin: stdin,
        })
    }

    /// Sends SIGKILL and does not wait.
    pub fn strike(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.start_kill();
    }

    /// SIGKILL; returns when the process is gone.
    ///
    /// # Errors
    /// It does not go.
    pub async fn kill(&mut self) -> Result<()> {
        self.strike();
        match tokio::time::timeout(END_TIMEOUT, self.child.wait()).await {
            Ok(ended) => ended.map(|_| ()).context("cannot wait for a child"),
            Err(_) => bail!("a process does not end on SIGKILL in {END_TIMEOUT:?}"),
        }
    }

    /// SIGTERM; waits for the end, and kills when it takes too long.
    ///
    /// # Errors
    /// It does not go.
    pub async fn terminate(&mut self) -> Result<()> {
        use nix::sys::signal::{Signal, kill};
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended by itself, which is as good.
            let _ = kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM);
        }
        match tokio::time::timeout(END_TIMEOUT, self.child.wait()).await {
            Ok(ended) => ended.map(|_| ()).context("cannot wait for a child"),
            Err(_) => self.kill().await,
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.strike();
        let started = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && started.elapsed() < END_TIMEOUT {
            std::thread::sleep(POLL);
        }
    }
}

/// Runs a program to its end.
///
/// # Errors
/// It cannot be started, or does not end in time.
pub async fn run(
    program: &Path,
    args: &[impl AsRef<OsStr>],
    variables: &[(String, String)],
    timeout: Duration,
) -> Result<Output> {
    let running = command(program)
        .args(args)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .output();
    match tokio::time::timeout(timeout, running).await {
        Ok(output) => output.with_context(|| format!("cannot run {}", program.display())),
        Err(_) => bail!("{} does not end in {timeout:?}", program.display()),
    }
}

/// Runs a tool of the system that must succeed, and waits for it. For drops, which cannot wait
/// otherwise, and for what takes milliseconds.
///
/// # Errors
/// It failed; with what it said.
pub fn must(program: impl AsRef<OsStr>, args: &[&OsStr]) -> Result<()> {
    let program = program.as_ref();
    let output = std::process::Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "{} {:?}: {}",
            program.display(),
            args,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
