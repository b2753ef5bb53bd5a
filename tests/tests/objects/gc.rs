//! Garbage collection on a real folder: what is dropped goes, what nobody knows goes when it is
//! old, and nothing else does.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::{Duration, SystemTime};

use quorate_rpc::proto::milvus::common::{ErrorCode, KeyValuePair};
use quorate_rpc::proto::milvus::data::data_coord_client::DataCoordClient;
use quorate_rpc::proto::milvus::data::{GcCommand, GcConfirmRequest, GcControlRequest};
use quorate_rpc::proto::quorate::admin::admin_client::AdminClient;
use quorate_rpc::proto::quorate::admin::{
    PauseGcRequest, PlanGcRequest, PlanGcResponse, ResumeGcRequest, RunGcRequest, RunGcResponse,
};
use quorate_tests::ask;
use quorate_tests::cluster::{Cluster, Options, until};

/// What is dropped may go at once; what nobody knows keeps its day.
fn options() -> Options {
    Options::new(1, 1)
        .set("dataCoord.segment.maxRows", 1000)
        .set("dataCoord.gc.interval", "1h")
        .set("dataCoord.gc.dropTolerance", "1ms")
        .set("quorate.gc.condemnGrace", "1ms")
        .data_node_arg("--sync-interval-ms", 300)
}

async fn ingest(cluster: &Cluster, name: &str) -> i64 {
    let file = "data/sample.parquet".to_owned();
    let ingested = cluster
        .cli(&["ingest", &file, "--collection", name, "--create"])
        .await;
    assert!(ingested.status.success(), "{ingested:?}");
    cluster
        .json(&["flush", "--collection", name, "--wait"])
        .await;
    let shown = cluster.json(&["collections", "show", name]).await;
    shown["id"].as_i64().unwrap()
}

/// Files below the object store, as paths from there.
fn files(cluster: &Cluster) -> BTreeSet<String> {
    let root = cluster.object_store();
    let mut found = BTreeSet::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let below = path.strip_prefix(&root).unwrap();
                found.insert(below.display().to_string());
            }
        }
    }
    found
}

fn of_collection(files: &BTreeSet<String>, collection: i64) -> BTreeSet<String> {
    let part = collection.to_string();
    files
        .iter()
        .filter(|path| path.split('/').nth(1) == Some(&part))
        .cloned()
        .collect()
}

fn write(cluster: &Cluster, path: &str, age: Duration) {
    let path = cluster.object_store().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = File::create(path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

async fn run_gc(cluster: &Cluster, orphans: bool) -> RunGcResponse {
    ask!(cluster, AdminClient.run_gc(RunGcRequest { orphans })).unwrap()
}

async fn plan(cluster: &Cluster) -> PlanGcResponse {
    ask!(
        cluster,
        AdminClient.plan_gc(PlanGcRequest { orphans: true })
    )
    .unwrap()
}

async fn confirmed(cluster: &Cluster, collection: i64) -> bool {
    let request = GcConfirmRequest {
        collection_id: collection,
        partition_id: -1,
    };
    ask!(cluster, DataCoordClient.gc_confirm(request))
        .unwrap()
        .gc_finished
}

#[tokio::test]
async fn a_dropped_collection_goes_with_all_its_objects_and_nothing_else_does() {
    let cluster = Cluster::start(options()).await;
    let kept = ingest(&cluster, "kept").await;
    let dropped = ingest(&cluster, "dropped").await;
    let before = files(&cluster);
    let theirs = of_collection(&before, dropped);
    assert!(!theirs.is_empty() && !confirmed(&cluster, dropped).await);

    // One object is deleted behind our back: that must not hold up the rest.
    let stolen = theirs.iter().find(|path| path.starts_with("insert_log"));
    std::fs::remove_file(cluster.object_store().join(stolen.unwrap())).unwrap();
    cluster.json(&["collections", "drop", "dropped"]).await;
    let mut total = RunGcResponse::default();
    until("everything of the collection is gone", async || {
        let done = run_gc(&cluster, false).await;
        total.objects_deleted += done.objects_deleted;
        total.segments_forgotten += done.segments_forgotten;
        total.collections_forgotten += done.collections_forgotten;
        let gone = confirmed(&cluster, dropped).await && total.collections_forgotten > 0;
        gone.then_some(())
    })
    .await;

    assert_eq!(total.objects_deleted, theirs.len() as u64);
    assert!(total.segments_forgotten > 0);
    let after = files(&cluster);
    assert!(of_collection(&after, dropped).is_empty());
    assert_eq!(after, of_collection(&before, kept));
    let plan = plan(&cluster).await;
    assert_eq!((plan.segments, plan.orphans), Default::default());
    assert_eq!((plan.young_orphans, plan.unreadable_names), (0, 0));
    cluster.is_equal_everywhere().await;
}

#[tokio::test]
async fn orphans_go_when_they_are_old_and_what_nobody_understands_stays() {
    let cluster = Cluster::start(options()).await;
    let kept = ingest(&cluster, "kept").await;
    let known = files(&cluster);
    let days = |days: u64| Duration::from_secs(days * 86_400);
    // A known object may be of any age.
    for path in &known {
        let file = File::options()
            .write(true)
            .open(cluster.object_store().join(path))
            .unwrap();
        file.set_modified(SystemTime::now() - days(30)).unwrap();
    }
    let segment_folder = known
        .iter()
        .find(|path| path.starts_with("insert_log"))
        .and_then(|path| path.rsplit_once('/'))
        .map(|(folder, _)| folder.to_owned())
        .unwrap();
    let old = [
        format!("{segment_folder}/999999999"),
        format!("{segment_folder}/999999998#1"),
        format!("insert_log/{kept}/7/8/100/9"),
        "delta_log/1/-1/2/3".to_owned(),
        "stats_log/1/2/3/100/4".to_owned(),
        "bm25_stats/1/2/3/101/5".to_owned(),
        "index_files/1/2/3/4/index.bin".to_owned(),
    ];
    let young = [
        format!("{segment_folder}/999999997"),
        "index_files/5/2/3/4/index.bin".to_owned(),
    ];
    let foreign = ["insert_log/notes.txt", "elsewhere/1", "delta_log/1/2/3/007"];
    for path in &old {
        write(&cluster, path, days(2));
    }
    for path in &young {
        write(&cluster, path, Duration::ZERO);
    }
    for path in foreign {
        write(&cluster, path, days(2));
    }

    let seen = plan(&cluster).await;
    let named: BTreeSet<String> = seen.orphans.into_iter().collect();
    assert_eq!(named, old.iter().cloned().collect());
    assert_eq!(seen.young_orphans, young.len() as u64);
    assert_eq!(seen.unreadable_names, 2, "what is elsewhere is not listed");

    assert_eq!(run_gc(&cluster, false).await, RunGcResponse::default());
    let done = run_gc(&cluster, true).await;
    assert_eq!(done.orphans_deleted, old.len() as u64);
    let mut expected = known.clone();
    expected.extend(young.iter().cloned());
    expected.extend(foreign.map(str::to_owned));
    assert_eq!(files(&cluster), expected);
    assert_eq!(run_gc(&cluster, true).await, RunGcResponse::default());
}

#[tokio::test]
async fn a_pause_holds_until_it_is_ended_whoever_leads() {
    let mut cluster = Cluster::start(options()).await;
    let collection = ingest(&cluster, "docs").await;
    cluster.json(&["collections", "drop", "docs"]).await;
    let before = files(&cluster);
    let pause = PauseGcRequest {
        seconds: 3600,
        ..PauseGcRequest::default()
    };
    let paused = ask!(cluster, AdminClient.pause_gc(pause)).unwrap();
    assert!(!paused.ticket.is_empty() && paused.until > 0);
    let refused = ask!(cluster, AdminClient.run_gc(RunGcRequest::default()));
    let refused = refused.unwrap_err();
    assert!(refused.to_string().contains("paused"), "{refused}");

    cluster.kill_replica(0).await;
    cluster.start_replica(0);
    cluster.serves().await;
    assert!(plan(&cluster).await.paused.contains("paused"));
    assert_eq!(files(&cluster), before);

    let resume = ResumeGcRequest {
        ticket: paused.ticket,
        collection_id: 0,
    };
    ask!(cluster, AdminClient.resume_gc(resume)).unwrap();
    until("the collection is gone", async || {
        run_gc(&cluster, false).await;
        confirmed(&cluster, collection).await.then_some(())
    })
    .await;
    assert!(files(&cluster).is_empty());
}

#[tokio::test]
async fn milvus_pauses_and_resumes_in_its_own_words() {
    let cluster = Cluster::start(Options::new(1, 0)).await;
    let control = |command: i32, params: &[(&str, &str)]| GcControlRequest {
        command,
        params: params
            .iter()
            .map(|(key, value)| KeyValuePair {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
            })
            .collect(),
        ..GcControlRequest::default()
    };
    let mut client = DataCoordClient::new(cluster.plain(0).await);
    let pause = GcCommand::Pause as i32;
    let resume = GcCommand::Resume as i32;
    for (request, reason) in [
        (control(pause, &[]), "pause duration param not found"),
        (control(0, &[]), "unknown gc command: 0"),
        (control(7, &[]), "unknown gc command: 7"),
        (control(pause, &[("duration", "soon")]), "not valid"),
        (control(pause, &[("duration", "0")]), "1 to"),
    ] {
        let status = client.gc_control(request).await.unwrap().into_inner();
        assert_ne!(status.error_code, ErrorCode::Success as i32, "{reason}");
        assert!(status.reason.contains(reason), "{}", status.reason);
    }
    for (request, paused) in [
        (control(pause, &[("duration", "60")]), true),
        (control(resume, &[]), false),
        (control(resume, &[]), false),
    ] {
        ask!(cluster, DataCoordClient.gc_control(request)).unwrap();
        let plan = ask!(cluster, AdminClient.plan_gc(PlanGcRequest::default())).unwrap();
        assert_eq!(!plan.paused.is_empty(), paused, "{}", plan.paused);
    }
    assert!(
        confirmed(&cluster, 12).await,
        "an unknown collection is gone"
    );
}
