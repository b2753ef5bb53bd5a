//! Members of the Raft group: added as learners, promoted when they have caught up, removed, and
//! leadership handed to a chosen one. One change at a time, and none that would lose the quorum.

use std::time::Duration;

use quorate_raft_store::{Member, NodeId};
use quorate_rpc::channel::check_address;
use quorate_rpc::peer;
use quorate_rpc::proto::quorate::admin::{
    AddMemberRequest, AddMemberResponse, PromoteMemberRequest, PromoteMemberResponse,
    RemoveMemberRequest, RemoveMemberResponse, TransferLeaderRequest, TransferLeaderResponse,
};
use tokio::sync::MutexGuard;
use tokio::time::Instant;
use tonic::Status;

use crate::consensus::{Change, Consensus, Group};
use crate::coordinator::Coordinator;
use crate::error::CoordError;
use crate::server::Host;

/// Deadline of a call to the replica that joins.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a change may take to be committed.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a promotion waits for a learner to catch up with the log's end as it was at the call.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it may take until a member that is up is heard of.
const UP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a successor may take to lead.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the leader's loops may take to end before it hands over.
const QUIET_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two looks at whether something has come about.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

type Answer<T> = Result<T, Status>;

fn refused(reason: impl Into<String>) -> Status {
    Status::failed_precondition(reason)
}

/// Waiting would only hide that somebody else changes the members at the same time.
fn alone(host: &Host) -> Answer<MutexGuard<'_, ()>> {
    host.changing_members().try_lock().map_err(|_| {
        refused("another change of the members is under way; wait until it is through")
    })
}

/// The group, when nothing of it is changing.
fn settled(consensus: &Consensus) -> Answer<Group> {
    let group = consensus.group().map_err(|error| error.to_grpc())?;
    if group.changing {
        return Err(refused(
            "another change of the members is under way; wait until it is through",
        ));
    }
    Ok(group)
}

/// Waits a moment for a condition of the settled group. A leader that has just begun has not heard
/// of every member that is up.
async fn hold(
    consensus: &Consensus,
    condition: impl Fn(&Group) -> Result<(), String>,
) -> Answer<()> {
    let deadline = Instant::now() + UP_TIMEOUT;
    loop {
        match condition(&settled(consensus)?) {
            Ok(()) => return Ok(()),
            Err(reason) if Instant::now() >= deadline => return Err(refused(reason)),
            Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}

async fn change(consensus: &Consensus, change: Change) -> Answer<()> {
    let changed = consensus.change_members(change, CHANGE_TIMEOUT).await;
    changed.map_err(|error| match error {
        CoordError::Rejected(_, reason) => refused(reason),
        other => other.to_grpc(),
    })
}

/// Takes a replica that waits with an empty folder into the cluster. Repeating it is fine: a member
/// that is there already is only promoted, if that is asked.
pub(crate) async fn add(host: &Host, request: AddMemberRequest) -> Answer<AddMemberResponse> {
    for address in [&request.peer_address, &request.client_address] {
        check_address(address).map_err(|error| Status::invalid_argument(error.to_string()))?;
    }
    let coordinator = host.coordinator()?;
    let consensus = coordinator.consensus();
    coordinator.scope().map_err(|error| error.to_grpc())?;
    let _alone = alone(host)?;
    let group = settled(consensus)?;
    let known = group
        .members
        .iter()
        .find(|(_, member)| member.peer_addr == request.peer_address);
    let node = match known {
        Some((node, member)) if member.client_addr == request.client_address => *node,
        Some((node, member)) => {
            return Err(Status::already_exists(format!(
                "node {node} at {} is a member already, with client address {}",
                member.peer_addr, member.client_addr
            )));
        }
        None => {
            let node = enlist(host, &coordinator, &group, &request).await?;
            let member = Member {
                peer_addr: request.peer_address.clone(),
                client_addr: request.client_address.clone(),
            };
            change(consensus, Change::AddLearner(node, member)).await?;
            tracing::info!(node, peer = request.peer_address, "member added");
            node
        }
    };
    let mut voter = group.voters.contains(&node);
    if request.promote && !voter {
        voter = match grant_vote(consensus, node).await {
            Ok(()) => true,
            // It is a member; the caller asks again for its vote.
            Err(status) if status.code() == tonic::Code::FailedPrecondition => false,
            Err(status) => return Err(status),
        };
    }
    Ok(AddMemberResponse {
        node_id: node,
        voter,
    })
}

/// Gives a waiting replica its identity; the id it has in the cluster from now on.
async fn enlist(
    host: &Host,
    coordinator: &Coordinator,
    group: &Group,
    request: &AddMemberRequest,
) -> Answer<NodeId> {
    let address = &request.peer_address;
    let at_replica = |status: Status| {
        let meaning = quorate_rpc::tls::explain_status(&status)
            .map_or_else(String::new, |meaning| format!(" ({meaning})"));
        refused(format!(
            "the replica at {address}: {}{meaning}",
            status.message()
        ))
    };
    let hello = peer::hello(address, host.options(), CALL_TIMEOUT)
        .await
        .map_err(at_replica)?;
    if !hello.cluster_id.is_empty() {
        return Err(refused(format!(
            "the replica at {address} is node {} of cluster {} already; a new member starts with an \
             empty folder",
            hello.node_id, hello.cluster_id
        )));
    }
    if hello.client_address != request.client_address {
        return Err(refused(format!(
            "the replica at {address} tells clients {}, not {}; check quorate.advertise.client",
            hello.client_address, request.client_address
        )));
    }
    // Ids of the log are given out once, so no two members ever have the same. A replica that got
    // its id from an attempt that ended early keeps it; `join` refuses when that was another cluster.
    let node = match hello.node_id {
        0 => {
            let first = coordinator
                .scope()
                .map_err(|error| error.to_grpc())?
                .alloc_ids(1)
                .await
                .map_err(|error| error.to_grpc())?;
            NodeId::try_from(first).map_err(|_| Status::internal("an id is negative"))?
        }
        node if group.members.contains_key(&node) => {
            return Err(refused(format!(
                "the replica at {address} is node {node}, which is a member at another address"
            )));
        }
        node => node,
    };
    let cluster = host
        .identity()
        .ok_or_else(|| Status::internal("a leader without a cluster"))?
        .cluster_id;
    peer::join(address, cluster, node, host.options(), CALL_TIMEOUT)
        .await
        .map_err(at_replica)?;
    Ok(node)
}

/// Gives a learner its vote once it has caught up.
pub(crate) async fn promote(
    host: &Host,
    request: PromoteMemberRequest,
) -> Answer<PromoteMemberResponse> {
    let coordinator = host.coordinator()?;
    coordinator.scope().map_err(|error| error.to_grpc())?;
    let _alone = alone(host)?;
    grant_vote(coordinator.consensus(), request.node_id).await?;
    Ok(PromoteMemberResponse {})
}

async fn grant_vote(consensus: &Consensus, node: NodeId) -> Answer<()> {
    let group = settled(consensus)?;
    if !group.members.contains_key(&node) {
        return Err(no_member(node));
    }
    if group.voters.contains(&node) {
        return Ok(());
    }
    consensus
        .catch_up(node, CATCH_UP_TIMEOUT)
        .await
        .map_err(|progress| {
            refused(format!(
                "node {node} has not caught up yet: {progress}; try again later"
            ))
        })?;
    let mut voters = group.voters;
    voters.insert(node);
    hold(consensus, |group| group.must_have_quorum(&voters)).await?;
    change(consensus, Change::Promote(node)).await?;
    tracing::info!(node, "member promoted to voter");
    Ok(())
}

/// Takes a member out of the cluster. A leader that is to go hands over first; its successor
/// carries the removal out when it is asked again.
pub(crate) async fn remove(
    host: &Host,
    request: RemoveMemberRequest,
) -> Answer<RemoveMemberResponse> {
    let node = request.node_id;
    let coordinator = host.coordinator()?;
    let consensus = coordinator.consensus();
    coordinator.scope().map_err(|error| error.to_grpc())?;
    let _alone = alone(host)?;
    let group = settled(consensus)?;
    if !group.members.contains_key(&node) {
        return Err(no_member(node));
    }
    if !group.voters.contains(&node) {
        change(consensus, Change::RemoveLearner(node)).await?;
        tracing::info!(node, "member removed");
        return Ok(RemoveMemberResponse {});
    }
    let mut voters = group.voters.clone();
    voters.remove(&node);
    if voters.is_empty() {
        return Err(refused(format!(
            "node {node} is the only voter; add and promote another one first"
        )));
    }
    hold(consensus, |group| group.must_have_quorum(&voters)).await?;
    if node == consensus.node_id() {
        let successor = choose(&group, consensus, 0).await?;
        hand_over(&coordinator, successor).await?;
        return Err(CoordError::NotLeader {
            hint: group
                .members
                .get(&successor)
                .map(|member| member.client_addr.clone()),
        }
        .to_grpc());
    }
    change(consensus, Change::RemoveVoter(node)).await?;
    tracing::info!(node, "member removed");
    Ok(RemoveMemberResponse {})
}

/// Hands leadership to a chosen voter, or to the one whose log is longest.
pub(crate) async fn transfer(
    host: &Host,
    request: TransferLeaderRequest,
) -> Answer<TransferLeaderResponse> {
    let coordinator = host.coordinator()?;
    let consensus = coordinator.consensus();
    coordinator.scope().map_err(|error| error.to_grpc())?;
    if request.node_id == consensus.node_id() {
        // Asked again after an answer got lost, or just so: it leads.
        return Ok(TransferLeaderResponse {
            node_id: request.node_id,
        });
    }
    let _alone = alone(host)?;
    let group = settled(consensus)?;
    let target = choose(&group, consensus, request.node_id).await?;
    hand_over(&coordinator, target).await?;
    Ok(TransferLeaderResponse { node_id: target })
}

async fn choose(group: &Group, consensus: &Consensus, asked: NodeId) -> Answer<NodeId> {
    let target = match asked {
        0 => consensus
            .successor()
            .ok_or_else(|| refused("there is no other voter to hand leadership to"))?,
        node => node,
    };
    if !group.members.contains_key(&target) {
        return Err(no_member(target));
    }
    if !group.voters.contains(&target) {
        return Err(refused(format!(
            "node {target} is a learner and cannot lead; promote it first"
        )));
    }
    let answers = |group: &Group| match group.up.contains(&target) {
        true => Ok(()),
        false => Err(format!("node {target} does not answer")),
    };
    hold(consensus, answers).await?;
    Ok(target)
}

async fn hand_over(coordinator: &Coordinator, target: NodeId) -> Answer<()> {
    let consensus = coordinator.consensus();
    let behind = |progress| refused(format!("node {target} is behind: {progress}"));
    consensus
        .catch_up(target, CATCH_UP_TIMEOUT)
        .await
        .map_err(behind)?;
    let term = consensus.resign().map_err(|error| error.to_grpc())?;
    // A voter that lacks entries would refuse to lead, and nobody would for a while: the loops end
    // first, and what they and others have proposed arrives.
    let quiet = async {
        while coordinator.is_leading() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    // An end that takes longer costs a second try, no more.
    let _ = tokio::time::timeout(QUIET_TIMEOUT, quiet).await;
    if let Err(progress) = consensus.catch_up(target, CATCH_UP_TIMEOUT).await {
        consensus.resume();
        return Err(behind(progress));
    }
    let handed = consensus.hand_over(term, target, HANDOVER_TIMEOUT).await;
    handed.map_err(|error| error.to_grpc())?;
    tracing::info!(target, "leadership handed over");
    Ok(())
}

fn no_member(node: NodeId) -> Status {
    Status::not_found(format!(
        "node {node} is no member; `quorate member list` shows who is"
    ))
}
