//! Building an index.

use bytes::Bytes;
use quorate_binlog::IndexPath;
use quorate_binlog::store::MAX_INDEX_BYTES;

use crate::error::IndexError;
use crate::file::{self, HEADER_BYTES, Header, Kind, ROWS_MAX};
use crate::graph::{self, Graph, Source};
use crate::params::{DEFAULT_EF_CONSTRUCTION, DEFAULT_M, IndexParams, IndexType};
use crate::space::{Space, stored_dim};

/// Name of the file an index is stored as.
pub const INDEX_FILE: &str = "index";
/// AUTOINDEX keeps fewer rows as they are: comparing all of them is exact and as fast.
const AUTO_GRAPH_ROWS: u64 = 1024;
/// About what a row costs in memory besides its vector and its neighbours: a list for each layer.
const ROW_OVERHEAD_BYTES: u64 = 512;
/// About what a neighbour costs.
const NEIGHBOUR_BYTES: u64 = 48;

/// An index ready to be stored.
#[derive(Debug, Clone)]
pub struct BuiltIndex {
    /// The file.
    pub bytes: Bytes,
    /// Rows it holds.
    pub rows: u64,
    /// About what it takes in memory once it is loaded.
    pub memory_bytes: u64,
}

/// Builds the index to be stored at `path` over `vectors`, `dim` values a row, rows in the order
/// of the segment. Takes long and all threads: not to be called from a thread that serves
/// requests. `cancelled` is asked now and then.
pub fn build(
    path: &IndexPath,
    params: &IndexParams,
    dim: u32,
    vectors: &[f32],
    cancelled: &dyn Fn() -> bool,
) -> Result<BuiltIndex, IndexError> {
    let wrong = |reason: String| IndexError::build(path, reason);
    if dim == 0 || vectors.is_empty() || !vectors.len().is_multiple_of(dim as usize) {
        return Err(wrong(format!(
            "{} values are no rows of dimension {dim}",
            vectors.len()
        )));
    }
    if params.dim.is_some_and(|expected| expected != dim) {
        return Err(wrong(format!(
            "its vectors have dimension {dim}, its parameters say {}",
            params.dim.unwrap_or_default()
        )));
    }
    let rows = (vectors.len() / dim as usize) as u64;
    let stored_dim = stored_dim(params.metric, dim as usize);
    let vector_bytes = graph::vector_file_bytes(rows, stored_dim);
    if rows > ROWS_MAX || vector_bytes > MAX_INDEX_BYTES {
        return Err(wrong(format!(
            "{rows} rows of dimension {dim} are too many for one index"
        )));
    }
    let header = Header {
        kind: kind(params.index_type, rows),
        metric: params.metric,
        dim,
        rows,
    };
    let space = Space::of(params.metric, dim as usize, vectors).map_err(wrong)?;
    let source = Source {
        space: &space,
        dim: dim as usize,
        vectors,
    };
    let (graph_bytes, body) = match header.kind {
        Kind::Flat => (0, flat(&source)),
        Kind::Hnsw { m, ef_construction } => {
            let graph = Graph::build(&source, m, ef_construction, cancelled).ok_or_else(|| {
                IndexError::Cancelled {
                    path: path.to_string(),
                }
            })?;
            graph.dump(path)?
        }
    };
    Ok(BuiltIndex {
        bytes: file::seal(path, &header, graph_bytes, body)?,
        rows,
        memory_bytes: memory_bytes(&header),
    })
}

fn kind(index_type: IndexType, rows: u64) -> Kind {
    match index_type {
        IndexType::Hnsw { m, ef_construction } => Kind::Hnsw { m, ef_construction },
        IndexType::Auto if rows >= AUTO_GRAPH_ROWS => Kind::Hnsw {
            m: DEFAULT_M,
            ef_construction: DEFAULT_EF_CONSTRUCTION,
        },
        IndexType::Flat | IndexType::Auto => Kind::Flat,
    }
}

fn flat(source: &Source<'_>) -> Vec<u8> {
    let mut body = vec![0; HEADER_BYTES];
    let mut stored = Vec::new();
    for vector in source.vectors.chunks_exact(source.dim) {
        stored.clear();
        source.space.push(vector, &mut stored);
        body.extend(stored.iter().flat_map(|value| value.to_le_bytes()));
    }
    body
}

fn memory_bytes(header: &Header) -> u64 {
    let vector = 4 * stored_dim(header.metric, header.dim as usize) as u64;
    let links = match header.kind {
        Kind::Flat => 0,
        Kind::Hnsw { m, .. } => ROW_OVERHEAD_BYTES + 2 * u64::from(m) * NEIGHBOUR_BYTES,
    };
    header.rows * (vector + links)
}
