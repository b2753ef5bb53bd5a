//! The hash over every row of a state, table by table.
//!
//! A row is `key length (4) | key | value length (4) | value`, numbers big-endian. A table is all
//! rows whose keys begin with the same byte; its hash is blake3 over its rows in the order of their
//! keys. The state's hash is blake3 over `first byte | rows (8) | hash` of each table.
//!
//! Invariant: what is hashed is what stands in a snapshot's chunks, so that a running replica's
//! state and a snapshot file can be compared.

/// Bytes gathered before they are hashed: blake3 is several times faster on long pieces.
const GATHER_BYTES: usize = 64 << 10;

/// One table of a state: the rows whose keys begin with one byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableHash {
    /// First byte of the keys; 0 for the empty key, too.
    pub table: u8,
    /// Rows.
    pub rows: u64,
    /// blake3 over them.
    pub hash: [u8; 32],
}

/// The hash over every row of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateHash {
    /// Over all tables.
    pub hash: [u8; 32],
    /// Rows.
    pub rows: u64,
    /// Keys, values and their lengths, in bytes.
    pub bytes: u64,
    /// Each table, in the order of their first bytes.
    pub tables: Vec<TableHash>,
}

/// Hashes rows that are given in the order of their keys.
///
/// ```
/// let mut hasher = quorate_raft_store::StateHasher::default();
/// hasher.row(b"a1", b"x");
/// hasher.row(b"b1", b"y");
/// let hash = hasher.finish();
/// assert_eq!((hash.rows, hash.tables.len()), (2, 2));
/// ```
#[derive(Default)]
pub struct StateHasher {
    done: Vec<TableHash>,
    current: Option<Current>,
    gathered: Vec<u8>,
    bytes: u64,
}

struct Current {
    table: u8,
    rows: u64,
    hasher: blake3::Hasher,
}

impl StateHasher {
    /// Takes the next row.
    pub fn row(&mut self, key: &[u8], value: &[u8]) {
        self.begin_row(key);
        for part in [key, value] {
            // Longer ones are in no store: RocksDB's own limit is 4 GiB, too.
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            self.gathered.extend_from_slice(&length.to_be_bytes());
            self.gathered.extend_from_slice(part);
        }
        self.bytes += 8 + (key.len() + value.len()) as u64;
        if self.gathered.len() >= GATHER_BYTES {
            self.hash_gathered();
        }
    }

    /// The hash over all rows taken.
    pub fn finish(mut self) -> StateHash {
        self.end_table();
        let mut hasher = blake3::Hasher::new();
        for table in &self.done {
            hasher.update(&[table.table]);
            hasher.update(&table.rows.to_be_bytes());
            hasher.update(&table.hash);
        }
        StateHash {
            hash: *hasher.finalize().as_bytes(),
            rows: self.done.iter().map(|table| table.rows).sum(),
            bytes: self.bytes,
            tables: self.done,
        }
    }

    fn begin_row(&mut self, key: &[u8]) {
        let table = key.first().copied().unwrap_or_default();
        if let Some(current) = &mut self.current
            && current.table == table
        {
            current.rows += 1;
            return;
        }
        self.end_table();
        self.current = Some(Current {
            table,
            rows: 1,
            hasher: blake3::Hasher::new(),
        });
    }

    fn hash_gathered(&mut self) {
        if let Some(current) = &mut self.current {
            current.hasher.update(&self.gathered);
        }
        self.gathered.clear();
    }

    fn end_table(&mut self) {
        self.hash_gathered();
        if let Some(current) = self.current.take() {
            self.done.push(TableHash {
                table: current.table,
                rows: current.rows,
                hash: *current.hasher.finalize().as_bytes(),
            });
        }
    }
}
