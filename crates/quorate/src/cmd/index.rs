//! `quorate index`: create, list and drop indexes.

use std::time::Duration;

use quorate_rpc::proto::milvus::common::{IndexState, KeyValuePair};
use quorate_rpc::proto::milvus::index::{
    CreateIndexRequest, DescribeIndexRequest, DropIndexRequest, IndexInfo,
};
use quorate_rpc::proto::quorate::collection::{Collection, ListCollectionsRequest};
use quorate_rpc::status::{self, Code, checked};
use quorate_rpc::{Client, ClientError, Retry};
use serde::Serialize;
use tokio::time::Instant;

use super::{collections_client, data_coord, describe};
use crate::answer::{Answer, Column, or_dash, table};
use crate::context::Context;
use crate::error::{CliError, Exit};

/// Time between two looks at whether an index is complete.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Time between two lines about what is being waited for.
const NOTICE_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Create an index on a vector field; the same one again is left as it is
    Create(CreateArgs),
    /// List indexes and how far they are built
    List {
        /// Only those of this collection, by name or id
        #[arg(long)]
        collection: Option<String>,
    },
    /// Drop an index; dropping what is not there succeeds
    Drop {
        /// Its name
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        name: Option<String>,
        /// The collection, by name or id
        #[arg(long)]
        collection: String,
        /// Every index of the collection
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// The collection, by name or id
    #[arg(long)]
    collection: String,
    /// The field, by name or id
    #[arg(long)]
    field: String,
    /// Name of the index; that of the field when not given
    #[arg(long, default_value = "")]
    name: String,
    /// HNSW, FLAT or AUTOINDEX
    #[arg(long = "type", default_value = "HNSW", value_name = "TYPE")]
    kind: String,
    /// L2, IP or COSINE
    #[arg(long, default_value = "L2")]
    metric: String,
    /// A parameter of the type, such as M=16 or efConstruction=200
    #[arg(short, long = "param", value_name = "KEY=VALUE", value_parser = pair)]
    params: Vec<(String, String)>,
    /// Wait until every flushed segment has it
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait, in seconds; exit code 1 when it is over
    #[arg(long, default_value_t = 600, value_name = "SECONDS", requires = "wait")]
    wait_timeout: u64,
}

impl CreateArgs {
    /// An index with the defaults of its type.
    pub(crate) fn new(collection: &str, field: &str, kind: &str, metric: &str) -> Self {
        Self {
            collection: collection.to_owned(),
            field: field.to_owned(),
            name: String::new(),
            kind: kind.to_owned(),
            metric: metric.to_owned(),
            params: Vec::new(),
            wait: false,
            wait_timeout: 0,
        }
    }

    /// The same, waited for.
    pub(crate) fn waiting(self, timeout: Duration) -> Self {
        Self {
            wait: true,
            wait_timeout: timeout.as_secs(),
            ..self
        }
    }
}

#[derive(Debug, Serialize)]
struct IndexView {
    collection: String,
    collection_id: i64,
    field_id: i64,
    name: String,
    id: i64,
    params: Vec<(String, String)>,
    state: String,
    indexed_rows: i64,
    total_rows: i64,
    pending_rows: i64,
    fail_reason: String,
}

impl IndexView {
    /// Every row of a flushed segment is in an index file.
    fn is_complete(&self) -> bool {
        self.state == IndexState::Finished.as_str_name() && self.indexed_rows >= self.total_rows
    }

    fn has_failed(&self) -> bool {
        self.state == IndexState::Failed.as_str_name()
    }
}

#[derive(Debug, Serialize)]
struct Created {
    index: IndexView,
    /// Whether all rows are in it; null when not waited for.
    complete: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Dropped {
    dropped: Vec<String>,
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<Answer, CliError> {
    match command {
        Command::Create(args) => create(context, args).await,
        Command::List { collection } => list(context, collection.as_deref()).await,
        Command::Drop {
            name, collection, ..
        } => drop_some(context, &collection, name.unwrap_or_default()).await,
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}

fn pairs_of(pairs: impl IntoIterator<Item = (String, String)>) -> Vec<KeyValuePair> {
    pairs
        .into_iter()
        .map(|(key, value)| KeyValuePair { key, value })
        .collect()
}

/// The field of a collection with this name or id.
fn field_of<'a>(
    collection: &'a Collection,
    asked: &str,
) -> Result<&'a quorate_rpc::proto::milvus::schema::FieldSchema, CliError> {
    let fields = collection.schema.iter().flat_map(|schema| &schema.fields);
    let id = asked.parse::<i64>().ok();
    fields
        .clone()
        .find(|field| field.name == asked || Some(field.field_id) == id)
        .ok_or_else(|| {
            let names: Vec<&str> = fields.map(|field| field.name.as_str()).collect();
            CliError::failed(anyhow::anyhow!(
                "collection {} has no field {asked}",
                collection.name
            ))
            .hint(format!("its fields are {}", names.join(", ")))
        })
}

async fn create(context: &Context, args: CreateArgs) -> Result<Answer, CliError> {
    let client = context.client()?;
    let collection = describe(&client, &args.collection).await?;
    let field = field_of(&collection, &args.field)?;
    let mut params = vec![
        ("index_type".to_owned(), args.kind.clone()),
        ("metric_type".to_owned(), args.metric.clone()),
    ];
    params.extend(args.params.iter().cloned());
    let request = CreateIndexRequest {
        collection_id: collection.id,
        field_id: field.field_id,
        index_name: args.name.clone(),
        type_params: field.type_params.clone(),
        index_params: pairs_of(params.clone()),
        user_index_params: pairs_of(params),
        ..Default::default()
    };
    client
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { checked(data_coord(leader).create_index(request).await?) }
        })
        .await?;
    let index = find(&client, &collection, field.field_id, &args.name).await?;
    let mut created = Created {
        index,
        complete: None,
    };
    if args.wait {
        let timeout = Duration::from_secs(args.wait_timeout);
        wait(&client, &collection, &mut created, timeout).await?;
    }
    let state = match created.complete {
        None => String::new(),
        Some(true) => format!(
            ", complete: {} of {} rows",
            created.index.indexed_rows, created.index.total_rows
        ),
        Some(false) => format!(
            ", NOT complete: {} of {} rows {}",
            created.index.indexed_rows, created.index.total_rows, created.index.fail_reason
        ),
    };
    let text = format!(
        "index {} ({}) on field {} of {}{state}",
        created.index.name, created.index.id, args.field, collection.name
    );
    let well = created.complete != Some(false);
    Ok(Answer::new(&created, text)?.unless(well, Exit::Failed))
}

async fn find(
    client: &Client,
    collection: &Collection,
    field: i64,
    name: &str,
) -> Result<IndexView, CliError> {
    let indexes = describe_indexes(client, collection, name).await?;
    indexes
        .into_iter()
        .find(|index| index.field_id == field)
        .ok_or_else(|| {
            CliError::failed(anyhow::anyhow!(
                "the index was created and is not there any more: somebody dropped it"
            ))
        })
}

async fn wait(
    client: &Client,
    collection: &Collection,
    created: &mut Created,
    timeout: Duration,
) -> Result<(), CliError> {
    let started = Instant::now();
    let mut notice = NOTICE_INTERVAL;
    loop {
        let (field, name) = (created.index.field_id, created.index.name.clone());
        created.index = find(client, collection, field, &name).await?;
        created.complete = Some(created.index.is_complete());
        let over = created.index.is_complete() || created.index.has_failed();
        if over || started.elapsed() >= timeout {
            return Ok(());
        }
        if started.elapsed() >= notice {
            eprintln!(
                "{} of {} rows are indexed after {:.0} s …",
                created.index.indexed_rows,
                created.index.total_rows,
                started.elapsed().as_secs_f64()
            );
            notice += NOTICE_INTERVAL;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The indexes of a collection; with a name, only that one.
async fn describe_indexes(
    client: &Client,
    collection: &Collection,
    name: &str,
) -> Result<Vec<IndexView>, CliError> {
    let request = DescribeIndexRequest {
        collection_id: collection.id,
        index_name: name.to_owned(),
        ..Default::default()
    };
    let reply = client
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { checked(data_coord(leader).describe_index(request).await?) }
        })
        .await;
    match reply {
        Ok(reply) => Ok(reply
            .index_infos
            .into_iter()
            .map(|info| view_of(&collection.name, info))
            .collect()),
        // Milvus's way to say that there are none.
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a call was refused because there is no such index.
pub(super) fn is_absent(error: &ClientError) -> bool {
    let refusal = error.status().and_then(status::from_grpc);
    refusal.is_some_and(|refusal| refusal.is(Code::IndexNotFound))
}

async fn list(context: &Context, collection: Option<&str>) -> Result<Answer, CliError> {
    let client = context.client()?;
    let collections = match collection {
        Some(name) => vec![describe(&client, name).await?],
        None => {
            let call = client.call(Retry::Idempotent, |leader| async move {
                collections_client(leader)
                    .list_collections(ListCollectionsRequest {})
                    .await
            });
            call.await?.collections
        }
    };
    let mut indexes = Vec::new();
    for collection in &collections {
        indexes.extend(describe_indexes(&client, collection, "").await?);
    }
    let text = if indexes.is_empty() {
        "there are no indexes".to_owned()
    } else {
        text_of(&indexes)
    };
    Answer::new(&indexes, text)
}

async fn drop_some(context: &Context, collection: &str, name: String) -> Result<Answer, CliError> {
    let client = context.client()?;
    let collection = describe(&client, collection).await?;
    let there = describe_indexes(&client, &collection, &name).await?;
    let request = DropIndexRequest {
        collection_id: collection.id,
        drop_all: name.is_empty(),
        index_name: name,
        ..Default::default()
    };
    client
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { checked(data_coord(leader).drop_index(request).await?) }
        })
        .await?;
    let dropped: Vec<String> = there.into_iter().map(|index| index.name).collect();
    let text = if dropped.is_empty() {
        format!("{} has no such index; nothing to drop", collection.name)
    } else {
        format!("dropped {} of {}", dropped.join(", "), collection.name)
    };
    Answer::new(&Dropped { dropped }, text)
}

fn view_of(collection: &str, info: IndexInfo) -> IndexView {
    IndexView {
        collection: collection.to_owned(),
        collection_id: info.collection_id,
        field_id: info.field_id,
        state: IndexState::try_from(info.state)
            .map_or("unknown", |state| state.as_str_name())
            .to_owned(),
        name: info.index_name,
        id: info.index_id,
        params: info
            .index_params
            .into_iter()
            .map(|pair| (pair.key, pair.value))
            .collect(),
        indexed_rows: info.indexed_rows,
        total_rows: info.total_rows,
        pending_rows: info.pending_index_rows,
        fail_reason: info.index_state_fail_reason,
    }
}

fn text_of(indexes: &[IndexView]) -> String {
    let columns = [
        Column::Number("id"),
        Column::Text("collection"),
        Column::Text("index"),
        Column::Number("field"),
        Column::Text("parameters"),
        Column::Text("state"),
        Column::Number("indexed rows"),
        Column::Number("of"),
        Column::Text("why it failed"),
    ];
    let rows = indexes.iter().map(|index| {
        let params = index
            .params
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        vec![
            index.id.to_string(),
            index.collection.clone(),
            index.name.clone(),
            index.field_id.to_string(),
            params.collect::<Vec<_>>().join(", "),
            index.state.clone(),
            index.indexed_rows.to_string(),
            index.total_rows.to_string(),
            or_dash(&index.fail_reason),
        ]
    });
    table(&columns, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCluster;

    fn create() -> Command {
        let mut args = CreateArgs::new("docs", "v", "HNSW", "L2").waiting(Duration::from_secs(60));
        args.params = vec![pair("M=16").unwrap()];
        Command::Create(args)
    }

    #[tokio::test]
    async fn an_index_is_created_waited_for_listed_and_dropped() {
        let cluster = FakeCluster::start(1).await;
        cluster.index_completes_at_poll(3);
        let context = cluster.context();
        let none = run(&context, Command::List { collection: None })
            .await
            .unwrap();
        assert_eq!(none.text, "there are no indexes");

        let created = run(&context, create()).await.unwrap();
        assert_eq!(
            (created.exit, &created.json["complete"]),
            (None, &true.into())
        );
        assert_eq!(created.json["index"]["name"], "v");
        let listed = run(&context, Command::List { collection: None })
            .await
            .unwrap();
        assert_eq!(listed.json[0]["indexed_rows"], 10);
        assert!(listed.text.contains("M=16"), "{}", listed.text);

        for dropped in [1, 0] {
            let drop = Command::Drop {
                name: Some("v".to_owned()),
                collection: "docs".to_owned(),
                all: false,
            };
            let answer = run(&context, drop).await.unwrap();
            assert_eq!(answer.exit, None);
            assert_eq!(answer.json["dropped"].as_array().unwrap().len(), dropped);
        }
    }

    #[tokio::test]
    async fn an_unknown_field_is_named_with_those_there_are() {
        let cluster = FakeCluster::start(1).await;
        let args = CreateArgs::new("docs", "w", "HNSW", "L2");
        let error = run(&cluster.context(), Command::Create(args))
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("no field w") && text.contains("its fields are v"),
            "{text}"
        );
    }

    #[test]
    fn a_parameter_is_a_key_and_a_value() {
        assert_eq!(pair("M=16"), Ok(("M".to_owned(), "16".to_owned())));
        for wrong in ["M", "=1", "M="] {
            assert!(pair(wrong).is_err(), "{wrong}");
        }
    }
}
