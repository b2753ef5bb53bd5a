//! The object store as garbage collection sees it, behind a trait so that the simulation can stand
//! in for it: names, ages, and the end of an object. What is in an object is never read here.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use quorate_binlog::{BinlogError, ObjectStoreConfig};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Files listed ahead of who reads the list.
const LISTED_AHEAD: usize = 1024;

/// The object the store's time is read from.
const CLOCK: &str = "quorate_clock";

/// Why the object store did not do what it was asked; the next round is the retry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("object store: cannot {action} {path}: {problem}")]
pub struct ObjectsError {
    /// "list", "look at" or "delete".
    pub action: &'static str,
    /// Path below the root, or prefix.
    pub path: String,
    /// What it said.
    pub problem: String,
}

/// An object, by what a listing tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Path below the root of our files.
    pub path: String,
    /// When it was last written, in milliseconds since the Unix epoch, by the store's clock.
    pub modified_ms: u64,
}

/// What a listing yields.
pub type Listing = BoxStream<'static, Result<Object, ObjectsError>>;

/// The objects below the root of our files.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    /// Every object below a folder (`insert_log`, `index_files/7`), in no order. What a local store
    /// left half written is listed, too: its name ends in `#` and a number. An error ends the list.
    fn list(&self, folder: &str) -> Listing;

    /// When an object was last written; nothing when it is not there.
    ///
    /// # Errors
    /// The store failed, or did not answer in time.
    async fn modified_ms(&self, path: &str) -> Result<Option<u64>, ObjectsError>;

    /// Deletes an object; one that is not there is fine.
    ///
    /// # Errors
    /// The store failed, or did not answer in time.
    async fn delete(&self, path: &str) -> Result<(), ObjectsError>;

    /// The store's own time, in milliseconds since the Unix epoch, by which objects are young or
    /// old: a small object is written, looked at and deleted.
    ///
    /// # Errors
    /// As for `delete`; or somebody else did the same at the same time.
    async fn now_ms(&self) -> Result<u64, ObjectsError>;
}

/// Objects in a real store.
pub struct StoredObjects {
    store: Arc<dyn ObjectStore>,
    root: Path,
    /// A local store's folder: it hides what was left half written, so it is walked here.
    folder: Option<PathBuf>,
    timeout: Duration,
}

impl StoredObjects {
    /// Opens the store.
    ///
    /// # Errors
    /// The URL or the settings make no sense.
    pub fn open(config: &ObjectStoreConfig) -> Result<Self, BinlogError> {
        let (store, root) = config.open()?;
        Ok(Self {
            store,
            root,
            folder: config.folder(),
            timeout: config.timeout,
        })
    }
}

/// Where an object lies.
enum Place {
    Object(Path),
    HalfWritten(PathBuf),
}

impl StoredObjects {
    fn place(&self, path: &str) -> Result<Place, String> {
        let goes_elsewhere = |part: &str| matches!(part, "" | "." | "..");
        if path.split('/').any(goes_elsewhere) {
            return Err("it is no path below the root".to_owned());
        }
        match &self.folder {
            Some(folder) if is_half_written(path) => Ok(Place::HalfWritten(folder.join(path))),
            _ => {
                let below = Path::parse(path).map_err(text)?;
                Ok(Place::Object(
                    self.root.parts().chain(below.parts()).collect(),
                ))
            }
        }
    }

    async fn in_time<T>(
        &self,
        action: &'static str,
        path: &str,
        work: impl Future<Output = Result<T, String>>,
    ) -> Result<T, ObjectsError> {
        tokio::time::timeout(self.timeout, work)
            .await
            .unwrap_or_else(|_| Err(format!("no answer in {:?}", self.timeout)))
            .map_err(|problem| failed(action, path, problem))
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn to_ms(meta: &object_store::ObjectMeta) -> u64 {
    u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0)
}

/// 0 for what was written before the epoch.
fn since_epoch(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

fn failed(action: &'static str, path: &str, problem: impl ToString) -> ObjectsError {
    ObjectsError {
        action,
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}

/// Whether a name is that of a file a local store writes before it gets its own name.
pub fn is_half_written(path: &str) -> bool {
    path.rsplit('/')
        .next()
        .and_then(|name| name.split_once('#'))
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[async_trait]
impl Objects for StoredObjects {
    fn list(&self, folder: &str) -> Listing {
        let prefix: Path = self
            .root
            .parts()
            .chain(Path::from(folder).parts())
            .collect();
        if let Some(root) = &self.folder {
            return walk(root.clone(), folder.to_owned());
        }
        let root = self.root.clone();
        let asked = folder.to_owned();
        let timeout = self.timeout;
        let pages = self.store.list(Some(&prefix));
        // The client bounds its requests; this is for a store that answers in trickles.
        let bounded = futures::stream::unfold((pages, false), move |(mut pages, ended)| {
            let asked = asked.clone();
            let root = root.clone();
            async move {
                if ended {
                    return None;
                }
                let next = tokio::time::timeout(timeout * 2, pages.next()).await;
                let item = match next {
                    Err(_) => Err(failed("list", &asked, format!("no answer in {timeout:?}"))),
                    Ok(None) => return None,
                    Ok(Some(Err(error))) => Err(failed("list", &asked, error)),
                    Ok(Some(Ok(meta))) => {
                        let modified_ms = to_ms(&meta);
                        let below: Option<Path> =
                            meta.location.prefix_match(&root).map(Iterator::collect);
                        Ok(Object {
                            path: below.unwrap_or(meta.location).to_string(),
                            modified_ms,
                        })
                    }
                };
                let ends = item.is_err();
                Some((item, (pages, ends)))
            }
        });
        bounded.boxed()
    }

    async fn modified_ms(&self, path: &str) -> Result<Option<u64>, ObjectsError> {
        let looking = async {
            match self.place(path)? {
                Place::HalfWritten(file) => match tokio::fs::metadata(file).await {
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error.to_string()),
                    Ok(meta) => meta
                        .modified()
                        .map(|at| Some(since_epoch(at)))
                        .map_err(text),
                },
                Place::Object(location) => match self.store.head(&location).await {
                    Err(object_store::Error::NotFound { .. }) => Ok(None),
                    Err(error) => Err(error.to_string()),
                    Ok(meta) => Ok(Some(to_ms(&meta))),
                },
            }
        };
        self.in_time("look at", path, looking).await
    }

    async fn delete(&self, path: &str) -> Result<(), ObjectsError> {
        let deleting = async {
            match self.place(path)? {
                Place::HalfWritten(file) => match tokio::fs::remove_file(file).await {
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                    other => other.map_err(text),
                },
                Place::Object(location) => match self.store.delete(&location).await {
                    Err(object_store::Error::NotFound { .. }) => Ok(()),
                    other => other.map_err(text),
                },
            }
        };
        self.in_time("delete", path, deleting).await
    }

    async fn now_ms(&self) -> Result<u64, ObjectsError> {
        let location: Path = self.root.parts().chain(Path::from(CLOCK).parts()).collect();
        let looking = async {
            let asked = async {
                self.store.put(&location, CLOCK.into()).await?;
                let meta = self.store.head(&location).await?;
                self.store.delete(&location).await?;
                Ok::<_, object_store::Error>(to_ms(&meta))
            };
            asked.await.map_err(text)
        };
        self.in_time("read the time of", CLOCK, looking).await
    }
}

/// Files below a folder of a local store, read by a thread that waits for the reader.
fn walk(root: PathBuf, folder: String) -> Listing {
    let (found, list) = mpsc::channel(LISTED_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut folders = vec![folder];
        while let Some(folder) = folders.pop() {
            let result = walk_one(&root, &folder, &mut folders, |object| {
                // The reader may have gone; then there is nobody to tell anything.
                found.blocking_send(Ok(object)).is_ok()
            });
            match result {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    // As above.
                    let _ = found.blocking_send(Err(failed("list", &folder, error)));
                    return;
                }
            }
        }
    });
    ReceiverStream::new(list).boxed()
}

/// The files of one folder; folders in it are put on the pile. False = nobody reads on.
fn walk_one(
    root: &std::path::Path,
    folder: &str,
    pile: &mut Vec<String>,
    mut tell: impl FnMut(Object) -> bool,
) -> std::io::Result<bool> {
    let entries = match std::fs::read_dir(root.join(folder)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            pile.push(path);
            continue;
        }
        let modified = match entry.metadata().and_then(|meta| meta.modified()) {
            // Deleted or renamed since the folder was read.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            modified => modified?,
        };
        let modified_ms = since_epoch(modified);
        if !tell(Object { path, modified_ms }) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    async fn listed(objects: &StoredObjects, folder: &str) -> Vec<String> {
        let mut paths: Vec<String> = objects
            .list(folder)
            .map(|object| object.unwrap().path)
            .collect()
            .await;
        paths.sort_unstable();
        paths
    }

    #[tokio::test]
    async fn a_local_store_shows_what_was_left_half_written_and_deletes_it() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("delta_log/1/2/3");
        std::fs::create_dir_all(&below).unwrap();
        for name in ["7", "8#1", "note#x"] {
            std::fs::write(below.join(name), b"x").unwrap();
        }
        let url = folder.path().display().to_string();
        let objects = StoredObjects::open(&ObjectStoreConfig::at(url)).unwrap();
        let all = [
            "delta_log/1/2/3/7",
            "delta_log/1/2/3/8#1",
            "delta_log/1/2/3/note#x",
        ];
        assert_eq!(listed(&objects, "delta_log").await, all);
        assert_eq!(listed(&objects, "delta_log/1/2").await, all);
        assert!(listed(&objects, "insert_log").await.is_empty());
        for path in &all[..2] {
            assert!(objects.modified_ms(path).await.unwrap().is_some());
            objects.delete(path).await.unwrap();
            objects.delete(path).await.unwrap();
            assert_eq!(objects.modified_ms(path).await.unwrap(), None);
        }
        assert_eq!(listed(&objects, "delta_log").await, all[2..]);
        assert!(is_half_written(all[1]) && !is_half_written(all[2]));
    }

    #[tokio::test]
    async fn nothing_outside_the_root_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), b"x").unwrap();
        let inside = folder.path().join("objects");
        let url = inside.display().to_string();
        let objects = StoredObjects::open(&ObjectStoreConfig::at(url)).unwrap();
        assert!(objects.delete("insert_log/../../secret").await.is_err());
        assert!(objects.delete("insert_log/../../secret#1").await.is_err());
        assert!(folder.path().join("secret").exists());
    }
}
