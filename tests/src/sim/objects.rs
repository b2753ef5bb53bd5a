//! The simulated object store: names, what is in the objects, and when they were written.
//!
//! Objects survive every crash. A store that is away answers nobody; writers and garbage collection
//! try again. What garbage collection deletes is judged in `check/deleted.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use quorate_coord::outbound::objects::{Listing, Object, Objects, ObjectsError};
use tokio_util::sync::CancellationToken;

use super::check::deleted;
use super::replica::{Cluster, EPOCH_MS};
use super::trap::Point;
use super::world::World;

/// Rows that were accepted together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First ordinal.
    pub from: u64,
    /// Ordinal after the last one.
    pub to: u64,
    /// Timestamp of all of them.
    pub ts: u64,
}

/// How many rows pieces hold.
pub fn rows(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.to - piece.from).sum()
}

/// What is in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// One field of some rows: every field names all of them.
    Rows(Arc<Vec<Piece>>),
    /// Ordinals with the timestamps below which they are deleted.
    Deletes(Arc<Vec<(u64, u64)>>),
    /// Nothing a check looks at.
    Opaque,
}

struct Stored {
    content: Content,
    written: Duration,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Stored>,
    away_until: Duration,
}

/// All objects.
pub struct Store {
    world: Arc<World>,
    inner: Mutex<Inner>,
}

impl Store {
    /// An empty store.
    pub fn new(world: Arc<World>) -> Arc<Self> {
        Arc::new(Self {
            world,
            inner: Mutex::default(),
        })
    }

    fn hold(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store answers nobody for so long.
    pub fn go_away(&self, time: Duration) {
        self.world.note(format_args!("objects away for {time:?}"));
        let mut inner = self.hold();
        inner.away_until = inner.away_until.max(self.world.now() + time);
    }

    /// It is back.
    pub fn come_back(&self) {
        self.hold().away_until = Duration::ZERO;
    }

    fn is_away(&self) -> bool {
        self.world.now() < self.hold().away_until
    }

    async fn latency(&self) {
        let time = self
            .world
            .between(Duration::from_micros(500), Duration::from_millis(8));
        tokio::time::sleep(time).await;
    }

    /// Writes an object, however long it takes.
    pub async fn put(&self, path: &str, content: Content) {
        self.latency().await;
        while self.is_away() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.world.note(format_args!("put {path}"));
        let written = self.world.now();
        let stored = Stored { content, written };
        self.hold().objects.insert(path.to_owned(), stored);
    }

    /// Reads an object, however long it takes; `None`: it is not there.
    pub async fn get(&self, path: &str) -> Option<Content> {
        self.latency().await;
        while self.is_away() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.peek(path)
    }

    /// An object as it is, without a request.
    pub fn peek(&self, path: &str) -> Option<Content> {
        let inner = self.hold();
        inner.objects.get(path).map(|stored| stored.content.clone())
    }

    /// How long ago an object was last written.
    pub fn age(&self, path: &str) -> Option<Duration> {
        let written = self.hold().objects.get(path)?.written;
        Some(self.world.now().saturating_sub(written))
    }

    /// Every name.
    pub fn names(&self) -> Vec<String> {
        self.hold().objects.keys().cloned().collect()
    }

    fn below(&self, folder: &str) -> Vec<Object> {
        let prefix = format!("{}/", folder.trim_end_matches('/'));
        let inner = self.hold();
        let found = inner
            .objects
            .range(prefix.clone()..)
            .take_while(|(path, _)| path.starts_with(&prefix));
        found
            .map(|(path, stored)| Object {
                path: path.clone(),
                modified_ms: EPOCH_MS + u64::try_from(stored.written.as_millis()).unwrap_or(0),
            })
            .collect()
    }
}

/// The store as one run of a replica reaches it.
pub(super) struct SimObjects {
    pub(super) store: Arc<Store>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) own: u64,
    pub(super) life: CancellationToken,
}

/// A request of garbage collection is given up after this.
const TIMEOUT: Duration = Duration::from_secs(2);

impl SimObjects {
    fn failed(action: &'static str, path: &str) -> ObjectsError {
        ObjectsError {
            action,
            path: path.to_owned(),
            problem: "the object store does not answer".into(),
        }
    }

    async fn reach(&self, action: &'static str, path: &str) -> Result<(), ObjectsError> {
        let waits = async {
            self.store.latency().await;
            while self.store.is_away() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            biased;
            () = self.life.cancelled() => Err(Self::failed(action, path)),
            reached = tokio::time::timeout(TIMEOUT, waits) => {
                reached.map_err(|_| Self::failed(action, path))
            }
        }
    }
}

#[async_trait]
impl Objects for SimObjects {
    fn list(&self, folder: &str) -> Listing {
        let store = self.store.clone();
        let folder = folder.to_owned();
        let away = self.life.is_cancelled();
        let listing = async move {
            store.latency().await;
            let listed: Vec<Result<Object, ObjectsError>> = if away || store.is_away() {
                vec![Err(Self::failed("list", &folder))]
            } else {
                store.below(&folder).into_iter().map(Ok).collect()
            };
            futures::stream::iter(listed)
        };
        futures::stream::once(listing).flatten().boxed()
    }

    async fn modified_ms(&self, path: &str) -> Result<Option<u64>, ObjectsError> {
        self.reach("look at", path).await?;
        let inner = self.store.hold();
        Ok(inner
            .objects
            .get(path)
            .map(|stored| EPOCH_MS + u64::try_from(stored.written.as_millis()).unwrap_or(0)))
    }

    async fn delete(&self, path: &str) -> Result<(), ObjectsError> {
        self.reach("delete", path).await?;
        let world = &self.cluster.world;
        if let Some(age) = self.store.age(path) {
            for problem in deleted::judge(&self.cluster, path, age) {
                world.violation(format!("r{} deletes {path}: {problem}", self.own));
            }
        }
        world.note(format_args!("r{} deletes {path}", self.own));
        self.store.hold().objects.remove(path);
        self.cluster.springs(Point::Deleted, self.own);
        // The answer may be lost with the replica.
        self.reach("delete", path).await
    }

    async fn now_ms(&self) -> Result<u64, ObjectsError> {
        self.reach("read the time of", "the store").await?;
        let elapsed = u64::try_from(self.cluster.world.now().as_millis()).unwrap_or(0);
        Ok(EPOCH_MS + elapsed)
    }
}
