//! `quorate init`: forms a new cluster, once.

use quorate_rpc::channel::check_address;
use quorate_rpc::proto::quorate::admin::{InitRequest, Replica};
use serde::Serialize;

use super::{admin, refused, within};
use crate::answer::Answer;
use crate::context::Context;
use crate::error::CliError;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The first members: address for peers and address for clients of each
    #[arg(
        long,
        required = true,
        value_delimiter = ',',
        value_name = "PEER=CLIENT,…",
        value_parser = parse_member
    )]
    members: Vec<Replica>,
}

fn parse_member(text: &str) -> Result<Replica, String> {
    let Some((peer, client)) = text.split_once('=') else {
        return Err("write PEER=CLIENT, for example 10.0.0.1:13334=10.0.0.1:13333".to_owned());
    };
    for address in [peer, client] {
        check_address(address).map_err(|error| error.to_string())?;
    }
    Ok(Replica {
        node_id: 0,
        peer_address: peer.to_owned(),
        client_address: client.to_owned(),
        voter: true,
    })
}

#[derive(Debug, Serialize)]
struct Formed {
    cluster_id: String,
    members: usize,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Answer, CliError> {
    let count = args.members.len();
    // Any member can be asked; the first one is.
    let first = args.members[0].client_address.clone();
    let client = context.client()?;
    let request = InitRequest {
        members: args.members,
    };
    let replica = client.at(&first).await?;
    let reply = admin(replica)
        .init(within(request, context.timeout()))
        .await
        .map_err(|status| refused(status).context(format!("{first} did not form a cluster")))?
        .into_inner();
    let text = format!("formed cluster {} of {count} replicas", reply.cluster_id);
    Answer::new(
        &Formed {
            cluster_id: reply.cluster_id,
            members: count,
        },
        text,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCluster;

    #[tokio::test]
    async fn the_first_member_is_asked_to_form_the_cluster() {
        let cluster = FakeCluster::start(1).await;
        let member = format!("127.0.0.1:9={}", cluster.address(0));
        let args = Args {
            members: vec![parse_member(&member).unwrap()],
        };
        let answer = run(&cluster.context(), args).await.unwrap();
        assert_eq!(answer.json["cluster_id"], "fake");
    }

    #[test]
    fn a_member_is_two_addresses() {
        assert!(parse_member("a:1=b:2").is_ok());
        for text in ["a:1", "a:1=b", "a=b:2", "=", "a:1=b:2=c:3"] {
            assert!(parse_member(text).is_err(), "{text}");
        }
    }
}
