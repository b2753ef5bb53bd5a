//! A replica whose disk is full stops with a clear error; the others go on, nothing acknowledged is
//! lost, and with room again it comes back.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use quorate_tests::cluster::{Cluster, Options, PATIENCE, until};

/// Room of a replica.
const SIZE_MIB: u32 = 96;

/// A small file system of its own under a folder. Dropping it unmounts it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None when this process may not mount.
    fn mount(folder: &Path) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={SIZE_MIB}m"), "tmpfs"])
            .arg(folder)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder.to_owned())),
            other => {
                println!("skipped: cannot mount a small file system: {other:?}");
                None
            }
        }
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        for size in [1 << 20, 1 << 12, 1] {
            let block = vec![0_u8; size];
            while file.write_all(&block).is_ok() {}
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// Writes until a replica without room has stopped, with an error that names the cause. Values
/// from number `first` on; the number of the next one.
async fn stops(cluster: &mut Cluster, replica: usize, first: usize) -> usize {
    let mut next = first;
    let started = tokio::time::Instant::now();
    let ended = loop {
        assert!(started.elapsed() < PATIENCE, "it goes on without room");
        for n in next..next + 10 {
            // Of different length, so that no write fits into what another left.
            cluster
                .put(&format!("k/{n}"), vec![b'x'; length_of(n)])
                .await;
        }
        next += 10;
        if let Some(ended) = cluster.replica(replica).ended() {
            break ended;
        }
    };
    assert!(!ended.success());
    let log = cluster.replica_log(replica);
    let last = log.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: "), "{last}");
    assert!(last.contains("No space left on device"), "{last}");
    next
}

fn length_of(n: usize) -> usize {
    20_000 + 7 * (n % 3000)
}

/// Fills the disk of one replica, which leads or does not.
async fn play(fill_the_leader: bool) {
    let mut cluster = Cluster::prepare(Options::new(3, 0));
    let disks: Option<Vec<SmallDisk>> = (0..3)
        .map(|index| SmallDisk::mount(&cluster.replica_folder(index)))
        .collect();
    let Some(disks) = disks else {
        return;
    };
    for index in 0..3 {
        cluster.start_replica(index);
    }
    cluster.form().await;
    cluster.serves().await;
    cluster.put("before", "1").await;
    let victim = if fill_the_leader {
        cluster.leader().await
    } else {
        cluster.follower().await
    };
    disks[victim].fill();

    let written = stops(&mut cluster, victim, 0).await;
    // Starting it again makes no room: it stops again, at the latest when there is more to write.
    cluster.start_replica(victim);
    let acknowledged = stops(&mut cluster, victim, written).await;
    for n in 0..50 {
        cluster.put(&format!("later/{n}"), "1").await;
    }

    disks[victim].make_room();
    cluster.start_replica(victim);
    cluster.serves().await;
    until("the replica is back", async || {
        let status = cluster.status(victim).await?;
        (status.leader_id != 0).then_some(())
    })
    .await;
    cluster.is_equal_everywhere().await;
    for n in 0..acknowledged {
        let found = cluster.get(&format!("k/{n}")).await;
        assert_eq!(found.unwrap().value.len(), length_of(n), "k/{n}");
    }
    assert!(cluster.get("before").await.is_some());
    assert!(cluster.get("later/49").await.is_some());
    for index in 0..3 {
        cluster.kill_replica(index).await;
    }
}

#[tokio::test]
async fn a_follower_without_room_stops_and_comes_back() {
    play(false).await;
}

#[tokio::test]
async fn a_leader_without_room_makes_way_and_comes_back() {
    play(true).await;
}
