//! `quorate partitions`: create, list and drop the partitions of a collection.

use quorate_rpc::Retry;
use quorate_rpc::proto::quorate::collection::{
    Collection, CreatePartitionRequest, DropPartitionRequest,
};
use serde::Serialize;

use super::{collections_client, describe, name_or_id};
use crate::answer::{Answer, Column, table};
use crate::context::Context;
use crate::error::CliError;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Create a partition; one that exists is left as it is
    Create {
        /// Its name
        name: String,
        /// The collection, by name or id
        #[arg(long)]
        collection: String,
    },
    /// List the partitions of a collection
    List {
        /// The collection, by name or id
        #[arg(long)]
        collection: String,
    },
    /// Drop a partition with all its rows; dropping what is not there succeeds
    Drop {
        /// Its name
        name: String,
        /// The collection, by name or id
        #[arg(long)]
        collection: String,
    },
}

#[derive(Debug, Serialize)]
struct PartitionView {
    id: i64,
    name: String,
    collection_id: i64,
    collection: String,
}

#[derive(Debug, Serialize)]
struct Created {
    created: bool,
    partition: PartitionView,
}

#[derive(Debug, Serialize)]
struct Dropped {
    dropped: bool,
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<Answer, CliError> {
    match command {
        Command::Create { name, collection } => create(context, &collection, name).await,
        Command::List { collection } => list(context, &collection).await,
        Command::Drop { name, collection } => drop_one(context, &collection, name).await,
    }
}

/// The id of a partition given by name or id; 0, which means all, when none is given.
pub(super) fn partition_id(
    collection: &Collection,
    partition: Option<&str>,
) -> Result<i64, CliError> {
    let Some(asked) = partition else { return Ok(0) };
    let (name, id) = name_or_id(asked);
    let mut partitions = collection.partitions.iter();
    partitions
        .find(|partition| partition.name == name || (name.is_empty() && partition.id == id))
        .map(|partition| partition.id)
        .ok_or_else(|| {
            CliError::failed(anyhow::anyhow!(
                "collection {} has no partition {asked}",
                collection.name
            ))
            .hint("quorate partitions list shows what there is")
        })
}

async fn create(context: &Context, collection: &str, name: String) -> Result<Answer, CliError> {
    let client = context.client()?;
    let collection = describe(&client, collection).await?;
    let request = CreatePartitionRequest {
        collection_id: collection.id,
        name,
    };
    let reply = client
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { collections_client(leader).create_partition(request).await }
        })
        .await?;
    let partition = reply.partition.unwrap_or_default();
    let verb = if reply.created {
        "created"
    } else {
        "there already is"
    };
    let text = format!(
        "{verb} partition {} with id {}",
        partition.name, partition.id
    );
    let created = Created {
        created: reply.created,
        partition: PartitionView {
            id: partition.id,
            name: partition.name,
            collection_id: collection.id,
            collection: collection.name,
        },
    };
    Answer::new(&created, text)
}

async fn list(context: &Context, collection: &str) -> Result<Answer, CliError> {
    let collection = describe(&context.client()?, collection).await?;
    let partitions: Vec<PartitionView> = collection
        .partitions
        .into_iter()
        .map(|partition| PartitionView {
            id: partition.id,
            name: partition.name,
            collection_id: collection.id,
            collection: collection.name.clone(),
        })
        .collect();
    let columns = [Column::Number("id"), Column::Text("partition")];
    let rows = partitions
        .iter()
        .map(|partition| vec![partition.id.to_string(), partition.name.clone()]);
    let text = table(&columns, rows);
    Answer::new(&partitions, text)
}

async fn drop_one(context: &Context, collection: &str, name: String) -> Result<Answer, CliError> {
    let client = context.client()?;
    let collection = describe(&client, collection).await?;
    let request = DropPartitionRequest {
        collection_id: collection.id,
        name: name.clone(),
    };
    let reply = client
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { collections_client(leader).drop_partition(request).await }
        })
        .await?;
    let text = if reply.dropped {
        format!("dropped partition {name} of {}", collection.name)
    } else {
        format!(
            "{} has no partition {name}; nothing to drop",
            collection.name
        )
    };
    let dropped = Dropped {
        dropped: reply.dropped,
    };
    Answer::new(&dropped, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCluster;

    #[tokio::test]
    async fn a_partition_is_created_listed_and_dropped() {
        let cluster = FakeCluster::start(1).await;
        let context = cluster.context();
        let create = || Command::Create {
            name: "old".to_owned(),
            collection: "docs".to_owned(),
        };
        let first = run(&context, create()).await.unwrap();
        let again = run(&context, create()).await.unwrap();
        assert_eq!(first.json["created"], true);
        assert_eq!(again.json["created"], false);
        assert_eq!(first.json["partition"], again.json["partition"]);
        let list = || Command::List {
            collection: "1".to_owned(),
        };
        let listed = run(&context, list()).await.unwrap();
        assert_eq!(listed.json[1]["name"], "old");

        for there in [true, false] {
            let drop = Command::Drop {
                name: "old".to_owned(),
                collection: "docs".to_owned(),
            };
            let dropped = run(&context, drop).await.unwrap();
            assert_eq!(
                (dropped.exit, &dropped.json["dropped"]),
                (None, &there.into())
            );
        }
        let listed = run(&context, list()).await.unwrap();
        assert_eq!(listed.json.as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_partition_is_found_by_name_or_id() {
        let collection = Collection {
            name: "docs".to_owned(),
            partitions: vec![quorate_rpc::proto::quorate::collection::Partition {
                id: 7,
                name: "p".to_owned(),
            }],
            ..Default::default()
        };
        assert_eq!(partition_id(&collection, None).unwrap(), 0);
        assert_eq!(partition_id(&collection, Some("p")).unwrap(), 7);
        assert_eq!(partition_id(&collection, Some("7")).unwrap(), 7);
        let error = partition_id(&collection, Some("q")).unwrap_err();
        assert!(error.to_string().contains("docs has no partition q"));
    }
}
