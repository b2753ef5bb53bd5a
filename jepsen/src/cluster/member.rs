//! One replica: its disk, its process, its addresses.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use anyhow::{Context, Result};

use super::{BASE_PORT, Setup};
use crate::fault::Syscalls;
use crate::lab::Programs;
use crate::mount::{LossyDisk, SmallDisk};
use crate::process::Process;

/// What a replica's folder is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// A folder of the run's.
    Plain,
    /// A file system that forgets what was not synced, and whose syncs fail on demand.
    Lossy,
    /// An ext4 of so many MiB.
    Small(u32),
}

/// Unmounted when dropped.
#[derive(Debug)]
enum Mounted {
    Plain,
    Lossy(LossyDisk),
    Small(SmallDisk),
}

/// One replica. The process goes before the disk.
#[derive(Debug)]
pub struct Member {
    process: Option<Process>,
    ended: Option<ExitStatus>,
    disk: Mounted,
    syscalls: Syscalls,
    quorate: PathBuf,
    args: Vec<String>,
    variables: Vec<(String, String)>,
    data: PathBuf,
    log: PathBuf,
    client: String,
    peer: String,
}

impl Member {
    pub(super) async fn new(
        programs: &Programs,
        folder: &Path,
        address: Ipv4Addr,
        index: usize,
        setup: &Setup,
    ) -> Result<Self> {
        let name = format!("replica-{}", index + 1);
        let mount = folder.join(&name);
        fs::create_dir_all(&mount).with_context(|| format!("cannot make {}", mount.display()))?;
        let disk = match setup.disk {
            Disk::Plain => Mounted::Plain,
            Disk::Lossy => Mounted::Lossy(LossyDisk::mount(&programs.lossfs(), &mount).await?),
            Disk::Small(mib) => Mounted::Small(SmallDisk::mount(&programs.kit, &mount, mib)?),
        };
        let syscalls = Syscalls::new(&programs.fsfault(), &mount)?;
        let port = BASE_PORT + 10 * u16::try_from(index).context("a few replicas")?;
        let at = |offset: u16| format!("{address}:{}", port + offset);
        let data = mount.join("data");
        let mut args = vec!["server".to_owned(), "--exit-with-parent".to_owned()];
        for (flag, value) in [
            ("--data-dir", data.display().to_string()),
            ("--client-listen", at(0)),
            ("--peer-listen", at(1)),
            ("--health-listen", at(2)),
        ] {
            args.extend([flag.to_owned(), value]);
        }
        for (key, value) in &setup.settings {
            args.extend(["--set".to_owned(), format!("{key}={value}")]);
        }
        Ok(Self {
            process: None,
            ended: None,
            disk,
            variables: syscalls.variables(),
            syscalls,
            quorate: programs.quorate.clone(),
            args,
            data,
            log: folder.join(format!("{name}.log")),
            client: at(0),
            peer: at(1),
        })
    }

    /// Where clients reach it.
    pub fn client_address(&self) -> &str {
        &self.client
    }

    /// `PEER=CLIENT`, as the commands about members take it.
    pub fn addresses(&self) -> String {
        format!("{}={}", self.peer, self.client)
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The faults of its system calls.
    pub fn syscalls(&self) -> &Syscalls {
        &self.syscalls
    }

    /// Its disk that forgets.
    ///
    /// # Errors
    /// It is on another one.
    pub fn lossy(&self) -> Result<&LossyDisk> {
        match &self.disk {
            Mounted::Lossy(disk) => Ok(disk),
            _ => anyhow::bail!("this replica's disk cannot lose power"),
        }
    }

    /// Its small disk.
    ///
    /// # Errors
    /// It is on another one.
    pub fn small(&self) -> Result<&SmallDisk> {
        match &self.disk {
            Mounted::Small(disk) => Ok(disk),
            _ => anyhow::bail!("this replica's disk cannot be filled"),
        }
    }

    pub(super) fn start(&mut self) -> Result<()> {
        self.ended = None;
        self.process = Some(Process::start(
            &self.quorate,
            &self.args,
            &self.variables,
            &self.log,
        )?);
        Ok(())
    }

    /// Sends SIGKILL and does not wait.
    pub(super) fn strike(&mut self) {
        if let Some(process) = &mut self.process {
            process.strike();
        }
    }

    pub(super) async fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// SIGTERM; returns when it is gone.
    ///
    /// # Errors
    /// It does not go.
    pub async fn terminate(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.terminate().await?;
        }
        Ok(())
    }

    /// How it ended, if it was started and has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if let Some(process) = &mut self.process
            && let Some(status) = process.ended()
        {
            self.ended = Some(status);
        }
        self.ended
    }

    /// What it has logged since a length of its log.
    pub fn logged_since(&self, offset: usize) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(offset..).unwrap_or_default()).into_owned()
    }

    /// How much it has logged, in bytes.
    pub fn logged(&self) -> usize {
        fs::metadata(&self.log).map_or(0, |file| file.len() as usize)
    }

    /// The last line of its log.
    pub fn last_words(&self) -> String {
        let text = self.logged_since(0);
        text.trim_end().lines().last().unwrap_or("").to_owned()
    }
}
