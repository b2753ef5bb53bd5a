//! The object store log files live in, and how they are put there and fetched: with retries,
//! backoff and a deadline.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use tokio::time::Instant;

use crate::error::BinlogError;
use crate::file::EncodedLog;
use crate::open::ObjectStoreConfig;
use crate::path::{IndexPath, LogPath};
use crate::{DeltaRows, InsertLog, PrimaryKeyStats, delta, insert, stats};

const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Most bytes of one log file; a bigger one is refused rather than read into memory.
pub const MAX_LOG_BYTES: u64 = 1 << 30;
/// Most bytes of one index file. What a store takes in one piece is rarely more than 5 GB.
pub const MAX_INDEX_BYTES: u64 = 4 << 30;

/// Opens the object store at a URL (`file:///data/objects`, `s3://bucket/prefix`) or a plain path,
/// and answers it with the root prefix below which log files lie; see [`ObjectStoreConfig`].
///
/// # Errors
/// The URL makes no sense, the folder cannot be made, or settings for S3 are missing.
pub fn open(url: &str) -> Result<(Arc<dyn ObjectStore>, Path), BinlogError> {
    ObjectStoreConfig::at(url).open()
}

/// Log files in an object store, below one root prefix. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogStore {
    store: Arc<dyn ObjectStore>,
    root: Path,
    deadline: Duration,
}

impl LogStore {
    /// Opens the store at a URL or path; see [`open`]. Each operation gives up after `deadline`.
    pub fn open(url: &str, deadline: Duration) -> Result<LogStore, BinlogError> {
        let (store, root) = open(url)?;
        Ok(LogStore::new(store, root, deadline))
    }

    /// Uses a store that is open already.
    pub fn new(store: Arc<dyn ObjectStore>, root: Path, deadline: Duration) -> LogStore {
        LogStore {
            store,
            root,
            deadline,
        }
    }

    /// Root prefix of the log files.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a log file lies in the store.
    pub fn location(&self, path: &LogPath) -> Path {
        path.under(&self.root)
    }

    /// Stores a file; putting the same log again replaces it by the same content.
    pub async fn put(&self, log: &EncodedLog) -> Result<(), BinlogError> {
        self.put_at(&self.location(&log.path), &log.bytes).await
    }

    /// Stores an index file; putting it again replaces it.
    pub async fn put_index(&self, path: &IndexPath, bytes: &Bytes) -> Result<(), BinlogError> {
        self.put_at(&path.under(&self.root), bytes).await
    }

    async fn put_at(&self, location: &Path, bytes: &Bytes) -> Result<(), BinlogError> {
        self.retrying("write", location, || async {
            let payload = PutPayload::from_bytes(bytes.clone());
            self.store.put(location, payload).await.map(drop)
        })
        .await
    }

    /// Fetches a file whole.
    pub async fn get(&self, path: &LogPath) -> Result<Bytes, BinlogError> {
        self.get_at(&self.location(path), MAX_LOG_BYTES).await
    }

    /// Fetches an index file whole.
    pub async fn get_index(&self, path: &IndexPath) -> Result<Bytes, BinlogError> {
        self.get_at(&path.under(&self.root), MAX_INDEX_BYTES).await
    }

    async fn get_at(&self, location: &Path, limit: u64) -> Result<Bytes, BinlogError> {
        let bytes = self
            .retrying("read", location, || async {
                let object = self.store.get(location).await?;
                match object.meta.size {
                    size if size <= limit => object.bytes().await.map(Ok),
                    size => Ok(Err(size)),
                }
            })
            .await?;
        bytes.map_err(|size| {
            BinlogError::file(
                location,
                format!("{size} bytes are more than the limit {limit}"),
            )
        })
    }

    /// Reads an insert log.
    pub async fn read_insert(&self, path: &LogPath) -> Result<InsertLog, BinlogError> {
        self.read(path, insert::decode).await
    }

    /// Reads a delta log.
    pub async fn read_delta(&self, path: &LogPath) -> Result<DeltaRows, BinlogError> {
        self.read(path, delta::decode).await
    }

    /// Reads a stats log.
    pub async fn read_stats(&self, path: &LogPath) -> Result<PrimaryKeyStats, BinlogError> {
        self.read(path, stats::decode).await
    }

    /// Deletes a file; one that is gone already is fine.
    pub async fn delete(&self, path: &LogPath) -> Result<(), BinlogError> {
        let location = self.location(path);
        let result = self
            .retrying("delete", &location, || self.store.delete(&location))
            .await;
        match result {
            Err(error) if error.is_missing() => Ok(()),
            other => other,
        }
    }

    /// Fetches and decodes, the latter away from the threads that serve requests.
    async fn read<T: Send + 'static>(
        &self,
        path: &LogPath,
        decode: fn(&str, Bytes) -> Result<T, BinlogError>,
    ) -> Result<T, BinlogError> {
        let bytes = self.get(path).await?;
        let location = self.location(path).to_string();
        let failed_at = location.clone();
        tokio::task::spawn_blocking(move || decode(&location, bytes))
            .await
            .unwrap_or_else(|_| Err(BinlogError::file(failed_at, "reading it was interrupted")))
    }

    async fn retrying<T, F, Fut>(
        &self,
        action: &'static str,
        location: &Path,
        operation: F,
    ) -> Result<T, BinlogError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = object_store::Result<T>>,
    {
        let start = Instant::now();
        let deadline = start + self.deadline;
        let mut attempts = 0;
        let mut backoff = BACKOFF_FIRST;
        loop {
            attempts += 1;
            let source = match tokio::time::timeout_at(deadline, operation()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(object_store::Error::NotFound { .. })) if action != "write" => {
                    return Err(BinlogError::Missing {
                        path: location.to_string(),
                    });
                }
                Ok(Err(source)) => source,
                Err(_) => {
                    return Err(BinlogError::Deadline {
                        action,
                        path: location.to_string(),
                        attempts,
                        elapsed_ms: start.elapsed().as_millis() as u64,
                    });
                }
            };
            if Instant::now() + backoff >= deadline {
                return Err(BinlogError::Store {
                    action,
                    path: location.to_string(),
                    attempts,
                    source,
                });
            }
            tracing::debug!(%location, action, attempts, error = %source, "object store failed, trying again");
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::ColumnData;

    const PATH: LogPath = LogPath::Insert {
        collection: 1,
        partition: 2,
        segment: 3,
        field: 100,
        log_id: 7,
    };

    #[tokio::test]
    async fn a_log_is_found_where_it_was_put_and_gone_when_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/b");
        let url = format!("file://{}", below.display());
        let store = LogStore::open(&url, Duration::from_secs(5)).unwrap();
        let column = ColumnData::Int64(vec![1, 2]);
        let log = insert::encode(PATH, &column, (1, 2)).unwrap();
        store.put(&log).await.unwrap();
        store.put(&log).await.unwrap();
        assert!(below.join("insert_log/1/2/3/100/7").is_file());
        assert_eq!(store.read_insert(&PATH).await.unwrap().column, column);
        store.delete(&PATH).await.unwrap();
        store.delete(&PATH).await.unwrap();
        let error = store.read_insert(&PATH).await.unwrap_err();
        assert!(error.is_missing());
        assert_eq!(
            error.to_string(),
            "log file insert_log/1/2/3/100/7 does not exist in the object store"
        );
    }

    #[tokio::test]
    async fn a_store_that_keeps_failing_is_an_error_by_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("insert_log"), b"in the way").unwrap();
        let url = folder.path().display().to_string();
        let store = LogStore::open(&url, Duration::from_millis(100)).unwrap();
        let log = insert::encode(PATH, &ColumnData::Int64(vec![1]), (1, 2)).unwrap();
        let error = store.put(&log).await.unwrap_err();
        assert!(error.to_string().contains(&PATH.to_string()), "{error}");
    }
}
