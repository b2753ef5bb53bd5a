//! The data node as a whole: what its parts share, and its start and stop.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quorate_binlog::LogStore;
use quorate_rpc::proto::milvus::data::ChannelWatchState;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::channel::Limits;
use crate::config::Config;
use crate::coordinator::Coordinator;
use crate::error::Error;
use crate::memory::Memory;
use crate::ownership::{Ownership, Phase};
use crate::worker::compaction::Compactions;
use crate::worker::index::IndexJobs;
use crate::{membership, service, tick};

/// Results of finished channel operations that are remembered.
const FINISHED_MAX: usize = 1024;
/// How long running requests may take to end when the server stops.
const SERVER_STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// What all parts of the data node share.
pub(crate) struct Node {
    pub config: Config,
    pub coordinator: Coordinator,
    pub store: LogStore,
    pub memory: Arc<Memory>,
    pub sync_permits: Semaphore,
    pub compactions: Arc<Compactions>,
    pub index_jobs: Arc<IndexJobs>,
    pub tasks: TaskTracker,
    /// Cancelled when the node ends; ownerships hang below it.
    pub stop: CancellationToken,
    pub stopping: AtomicBool,
    node_id: AtomicI64,
    /// Milliseconds; see [`Node::object_refresh`].
    object_refresh_ms: AtomicU64,
    channels: Mutex<BTreeMap<String, Arc<Ownership>>>,
    finished: Mutex<VecDeque<(String, i64, ChannelWatchState)>>,
}

impl Node {
    /// 0 until it is registered.
    pub fn node_id(&self) -> i64 {
        self.node_id.load(Ordering::Acquire)
    }

    pub fn set_node_id(&self, id: i64) {
        self.node_id.store(id, Ordering::Release);
    }

    /// Age at which an object that is not saved yet is written again, as the coordinator wants it.
    pub fn object_refresh(&self) -> Duration {
        Duration::from_millis(self.object_refresh_ms.load(Ordering::Acquire))
    }

    /// 0 from a coordinator that does not say it: an hour, far below any sensible tolerance.
    pub fn set_object_refresh(&self, ms: u64) {
        let ms = if ms == 0 { 3_600_000 } else { ms };
        self.object_refresh_ms.store(ms, Ordering::Release);
    }

    pub fn limits(&self) -> Limits {
        Limits {
            segment_sync_bytes: self.config.segment_sync_bytes,
            sync_interval: self.config.sync_interval,
        }
    }

    pub fn channels(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Ownership>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn channel(&self, name: &str) -> Option<Arc<Ownership>> {
        self.channels().get(name).cloned()
    }

    pub fn all_channels(&self) -> Vec<Arc<Ownership>> {
        self.channels().values().cloned().collect()
    }

    /// Remembers how an operation on a channel ended.
    pub fn finish(&self, channel: &str, op_id: i64, state: ChannelWatchState) {
        let mut finished = self.finished();
        if finished.len() == FINISHED_MAX {
            finished.pop_front();
        }
        finished.push_back((channel.to_owned(), op_id, state));
    }

    /// How an operation ended, if it is remembered.
    pub fn finished_state(&self, channel: &str, op_id: i64) -> Option<ChannelWatchState> {
        self.finished()
            .iter()
            .rev()
            .find(|(name, op, _)| name == channel && *op == op_id)
            .map(|(_, _, state)| *state)
    }

    fn finished(&self) -> MutexGuard<'_, VecDeque<(String, i64, ChannelWatchState)>> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a channel up, buffers and all; writers send again what is not stored. Nothing happens
    /// when the ownership is not the current one any more.
    pub fn forfeit(&self, own: &Arc<Ownership>, reason: &str) {
        {
            let mut channels = self.channels();
            match channels.get(&own.name) {
                Some(current) if Arc::ptr_eq(current, own) => channels.remove(&own.name),
                _ => return,
            };
        }
        own.cancel();
        let (phase, op_id, (rows, bytes)) = {
            let state = own.lock();
            (state.phase, state.op_id, state.channel.held())
        };
        self.finish(&own.name, own.watch_op_id, ChannelWatchState::WatchFailure);
        if phase == Phase::Releasing {
            self.finish(&own.name, op_id, ChannelWatchState::ReleaseSuccess);
        }
        tracing::warn!(channel = %own.name, epoch = own.epoch, rows, bytes, reason,
            "channel forfeited; its unsaved rows are dropped and will be sent again");
    }

    pub fn forfeit_all(&self, reason: &str) {
        for own in self.all_channels() {
            self.forfeit(&own, reason);
        }
    }

    /// Rows and bytes held on all channels.
    pub fn held(&self) -> (u64, u64) {
        let rows = self
            .all_channels()
            .iter()
            .map(|own| own.lock().channel.held().0)
            .sum();
        (rows, self.memory.used_bytes())
    }
}

/// A running data node.
///
/// Dropping it ends it at once; [`DataNode::stop`] saves its rows first. Either way no row that
/// counts as stored is lost.
pub struct DataNode {
    node: Arc<Node>,
    local_addr: SocketAddr,
    server: JoinHandle<()>,
    ended: CancellationToken,
    _end_on_drop: DropGuard,
}

impl DataNode {
    /// Listens, registers with the coordinator (as often as it takes) and starts working.
    pub async fn start(config: Config) -> Result<DataNode, Error> {
        config.check()?;
        let listen = config.listen;
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|source| Error::Listen {
                address: listen,
                source,
            })?;
        let local_addr = listener.local_addr().map_err(|source| Error::Listen {
            address: listen,
            source,
        })?;
        let store = LogStore::open(&config.object_store, config.object_store_timeout)?;
        let coordinator = Coordinator::new(
            &config.coordinators,
            config.coordinator_tls.clone(),
            config.coordinator_timeout,
        )?;
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let ended = CancellationToken::new();
        let tasks = TaskTracker::new();
        let compactions = Compactions::new(
            store.clone(),
            config.compactions_at_once,
            config.compactions_queued,
            tasks.clone(),
            stop.clone(),
        );
        let index_jobs = IndexJobs::new(
            store.clone(),
            config.index_jobs_at_once,
            config.index_jobs_queued,
            tasks.clone(),
            stop.clone(),
        );
        let node = Arc::new(Node {
            memory: Memory::new(config.buffer_max_bytes),
            sync_permits: Semaphore::new(config.syncs_at_once),
            compactions,
            index_jobs,
            tasks,
            stopping: AtomicBool::new(false),
            node_id: AtomicI64::new(0),
            object_refresh_ms: AtomicU64::new(3_600_000),
            channels: Mutex::default(),
            finished: Mutex::default(),
            stop,
            store,
            coordinator,
            config,
        });
        let server = tokio::spawn(service::serve(
            Arc::clone(&node),
            listener,
            ended.clone().drop_guard(),
        ));
        let advertise = match node.config.advertise.as_str() {
            "" => local_addr.to_string(),
            address => address.to_owned(),
        };
        let member = membership::register(&node, &advertise).await;
        node.tasks
            .spawn(membership::keep(Arc::clone(&node), advertise, member));
        node.tasks.spawn(tick::run(Arc::clone(&node)));
        Ok(DataNode {
            node,
            local_addr,
            server,
            ended,
            _end_on_drop: guard,
        })
    }

    /// The id the coordinator has given; a new one after the node was expired.
    pub fn node_id(&self) -> i64 {
        self.node.node_id()
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Waits until the node has stopped or its server has failed.
    pub async fn wait(&self) {
        self.ended.cancelled().await;
    }

    /// Takes no more rows, saves what it has as far as the deadline allows, and ends.
    pub async fn stop(self) {
        let started = Instant::now();
        self.node.stopping.store(true, Ordering::Release);
        let channels = self.node.all_channels();
        let draining = futures::future::join_all(channels.iter().map(|own| self.drain(own)));
        let timeout = self.node.config.stop_timeout;
        let drained = tokio::time::timeout(timeout, draining).await.is_ok();
        let (rows, bytes) = self.node.held();
        self.node.stop.cancel();
        self.node.tasks.close();
        let mut server = self.server;
        let ending = async {
            let _ = tokio::time::timeout(SERVER_STOP_TIMEOUT, &mut server).await;
            let _ = tokio::time::timeout(SERVER_STOP_TIMEOUT, self.node.tasks.wait()).await;
        };
        ending.await;
        server.abort();
        let elapsed_ms = started.elapsed().as_millis() as u64;
        if drained {
            tracing::info!(elapsed_ms, "data node stopped");
        } else {
            tracing::warn!(
                elapsed_ms,
                rows,
                bytes,
                "data node stopped before all rows were saved; they will be sent again"
            );
        }
    }

    async fn drain(&self, own: &Arc<Ownership>) {
        own.lock().channel.draining = true;
        self.node.schedule(own);
        Node::drained(own).await;
    }
}

impl Node {
    /// Waits until nothing is held of a channel, or it is not ours any more.
    pub async fn drained(own: &Arc<Ownership>) {
        let mut changed = own.subscribe();
        loop {
            if own.token.is_cancelled() || own.lock().channel.is_drained() {
                return;
            }
            // The sender lives in `own`, so this waits for a change and nothing else.
            let _ = changed.changed().await;
        }
    }
}
