//! Forming a cluster, once, on an explicit request: an empty folder never does it by itself.
//!
//! The replica that is asked gives every member the cluster's id and a node id, then lets Raft
//! begin. Interrupted, it is repeated with the same members on the same replica: ids that were
//! given stay.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_raft_store::Member;
use quorate_rpc::peer;
use quorate_rpc::proto::quorate::admin::Replica;
use tonic::Status;

use super::host::Host;

/// Deadline of a call to one member.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the first election may take.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn init(host: &Host, mut members: Vec<Replica>) -> Result<String, Status> {
    let own_peer = host.config().peer_addr();
    if members.is_empty() {
        members.push(Replica {
            peer_address: own_peer.clone(),
            client_address: host.config().client_addr(),
            ..Default::default()
        });
    }
    // The same members give the same node ids, whatever their order.
    members.sort_by(|a, b| a.peer_address.cmp(&b.peer_address));
    let own = check(&members, &own_peer)?;
    if host
        .replica()
        .is_some_and(|replica| replica.is_initialized())
    {
        return Err(Status::already_exists(format!(
            "this replica is a member of cluster {} already",
            host.identity().map_or(String::new(), |own| own.cluster_id)
        )));
    }
    greet(host, &members, own).await?;
    let cluster_id = match host.identity() {
        Some(identity) => identity.cluster_id,
        None => super::super::service::hex(&rand::random::<u128>().to_be_bytes()),
    };
    let node_id = |at: usize| at as u64 + 1;
    // Our own identity first: repeated after a crash, it names the same cluster.
    host.join(&cluster_id, node_id(own)).await?;
    for (at, member) in members.iter().enumerate().filter(|(at, _)| *at != own) {
        let joined = peer::join(
            &member.peer_address,
            cluster_id.clone(),
            node_id(at),
            host.options(),
            CALL_TIMEOUT,
        );
        joined
            .await
            .map_err(|status| at_member(&member.peer_address, &status))?;
    }
    let voters: BTreeMap<u64, Member> = members
        .iter()
        .enumerate()
        .map(|(at, member)| {
            let member = Member {
                peer_addr: member.peer_address.clone(),
                client_addr: member.client_address.clone(),
            };
            (node_id(at), member)
        })
        .collect();
    let replica = host
        .replica()
        .ok_or_else(|| Status::internal("the replica did not start"))?;
    let raft = replica.coordinator().consensus().raft();
    raft.initialize(voters)
        .await
        .map_err(|error| Status::failed_precondition(error.to_string()))?;
    raft.wait(Some(ELECTION_TIMEOUT))
        .metrics(|metrics| metrics.current_leader.is_some(), "a first leader")
        .await
        .map_err(|error| Status::deadline_exceeded(format!("formed, but {error}")))?;
    Ok(cluster_id)
}

/// Where this replica stands among the members.
fn check(members: &[Replica], own_peer: &str) -> Result<usize, Status> {
    for (at, member) in members.iter().enumerate() {
        for address in [&member.peer_address, &member.client_address] {
            quorate_rpc::channel::check_address(address)
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
        }
        if members[..at]
            .iter()
            .any(|m| m.peer_address == member.peer_address)
        {
            return Err(Status::invalid_argument(format!(
                "peer address {} is named twice",
                member.peer_address
            )));
        }
    }
    members
        .iter()
        .position(|member| member.peer_address == own_peer)
        .ok_or_else(|| {
            Status::invalid_argument(format!(
                "the replica that is asked, peer address {own_peer}, is not among the members"
            ))
        })
}

/// Everybody must be there and free before anybody is changed.
async fn greet(host: &Host, members: &[Replica], own: usize) -> Result<(), Status> {
    for (_, member) in members.iter().enumerate().filter(|(at, _)| *at != own) {
        let hello = peer::hello(&member.peer_address, host.options(), CALL_TIMEOUT)
            .await
            .map_err(|status| at_member(&member.peer_address, &status))?;
        if !hello.cluster_id.is_empty() {
            return Err(Status::failed_precondition(format!(
                "the replica at {} is a member of cluster {} already",
                member.peer_address, hello.cluster_id
            )));
        }
    }
    Ok(())
}

fn at_member(address: &str, status: &Status) -> Status {
    Status::new(
        status.code(),
        format!("member at {address}: {}", status.message()),
    )
}
