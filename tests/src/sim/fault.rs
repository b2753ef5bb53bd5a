//! The faults, in an order drawn from the seed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::replica::{Cluster, Stop};
use super::world::{CALM, Place, Weather};

/// What breaks the cluster.
pub struct Nemesis {
    /// The replicas and data nodes.
    pub cluster: Arc<Cluster>,
    /// Clients that may be cut off, too.
    pub clients: Vec<Place>,
    /// Whether clocks may be off by hours.
    pub wild_clocks: bool,
}

/// Everything a partition cuts, each in one direction.
type Cut = Vec<(Place, Place)>;

impl Nemesis {
    /// Breaks things until it is told to stop, then waits for what it has under way.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut under_way = tokio::task::JoinSet::new();
        let world = self.cluster.world.clone();
        while !stop.is_cancelled() {
            let pause = world.between(Duration::from_millis(300), Duration::from_millis(3500));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            // Two at a time at most: with more the cluster would never serve.
            while under_way.len() >= 2 {
                under_way.join_next().await;
            }
            let nemesis = self.clone();
            under_way.spawn(async move { nemesis.fault().await });
        }
        while under_way.join_next().await.is_some() {}
    }

    async fn fault(&self) {
        let world = &self.cluster.world;
        match world.draw(0, 100) {
            0..14 => self.stop_one(Stop::PowerLoss).await,
            14..22 => self.stop_one(Stop::Kill).await,
            22..28 => self.stop_one(Stop::Graceful).await,
            28..31 => self.stop_all().await,
            31..36 => self.restart_the_last_follower().await,
            36..56 => self.partition().await,
            56..68 => self.pause().await,
            68..76 => self.jump_clock(),
            76..86 => self.storm().await,
            86..91 => self.reset(),
            91..96 => self.kill_data_node().await,
            96..98 => self.pause_data_node(),
            _ => {
                let time = self.some_time();
                self.cluster.store.go_away(time);
            }
        }
    }

    /// The leader more often than not.
    fn victim(&self) -> u64 {
        let world = &self.cluster.world;
        let ids = self.cluster.ids();
        let any = usize::try_from(world.draw(0, ids.len() as u64)).unwrap_or(0);
        let any = ids.get(any).copied().unwrap_or(1);
        match self.cluster.leader() {
            Some(leader) if world.chance(600) => leader,
            _ => any,
        }
    }

    fn some_time(&self) -> Duration {
        let world = &self.cluster.world;
        world.between(Duration::from_millis(100), Duration::from_millis(4000))
    }

    async fn start(&self, id: u64) {
        if self.cluster.running(id).is_none()
            && let Err(problem) = self.cluster.start(id).await
        {
            self.cluster.world.violation(problem);
        }
    }

    async fn stop_one(&self, how: Stop) {
        let id = self.victim();
        self.cluster.stop(id, how).await;
        let quick = self.cluster.world.chance(300);
        tokio::time::sleep(self.some_time() / if quick { 40 } else { 1 }).await;
        self.start(id).await;
    }

    /// The leader keeps the followers it needs for a quorum; then one of those restarts so fast
    /// that the lease it gave still runs, and hears no more of the leader. With the others it could
    /// elect somebody else.
    async fn restart_the_last_follower(&self) {
        let world = &self.cluster.world;
        let ids = self.cluster.ids();
        let leader = self.victim();
        let others: Vec<u64> = ids.iter().copied().filter(|id| *id != leader).collect();
        let (kept, lost) = others.split_at(ids.len() / 2);
        let Some(&restarts) = kept.first() else {
            return;
        };
        let mut cut: Cut = lost
            .iter()
            .map(|lost| (Place::Replica(leader), Place::Replica(*lost)))
            .flat_map(|(leader, lost)| [(leader, lost), (lost, leader)])
            .collect();
        world.note(format_args!(
            "partition: r{leader} from {lost:?}, then r{restarts} restarts"
        ));
        for (from, to) in &cut {
            world.cut(*from, *to);
        }
        tokio::time::sleep(self.some_time() / 4).await;
        self.cluster.stop(restarts, Stop::PowerLoss).await;
        let last = (Place::Replica(leader), Place::Replica(restarts));
        world.cut(last.0, last.1);
        cut.push(last);
        tokio::time::sleep(self.some_time() / 80).await;
        self.start(restarts).await;
        tokio::time::sleep(self.some_time() / 4).await;
        for (from, to) in &cut {
            world.mend(*from, *to);
        }
        world.note(format_args!("partition healed: r{leader} from {lost:?}"));
    }

    async fn stop_all(&self) {
        let how = if self.cluster.world.chance(700) {
            Stop::PowerLoss
        } else {
            Stop::Kill
        };
        for id in self.cluster.ids() {
            self.cluster.stop(id, how).await;
        }
        for id in self.cluster.ids() {
            tokio::time::sleep(self.some_time() / 4).await;
            self.start(id).await;
        }
    }

    async fn partition(&self) {
        let world = &self.cluster.world;
        let id = self.victim();
        let alone = Place::Replica(id);
        let others: Vec<Place> = self
            .cluster
            .ids()
            .into_iter()
            .filter(|other| *other != id)
            .map(Place::Replica)
            .collect();
        let out = others.iter().map(|other| (alone, *other));
        let into = others.iter().map(|other| (*other, alone));
        let (name, mut cut): (&str, Cut) = match world.draw(0, 5) {
            0 => ("mute", out.collect()),
            1 => ("deaf", into.collect()),
            2 => ("from one", {
                let other =
                    others[usize::try_from(world.draw(0, others.len() as u64)).unwrap_or(0)];
                vec![(alone, other), (other, alone)]
            }),
            _ => ("alone", out.chain(into).collect()),
        };
        if world.chance(250) {
            cut.extend(self.clients.iter().flat_map(|c| [(*c, alone), (alone, *c)]));
        }
        world.note(format_args!("partition: r{id} {name}"));
        for (from, to) in &cut {
            world.cut(*from, *to);
        }
        tokio::time::sleep(self.some_time()).await;
        for (from, to) in &cut {
            world.mend(*from, *to);
        }
        world.note(format_args!("partition healed: r{id} {name}"));
    }

    async fn pause(&self) {
        let id = self.victim();
        let time = self.some_time() / 2;
        let world = &self.cluster.world;
        world.note(format_args!("pause: r{id} for {time:?}"));
        world.pause(Place::Replica(id), Instant::now() + time);
        tokio::time::sleep(time).await;
    }

    fn pause_data_node(&self) {
        let world = &self.cluster.world;
        let number = world.draw(0, self.cluster.data_nodes.len() as u64) + 1;
        let time = world.between(Duration::from_millis(500), Duration::from_secs(8));
        world.note(format_args!("pause: d{number} for {time:?}"));
        world.pause(Place::DataNode(number), Instant::now() + time);
    }

    fn jump_clock(&self) {
        let world = &self.cluster.world;
        let id = self.victim();
        let scales: &[i64] = match self.wild_clocks {
            true => &[500, 10_000, 3_600_000, 86_400_000],
            // Two replicas may be twice this apart: not so far that anybody minds.
            false => &[200, 2000],
        };
        let at = usize::try_from(world.draw(0, scales.len() as u64)).unwrap_or(0);
        let scale = scales.get(at).copied().unwrap_or(500).unsigned_abs();
        let skew = i64::try_from(world.draw(0, 2 * scale)).unwrap_or(0)
            - i64::try_from(scale).unwrap_or(0);
        world.note(format_args!("clock of r{id} is off by {skew} ms"));
        if let Some(clock) = self.cluster.clock(id) {
            clock.set_skew_ms(skew);
        }
    }

    async fn storm(&self) {
        let world = &self.cluster.world;
        let weather = Weather {
            loss_permille: u32::try_from(world.draw(0, 200)).unwrap_or(0),
            slow_permille: u32::try_from(world.draw(0, 400)).unwrap_or(0),
            slow_max: world.between(Duration::from_millis(5), Duration::from_millis(300)),
        };
        world.note(format_args!("storm: {weather:?}"));
        world.set_weather(weather);
        tokio::time::sleep(self.some_time()).await;
        world.set_weather(CALM);
    }

    fn reset(&self) {
        let world = &self.cluster.world;
        let id = self.victim();
        world.note(format_args!("connections of r{id} reset"));
        for other in self.cluster.ids() {
            world.reset(Place::Replica(id), Place::Replica(other));
        }
    }

    async fn kill_data_node(&self) {
        let world = &self.cluster.world;
        let at = world.draw(0, self.cluster.data_nodes.len() as u64);
        let number = at + 1;
        world.note(format_args!("d{number} killed"));
        if let Some(node) = self
            .cluster
            .data_nodes
            .get(usize::try_from(at).unwrap_or(0))
        {
            node.kill();
        }
        let time = world.between(Duration::from_millis(200), Duration::from_secs(8));
        tokio::time::sleep(time).await;
        self.cluster.boot(number);
    }

    /// Ends every fault and starts everything.
    pub async fn heal(&self) {
        self.cluster.world.note(format_args!("everything heals"));
        self.cluster.world.heal();
        self.cluster.store.come_back();
        for id in self.cluster.ids() {
            self.start(id).await;
        }
        for node in &self.cluster.data_nodes {
            node.set_lies(false);
            self.cluster.boot(node.number);
        }
    }
}
