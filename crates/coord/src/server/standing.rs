//! How a member learns that it was removed. The leader stops sending it anything, so it asks: when
//! no leader has been heard of for a while, every member it knows. The answer is written down, and
//! the folder serves no more.

use std::path::PathBuf;
use std::time::Duration;

use futures::future::join_all;
use quorate_raft_store::DataDir;
use quorate_rpc::peer::{self, Route};
use quorate_rpc::proto::quorate::peer::StandingRequest;

use super::ServerError;
use super::host::Host;
use super::replica::Replica;

/// Silence after which a member asks; far above any election.
const SILENCE: Duration = Duration::from_secs(3);
/// Time between two rounds of asking.
const INTERVAL: Duration = Duration::from_secs(1);
/// Deadline of a call to one member.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Holds the reason; there only in the folder of a member that was removed.
const MARKER: &str = "REMOVED";

fn marker(data_dir: &DataDir) -> PathBuf {
    data_dir.path().join(MARKER)
}

/// Refuses the folder of a member that was removed.
pub(super) fn check(data_dir: &DataDir) -> Result<(), ServerError> {
    match std::fs::read_to_string(marker(data_dir)) {
        Ok(reason) => Err(ServerError::Removed(reason.trim_end().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(ServerError::Removed(format!(
            "cannot read {}: {error}",
            marker(data_dir).display()
        ))),
    }
}

/// Waits until this member is found to have been removed; says so.
pub(super) async fn removed(host: &Host) -> String {
    let mut tick = tokio::time::interval(INTERVAL);
    loop {
        tick.tick().await;
        let Some(replica) = host.replica() else {
            continue;
        };
        if replica.leaderless_for() < SILENCE {
            continue;
        }
        let Some(index) = ask(host, &replica).await else {
            continue;
        };
        let own = replica.identity();
        let reason = format!(
            "node {} was removed from cluster {} (log index {index}) and serves no more; to take \
             part again it joins as a new node: start it with an empty folder in place of {} and \
             add it with `quorate member add`",
            own.node_id,
            own.cluster_id,
            host.data_dir().path().display()
        );
        if let Err(error) = std::fs::write(marker(host.data_dir()), format!("{reason}\n")) {
            tracing::warn!(%error, "the removal cannot be noted in the folder");
        }
        return reason;
    }
}

/// Log index of the membership without this member, if anybody knows one.
async fn ask(host: &Host, replica: &Replica) -> Option<u64> {
    let own = replica.identity();
    let consensus = replica.coordinator().consensus();
    let (last_log_term, last_log_index) = consensus.last_log();
    let members = consensus.members();
    let asking = members
        .iter()
        .filter(|(id, _)| *id != own.node_id)
        .map(|(id, member)| {
            let route = Route {
                cluster_id: own.cluster_id.clone(),
                from: own.node_id,
                to: *id,
            };
            let request = StandingRequest {
                route: Some(route),
                last_log_term,
                last_log_index,
            };
            peer::standing(&member.peer_addr, request, host.options(), CALL_TIMEOUT)
        });
    let answers = join_all(asking).await;
    answers
        .into_iter()
        .flatten()
        .find(|answer| answer.removed)
        .map(|answer| answer.membership_index)
}
