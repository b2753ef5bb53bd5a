//! The `quorate` binary: where it is, a child process of it, one run of it.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStdin, Command};

use super::PATIENCE;

/// The binary of this build: beside the folder of the test executable.
///
/// # Panics
/// When it has not been built.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("this process has an executable");
    let path = test
        .parent()
        .and_then(Path::parent)
        .expect("tests are in target/PROFILE/deps")
        .join("quorate");
    assert!(
        path.exists(),
        "{} is not there; `make test` builds it first, or run `cargo build --release -p quorate`",
        path.display()
    );
    path
}

/// A command that no variable of the caller's environment changes.
fn command() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    command.kill_on_drop(true);
    command
}

/// Runs the binary to its end.
///
/// # Panics
/// When it does not end.
pub async fn run(args: &[&str], variables: &[(&str, String)]) -> Output {
    let running = command()
        .args(args)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .output();
    tokio::time::timeout(PATIENCE * 2, running)
        .await
        .unwrap_or_else(|_| panic!("quorate {args:?} does not end"))
        .expect("the binary can be run")
}

/// A child process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Held open for as long as this lives: its end tells the process to end. Waiting for the
    /// child would close it.
    _stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts it, with its output appended to the log.
    pub fn start(args: &[String], log: &Path) -> Self {
        let open = || {
            std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(log)
                .expect("the test's folder is writable")
        };
        let mut child = command()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(open())
            .stderr(open())
            .process_group(0)
            .spawn()
            .expect("the binary can be started");
        let stdin = child.stdin.take();
        Self {
            child,
            _stdin: stdin,
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.expect("the process has not been waited for");
        kill(Pid::from_raw(pid), signal).expect("a child can be signalled");
    }

    /// SIGKILL; returns when the process is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("a child can be killed");
    }

    /// Sends SIGKILL and does not wait.
    pub fn strike(&mut self) {
        self.child.start_kill().expect("a child can be killed");
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn end(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .expect("the process ends")
            .expect("a child can be waited for")
    }
}
