//! Log files on S3 under faults: nothing is lost, and what does not work says so in time.

use std::time::Duration;

use futures::StreamExt;
use quorate_binlog::{ColumnData, LogPath, LogStore, insert};
use quorate_coord::outbound::objects::{Objects, StoredObjects};
use quorate_tests::s3::{Faults, S3Process};
use tempfile::TempDir;

const SEED: u64 = 11;
const LOGS: i64 = 40;

struct Bench {
    server: S3Process,
    _folder: TempDir,
}

impl Bench {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = S3Process::start(folder.path(), SEED).await.unwrap();
        Self {
            server,
            _folder: folder,
        }
    }

    fn store(&self, deadline: Duration) -> LogStore {
        let (store, root) = self.server.config("some/prefix").open().unwrap();
        LogStore::new(store, root, deadline)
    }

    fn objects(&self) -> StoredObjects {
        StoredObjects::open(&self.server.config("some/prefix")).unwrap()
    }

    async fn listed(&self) -> Vec<String> {
        let mut paths: Vec<String> = self
            .objects()
            .list("insert_log")
            .map(|object| object.unwrap().path)
            .collect()
            .await;
        paths.sort_unstable();
        paths
    }
}

fn path(log_id: i64) -> LogPath {
    LogPath::Insert {
        collection: 1,
        partition: 2,
        segment: 3,
        field: 100,
        log_id,
    }
}

fn column(log_id: i64) -> ColumnData {
    ColumnData::Int64((log_id..log_id + 100).collect())
}

async fn put(store: &LogStore, log_id: i64) -> Result<(), quorate_binlog::BinlogError> {
    store
        .put(&insert::encode(path(log_id), &column(log_id), (1, 2)).unwrap())
        .await
}

/// Stores, reads back, lists and deletes every log, and sees that each step holds.
async fn live_through(bench: &Bench) {
    let store = bench.store(Duration::from_secs(60));
    for log_id in 0..LOGS {
        put(&store, log_id).await.unwrap();
    }
    for log_id in 0..LOGS {
        let read = store.read_insert(&path(log_id)).await.unwrap();
        assert_eq!(read.column, column(log_id));
    }
    let mut expected: Vec<String> = (0..LOGS).map(|id| path(id).to_string()).collect();
    expected.sort_unstable();
    assert_eq!(bench.listed().await, expected);
    for log_id in 0..LOGS {
        store.delete(&path(log_id)).await.unwrap();
        store.delete(&path(log_id)).await.unwrap();
    }
    assert!(bench.listed().await.is_empty());
    let error = store.read_insert(&path(0)).await.unwrap_err();
    assert!(error.is_missing(), "{error}");
}

#[tokio::test]
async fn a_healthy_s3_store_keeps_what_it_is_given() {
    live_through(&Bench::start().await).await;
}

#[tokio::test]
async fn nothing_is_lost_when_s3_is_slow() {
    let mut bench = Bench::start().await;
    let faults = Faults {
        delay: Duration::from_millis(30),
        ..Faults::default()
    };
    bench.server.set_faults(faults).await.unwrap();
    live_through(&bench).await;
}

#[tokio::test]
async fn nothing_is_lost_when_s3_refuses_every_third_request() {
    let mut bench = Bench::start().await;
    let faults = Faults {
        errors_permille: 333,
        ..Faults::default()
    };
    bench.server.set_faults(faults).await.unwrap();
    live_through(&bench).await;
}

#[tokio::test]
async fn s3_that_is_slower_than_the_deadline_is_an_error_that_says_so() {
    let mut bench = Bench::start().await;
    put(&bench.store(Duration::from_secs(60)), 1).await.unwrap();
    let faults = Faults {
        delay: Duration::from_secs(60),
        ..Faults::default()
    };
    bench.server.set_faults(faults).await.unwrap();
    let impatient = bench.store(Duration::from_millis(300));
    let error = put(&impatient, 2).await.unwrap_err().to_string();
    assert!(error.contains("did not write"), "{error}");
    assert!(error.contains("insert_log/1/2/3/100/2"), "{error}");
    let error = impatient.read_insert(&path(1)).await.unwrap_err();
    assert!(!error.is_missing(), "{error}");
    bench.server.set_faults(Faults::default()).await.unwrap();
    live_through(&bench).await;
}

#[tokio::test]
async fn s3_that_is_gone_for_a_while_delays_and_loses_nothing() {
    let mut bench = Bench::start().await;
    let patient = bench.store(Duration::from_secs(60));
    put(&patient, 1).await.unwrap();
    bench.server.go(Duration::from_secs(3)).await.unwrap();
    let impatient = bench.store(Duration::from_millis(300));
    let error = impatient.read_insert(&path(1)).await.unwrap_err();
    assert!(!error.is_missing(), "gone is not missing: {error}");
    let error = put(&impatient, 2).await.unwrap_err().to_string();
    assert!(error.contains("insert_log/1/2/3/100/2"), "{error}");
    // Both wait until the server is back.
    put(&patient, 3).await.unwrap();
    let read = patient.read_insert(&path(1)).await.unwrap();
    assert_eq!(read.column, column(1));
    assert_eq!(bench.listed().await.len(), 2);
}

#[tokio::test]
async fn a_wrong_key_is_refused() {
    let bench = Bench::start().await;
    let mut config = bench.server.config("");
    config.secret_key = quorate_binlog::open::Secret::new("wrong");
    let (store, root) = config.open().unwrap();
    let store = LogStore::new(store, root, Duration::from_millis(500));
    let error = put(&store, 1).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("SignatureDoesNotMatch"), "{source}");
    assert!(!format!("{error:?} {source}").contains("quorate-test-secret"));
}
