//! Reading an index back, and searching it.

use bytes::Bytes;
use quorate_binlog::IndexPath;

use crate::error::IndexError;
use crate::file::{self, Header, Kind};
use crate::graph::{Dump, Graph};
use crate::metric::Metric;
use crate::search::{Hit, nearest};
use crate::space::{self, stored_dim};

/// Most neighbours one search answers, as in Milvus.
pub const K_MAX: usize = 16_384;

/// An index file whose checksums hold. What it is loaded from lies in a temporary folder as long
/// as this lives.
pub struct IndexFile {
    path: IndexPath,
    header: Header,
    content: Content,
}

enum Content {
    Flat(Bytes),
    Graph(Box<Dump>),
}

/// An index that can be searched.
pub struct Index<'a> {
    path: &'a IndexPath,
    header: Header,
    vectors: Vectors<'a>,
}

enum Vectors<'a> {
    Flat(Vec<f32>),
    Graph(Graph<'a>),
}

impl IndexFile {
    /// Checks and unpacks an object that was found at `path`. Blocks: reads and writes files.
    pub fn open(path: &IndexPath, bytes: &Bytes) -> Result<IndexFile, IndexError> {
        let parts = file::open(path, bytes)?;
        let header = parts.header;
        let stored_dim = stored_dim(header.metric, header.dim as usize);
        let content = match header.kind {
            Kind::Flat => {
                let expected = u128::from(header.rows) * 4 * stored_dim as u128;
                if parts.vectors.len() as u128 != expected || !parts.graph.is_empty() {
                    let reason = "its vectors are not those its header describes";
                    return Err(IndexError::file(path, reason));
                }
                Content::Flat(parts.vectors)
            }
            Kind::Hnsw { .. } => {
                let dump = (&parts.graph[..], &parts.vectors[..]);
                let dump = Dump::unpack(path, dump, header.rows, stored_dim)?;
                Content::Graph(Box::new(dump))
            }
        };
        Ok(IndexFile {
            path: path.clone(),
            header,
            content,
        })
    }

    /// Rows of the segment the index was built over.
    pub fn rows(&self) -> u64 {
        self.header.rows
    }

    /// Dimension of the vectors.
    pub fn dim(&self) -> u32 {
        self.header.dim
    }

    /// How distances are measured.
    pub fn metric(&self) -> Metric {
        self.header.metric
    }

    /// Name of the type of index that was built: HNSW or FLAT.
    pub fn kind(&self) -> &'static str {
        match self.header.kind {
            Kind::Flat => "FLAT",
            Kind::Hnsw { .. } => "HNSW",
        }
    }

    /// Loads the index into memory. Blocks.
    pub fn load(&mut self) -> Result<Index<'_>, IndexError> {
        let (path, header) = (&self.path, self.header);
        let vectors = match &mut self.content {
            Content::Flat(bytes) => {
                let (values, _) = bytes.as_chunks();
                Vectors::Flat(
                    values
                        .iter()
                        .map(|value| f32::from_le_bytes(*value))
                        .collect(),
                )
            }
            Content::Graph(dump) => Vectors::Graph(dump.load(path, header.rows)?),
        };
        Ok(Index {
            path,
            header,
            vectors,
        })
    }
}

impl Index<'_> {
    /// The `k` rows nearest to `query`, nearest first, by [`Metric::distance`]. A graph looks at
    /// about `ef` candidates (at least `k`): more find more of the true neighbours and take longer.
    pub fn search(&self, query: &[f32], k: usize, ef: usize) -> Result<Vec<Hit>, IndexError> {
        self.search_where(query, k, ef, &|_| true)
    }

    /// As [`Index::search`], among the rows `keep` is true for. When too few of the candidates are,
    /// it looks at more, in the end at all.
    pub fn search_where(
        &self,
        query: &[f32],
        k: usize,
        ef: usize,
        keep: &dyn Fn(u64) -> bool,
    ) -> Result<Vec<Hit>, IndexError> {
        let wrong = |reason: String| IndexError::query(self.path, reason);
        let Header {
            metric, dim, rows, ..
        } = self.header;
        if query.len() != dim as usize {
            return Err(wrong(format!(
                "the query has dimension {}, the index {dim}",
                query.len()
            )));
        }
        if !(1..=K_MAX).contains(&k) {
            return Err(wrong(format!("{k} is not from 1 to {K_MAX} neighbours")));
        }
        let inside = space::query(metric, query).map_err(wrong)?;
        // What the space adds to a vector is no part of the distance.
        let hit = |row, stored: &[f32]| Hit {
            row,
            distance: metric.distance(query, &stored[..query.len()]),
        };
        match &self.vectors {
            Vectors::Flat(vectors) => {
                let rows = (0..).zip(vectors.chunks_exact(inside.len()));
                let hits = rows
                    .filter(|(row, _)| keep(*row))
                    .map(|(row, stored)| hit(row, stored));
                Ok(nearest(k, hits, Hit::order))
            }
            Vectors::Graph(graph) => {
                let mut ef = ef.max(k);
                loop {
                    let mut hits = Vec::new();
                    graph.nearest(&inside, ef, |row, stored| {
                        if keep(row) {
                            hits.push(hit(row, stored));
                        }
                    });
                    if hits.len() >= k || ef as u64 >= rows {
                        return Ok(nearest(k, hits.into_iter(), Hit::order));
                    }
                    ef *= 2;
                }
            }
        }
    }
}
