//! Replicas as processes, each with its own folder on a disk that can be broken, its own ports and
//! its own log.
//!
//! Dropping a cluster kills its processes first and unmounts their disks then.

mod ask;
mod member;

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use quorate_rpc::{Client, ClientOptions};

use crate::lab::Programs;
use crate::process;
use crate::wait::{PATIENCE, until};
pub use ask::Leader;
pub use member::{Disk, Member};

/// Loopback addresses 127.0.90.1 … 127.0.90.254, one for each cluster of this machine.
const NET: [u8; 3] = [127, 0, 90];
/// First port of the first replica.
const BASE_PORT: u16 = 13333;

/// What to start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many replicas.
    pub replicas: usize,
    /// What each one's folder is on.
    pub disk: Disk,
    /// Settings of every replica, by key.
    pub settings: Vec<(String, String)>,
}

impl Setup {
    /// Three replicas on disks of a kind.
    pub fn new(disk: Disk) -> Self {
        let setup = Self {
            replicas: 3,
            disk,
            settings: Vec::new(),
        };
        setup
            // Certificates are tried elsewhere.
            .set("quorate.peer.insecure", true)
            // The workload uses a token for each write.
            .set("quorate.tokens.ttl", "60s")
    }

    /// With a setting of the replicas.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }
}

/// Some replicas.
pub struct Cluster {
    members: Vec<Member>,
    programs: Programs,
    client: Client,
}

impl Cluster {
    /// Mounts the disks, starts the replicas, forms the cluster and waits until it serves.
    ///
    /// # Errors
    /// Something of that fails.
    pub async fn start(programs: &Programs, folder: &Path, setup: Setup) -> Result<Self> {
        let address = own_address()?;
        let mut members = Vec::new();
        for index in 0..setup.replicas {
            members.push(Member::new(programs, folder, address, index, &setup).await?);
        }
        let client = Client::new(
            members
                .iter()
                .map(|member| member.client_address().to_owned()),
            ClientOptions {
                deadline: Duration::from_secs(20),
                attempt_timeout: Duration::from_secs(3),
                backoff_max: Duration::from_millis(100),
                ..ClientOptions::default()
            },
        )?;
        let mut cluster = Self {
            members,
            programs: programs.clone(),
            client,
        };
        for index in 0..cluster.members.len() {
            cluster.start_member(index)?;
        }
        cluster.form().await?;
        cluster.wait_for_leader().await?;
        Ok(cluster)
    }

    async fn form(&mut self) -> Result<()> {
        for index in 0..self.members.len() {
            until("a replica answers", async || {
                self.must_run(index)?;
                Ok(self.status(index).await.map(|_| ()))
            })
            .await?;
        }
        let members: Vec<String> = self.members.iter().map(Member::addresses).collect();
        self.cli(&["init", "--members", &members.join(",")])
            .await
            .map(|_| ())
    }

    /// How many replicas there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// One of them.
    pub fn member(&self, index: usize) -> &Member {
        &self.members[index]
    }

    /// One of them.
    pub fn member_mut(&mut self, index: usize) -> &mut Member {
        &mut self.members[index]
    }

    /// A client of the cluster; all of them share what they learn.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Starts a replica; does not wait until it answers.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start_member(&mut self, index: usize) -> Result<()> {
        self.members[index].start()
    }

    /// SIGKILL of a replica; returns when it is gone.
    ///
    /// # Errors
    /// It does not go.
    pub async fn kill(&mut self, index: usize) -> Result<()> {
        self.members[index].kill().await
    }

    /// SIGKILL of all replicas at once; returns when they are gone.
    ///
    /// # Errors
    /// One does not go.
    pub async fn kill_all(&mut self) -> Result<()> {
        for member in &mut self.members {
            member.strike();
        }
        for member in &mut self.members {
            member.kill().await?;
        }
        Ok(())
    }

    /// Fails when a replica that was started has ended.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn must_run(&mut self, index: usize) -> Result<()> {
        match self.members[index].ended() {
            Some(status) => bail!(
                "replica {} ended ({status}): {}",
                index + 1,
                self.members[index].last_words()
            ),
            None => Ok(()),
        }
    }

    /// Runs a command of `quorate` against this cluster; what it printed.
    ///
    /// # Errors
    /// It does not succeed.
    pub async fn cli(&self, args: &[&str]) -> Result<String> {
        let endpoints: Vec<&str> = self.members.iter().map(Member::client_address).collect();
        let variables = [("QUORATE_ENDPOINTS".to_owned(), endpoints.join(","))];
        let output = process::run(&self.programs.quorate, args, &variables, PATIENCE * 2).await?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "quorate {} failed ({}): {printed}{}",
                args.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(printed)
    }

    /// Every replica holds the same rows, as each reads them from its disk, and no invariant is
    /// broken. How many rows.
    ///
    /// # Errors
    /// They differ, or one does not answer.
    pub async fn check_full(&self) -> Result<u64> {
        let printed = self.cli(&["check", "--full", "-o", "json"]).await?;
        let check: serde_json::Value =
            serde_json::from_str(&printed).context("quorate check printed no JSON")?;
        let replicas = check["replicas"].as_array().map_or(0, Vec::len);
        if check["equal"] != true || check["complete"] != true || replicas != self.len() {
            bail!("quorate check --full: {check}");
        }
        Ok(check["replicas"][0]["rows"].as_u64().unwrap_or(0))
    }
}

/// A loopback address nobody else uses.
fn own_address() -> Result<Ipv4Addr> {
    let first: u8 = rand::random_range(1..=254);
    (0..254u8)
        .map(|step| {
            let host = (u16::from(first) + u16::from(step) - 1) % 254 + 1;
            Ipv4Addr::new(NET[0], NET[1], NET[2], u8::try_from(host).unwrap_or(1))
        })
        .find(|address| TcpListener::bind((*address, BASE_PORT)).is_ok())
        .context("every address 127.0.90.1 … 127.0.90.254 is in use")
}
