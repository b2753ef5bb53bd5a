//! The graph: everything that touches `hnsw_rs`.
//!
//! It builds with all threads of the machine (rayon's) and keeps a graph in two files of a folder,
//! so a build and a load each get a temporary folder of their own. Its loader trusts what it reads:
//! it must only get parts whose checksums hold, see [`crate::file`].

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use hnsw_rs::hnswio;
use hnsw_rs::prelude::{AnnT, Distance, Hnsw, HnswIo, Neighbour};
use quorate_binlog::IndexPath;
use tempfile::TempDir;

use crate::error::IndexError;
use crate::file::HEADER_BYTES;
use crate::metric::squared_l2;
use crate::space::Space;

/// Layers a graph may have; a dump needs all of them.
const LAYERS: usize = 16;
/// Rows put in one by one before the rest is put in by all threads: the first rows of a graph only
/// find each other when they come in order.
const SERIAL_ROWS: usize = 1024;
/// Rows put in between two looks at whether anybody still wants the index.
const CHUNK_ROWS: usize = 1024;
const BASENAME: &str = "index";
const GRAPH_FILE: &str = "index.hnsw.graph";
const VECTOR_FILE: &str = "index.hnsw.data";
/// Bytes before the vectors in their file, and before each one of them.
const DUMP_HEAD_BYTES: u64 = 12;
const DUMP_ROW_BYTES: u64 = 20;

/// Square of the Euclidean distance. Its name is part of the files and must stay.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct SquaredL2;

impl Distance<f32> for SquaredL2 {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        squared_l2(a, b)
    }
}

/// A graph in memory.
pub(crate) struct Graph<'a>(Hnsw<'a, f32, SquaredL2>);

/// Vectors to build a graph of.
pub(crate) struct Source<'a> {
    pub space: &'a Space,
    pub dim: usize,
    /// Not empty.
    pub vectors: &'a [f32],
}

impl Graph<'static> {
    /// Builds a graph; none when `cancelled` says so meanwhile.
    pub fn build(
        source: &Source<'_>,
        m: u32,
        ef_construction: u32,
        cancelled: &dyn Fn() -> bool,
    ) -> Option<Graph<'static>> {
        let rows = source.vectors.len() / source.dim;
        let mut graph = Hnsw::<f32, SquaredL2>::new(
            m as usize,
            rows,
            LAYERS,
            ef_construction as usize,
            SquaredL2,
        );
        // Else a row that is close to many others is left with few ways to it.
        graph.set_keeping_pruned(true);
        let chunks = source.vectors.chunks(CHUNK_ROWS * source.dim);
        for (chunk, first_row) in chunks.zip((0..).step_by(CHUNK_ROWS)) {
            if cancelled() {
                return None;
            }
            let stored: Vec<(Vec<f32>, usize)> = chunk
                .chunks_exact(source.dim)
                .zip(first_row..)
                .map(|(vector, row)| {
                    let mut stored = Vec::with_capacity(vector.len() + 1);
                    source.space.push(vector, &mut stored);
                    (stored, row)
                })
                .collect();
            if first_row < SERIAL_ROWS {
                for (vector, row) in &stored {
                    graph.insert((vector, *row));
                }
            } else {
                let stored: Vec<(&Vec<f32>, usize)> =
                    stored.iter().map(|(vector, row)| (vector, *row)).collect();
                graph.parallel_insert(&stored);
            }
        }
        graph.set_searching_mode(true);
        Some(Graph(graph))
    }

    /// Room for a header, then the two parts of the file; with the length of the first.
    pub fn dump(&self, path: &IndexPath) -> Result<(usize, Vec<u8>), IndexError> {
        let scratch = |source| IndexError::scratch(path, source);
        let folder = tempfile::tempdir().map_err(scratch)?;
        // `hnsw_rs` panics when it cannot create its files.
        let dumped = catch_unwind(AssertUnwindSafe(|| {
            self.0
                .file_dump(folder.path(), BASENAME)
                .map_err(|error| error.to_string())
        }));
        dumped
            .unwrap_or_else(|_| Err("cannot create the files of the graph".to_owned()))
            .map_err(|reason| scratch(std::io::Error::other(reason)))?;
        let mut body = vec![0; HEADER_BYTES];
        append(&folder.path().join(GRAPH_FILE), &mut body).map_err(scratch)?;
        let graph_bytes = body.len() - HEADER_BYTES;
        append(&folder.path().join(VECTOR_FILE), &mut body).map_err(scratch)?;
        Ok((graph_bytes, body))
    }
}

fn append(file: &Path, out: &mut Vec<u8>) -> std::io::Result<()> {
    std::fs::File::open(file)?.read_to_end(out).map(drop)
}

/// Bytes of the vectors' file for so many rows of so many components.
pub(crate) fn vector_file_bytes(rows: u64, stored_dim: usize) -> u64 {
    DUMP_HEAD_BYTES + rows * (DUMP_ROW_BYTES + 4 * stored_dim as u64)
}

/// A graph on disk, from which one in memory is loaded; must outlive it.
pub(crate) struct Dump {
    io: HnswIo,
    _folder: TempDir,
}

impl Dump {
    /// Writes the two parts to a temporary folder. They must be those of a graph of `rows` rows of
    /// `stored_dim` components, as far as that is seen from outside.
    pub fn unpack(
        path: &IndexPath,
        (graph, vectors): (&[u8], &[u8]),
        rows: u64,
        stored_dim: usize,
    ) -> Result<Dump, IndexError> {
        let mut head = graph;
        let description = catch_unwind(AssertUnwindSafe(|| hnswio::load_description(&mut head)));
        let fits = match description {
            Ok(Ok(description)) => {
                description.format_version == 4
                    && description.nb_point as u64 == rows
                    && description.dimension == stored_dim
                    && vectors.len() as u64 == vector_file_bytes(rows, stored_dim)
            }
            _ => false,
        };
        if !fits {
            let reason = "its graph is not the one its header describes";
            return Err(IndexError::file(path, reason));
        }
        let scratch = |source| IndexError::scratch(path, source);
        let folder = tempfile::tempdir().map_err(scratch)?;
        std::fs::write(folder.path().join(GRAPH_FILE), graph).map_err(scratch)?;
        std::fs::write(folder.path().join(VECTOR_FILE), vectors).map_err(scratch)?;
        Ok(Dump {
            io: HnswIo::new(folder.path(), BASENAME),
            _folder: folder,
        })
    }

    /// Loads the graph.
    pub fn load(&mut self, path: &IndexPath, rows: u64) -> Result<Graph<'_>, IndexError> {
        let wrong = |reason: &str| IndexError::file(path, reason);
        let io = &mut self.io;
        let loaded = catch_unwind(AssertUnwindSafe(move || {
            let io = io;
            io.load_hnsw::<f32, SquaredL2>()
                .map_err(|error| wrong(&format!("its graph cannot be loaded: {error}")))
        }))
        .unwrap_or_else(|_| Err(wrong("its graph is damaged")))?;
        let mut graph = loaded;
        graph.set_searching_mode(true);
        if graph.get_nb_point() as u64 != rows {
            return Err(wrong("its graph has other rows than its header says"));
        }
        Ok(Graph(graph))
    }
}

impl Graph<'_> {
    /// Hands row and stored vector of about `ef` nearest rows to `visit`, nearest first. `query` is
    /// one of the space, of the right length.
    pub fn nearest(&self, query: &[f32], ef: usize, mut visit: impl FnMut(u64, &[f32])) {
        for Neighbour { d_id, p_id, .. } in self.0.search(query, ef, ef) {
            if let Some(vector) = self.0.get_point_indexation().get_point_data(&p_id) {
                visit(d_id as u64, &vector);
            }
        }
    }
}
