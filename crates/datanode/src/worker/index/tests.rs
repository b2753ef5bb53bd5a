#![allow(clippy::unwrap_used)]

use std::time::Duration;

use quorate_binlog::{ColumnData, LogPath, insert};
use quorate_index::IndexFile;
use quorate_rpc::proto::milvus::common::KeyValuePair;
use tokio::sync::OwnedSemaphorePermit;

use super::*;

const DIM: u32 = 4;

struct Fixture {
    folder: tempfile::TempDir,
    store: LogStore,
    tasks: TaskTracker,
    stop: CancellationToken,
    jobs: Arc<IndexJobs>,
}

impl Fixture {
    /// One job at a time, as many waiting; segment 3 has 30 rows in two logs.
    async fn new(queued: usize) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().display().to_string();
        let store = LogStore::open(&url, Duration::from_millis(200)).unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let jobs = IndexJobs::new(store.clone(), 1, queued, tasks.clone(), stop.clone());
        let f = Fixture {
            folder,
            store,
            tasks,
            stop,
            jobs,
        };
        f.put(102, 7, 0..10).await;
        f.put(102, 8, 10..30).await;
        f
    }

    async fn put(&self, field: i64, log_id: i64, rows: std::ops::Range<u64>) {
        let column = ColumnData::FloatVector {
            dim: DIM,
            data: rows.flat_map(|row| [row as f32; DIM as usize]).collect(),
        };
        let log = insert::encode(log(field, log_id), &column, (1, 1)).unwrap();
        self.store.put(&log).await.unwrap();
    }

    /// Keeps jobs from running while it is held.
    async fn hold(&self) -> OwnedSemaphorePermit {
        let permits = Arc::clone(&self.jobs.permits);
        permits.acquire_owned().await.unwrap()
    }

    /// Waits until all jobs have ended.
    async fn ended(&self) {
        self.tasks.close();
        let waiting = tokio::time::timeout(Duration::from_secs(60), self.tasks.wait());
        waiting.await.expect("all jobs end");
        self.tasks.reopen();
    }

    fn info(&self, build: i64) -> IndexTaskInfo {
        self.jobs.query(&[build]).remove(0)
    }

    async fn outcome(&self, request: CreateJobRequest) -> IndexTaskInfo {
        let build = request.build_id;
        self.jobs.create(request).unwrap();
        assert_eq!(self.info(build).state(), IndexState::InProgress);
        self.ended().await;
        self.info(build)
    }
}

fn log(field: i64, log_id: i64) -> LogPath {
    LogPath::Insert {
        collection: 1,
        partition: 2,
        segment: 3,
        field,
        log_id,
    }
}

fn params(pairs: &[(&str, &str)]) -> Vec<KeyValuePair> {
    pairs
        .iter()
        .map(|(key, value)| KeyValuePair {
            key: (*key).into(),
            value: (*value).into(),
        })
        .collect()
}

fn request(build_id: i64, index_version: i64) -> CreateJobRequest {
    CreateJobRequest {
        build_id,
        index_version,
        index_file_prefix: "index_files".into(),
        collection_id: 1,
        partition_id: 2,
        segment_id: 3,
        field_id: 102,
        // Not in order, and below some root.
        data_paths: vec![
            format!("root/{}", log(102, 8)),
            format!("root/{}", log(102, 7)),
        ],
        index_params: params(&[("index_type", "HNSW"), ("metric_type", "L2")]),
        type_params: params(&[("dim", "4")]),
        num_rows: 30,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_job_leaves_an_index_over_the_rows_in_the_order_of_the_logs() {
    let f = Fixture::new(1).await;
    let info = f.outcome(request(9, 1)).await;
    assert_eq!(info.state(), IndexState::Finished, "{info:?}");
    assert_eq!(info.index_file_keys, ["index_files/9/1/2/3/index"]);
    let path = IndexPath::parse(&info.index_file_keys[0]).unwrap();
    let bytes = f.store.get_index(&path).await.unwrap();
    assert_eq!(bytes.len() as u64, info.serialized_size);
    assert!(info.mem_size > 30 * 16);
    let mut file = IndexFile::open(&path, &bytes).unwrap();
    assert_eq!((file.rows(), file.dim()), (30, DIM));
    let hits = file.load().unwrap().search(&[12.2; 4], 2, 30).unwrap();
    assert_eq!((hits[0].row, hits[1].row), (12, 13));

    // Asked again nothing happens; dropped it is forgotten.
    f.jobs.create(request(9, 1)).unwrap();
    assert_eq!(f.info(9).state(), IndexState::Finished);
    f.jobs.drop_jobs(&[9, 10]);
    assert_eq!(f.info(9).state(), IndexState::None);
}

#[tokio::test]
async fn what_cannot_be_built_fails_for_good_and_says_why() {
    let f = Fixture::new(1).await;
    let log = ColumnData::Int64(vec![1, 2]);
    let log = insert::encode(self::log(103, 9), &log, (1, 1)).unwrap();
    f.store.put(&log).await.unwrap();
    let damaged = f.folder.path().join(self::log(102, 10).to_string());
    std::fs::write(damaged, b"damaged").unwrap();
    let one_log = |field_id, log_id| CreateJobRequest {
        field_id,
        data_paths: vec![self::log(field_id, log_id).to_string()],
        ..request(9, 1)
    };
    for (wrong, hint) in [
        (
            CreateJobRequest {
                num_rows: 31,
                ..request(9, 1)
            },
            "the logs of segment 3 have 30 rows, the request says 31",
        ),
        (
            CreateJobRequest {
                index_params: params(&[("index_type", "HNSW"), ("nprobe", "1")]),
                ..request(9, 1)
            },
            "unknown index parameter \"nprobe\" for HNSW",
        ),
        (
            CreateJobRequest {
                index_params: params(&[("index_type", "HNSW"), ("dim", "8")]),
                type_params: Vec::new(),
                ..request(9, 1)
            },
            "its vectors have dimension 4, its parameters say 8",
        ),
        (
            CreateJobRequest {
                data_paths: Vec::new(),
                ..request(9, 1)
            },
            "the request names no insert logs",
        ),
        (
            CreateJobRequest {
                field_id: 103,
                ..request(9, 1)
            },
            "is no insert log of field 103 of segment 3",
        ),
        (
            CreateJobRequest {
                data_paths: vec!["nonsense".into()],
                ..request(9, 1)
            },
            "\"nonsense\" is no path of a log file",
        ),
        (
            CreateJobRequest {
                data_paths: vec![self::log(102, 7).to_string(); 2],
                ..request(9, 1)
            },
            "insert log insert_log/1/2/3/102/7 is named twice",
        ),
        (
            one_log(103, 9),
            "holds values of type Int64; only FloatVector",
        ),
        (
            one_log(102, 10),
            "log file insert_log/1/2/3/102/10 cannot be read",
        ),
    ] {
        let info = f.outcome(wrong).await;
        assert_eq!(info.state(), IndexState::Failed);
        assert!(info.fail_reason.contains(hint), "{}", info.fail_reason);
        f.jobs.drop_jobs(&[9]);
    }
}

#[tokio::test]
async fn a_store_that_fails_is_a_reason_to_try_again() {
    let f = Fixture::new(1).await;
    let missing = CreateJobRequest {
        data_paths: vec![log(102, 99).to_string()],
        ..request(9, 1)
    };
    let info = f.outcome(missing).await;
    assert_eq!(info.state(), IndexState::Retry);
    assert!(
        info.fail_reason
            .contains("insert_log/1/2/3/102/99 does not")
    );

    std::fs::write(f.folder.path().join("index_files"), b"in the way").unwrap();
    let info = f.outcome(request(9, 2)).await;
    assert_eq!(info.state(), IndexState::Retry);
    let hint = "object store failed to write index_files/9/2/2/3/index";
    assert!(info.fail_reason.contains(hint), "{}", info.fail_reason);
}

#[tokio::test]
async fn jobs_beyond_the_limit_are_refused() {
    let f = Fixture::new(1).await;
    let held = f.hold().await;
    f.jobs.create(request(1, 1)).unwrap();
    f.jobs.create(request(2, 1)).unwrap();
    let refused = f.jobs.create(request(3, 1)).unwrap_err();
    let reason = "2 index builds are queued or running, as many as allowed; try again later";
    assert_eq!(refused, Refusal::Full(reason.into()));
    // What is known already is no more work.
    f.jobs.create(request(2, 1)).unwrap();
    f.jobs.create(request(2, 2)).unwrap();
    drop(held);
    f.ended().await;
    assert_eq!(f.info(2).state(), IndexState::Finished);
    f.jobs.create(request(3, 1)).unwrap();
}

#[tokio::test]
async fn a_newer_version_replaces_the_older_one() {
    let f = Fixture::new(1).await;
    let held = f.hold().await;
    f.jobs.create(request(9, 1)).unwrap();
    f.jobs.create(request(9, 2)).unwrap();
    let refused = f.jobs.create(request(9, 1)).unwrap_err();
    let reason = "index build 9 is at version 2 already, 1 is an old request";
    assert_eq!(refused, Refusal::Invalid(reason.into()));
    drop(held);
    f.ended().await;
    assert_eq!(f.info(9).index_file_keys, ["index_files/9/2/2/3/index"]);
    assert!(!f.folder.path().join("index_files/9/1").exists());
}

#[tokio::test]
async fn dropped_jobs_and_those_of_a_node_that_stops_end() {
    let f = Fixture::new(1).await;
    let held = f.hold().await;
    f.jobs.create(request(1, 1)).unwrap();
    f.jobs.drop_jobs(&[1]);
    f.ended().await;
    assert_eq!(f.info(1).state(), IndexState::None);
    f.jobs.create(request(2, 1)).unwrap();
    f.stop.cancel();
    f.ended().await;
    drop(held);
    assert!(!f.folder.path().join("index_files").exists());
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let f = Fixture::new(1).await;
    for (wrong, hint) in [
        (request(0, 1), "0 is no build id"),
        (request(9, -1), "is no path of an index file"),
        (
            CreateJobRequest {
                index_file_prefix: "elsewhere".into(),
                ..request(9, 1)
            },
            "not below \"elsewhere\"",
        ),
    ] {
        match f.jobs.create(wrong).unwrap_err() {
            Refusal::Invalid(reason) => assert!(reason.contains(hint), "{reason}"),
            Refusal::Full(reason) => panic!("{reason}"),
        }
    }
}

#[tokio::test]
async fn the_oldest_ended_jobs_are_forgotten() {
    let f = Fixture::new(2 * ENDED_MAX).await;
    for build in 1..=ENDED_MAX as i64 + 1 {
        let nothing = CreateJobRequest {
            data_paths: Vec::new(),
            ..request(build, 1)
        };
        f.jobs.create(nothing).unwrap();
    }
    f.ended().await;
    assert_eq!(f.jobs.lock().by_build.len(), ENDED_MAX);
}
