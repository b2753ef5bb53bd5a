//! `quorate collections`: create, list, show and drop.

mod field;

use quorate_rpc::Retry;
use quorate_rpc::proto::milvus::schema::{CollectionSchema, DataType, FieldSchema};
use quorate_rpc::proto::quorate::collection::{
    Collection, CreateCollectionRequest, DropCollectionRequest, ListCollectionsRequest,
};
use serde::Serialize;

use super::{collections_client, describe, name_or_id};
use crate::answer::{Answer, Column, or_dash, pairs, table, time};
use crate::context::Context;
use crate::error::CliError;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Create a collection; one that exists with the same definition is left as it is
    Create {
        /// Its name
        name: String,
        /// A field: NAME:TYPE, followed by options such as primary, max_length=N, dim=N, auto_id
        ///
        /// For example id:int64:primary, title:varchar:max_length=200, embedding:float_vector:dim=384.
        /// Types: bool, int8, int16, int32, int64, float, double, varchar, json, float_vector,
        /// binary_vector, float16_vector, bfloat16_vector.
        #[arg(
            long = "field",
            required = true,
            value_name = "FIELD",
            value_parser = field::parse,
            verbatim_doc_comment
        )]
        fields: Vec<FieldSchema>,
        /// Number of channels
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
        channels: u32,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List collections
    List,
    /// Show one collection with its fields, partitions and channels
    Show {
        /// Name or id
        collection: String,
    },
    /// Drop a collection with all its rows; dropping what is not there succeeds
    Drop {
        /// Name or id
        collection: String,
    },
}

#[derive(Debug, Serialize)]
struct CollectionView {
    id: i64,
    name: String,
    description: String,
    created_at: u64,
    rows: i64,
    segments: i64,
    channels: Vec<String>,
    partitions: Vec<PartitionView>,
    fields: Vec<FieldView>,
}

#[derive(Debug, Serialize)]
struct PartitionView {
    id: i64,
    name: String,
}

#[derive(Debug, Serialize)]
struct FieldView {
    id: i64,
    name: String,
    data_type: String,
    primary_key: bool,
    auto_id: bool,
    params: Vec<(String, String)>,
}

#[derive(Debug, Serialize)]
struct Created {
    created: bool,
    collection: CollectionView,
}

#[derive(Debug, Serialize)]
struct Dropped {
    dropped: bool,
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<Answer, CliError> {
    match command {
        Command::Create {
            name,
            fields,
            channels,
            description,
        } => create(context, name, fields, channels, description).await,
        Command::List => list(context).await,
        Command::Show { collection } => {
            let collection = describe(&context.client()?, &collection).await?;
            let view = view_of(collection);
            let text = text_of(&view);
            Answer::new(&view, text)
        }
        Command::Drop { collection } => drop_one(context, &collection).await,
    }
}

async fn create(
    context: &Context,
    name: String,
    fields: Vec<FieldSchema>,
    channels: u32,
    description: String,
) -> Result<Answer, CliError> {
    let request = CreateCollectionRequest {
        schema: Some(CollectionSchema {
            name: name.clone(),
            description,
            auto_id: fields.iter().any(|field| field.auto_id),
            fields,
            ..Default::default()
        }),
        name,
        shards: channels,
    };
    let reply = context
        .client()?
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { collections_client(leader).create_collection(request).await }
        })
        .await?;
    let collection = view_of(reply.collection.unwrap_or_default());
    let verb = if reply.created {
        "created"
    } else {
        "there already is"
    };
    let text = format!(
        "{verb} collection {} with id {}",
        collection.name, collection.id
    );
    let created = Created {
        created: reply.created,
        collection,
    };
    Answer::new(&created, text)
}

async fn list(context: &Context) -> Result<Answer, CliError> {
    let reply = context
        .client()?
        .call(Retry::Idempotent, |leader| async move {
            collections_client(leader)
                .list_collections(ListCollectionsRequest {})
                .await
        })
        .await?;
    let collections: Vec<CollectionView> = reply.collections.into_iter().map(view_of).collect();
    let columns = [
        Column::Number("id"),
        Column::Text("collection"),
        Column::Number("rows"),
        Column::Number("segments"),
        Column::Number("channels"),
        Column::Number("partitions"),
        Column::Number("fields"),
        Column::Text("created"),
    ];
    let rows = collections.iter().map(|collection| {
        vec![
            collection.id.to_string(),
            collection.name.clone(),
            collection.rows.to_string(),
            collection.segments.to_string(),
            collection.channels.len().to_string(),
            collection.partitions.len().to_string(),
            collection.fields.len().to_string(),
            time(collection.created_at),
        ]
    });
    let text = table(&columns, rows);
    Answer::new(&collections, text)
}

async fn drop_one(context: &Context, collection: &str) -> Result<Answer, CliError> {
    let (name, id) = name_or_id(collection);
    let request = DropCollectionRequest { name, id };
    let reply = context
        .client()?
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { collections_client(leader).drop_collection(request).await }
        })
        .await?;
    let text = if reply.dropped {
        format!("dropped collection {collection}")
    } else {
        format!("there is no collection {collection}; nothing to drop")
    };
    let dropped = Dropped {
        dropped: reply.dropped,
    };
    Answer::new(&dropped, text)
}

fn view_of(collection: Collection) -> CollectionView {
    let schema = collection.schema.unwrap_or_default();
    CollectionView {
        id: collection.id,
        name: collection.name,
        description: schema.description,
        created_at: collection.created_at,
        rows: collection.rows,
        segments: collection.segments,
        channels: collection.channels,
        partitions: collection
            .partitions
            .into_iter()
            .map(|partition| PartitionView {
                id: partition.id,
                name: partition.name,
            })
            .collect(),
        fields: schema.fields.into_iter().map(field_view).collect(),
    }
}

fn field_view(field: FieldSchema) -> FieldView {
    FieldView {
        id: field.field_id,
        data_type: DataType::try_from(field.data_type).map_or_else(
            |_| field.data_type.to_string(),
            |t| t.as_str_name().to_owned(),
        ),
        primary_key: field.is_primary_key,
        auto_id: field.auto_id,
        params: field
            .type_params
            .into_iter()
            .map(|pair| (pair.key, pair.value))
            .collect(),
        name: field.name,
    }
}

fn text_of(view: &CollectionView) -> String {
    let partitions: Vec<String> = view
        .partitions
        .iter()
        .map(|partition| format!("{} ({})", partition.name, partition.id))
        .collect();
    let summary = pairs([
        ("collection", format!("{} ({})", view.name, view.id)),
        ("description", or_dash(&view.description)),
        ("created", time(view.created_at)),
        ("rows", view.rows.to_string()),
        ("segments", view.segments.to_string()),
        ("partitions", or_dash(partitions.join(", "))),
        ("channels", or_dash(view.channels.join(", "))),
    ]);
    let columns = [
        Column::Number("field"),
        Column::Text("name"),
        Column::Text("type"),
        Column::Text("options"),
    ];
    let rows = view.fields.iter().map(|field| {
        let mut options = Vec::new();
        if field.primary_key {
            options.push("primary".to_owned());
        }
        if field.auto_id {
            options.push("auto_id".to_owned());
        }
        options.extend(
            field
                .params
                .iter()
                .map(|(key, value)| format!("{key}={value}")),
        );
        vec![
            field.id.to_string(),
            field.name.clone(),
            field.data_type.clone(),
            options.join(", "),
        ]
    });
    format!("{summary}\n\n{}", table(&columns, rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCluster;

    #[tokio::test]
    async fn a_collection_is_created_shown_and_dropped() {
        let cluster = FakeCluster::start(1).await;
        let context = cluster.context();
        let create = || Command::Create {
            name: "books".to_owned(),
            fields: vec![
                field::parse("id:int64:primary").unwrap(),
                field::parse("v:float_vector:dim=4").unwrap(),
            ],
            channels: 3,
            description: String::new(),
        };
        let answer = run(&context, create()).await.unwrap();
        assert_eq!(answer.json["created"], true);
        let again = run(&context, create()).await.unwrap();
        assert_eq!((again.exit, &again.json["created"]), (None, &false.into()));

        let id = answer.json["collection"]["id"].as_i64().unwrap();
        for key in ["books".to_owned(), id.to_string()] {
            let show = Command::Show { collection: key };
            let shown = run(&context, show).await.unwrap();
            assert_eq!(shown.json["channels"].as_array().unwrap().len(), 3);
            assert_eq!(shown.json["fields"][1]["data_type"], "FloatVector");
            assert!(shown.text.contains("dim=4"));
        }
        let listed = run(&context, Command::List).await.unwrap();
        assert_eq!(listed.json.as_array().unwrap().len(), 2);

        let drop = |name: &str| Command::Drop {
            collection: name.to_owned(),
        };
        let dropped = run(&context, drop("books")).await.unwrap();
        assert_eq!(dropped.json["dropped"], true);
        let nothing = run(&context, drop("books")).await.unwrap();
        assert_eq!(
            (nothing.exit, &nothing.json["dropped"]),
            (None, &false.into())
        );
    }
}
