//! The network between replicas: openraft's messages over simulated links, and the called side
//! of the protocol, which does what the peers' service of a real replica does.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use quorate_coord::transport::{CallKind, Link, LinkError, Links};
use quorate_raft_store::{Member, NodeId, codec};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::replica::{Cluster, Running};
use super::world::Place;

/// Messages on their way in a pipeline; then its sender waits.
const WINDOW: usize = 64;
/// What a dead replica still tries takes this long to fail.
const DEAD_PAUSE: Duration = Duration::from_millis(50);

fn broken(reason: impl ToString) -> LinkError {
    LinkError {
        reason: reason.to_string(),
        unreachable: false,
    }
}

fn refused(reason: &str) -> LinkError {
    LinkError {
        reason: reason.to_owned(),
        unreachable: true,
    }
}

/// Makes links of one run of a replica; they die with it.
pub(super) struct SimLinks {
    pub(super) cluster: Arc<Cluster>,
    pub(super) own: NodeId,
    pub(super) life: CancellationToken,
}

impl Links for SimLinks {
    fn link(&self, target: NodeId, _member: &Member) -> Arc<dyn Link> {
        Arc::new(SimLink {
            cluster: self.cluster.clone(),
            own: self.own,
            target,
            life: self.life.clone(),
        })
    }
}

#[derive(Clone)]
struct SimLink {
    cluster: Arc<Cluster>,
    own: NodeId,
    target: NodeId,
    life: CancellationToken,
}

impl SimLink {
    /// There and back, with `work` done over there.
    async fn exchange<F, Fut>(
        &self,
        what: &str,
        timeout: Duration,
        work: F,
    ) -> Result<Bytes, LinkError>
    where
        F: FnOnce(Arc<Running>) -> Fut + Send,
        Fut: Future<Output = Result<Bytes, LinkError>> + Send,
    {
        let world = &self.cluster.world;
        let (from, to) = (Place::Replica(self.own), Place::Replica(self.target));
        let exchange = async {
            if !world.carry(from, to, what).await {
                futures::future::pending::<()>().await;
            }
            let answer = match self.cluster.running(self.target) {
                None => Err(refused("connection refused")),
                Some(peer) => {
                    let life = peer.life.clone();
                    tokio::select! {
                        biased;
                        () = life.cancelled() => Err(refused("connection reset")),
                        answer = work(peer) => answer,
                    }
                }
            };
            if !world.carry(to, from, what).await {
                futures::future::pending::<()>().await;
            }
            answer
        };
        tokio::select! {
            biased;
            () = self.life.cancelled() => {
                // What is left of a dead replica must not spin.
                tokio::time::sleep(DEAD_PAUSE).await;
                Err(refused("this replica has crashed"))
            }
            answer = tokio::time::timeout(timeout, exchange) => {
                answer.unwrap_or_else(|_| Err(broken(format!("no answer in {timeout:?}"))))
            }
        }
    }
}

#[async_trait]
impl Link for SimLink {
    async fn call(
        &self,
        kind: CallKind,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, LinkError> {
        let what = match kind {
            CallKind::Vote => "vote",
            CallKind::PreVote => "pre-vote",
            CallKind::TransferLeader => "transfer",
        };
        self.exchange(what, timeout, |peer| async move {
            peer.receive_call(kind, &body).await
        })
        .await
    }

    async fn append(
        &self,
        bodies: BoxStream<'static, Bytes>,
        timeout: Duration,
    ) -> Result<BoxStream<'static, Result<Bytes, LinkError>>, LinkError> {
        // As in HTTP/2, requests flow while the headers of the answer are still awaited.
        let (answers, receiver) = mpsc::channel(WINDOW);
        if let Some(peer) = self.cluster.running(self.target) {
            tokio::spawn(pipeline(self.clone(), peer, bodies, answers));
        }
        self.exchange("open", timeout, |_| async { Ok(Bytes::new()) })
            .await?;
        Ok(drain(receiver).boxed())
    }

    async fn install_snapshot(
        &self,
        vote: Bytes,
        meta: Bytes,
        mut chunks: BoxStream<'static, Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, LinkError> {
        let world = &self.cluster.world;
        let (from, to) = (Place::Replica(self.own), Place::Replica(self.target));
        let resets = world.resets(from, to);
        let Some(peer) = self.cluster.running(self.target) else {
            tokio::time::sleep(world.pipeline_transit()).await;
            return Err(refused("connection refused"));
        };
        let transfer = async {
            let store = peer.coordinator.consensus().store().clone();
            let mut staging = store.stage().map_err(broken)?;
            while let Some(chunk) = chunks.next().await {
                tokio::time::sleep(world.pipeline_transit()).await;
                if !world.pass(from, to, resets, "snapshot").await {
                    return Err(broken("the connection broke"));
                }
                staging.push_chunk(&chunk).map_err(broken)?;
            }
            let installed = peer.install(&vote, &meta, staging).await;
            tokio::time::sleep(world.pipeline_transit()).await;
            if !world.pass(to, from, resets, "snapshot installed").await {
                return Err(broken("the connection broke"));
            }
            installed
        };
        tokio::select! {
            biased;
            () = self.life.cancelled() => {
                tokio::time::sleep(DEAD_PAUSE).await;
                Err(refused("this replica has crashed"))
            }
            () = peer.life.cancelled() => Err(refused("connection reset")),
            answer = tokio::time::timeout(timeout, transfer) => {
                answer.unwrap_or_else(|_| Err(broken(format!("no answer in {timeout:?}"))))
            }
        }
    }
}

fn drain<T: Send + 'static>(receiver: mpsc::Receiver<T>) -> impl futures::Stream<Item = T> + Send {
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
}

type Answer = Result<Bytes, LinkError>;

/// One open pipeline of appends: order is kept both ways, messages overlap on their way.
async fn pipeline(
    link: SimLink,
    peer: Arc<Running>,
    bodies: BoxStream<'static, Bytes>,
    answers: mpsc::Sender<Answer>,
) {
    let world = link.cluster.world.clone();
    let (from, to) = (Place::Replica(link.own), Place::Replica(link.target));
    let resets = world.resets(from, to);
    let (sent, on_the_way) = mpsc::channel(WINDOW);
    let (arrived, arriving) = mpsc::channel(WINDOW);
    let (answered, coming_back) = mpsc::channel(WINDOW);

    let send = stamp(link.clone(), true, bodies, sent);
    let carry = deliver(&link, from, to, resets, "append", on_the_way, arrived);
    let serving = peer.append(drain(arriving).boxed());
    let serve = stamp(link.clone(), false, serving, answered);
    let back = async {
        let (arrived, mut arriving) = mpsc::channel(WINDOW);
        let carry = deliver(&link, to, from, resets, "appended", coming_back, arrived);
        let hand_over = async {
            while let Some(answer) = arriving.recv().await {
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(carry, hand_over).0
    };
    let whole = async {
        let ((), sent_whole, (), back_whole) = tokio::join!(send, carry, serve, back);
        sent_whole && back_whole
    };
    let broke = tokio::select! {
        biased;
        () = link.life.cancelled() => true,
        () = peer.life.cancelled() => true,
        () = answers.closed() => return,
        whole = whole => !whole,
    };
    if broke {
        // Whoever reads may have stopped to.
        let _ = answers.send(Err(broken("the pipeline broke"))).await;
    }
}

/// Gives each message the time it will arrive at, in order; `leaves`: they are requests.
async fn stamp(
    link: SimLink,
    leaves: bool,
    mut messages: BoxStream<'static, Bytes>,
    sent: mpsc::Sender<(Instant, Bytes)>,
) {
    let mut last = Instant::now();
    while let Some(message) = messages.next().await {
        if leaves {
            link.cluster.springs_behind(&message, link.own);
        }
        let at = (Instant::now() + link.cluster.world.pipeline_transit()).max(last);
        last = at;
        if sent.send((at, message)).await.is_err() {
            return;
        }
    }
}

/// Lets messages arrive at their time; false: the pipeline broke.
async fn deliver(
    link: &SimLink,
    from: Place,
    to: Place,
    resets: u64,
    what: &str,
    mut on_the_way: mpsc::Receiver<(Instant, Bytes)>,
    arrived: mpsc::Sender<Bytes>,
) -> bool {
    while let Some((at, message)) = on_the_way.recv().await {
        tokio::time::sleep_until(at).await;
        if !link.cluster.world.pass(from, to, resets, what).await {
            return false;
        }
        if arrived.send(message).await.is_err() {
            return true;
        }
    }
    true
}

impl Running {
    async fn receive_call(&self, kind: CallKind, body: &Bytes) -> Answer {
        let raft = self.coordinator.consensus().raft();
        match kind {
            CallKind::Vote | CallKind::PreVote => {
                if Instant::now() < self.votes_from {
                    return Err(refused("this voter has just started"));
                }
                let vote = codec::decode_vote_request(body).map_err(broken)?;
                let granted = if kind == CallKind::Vote {
                    raft.vote(vote).await
                } else {
                    raft.pre_vote(vote).await
                };
                Ok(codec::encode_vote_response(&granted.map_err(broken)?))
            }
            CallKind::TransferLeader => {
                let transfer = codec::decode_transfer_request(body).map_err(broken)?;
                let taken = raft.handle_transfer_leader(transfer).await;
                Ok(codec::encode_transfer_response(&taken.map_err(broken)?))
            }
        }
    }

    fn append(&self, bodies: BoxStream<'static, Bytes>) -> BoxStream<'static, Bytes> {
        let raft = self.coordinator.consensus().raft().clone();
        let requests = bodies
            .map(|body| codec::decode_append_request(&body))
            .take_while(|decoded| futures::future::ready(decoded.is_ok()))
            .filter_map(|decoded| futures::future::ready(decoded.ok()));
        raft.stream_append(requests.boxed())
            .take_while(|result| futures::future::ready(result.is_ok()))
            .filter_map(|result| {
                futures::future::ready(result.ok().map(|r| codec::encode_stream_append(&r)))
            })
            .boxed()
    }

    async fn install(
        &self,
        vote: &Bytes,
        meta: &Bytes,
        staging: quorate_raft_store::Staging,
    ) -> Answer {
        let vote = codec::decode_vote(vote).map_err(broken)?;
        let meta: quorate_raft_store::SnapshotMeta =
            codec::decode_snapshot_meta(meta).map_err(broken)?;
        let snapshot = openraft::Snapshot {
            meta: meta.clone(),
            snapshot: staging.finish(meta).map_err(broken)?,
        };
        let raft = self.coordinator.consensus().raft();
        let installed = raft.install_full_snapshot(vote, snapshot).await;
        Ok(codec::encode_snapshot_response(&installed.map_err(broken)?))
    }
}
