//! Folders, ports and settings that cannot be used are refused, in words that say what to do.

use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use quorate_rpc::proto::quorate::meta::PutRequest;
use quorate_rpc::proto::quorate::meta::meta_client::MetaClient;
use quorate_tests::cluster::{Cluster, Options, Ports, Process, own_address, run, until};
use serde_json::json;

/// The command line of a replica.
fn server_args(folder: &Path, ports: &Ports) -> Vec<String> {
    [
        "server",
        "--data-dir",
        &folder.display().to_string(),
        "--client-listen",
        &ports.client.to_string(),
        "--peer-listen",
        &ports.peer.to_string(),
        "--health-listen",
        &ports.health.to_string(),
        "--set",
        "quorate.peer.insecure=true",
    ]
    .map(ToOwned::to_owned)
    .into()
}

/// Runs a replica that is expected to end by itself.
async fn serve(folder: &Path, ports: &Ports, more: &[&str]) -> Output {
    let args = server_args(folder, ports);
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    args.extend(more);
    run(&args, &[]).await
}

/// It ended with this exit code, and its last line is an error that says all of this.
#[track_caller]
fn failed(output: &Output, code: i32, says: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: "), "{text}");
    for words in says {
        assert!(last.contains(words), "{words:?} in {last}");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_replica_on_another_clusters_folder_is_refused_and_the_cluster_goes_on() {
    let mut ours = Cluster::start(Options::new(3, 0)).await;
    let mut theirs = Cluster::start(Options::new(3, 0)).await;
    ours.put("k", "ours").await;
    theirs.put("k", "theirs").await;
    let index = ours.follower().await;
    ours.kill_replica(index).await;
    for other in 0..3 {
        theirs.kill_replica(other).await;
    }
    let log = ours.folder().join("impostor.log");
    let args = server_args(&theirs.replica_folder(index), &ours.ports(index));
    let mut impostor = Process::start(&args, &log);
    let status = until("the impostor answers, or has ended", async || {
        if impostor.ended().is_some() {
            return Some(None);
        }
        ours.status(index).await.map(Some)
    })
    .await;
    if let Some(status) = status {
        assert!(!status.leading);
    }
    for round in 0..20 {
        ours.put("k", format!("{round}")).await;
    }
    let (a, b) = (
        ours.json(&["status"]).await["cluster_id"].clone(),
        theirs_id(&theirs, index),
    );
    assert_ne!(a, b);
    let leader = ours.leader().await;
    assert_ne!(leader, index);
    // Whoever reads the log of either side learns which folder is whose.
    let said = format!(
        "this is cluster {}, not {}",
        b.as_str().unwrap(),
        a.as_str().unwrap()
    );
    until("somebody says what is wrong", async || {
        let own = std::fs::read_to_string(&log).unwrap_or_default();
        (own + &ours.replica_log(leader))
            .contains(&said)
            .then_some(())
    })
    .await;

    impostor.kill().await;
    ours.start_replica(index);
    until("the right replica is back", async || {
        let status = ours.status(index).await?;
        (status.cluster_id == a.as_str().unwrap() && status.leader_id != 0).then_some(())
    })
    .await;
    assert_eq!(ours.get("k").await.unwrap().value, b"19");
    ours.is_equal_everywhere().await;
    for other in 0..3 {
        theirs.start_replica(other);
    }
    theirs.serves().await;
    assert_eq!(theirs.get("k").await.unwrap().value, b"theirs");
    theirs.is_equal_everywhere().await;
}

fn theirs_id(cluster: &Cluster, index: usize) -> serde_json::Value {
    let path = cluster.replica_folder(index).join("identity.json");
    let identity: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    identity["cluster_id"].clone()
}

#[tokio::test]
async fn a_folder_whose_identity_is_wrong_is_not_touched() {
    let mut cluster = Cluster::start(Options::new(1, 0)).await;
    cluster.put("k", "1").await;
    cluster.kill_replica(0).await;
    let folder = cluster.replica_folder(0);
    let path = folder.join("identity.json");
    let good = std::fs::read(&path).unwrap();
    let mut newer: serde_json::Value = serde_json::from_slice(&good).unwrap();
    let known = quorate_raft_store::FORMAT_VERSION;
    newer["format_version"] = json!(known + 1);
    // What else a newer release writes there is its own business.
    newer["something_new"] = json!({});

    std::fs::write(&path, serde_json::to_vec(&newer).unwrap()).unwrap();
    let output = serve(&folder, &cluster.ports(0), &[]).await;
    failed(
        &output,
        1,
        &[
            &format!("has format {}", known + 1),
            &format!("up to {known}"),
            "use a newer release",
        ],
    );
    assert_eq!(
        std::fs::read(&path).unwrap(),
        serde_json::to_vec(&newer).unwrap()
    );

    std::fs::write(&path, b"{").unwrap();
    let output = serve(&folder, &cluster.ports(0), &[]).await;
    failed(&output, 1, &["identity.json is damaged"]);

    std::fs::remove_file(&path).unwrap();
    let output = serve(&folder, &cluster.ports(0), &[]).await;
    failed(&output, 1, &["holds data but no identity.json"]);
    assert!(!path.exists());

    std::fs::write(&path, good).unwrap();
    cluster.start_replica(0);
    cluster.serves().await;
    assert_eq!(cluster.get("k").await.unwrap().value, b"1");
}

#[tokio::test]
async fn a_second_process_on_a_folder_is_refused() {
    let mut cluster = Cluster::start(Options::new(1, 0)).await;
    let elsewhere = Ports::of(own_address(), 0);
    let folder = cluster.replica_folder(0);
    let output = serve(&folder, &elsewhere, &[]).await;
    failed(&output, 1, &["is in use by another process"]);
    cluster.put("k", "1").await;
    cluster.kill_replica(0).await;
    // The lock goes with its holder.
    cluster.start_replica(0);
    cluster.serves().await;
    assert_eq!(cluster.get("k").await.unwrap().value, b"1");
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_purpose() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let ports = Ports::of(own_address(), 0);
    for (address, purpose) in [
        (ports.client, "clients"),
        (ports.peer, "peers"),
        (ports.health, "health and metrics"),
    ] {
        let _taken = TcpListener::bind(address).unwrap();
        let output = serve(&data, &ports, &[]).await;
        let says = format!("cannot listen on {address} ({purpose})");
        failed(&output, 1, &[&says, "is another process using the port?"]);
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let data = file.join("data");
    let output = serve(&data, &Ports::of(own_address(), 0), &[]).await;
    failed(&output, 1, &["cannot use", &data.display().to_string()]);
}

#[tokio::test]
async fn a_wrong_setting_ends_with_code_2_and_names_the_right_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let ports = Ports::of(own_address(), 0);
    let file = folder.path().join("quorate.yaml");
    let path = file.display().to_string();
    for (text, says) in [
        (
            "quorate:\n  raft:\n    hartbeat: 50ms\n",
            &[
                "unknown key quorate.raft.hartbeat",
                "did you mean quorate.raft.heartbeat?",
            ][..],
        ),
        (
            "dataCoord:\n  segment:\n    maxRow: 5\n",
            &[
                "unknown key dataCoord.segment.maxRow",
                "did you mean dataCoord.segment.maxRows?",
            ],
        ),
        (
            "quorate:\n  raft:\n    heartbeat: 5 parsecs\n",
            &["quorate.raft.heartbeat", "parsecs"],
        ),
        (
            "dataCoord:\n  segment:\n    maxSize: 5 bananas\n",
            &["dataCoord.segment.maxSize", "bananas"],
        ),
        (
            "dataCoord:\n  segment:\n    sealProportion: 1.5\n",
            &["dataCoord.segment.sealProportion", "not between 0 and 1"],
        ),
        (
            "quorate:\n  raft:\n    electionMin: 10ms\n",
            &["quorate.raft.electionMin", "at least twice"],
        ),
        ("quorate: [\n", &["is not valid YAML"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let output = serve(&data, &ports, &["--config", &path]).await;
        failed(&output, 2, says);
        if text.contains("raft:") || text.contains("segment:") {
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                text.contains("election") || error.contains(&path),
                "the file is named: {error}"
            );
        }
    }
    let absent = folder.path().join("absent.yaml").display().to_string();
    let output = serve(&data, &ports, &["--config", &absent]).await;
    failed(&output, 2, &[&absent, "cannot be read"]);

    let set = ["--set", "quorate.raft.hartbeat=50ms"];
    let output = serve(&data, &ports, &set).await;
    failed(
        &output,
        2,
        &["--set", "did you mean quorate.raft.heartbeat?"],
    );
    let args = server_args(&data, &ports);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let variable = [("QUORATE_RAFT_HEARTBEAT", "5 parsecs".to_owned())];
    let output = run(&args, &variable).await;
    failed(&output, 2, &["QUORATE_RAFT_HEARTBEAT", "parsecs"]);
    // None of them got as far as the folder.
    assert!(!data.exists());
}

#[tokio::test]
async fn an_empty_folder_waits_for_init_however_often_it_is_started() {
    let mut cluster = Cluster::prepare(Options::new(3, 0));
    for round in 0..2 {
        for index in 0..3 {
            cluster.start_replica(index);
        }
        for index in 0..3 {
            let status = until("a replica answers", async || cluster.status(index).await).await;
            assert_eq!(status.role, "waiting for init");
            assert_eq!((status.cluster_id.as_str(), status.leading), ("", false));
            assert!(!cluster.replica_folder(index).join("identity.json").exists());
        }
        let put = PutRequest {
            key: "k".to_owned(),
            value: b"1".to_vec(),
            token: Vec::new(),
        };
        let refusal = MetaClient::new(cluster.plain(round).await)
            .put(put)
            .await
            .unwrap_err();
        assert_eq!(refusal.code(), tonic::Code::Unavailable);
        assert!(refusal.message().contains("quorate init"), "{refusal:?}");
        let status = cluster.cli(&["status"]).await;
        assert_eq!(status.status.code(), Some(3));
        for index in 0..3 {
            cluster.kill_replica(index).await;
        }
    }
    for index in 0..3 {
        cluster.start_replica(index);
    }
    cluster.form().await;
    cluster.serves().await;
    cluster.put("k", "1").await;
    cluster.is_equal_everywhere().await;
}

#[tokio::test]
async fn a_cluster_is_formed_once() {
    let cluster = Cluster::start(Options::new(3, 0)).await;
    let id = cluster.json(&["status"]).await["cluster_id"].clone();
    failed(
        &cluster.init().await,
        1,
        &["is a member of cluster", id.as_str().unwrap()],
    );

    // Nor do its members become those of another.
    let other = {
        let mut other = Cluster::prepare(Options::new(1, 0));
        other.start_replica(0);
        other
    };
    until("a replica answers", async || other.status(0).await).await;
    let members = [other.ports(0), cluster.ports(0)]
        .map(|ports| format!("{}={}", ports.peer, ports.client))
        .join(",");
    let output = other.cli(&["init", "--members", &members]).await;
    failed(
        &output,
        1,
        &["is a member of cluster", id.as_str().unwrap(), "already"],
    );
    assert!(!other.replica_folder(0).join("identity.json").exists());

    assert_eq!(cluster.json(&["status"]).await["cluster_id"], id);
    cluster.put("k", "1").await;
    cluster.is_equal_everywhere().await;
}

#[tokio::test]
async fn an_init_that_misses_a_member_changes_nobody() {
    let mut cluster = Cluster::prepare(Options::new(3, 0));
    for index in 0..2 {
        cluster.start_replica(index);
        until("a replica answers", async || cluster.status(index).await).await;
    }
    let output = cluster.init().await;
    let peer = cluster.ports(2).peer.to_string();
    assert_ne!(output.status.code(), Some(0));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains(&peer), "{error}");
    for index in 0..2 {
        let status = cluster.status(index).await.unwrap();
        assert_eq!(status.role, "waiting for init");
        assert!(!cluster.replica_folder(index).join("identity.json").exists());
    }
    // Somebody who is not to be a member is not the one to ask.
    let ports = cluster.ports(1);
    let client = cluster.ports(0).client;
    let stranger = format!("{}={client}", ports.peer);
    let output = cluster.cli(&["init", "--members", &stranger]).await;
    failed(&output, 1, &["is not among the members"]);

    cluster.start_replica(2);
    cluster.form().await;
    cluster.serves().await;
    cluster.put("k", "1").await;
    cluster.is_equal_everywhere().await;
}

#[tokio::test]
async fn a_copy_of_a_members_folder_does_not_make_a_second_member() {
    let mut cluster = Cluster::start(Options::new(3, 0)).await;
    cluster.put("k", "1").await;
    let follower = cluster.follower().await;
    cluster.kill_replica(follower).await;
    // The member's folder, and beside it a copy from before, under the address of another member.
    let copied = cluster.folder().join("copy");
    copy(&cluster.replica_folder(follower), &copied);
    cluster.start_replica(follower);
    cluster.serves().await;
    let victim = (follower + 1) % 3;
    cluster.kill_replica(victim).await;
    let log = cluster.folder().join("copy.log");
    let mut double = Process::start(&server_args(&copied, &cluster.ports(victim)), &log);
    for round in 0..10 {
        cluster.put("k", format!("{round}")).await;
    }
    double.kill().await;
    cluster.start_replica(victim);
    until("the right replica is back", async || {
        let status = cluster.status(victim).await?;
        (status.leader_id != 0).then_some(())
    })
    .await;
    assert_eq!(cluster.get("k").await.unwrap().value, b"9");
    cluster.is_equal_everywhere().await;
}
