//! Kills a random process every now and then and starts it again, and lets the S3 server fail.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::shared::Shared;
use super::store::Store;
use crate::devcluster::{DevCluster, Event};
use crate::error::CliError;

/// Time between two looks at the processes.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// A killed process stays away for so long, ms.
const AWAY_MS: std::ops::Range<u64> = 500..5_000;
/// Time between two changes of the S3 server's mood, s.
const MOOD_S: std::ops::Range<u64> = 8..25;

/// Which process is down, and until when.
enum Down {
    Replica(usize, Instant),
    DataNode(usize, Instant),
}

/// Everything that is made to fail.
pub(super) struct Faults {
    pub(super) cluster: DevCluster,
    pub(super) store: Store,
    pub(super) kill_every: Duration,
    pub(super) rng: StdRng,
    pub(super) shared: Shared,
}

impl Faults {
    /// Until the random part ends; then everything is up again and the S3 server is well.
    pub(super) async fn run(mut self) -> Result<(DevCluster, Store), CliError> {
        let mut down = None;
        let mut next_kill = Instant::now() + self.kill_every;
        let mut next_mood = Instant::now();
        while self.shared.pause(WATCH_INTERVAL).await {
            self.watch().await;
            down = match down {
                Some(down) => self.bring_back(down, false).await?,
                None => None,
            };
            if down.is_none() && Instant::now() >= next_kill {
                next_kill += self.kill_every;
                down = Some(self.kill().await?);
            }
            if self.store.is_s3() && Instant::now() >= next_mood {
                next_mood = Instant::now() + Duration::from_secs(self.rng.random_range(MOOD_S));
                let mood = self.mood();
                self.store.command(&mood).await?;
            }
        }
        if let Some(down) = down {
            self.bring_back(down, true).await?;
        }
        self.store.command("faults").await?;
        self.cluster.wait_until_ready().await?;
        Ok((self.cluster, self.store))
    }

    /// A process that ends without being killed is a failure of its own.
    async fn watch(&mut self) {
        for event in self.cluster.watch().await {
            if let Event::Ended { name, status } = event {
                self.shared
                    .violation(format!("{name} ended by itself: {status}"));
            }
        }
    }

    async fn kill(&mut self) -> Result<Down, CliError> {
        let replicas = self.cluster.replicas().len();
        let victim = self.rng.random_range(0..self.cluster.members().count());
        let back = Duration::from_millis(self.rng.random_range(AWAY_MS));
        let until = Instant::now() + back;
        if victim < replicas {
            self.cluster.kill_replica(victim).await?;
            self.shared.count("replicas killed", 1);
            return Ok(Down::Replica(victim, until));
        }
        let victim = victim - replicas;
        self.cluster.kill_data_node(victim).await?;
        self.shared.count("data nodes killed", 1);
        Ok(Down::DataNode(victim, until))
    }

    /// Starts what is down when its time has come, or `now`; what is still down.
    async fn bring_back(&mut self, down: Down, now: bool) -> Result<Option<Down>, CliError> {
        match down {
            Down::Replica(index, until) if now || Instant::now() >= until => {
                self.cluster.restart_replica(index).await?;
            }
            Down::DataNode(index, until) if now || Instant::now() >= until => {
                self.cluster.restart_data_node(index).await?;
            }
            down => return Ok(Some(down)),
        }
        Ok(None)
    }

    fn mood(&mut self) -> String {
        match self.rng.random_range(0..4) {
            0 => "faults".to_owned(),
            1 => format!("faults errors-permille={}", self.rng.random_range(50..300)),
            2 => format!(
                "faults delay-ms={} errors-permille=30",
                self.rng.random_range(20..200)
            ),
            _ => format!("gone {}", self.rng.random_range(500..4_000)),
        }
    }
}
