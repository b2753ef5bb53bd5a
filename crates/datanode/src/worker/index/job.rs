//! One index build, from insert logs to index file.

use std::sync::Arc;

use quorate_binlog::{BinlogError, ColumnData, IndexPath, LogPath, LogStore};
use quorate_index::{BuiltIndex, IndexError, IndexParams};
use quorate_rpc::proto::milvus::common::KeyValuePair;
use quorate_rpc::proto::milvus::index::CreateJobRequest;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// An index in the object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    /// Location within the store.
    pub location: String,
    pub rows: u64,
    pub serialized_bytes: u64,
    pub memory_bytes: u64,
}

/// Why there is no index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// Another attempt would end the same way.
    Final(String),
    /// What is missing may come back: the object store, space in the temporary folder.
    Again(String),
}

impl Failure {
    pub fn reason(&self) -> &str {
        match self {
            Failure::Final(reason) | Failure::Again(reason) => reason,
        }
    }
}

/// A store that does not answer, or has lost an object, may be repaired; what a file says will stay.
impl From<BinlogError> for Failure {
    fn from(error: BinlogError) -> Failure {
        let reason = with_sources(&error);
        match error {
            BinlogError::Missing { .. }
            | BinlogError::Store { .. }
            | BinlogError::Deadline { .. } => Failure::Again(reason),
            _ => Failure::Final(reason),
        }
    }
}

impl From<IndexError> for Failure {
    fn from(error: IndexError) -> Failure {
        let reason = with_sources(&error);
        match error {
            IndexError::Scratch { .. } | IndexError::Cancelled { .. } => Failure::Again(reason),
            _ => Failure::Final(reason),
        }
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Waits for its turn, then reads, builds and stores.
pub(super) async fn work(
    store: &LogStore,
    permits: &Arc<Semaphore>,
    request: &CreateJobRequest,
    path: &IndexPath,
    cancel: &CancellationToken,
) -> Result<Stored, Failure> {
    let params = params(request)?;
    let logs = logs(request)?;
    let Ok(permit) = Arc::clone(permits).acquire_owned().await else {
        return Err(Failure::Again("the data node is stopping".to_owned()));
    };
    let (dim, vectors) = read(store, request, &logs).await?;
    let (target, cancel) = (path.clone(), cancel.clone());
    let building = tokio::task::spawn_blocking(move || {
        let built =
            quorate_index::build(&target, &params, dim, &vectors, &|| cancel.is_cancelled());
        // Handed back so that a cancelled build holds its place until it has really ended.
        (built, permit)
    });
    let (built, _permit) = building
        .await
        .map_err(|_| Failure::Final(format!("the build of index {path} has crashed")))?;
    let BuiltIndex {
        bytes,
        rows,
        memory_bytes,
    } = built?;
    store.put_index(path, &bytes).await?;
    Ok(Stored {
        location: path.under(store.root()).to_string(),
        rows,
        serialized_bytes: bytes.len() as u64,
        memory_bytes,
    })
}

fn params(request: &CreateJobRequest) -> Result<IndexParams, Failure> {
    fn pairs(pairs: &[KeyValuePair]) -> impl Iterator<Item = (&str, &str)> {
        pairs
            .iter()
            .map(|pair| (pair.key.as_str(), pair.value.as_str()))
    }
    let params = IndexParams::parse(pairs(&request.type_params), pairs(&request.index_params))
        .map_err(|error| Failure::Final(error.to_string()))?;
    match params.dim {
        Some(dim) if request.dim != 0 && i64::from(dim) != request.dim => {
            Err(Failure::Final(format!(
                "the request says dimension {}, its parameters {dim}",
                request.dim
            )))
        }
        _ => Ok(params),
    }
}

/// The insert logs to read, in the order of their ids.
fn logs(request: &CreateJobRequest) -> Result<Vec<LogPath>, Failure> {
    let wrong = |reason: String| Failure::Final(reason);
    let mut logs = Vec::with_capacity(request.data_paths.len());
    for text in &request.data_paths {
        let path = LogPath::parse(text).map_err(|error| wrong(error.to_string()))?;
        let found = (
            path.kind(),
            path.collection(),
            path.partition(),
            path.segment(),
            path.field(),
        );
        let expected = (
            "insert_log",
            request.collection_id,
            request.partition_id,
            request.segment_id,
            Some(request.field_id),
        );
        if found != expected {
            return Err(wrong(format!(
                "{text} is no insert log of field {} of segment {} in partition {} of collection {}",
                request.field_id, request.segment_id, request.partition_id, request.collection_id
            )));
        }
        logs.push(path);
    }
    logs.sort_unstable_by_key(LogPath::log_id);
    if let Some(pair) = logs.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(wrong(format!("insert log {} is named twice", pair[0])));
    }
    if logs.is_empty() {
        return Err(wrong("the request names no insert logs".to_owned()));
    }
    Ok(logs)
}

/// Dimension and vectors of all rows, in order.
async fn read(
    store: &LogStore,
    request: &CreateJobRequest,
    logs: &[LogPath],
) -> Result<(u32, Vec<f32>), Failure> {
    let mut all: Option<(u32, Vec<f32>)> = None;
    for path in logs {
        let column = store.read_insert(path).await?.column;
        let kind = column.kind();
        let ColumnData::FloatVector { dim, data } = column else {
            return Err(Failure::Final(format!(
                "{path} holds values of type {}; only FloatVector can be indexed",
                kind.name()
            )));
        };
        match &mut all {
            None => all = Some((dim, data)),
            Some((expected, values)) if *expected == dim => values.extend(data),
            Some((expected, _)) => {
                return Err(Failure::Final(format!(
                    "{path} holds vectors of dimension {dim}, earlier logs of {expected}"
                )));
            }
        }
    }
    let (dim, values) = all.unwrap_or_default();
    let rows = values.len() / (dim as usize).max(1);
    if rows as i64 != request.num_rows {
        return Err(Failure::Final(format!(
            "the logs of segment {} have {rows} rows, the request says {}",
            request.segment_id, request.num_rows
        )));
    }
    if request.dim != 0 && request.dim != i64::from(dim) {
        return Err(Failure::Final(format!(
            "the vectors of segment {} have dimension {dim}, the request says {}",
            request.segment_id, request.dim
        )));
    }
    Ok((dim, values))
}
