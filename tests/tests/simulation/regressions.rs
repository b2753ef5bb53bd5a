//! Bugs that seeds found, each as a story of its own: a seed shows its bug only as long as the
//! workload is what it was.
//!
//! - Seed 10, a restarted leader that goes on in its old term whatever its log lost: planted again
//!   in `a_leader_that_goes_on_in_its_old_term_after_a_restart_is_found`.
//! - Seeds 313 and 328, entries sent from behind a purge: here.
//! - Seed 109, tokens forgotten by a leader whose clock is ahead: here.

use std::sync::Arc;
use std::time::Duration;

use quorate_rpc::proto::quorate::meta::{GetRequest, PutRequest};
use quorate_tests::sim::client::{Repeat, Session};
use quorate_tests::sim::replica::{Cluster, Stop};
use quorate_tests::sim::script;
use quorate_tests::sim::world::Place;

const PATIENCE: Duration = Duration::from_secs(10);

struct Teller {
    cluster: Arc<Cluster>,
    session: Session,
}

impl Teller {
    fn new(cluster: Arc<Cluster>) -> Self {
        let session = Session::new(cluster.clone(), Place::Client(1));
        Self { cluster, session }
    }

    async fn put(&self, key: &str, value: &str, token: &str) {
        let request = PutRequest {
            key: key.into(),
            value: value.as_bytes().to_vec(),
            token: token.as_bytes().to_vec(),
        };
        let answer = self
            .session
            .ask("put", PATIENCE, Repeat::Always, |c| {
                let request = request.clone();
                async move { c.put(request).await }
            })
            .await;
        if answer.ok().is_none() {
            let world = &self.cluster.world;
            world.violation(format!("{key} = {value} was not taken in {PATIENCE:?}"));
        }
    }

    async fn get(&self, key: &str) -> Option<Vec<u8>> {
        let request = GetRequest { key: key.into() };
        let answer = self
            .session
            .ask("get", PATIENCE, Repeat::Always, |c| {
                let request = request.clone();
                async move { c.get(request).await }
            })
            .await;
        Some(answer.ok()?.value.annotation?.value.to_vec())
    }
}

#[test]
fn issue_seed_109_a_leader_whose_clock_is_ahead_remembers_tokens() {
    let found = script(109, 3, |cluster| async move {
        let teller = Teller::new(cluster.clone());
        teller.put("register", "first", "a token of its own").await;
        teller.put("register", "second", "").await;
        let leader = cluster.leader().unwrap();
        for id in cluster.ids().into_iter().filter(|id| *id != leader) {
            cluster.clock(id).unwrap().set_skew_ms(3_600_000);
        }
        cluster.stop(leader, Stop::Kill).await;
        // Longer than a round of the loop that forgets tokens, shorter than their time.
        tokio::time::sleep(Duration::from_secs(15)).await;
        teller.put("register", "first", "a token of its own").await;
        if teller.get("register").await.as_deref() != Some(b"second") {
            let world = &cluster.world;
            world.violation("a request took effect twice".into());
        }
        cluster.start(leader).await.unwrap();
    });
    assert_eq!(found, Ok(Vec::new()));
}

#[test]
fn issue_seeds_313_and_328_a_follower_behind_a_purge_catches_up() {
    for seed in 313..319 {
        let found = script(seed, 3, |cluster| async move {
            let teller = Teller::new(cluster.clone());
            teller.put("register", "0", "").await;
            let leader = cluster.leader().unwrap();
            let follower = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
            let (here, there) = (Place::Replica(leader), Place::Replica(follower));
            let world = cluster.world.clone();
            for round in 0..12 {
                world.cut(here, there);
                world.cut(there, here);
                // More entries than are kept behind a snapshot.
                for value in 0..world.draw(60, 220) {
                    teller
                        .put("register", &format!("{round}-{value}"), "")
                        .await;
                }
                world.mend(here, there);
                world.mend(there, here);
                // Hardly time to catch up: replication is given up and begun again all the time.
                let pause = world.between(Duration::from_millis(1), Duration::from_millis(300));
                tokio::time::sleep(pause).await;
            }
        });
        assert_eq!(found, Ok(Vec::new()), "seed {seed}");
    }
}
