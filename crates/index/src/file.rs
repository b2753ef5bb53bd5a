//! The one object an index is stored as.
//!
//! A header of fixed length, then two parts: the graph (empty for FLAT) and the vectors. For HNSW
//! the parts are the two files `hnsw_rs` dumps, as they are; for FLAT the vectors are `f32` values
//! row after row. All numbers are little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | magic `QRTINDEX` |
//! | 4 | version of the format |
//! | 1, 1, 2 | kind (0 FLAT, 1 HNSW), metric (0 L2, 1 COSINE, 2 IP), zero |
//! | 8 × 4 | build, its version, partition, segment |
//! | 4 × 3 | dimension, M, efConstruction |
//! | 8 | rows |
//! | 8, 4 | length and CRC-32C of the graph |
//! | 8, 4 | length and CRC-32C of the vectors |
//! | 4 | CRC-32C of all of the above |

use bytes::Bytes;
use quorate_binlog::IndexPath;
use quorate_binlog::schema::MAX_DIM;
use quorate_binlog::store::MAX_INDEX_BYTES;

use crate::error::IndexError;
use crate::metric::Metric;

const MAGIC: [u8; 8] = *b"QRTINDEX";
const VERSION: u32 = 1;
/// Length of the header.
pub(crate) const HEADER_BYTES: usize = 96;
/// Most rows of one index: what `hnsw_rs` numbers its points with.
pub(crate) const ROWS_MAX: u64 = i32::MAX as u64;

// The dump of `hnsw_rs` has the machine's own words.
const _: () = assert!(cfg!(target_endian = "little") && usize::BITS == 64);

/// How the vectors are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One after the other.
    Flat,
    /// In a graph.
    Hnsw { m: u32, ef_construction: u32 },
}

/// What a file says about itself, besides its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub kind: Kind,
    pub metric: Metric,
    /// Dimension of the vectors as they were given.
    pub dim: u32,
    pub rows: u64,
}

/// A file whose checksums hold.
pub(crate) struct Parts {
    pub header: Header,
    pub graph: Bytes,
    pub vectors: Bytes,
}

/// Makes the object of a body that begins with [`HEADER_BYTES`] bytes of room for the header,
/// followed by `graph_bytes` of graph and the vectors.
pub(crate) fn seal(
    path: &IndexPath,
    header: &Header,
    graph_bytes: usize,
    mut body: Vec<u8>,
) -> Result<Bytes, IndexError> {
    if body.len() as u64 > MAX_INDEX_BYTES {
        let reason = format!(
            "its {} bytes are more than the limit {MAX_INDEX_BYTES}",
            body.len()
        );
        return Err(IndexError::build(path, reason));
    }
    let (graph, vectors) = body[HEADER_BYTES..].split_at(graph_bytes);
    let (kind, m, ef_construction) = match header.kind {
        Kind::Flat => (0u8, 0, 0),
        Kind::Hnsw { m, ef_construction } => (1, m, ef_construction),
    };
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[kind, metric_number(header.metric), 0, 0]);
    for id in identity(path) {
        out.extend_from_slice(&id.to_le_bytes());
    }
    for number in [header.dim, m, ef_construction] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&header.rows.to_le_bytes());
    for part in [graph, vectors] {
        out.extend_from_slice(&(part.len() as u64).to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(part).to_le_bytes());
    }
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    body[..HEADER_BYTES].copy_from_slice(&out);
    Ok(body.into())
}

/// Takes an object apart that was found at `path`. Nothing of it is trusted but what its checksums
/// cover.
pub(crate) fn open(path: &IndexPath, bytes: &Bytes) -> Result<Parts, IndexError> {
    try_open(path, bytes).map_err(|reason| IndexError::file(path, reason))
}

fn try_open(path: &IndexPath, bytes: &Bytes) -> Result<Parts, String> {
    let size = bytes.len();
    let Some((head, body)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(format!("{size} bytes are less than a header has"));
    };
    let mut head = Reader(head);
    if head.take() != MAGIC {
        return Err("not an index file of Quorate".to_owned());
    }
    let version = head.u32();
    if version != VERSION {
        return Err(format!(
            "format {version} is not known to this version (it knows {VERSION})"
        ));
    }
    let (sealed, stored) = bytes[..HEADER_BYTES].split_at(HEADER_BYTES - 4);
    if crc32c::crc32c(sealed).to_le_bytes() != stored {
        return Err("the checksum of its header does not match".to_owned());
    }
    let [kind, metric, _, _] = head.take();
    let found: [i64; 4] = std::array::from_fn(|_| head.i64());
    if found != identity(path) {
        let [build, version, partition, segment] = found;
        return Err(format!(
            "the file is another index: build {build}, version {version}, partition {partition}, \
             segment {segment}"
        ));
    }
    let (dim, m, ef_construction) = (head.u32(), head.u32(), head.u32());
    let rows = head.u64();
    let header = Header {
        kind: match kind {
            0 => Kind::Flat,
            1 => Kind::Hnsw { m, ef_construction },
            other => return Err(format!("index kind {other} is not known to this version")),
        },
        metric: Metric::ALL
            .into_iter()
            .find(|known| metric_number(*known) == metric)
            .ok_or_else(|| format!("metric {metric} is not known to this version"))?,
        dim,
        rows,
    };
    if !(1..=MAX_DIM).contains(&dim) || !(1..=ROWS_MAX).contains(&rows) {
        return Err(format!("{rows} rows of dimension {dim} make no index"));
    }
    let (graph_bytes, graph_crc) = (head.u64(), head.u32());
    let (vector_bytes, vector_crc) = (head.u64(), head.u32());
    let expected = graph_bytes.checked_add(vector_bytes);
    if expected != Some(body.len() as u64) {
        return Err(format!(
            "{} bytes follow its header, which says {graph_bytes} + {vector_bytes}",
            body.len()
        ));
    }
    let middle = HEADER_BYTES + graph_bytes as usize;
    let (graph, vectors) = (bytes.slice(HEADER_BYTES..middle), bytes.slice(middle..));
    if crc32c::crc32c(&graph) != graph_crc {
        return Err("the checksum of its graph does not match".to_owned());
    }
    if crc32c::crc32c(&vectors) != vector_crc {
        return Err("the checksum of its vectors does not match".to_owned());
    }
    Ok(Parts {
        header,
        graph,
        vectors,
    })
}

fn identity(path: &IndexPath) -> [i64; 4] {
    [
        path.build(),
        path.version(),
        path.partition(),
        path.segment(),
    ]
}

fn metric_number(metric: Metric) -> u8 {
    match metric {
        Metric::L2 => 0,
        Metric::Cosine => 1,
        Metric::InnerProduct => 2,
    }
}

/// Numbers of a header, one after the other.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (number, rest) = self
            .0
            .split_first_chunk()
            .expect("the header has its full length");
        self.0 = rest;
        *number
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn i64(&mut self) -> i64 {
        i64::from_le_bytes(self.take())
    }
}
