//! `quorate search`: nearest neighbours from the index files in the object store, and how many of
//! the true ones were found.
//!
//! The segments and index files are those the coordinator names; rows that are deleted do not
//! count. A segment without an index file is searched row by row, and said so.

mod neighbours;
mod rows;

use std::collections::BTreeMap;
use std::path::PathBuf;

use quorate_binlog::{Field, FieldType, IndexPath};
use quorate_index::{K_MAX, Metric};
use quorate_ingest::View;
use quorate_rpc::proto::milvus::index::{GetIndexInfoRequest, IndexFilePathInfo};
use quorate_rpc::status::checked;
use quorate_rpc::{Client, Retry};
use serde::Serialize;

use super::index::is_absent;
use super::{collection_error, data_coord};
use crate::answer::{Answer, Column, Output, pairs, table};
use crate::context::Context;
use crate::error::CliError;
use neighbours::Found;

/// Neighbours of a query named in a table.
const NAMED_MAX: usize = 5;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the collection
    #[arg(long)]
    pub(crate) collection: String,
    /// Parquet file with the vectors to find neighbours of, in a column named as the field
    #[arg(long, value_name = "FILE")]
    pub(crate) query: PathBuf,
    /// Neighbours of each vector
    #[arg(long, default_value_t = 10, value_name = "K",
          value_parser = clap::value_parser!(u32).range(1..=K_MAX as i64))]
    pub(crate) top: u32,
    /// So many vectors, the first of the file
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) queries: u32,
    /// Candidates a graph looks at; more find more of the true neighbours and take longer
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) ef: u32,
    /// The vector field, by name; the first with an index, else the first, when not given
    #[arg(long)]
    pub(crate) field: Option<String>,
    /// How distances are measured where there is no index to say so: L2, IP or COSINE
    #[arg(long, default_value = "L2")]
    pub(crate) metric: String,
    /// Compare with every row instead of using the index files
    #[arg(long)]
    pub(crate) brute_force: bool,
    /// Also compare with every row, and say what part of the true neighbours was found; always so
    /// when the answer is a table
    #[arg(long)]
    pub(crate) recall: bool,
    /// Where the data nodes put log files: a path, a file:// or an s3:// URL
    #[arg(long, env = "QUORATE_OBJECT_STORE", default_value = "data/objects")]
    pub(crate) object_store: String,
}

impl Args {
    /// Recall of the index of a collection on the first rows of a file.
    pub(crate) fn recall_of(collection: &str, query: PathBuf, object_store: String) -> Self {
        Self {
            collection: collection.to_owned(),
            query,
            top: 10,
            queries: 100,
            ef: 64,
            field: None,
            metric: Metric::L2.name().to_owned(),
            brute_force: false,
            recall: true,
            object_store,
        }
    }
}

#[derive(Debug, Serialize)]
struct SearchView {
    field: String,
    metric: &'static str,
    top: u32,
    /// Searched by their index files.
    segments_indexed: usize,
    /// Searched row by row, because they have no index file or because it was asked for.
    segments_compared: usize,
    rows: u64,
    rows_deleted: u64,
    /// Part of the true neighbours that was found, from 0 to 1; null when not asked for.
    recall: Option<f64>,
    queries: Vec<QueryView>,
}

#[derive(Debug, Serialize)]
struct QueryView {
    key: String,
    recall: Option<f64>,
    neighbours: Vec<NeighbourView>,
}

#[derive(Debug, Serialize)]
struct NeighbourView {
    key: String,
    segment: i64,
    distance: f32,
}

/// What is searched how.
struct Plan {
    field: Field,
    metric: Metric,
    /// Index files by segment.
    indexes: BTreeMap<i64, IndexPath>,
}

pub(crate) async fn run(context: &Context, args: Args, output: Output) -> Result<Answer, CliError> {
    let client = context.client()?;
    let view = View::fetch(&client, &args.collection)
        .await
        .map_err(collection_error)?;
    let store = quorate_ingest::open_store(&args.object_store).map_err(CliError::failed)?;
    let mut plan = plan(&client, &view, &args).await?;
    if args.brute_force {
        plan.indexes.clear();
    }
    let file = args.query.as_path();
    let queries = quorate_ingest::file_vectors(file, &plan.field.name, args.queries.into())
        .await
        .map_err(CliError::failed)?;
    if queries.is_empty() {
        return Err(CliError::failed(anyhow::anyhow!(
            "{} has no rows to look for",
            file.display()
        )));
    }
    let recall = args.recall || output == Output::Table;
    let (keys, vectors): (Vec<_>, Vec<_>) = queries.into_iter().unzip();
    let search = neighbours::Search {
        field: &plan.field,
        metric: plan.metric,
        indexes: &plan.indexes,
        k: args.top as usize,
        ef: args.ef as usize,
        recall,
    };
    let found = neighbours::search(&store, &view, &search, vectors).await?;
    let view = view_of(&plan, args.top, &keys, found);
    let text = text_of(&view);
    Answer::new(&view, text)
}

/// Which field to search, and the index files over it.
async fn plan(client: &Client, view: &View, args: &Args) -> Result<Plan, CliError> {
    let infos = index_infos(client, view).await?;
    let fields = view.schema().fields().iter();
    let mut vectors = fields.filter(|field| matches!(field.kind, FieldType::FloatVector { .. }));
    let indexed = |field: &&Field| infos.iter().any(|info| info.field_id == field.id);
    let field = match &args.field {
        Some(name) => vectors.find(|field| field.name == *name),
        None => vectors.clone().find(indexed).or_else(|| vectors.next()),
    };
    let field = field.cloned().ok_or_else(|| {
        let asked = args.field.as_deref().unwrap_or("at all");
        CliError::failed(anyhow::anyhow!(
            "collection {} has no field {asked} of float vectors",
            args.collection
        ))
    })?;
    let mut metric = metric_of(&args.metric)?;
    let mut indexes = BTreeMap::new();
    for info in infos.iter().filter(|info| info.field_id == field.id) {
        let pairs = info.index_params.iter();
        for pair in pairs.filter(|pair| pair.key == "metric_type") {
            metric = metric_of(&pair.value)?;
        }
        // Without files the segment was too small for an index; its rows are compared.
        let Some(path) = info.index_file_paths.first() else {
            continue;
        };
        let path = IndexPath::parse(path).map_err(CliError::failed)?;
        indexes.insert(info.segment_id, path);
    }
    Ok(Plan {
        field,
        metric,
        indexes,
    })
}

fn metric_of(name: &str) -> Result<Metric, CliError> {
    Metric::from_name(name)
        .ok_or_else(|| CliError::usage(format!("there is no metric {name}; take L2, IP or COSINE")))
}

/// Complete index files of the segments of a view.
async fn index_infos(client: &Client, view: &View) -> Result<Vec<IndexFilePathInfo>, CliError> {
    let request = GetIndexInfoRequest {
        collection_id: view.collection().id,
        segment_i_ds: view.segments().iter().map(|segment| segment.id).collect(),
        ..Default::default()
    };
    let reply = client
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { checked(data_coord(leader).get_index_infos(request).await?) }
        })
        .await;
    match reply {
        Ok(reply) => Ok(reply
            .segment_info
            .into_values()
            .filter(|segment| segment.enable_index)
            .flat_map(|segment| segment.index_infos)
            .collect()),
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

fn view_of(plan: &Plan, top: u32, keys: &[quorate_ingest::Key], found: Found) -> SearchView {
    let recalls: Vec<f64> = found
        .queries
        .iter()
        .filter_map(|query| query.recall)
        .collect();
    let recall = (!recalls.is_empty()).then(|| recalls.iter().sum::<f64>() / recalls.len() as f64);
    let text = super::verify::key_text;
    SearchView {
        field: plan.field.name.clone(),
        metric: plan.metric.name(),
        top,
        segments_indexed: found.segments_indexed,
        segments_compared: found.segments_compared,
        rows: found.rows,
        rows_deleted: found.rows_deleted,
        recall,
        queries: keys
            .iter()
            .zip(found.queries)
            .map(|(key, query)| QueryView {
                key: text(key),
                recall: query.recall,
                neighbours: query
                    .neighbours
                    .iter()
                    .map(|neighbour| NeighbourView {
                        key: text(&neighbour.key),
                        segment: neighbour.segment,
                        distance: neighbour.distance,
                    })
                    .collect(),
            })
            .collect(),
    }
}

fn text_of(view: &SearchView) -> String {
    let recall = format!("recall@{}", view.top);
    let columns = [
        Column::Text("query"),
        Column::Text("nearest (distance)"),
        Column::Number("recall"),
    ];
    let rows = view.queries.iter().map(|query| {
        let mut nearest: Vec<String> = query
            .neighbours
            .iter()
            .take(NAMED_MAX)
            .map(|neighbour| format!("{} ({:.4})", neighbour.key, neighbour.distance))
            .collect();
        if query.neighbours.len() > NAMED_MAX {
            nearest.push("…".to_owned());
        }
        vec![
            query.key.clone(),
            nearest.join("  "),
            query
                .recall
                .map_or(String::new(), |recall| format!("{recall:.2}")),
        ]
    });
    let compared = match view.segments_compared {
        0 => String::new(),
        count => format!(", {count} without an index file, row by row"),
    };
    let mut summary = vec![
        ("field", format!("{}, {}", view.field, view.metric)),
        (
            "segments",
            format!("{} by their index files{compared}", view.segments_indexed),
        ),
        (
            "rows",
            format!("{}, {} more are deleted", view.rows, view.rows_deleted),
        ),
    ];
    if let Some(value) = view.recall {
        summary.push((
            recall.as_str(),
            format!("{value:.4} of what every row compared gives"),
        ));
    }
    format!("{}\n\n{}", table(&columns, rows), pairs(summary))
}
