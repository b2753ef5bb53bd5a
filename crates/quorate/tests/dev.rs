//! The real binary: a development cluster lives, dies and comes back, and the command line tells
//! success from failure.

#![allow(clippy::unwrap_used)]

use std::io::BufRead;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use quorate::devcluster::{DevCluster, DevOptions, Event};
use quorate_rpc::Retry;
use quorate_rpc::proto::quorate::meta::meta_client::MetaClient;
use quorate_rpc::proto::quorate::meta::{GetRequest, PutRequest};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_quorate");
/// Only there to end a test that would hang.
const PATIENCE: Duration = Duration::from_secs(60);

fn options(folder: &Path) -> DevOptions {
    DevOptions {
        binary: BINARY.into(),
        ..DevOptions::new(folder)
    }
}

fn quorate(endpoints: &[String], args: &[&str]) -> Output {
    Command::new(BINARY)
        .env("QUORATE_ENDPOINTS", endpoints.join(","))
        .args(args)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn put(cluster: &DevCluster, value: &str) {
    cluster
        .client()
        .call(Retry::Idempotent, |leader| async move {
            let request = PutRequest {
                key: "k".to_owned(),
                value: value.as_bytes().to_vec(),
                token: Vec::new(),
            };
            MetaClient::new(leader).put(request).await
        })
        .await
        .unwrap();
}

async fn get(cluster: &DevCluster) -> String {
    let reply = cluster
        .client()
        .call(Retry::Idempotent, |leader| async move {
            let request = GetRequest {
                key: "k".to_owned(),
            };
            MetaClient::new(leader).get(request).await
        })
        .await
        .unwrap();
    String::from_utf8(reply.annotation.unwrap().value).unwrap()
}

/// Whether a process exists and is more than a corpse nobody has buried yet.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state comes behind the name, which is in parentheses.
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|state| !state.starts_with('Z'))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn a_cluster_outlives_its_leader_and_its_own_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = DevCluster::start(options(folder.path())).await.unwrap();
    put(&cluster, "1").await;

    let (old, status) = cluster.wait_for_leader().await.unwrap();
    cluster.kill_replica(old).await.unwrap();
    put(&cluster, "2").await;
    let (new, later) = cluster.wait_for_leader().await.unwrap();
    assert_ne!(old, new);
    assert!(later.term > status.term);

    cluster.restart_replica(old).await.unwrap();
    cluster.wait_until_ready().await.unwrap();
    let pids: Vec<u32> = cluster
        .members()
        .map(|member| member.pid().unwrap())
        .collect();
    cluster.stop().await;
    assert!(pids.iter().all(|pid| !is_alive(*pid)));

    let again = DevCluster::start(options(folder.path())).await.unwrap();
    assert_eq!(get(&again).await, "2");
    assert_eq!(again.replicas().len(), 3);
    again.stop().await;
}

#[tokio::test]
async fn a_process_that_ends_is_reported_and_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = DevCluster::start(DevOptions {
        restart: true,
        data_nodes: Some(1),
        replicas: Some(1),
        ..options(folder.path())
    })
    .await
    .unwrap();
    let pid = cluster.data_nodes()[0].pid().unwrap();
    let raw = i32::try_from(pid).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(raw),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let mut seen = Vec::new();
    let started = Instant::now();
    while seen.len() < 2 {
        assert!(started.elapsed() < PATIENCE, "{seen:?}");
        seen.extend(cluster.watch().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        matches!(&seen[..], [Event::Ended { name: ended, .. }, Event::Restarted { name, .. }]
            if ended == "data-node-1" && name == "data-node-1"),
        "{seen:?}"
    );
    cluster.wait_until_ready().await.unwrap();
    cluster.stop().await;
}

/// `quorate dev` as people run it, and what it printed when the cluster was up.
fn start_dev(folder: &Path) -> (Child, Value) {
    let base_port = (0..100)
        .map(|_| 31_000 + rand::random::<u16>() % 1_500)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
        .to_string();
    let mut dev = Command::new(BINARY)
        .args(["dev", "-o", "json", "--replicas", "1", "--data-nodes", "1"])
        .args(["--base-port", &base_port, "--data-dir"])
        .arg(folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    for line in std::io::BufReader::new(dev.stdout.take().unwrap()).lines() {
        text.push_str(&line.unwrap());
        if let Ok(value) = serde_json::from_str(&text) {
            return (dev, value);
        }
    }
    let status = dev.wait().unwrap();
    panic!("dev ended ({status}) before the cluster was up: {text}");
}

fn pids(announced: &Value) -> Vec<u32> {
    let processes = announced["processes"].as_array().unwrap();
    processes
        .iter()
        .map(|process| u32::try_from(process["pid"].as_u64().unwrap()).unwrap())
        .collect()
}

#[test]
fn no_process_outlives_a_dev_that_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut dev, announced) = start_dev(folder.path());
    let pids = pids(&announced);
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    dev.kill().unwrap();
    dev.wait().unwrap();
    until("the children are still there", || {
        pids.iter().all(|pid| !is_alive(*pid))
    });
}

#[test]
fn a_signal_ends_dev_and_all_its_processes() {
    let folder = tempfile::tempdir().unwrap();
    let (mut dev, announced) = start_dev(folder.path());
    let raw = i32::try_from(dev.id()).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(raw),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    assert!(dev.wait().unwrap().success());
    assert!(pids(&announced).iter().all(|pid| !is_alive(*pid)));
}

#[tokio::test]
async fn every_replica_gives_scripts_the_same_answer() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = DevCluster::start(options(folder.path())).await.unwrap();
    let endpoints = cluster.endpoints();
    let create = [
        "collections",
        "create",
        "docs",
        "--channels",
        "2",
        "--field",
        "id:int64:primary",
        "--field",
        "v:float_vector:dim=4",
        "-o",
        "json",
    ];
    let created = quorate(&endpoints, &create);
    assert!(created.status.success(), "{created:?}");
    assert_eq!(json(&created)["created"], true);
    for args in [
        ["collections", "list", "-o", "json"],
        ["segments", "list", "-o", "json"],
    ] {
        let answers: Vec<Vec<u8>> = endpoints
            .iter()
            .map(|endpoint| quorate(std::slice::from_ref(endpoint), &args).stdout)
            .collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]));
    }
    let check = quorate(&endpoints[..1], &["check", "--full", "-o", "json"]);
    assert!(check.status.success(), "{check:?}");
    assert_eq!(json(&check)["replicas"].as_array().unwrap().len(), 3);
    let status = json(&quorate(&endpoints[1..2], &["status", "-o", "json"]));
    assert_eq!(status["replicas"].as_array().unwrap().len(), 3);
    assert_eq!(status["data_nodes"], 2);

    let swap = ["meta", "cas", "k", "--absent", "1"];
    assert_eq!(quorate(&endpoints, &swap).status.code(), Some(0));
    assert_eq!(quorate(&endpoints, &swap).status.code(), Some(1));
    cluster.stop().await;
}

#[test]
fn exit_codes_tell_a_wrong_command_from_a_cluster_that_is_not_there() {
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let list = ["collections", "list", "--timeout", "1"];
    let output = quorate(&[nobody], &list);
    assert_eq!(output.status.code(), Some(3));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.starts_with("error: "), "{error}");
    assert_eq!(error.lines().count(), 1);
    assert_eq!(
        quorate(&["nowhere".to_owned()], &list).status.code(),
        Some(2)
    );
    assert_eq!(quorate(&[], &["colections"]).status.code(), Some(2));
}

#[tokio::test]
async fn a_port_in_use_is_named_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let error = DevCluster::start(DevOptions {
        base_port: Some(port),
        replicas: Some(1),
        ..options(folder.path())
    })
    .await
    .unwrap_err();
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    assert!(!folder.path().join("replica-1").exists());
}
