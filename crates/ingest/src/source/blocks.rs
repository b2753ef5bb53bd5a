//! Rows of a file by number, decoded in blocks, with a bounded cache.
//!
//! The channels of an ingest go through the file side by side, each taking some rows of every
//! block, and jump back when rows must be sent again. So blocks are kept for the others for a
//! while, and a few sequential readers are kept open where they stand.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use quorate_binlog::ColumnData;

use super::BoundSource;
use crate::error::SourceError;

/// Rows of a block.
const BLOCK_ROWS: u64 = 512;
/// A reader is moved forward over at most this many blocks; beyond, a new one is opened there.
const SKIP_BLOCKS_MAX: u64 = 8;

/// Reads rows of a bound file. Shared by all channels.
#[derive(Debug)]
pub(crate) struct BlockReader {
    source: BoundSource,
    state: Mutex<State>,
    cache_bytes_max: usize,
    readers_max: usize,
}

struct State {
    /// Most recently used last.
    blocks: Vec<Block>,
    /// Most recently used last.
    readers: Vec<Reader>,
}

#[derive(Debug, Clone)]
struct Block {
    index: u64,
    columns: Arc<Vec<ColumnData>>,
    bytes: usize,
}

/// A sequential reader that stands before a block.
struct Reader {
    next: u64,
    batches: ParquetRecordBatchReader,
    /// Rows read already that belong to the next blocks.
    rest: Option<RecordBatch>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("blocks", &self.blocks.len())
            .field("readers", &self.readers.len())
            .finish()
    }
}

impl BlockReader {
    /// Keeps decoded blocks of at most `cache_bytes_max` (but always the last one) and at most
    /// `readers_max` open readers.
    pub(crate) fn new(
        source: BoundSource,
        cache_bytes_max: usize,
        readers_max: usize,
    ) -> BlockReader {
        BlockReader {
            source,
            state: Mutex::new(State {
                blocks: Vec::new(),
                readers: Vec::new(),
            }),
            cache_bytes_max,
            readers_max: readers_max.max(1),
        }
    }

    /// The first of these rows (sorted numbers of rows of the file), as many as have together no
    /// more than `bytes_max` in memory, but at least one: their columns in the order of the schema.
    pub(crate) fn read(
        &self,
        rows: &[u64],
        bytes_max: usize,
    ) -> Result<(usize, Vec<ColumnData>), SourceError> {
        let path = self.source.file().path();
        super::guarded(path, || {
            let fields = self.source.schema().fields();
            let mut out: Vec<ColumnData> = fields.iter().map(|f| ColumnData::new(f.kind)).collect();
            let mut taken = 0;
            let mut bytes = 0;
            for run in rows.chunk_by(|a, b| a / BLOCK_ROWS == b / BLOCK_ROWS) {
                let index = run[0] / BLOCK_ROWS;
                let block = self.block(index)?;
                for row in run {
                    let at = (row - index * BLOCK_ROWS) as usize;
                    bytes += block
                        .columns
                        .iter()
                        .map(|c| row_bytes(c, at))
                        .sum::<usize>();
                    if bytes > bytes_max && taken > 0 {
                        return Ok((taken, out));
                    }
                    for (to, from) in out.iter_mut().zip(block.columns.iter()) {
                        let pushed = at < from.len() && to.push(from.value(at));
                        if !pushed {
                            return Err(SourceError::Changed {
                                path: path.to_owned(),
                            });
                        }
                    }
                    taken += 1;
                }
            }
            Ok((taken, out))
        })
    }

    fn block(&self, index: u64) -> Result<Block, SourceError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        if let Some(at) = state.blocks.iter().position(|block| block.index == index) {
            let block = state.blocks.remove(at);
            state.blocks.push(block.clone());
            return Ok(block);
        }
        // Taken out while it is used: a reader that failed is not used again.
        let near = state
            .readers
            .iter()
            .enumerate()
            .filter(|(_, reader)| reader.next <= index && index - reader.next <= SKIP_BLOCKS_MAX)
            .max_by_key(|(_, reader)| reader.next)
            .map(|(at, _)| at);
        let mut reader = match near {
            Some(at) => state.readers.remove(at),
            None => {
                self.source.file().check_unchanged()?;
                if state.readers.len() >= self.readers_max {
                    state.readers.remove(0);
                }
                Reader {
                    next: index,
                    batches: self
                        .source
                        .reader(index * BLOCK_ROWS, BLOCK_ROWS as usize)?,
                    rest: None,
                }
            }
        };
        let block = loop {
            let block = self.next_block(&mut reader)?;
            self.keep(state, &block);
            if block.index == index {
                break block;
            }
        };
        state.readers.push(reader);
        Ok(block)
    }

    /// Decodes the block the reader stands before. Batches may end with row groups, so a block can
    /// take parts of several.
    fn next_block(&self, reader: &mut Reader) -> Result<Block, SourceError> {
        let file = self.source.file();
        let first = reader.next * BLOCK_ROWS;
        let wanted = BLOCK_ROWS.min(file.rows().saturating_sub(first));
        let mut columns: Option<Vec<ColumnData>> = None;
        let mut have = 0;
        while have < wanted {
            let mut batch = match reader.rest.take() {
                Some(batch) => batch,
                None => match reader.batches.next() {
                    Some(batch) => batch.map_err(|error| file.unreadable(error))?,
                    None => break,
                },
            };
            let room = (wanted - have) as usize;
            if batch.num_rows() > room {
                reader.rest = Some(batch.slice(room, batch.num_rows() - room));
                batch = batch.slice(0, room);
            }
            let more = self.source.columns(&batch, first + have)?;
            have += batch.num_rows() as u64;
            match &mut columns {
                None => columns = Some(more),
                Some(columns) => {
                    for (to, from) in columns.iter_mut().zip(&more) {
                        to.extend(from);
                    }
                }
            }
        }
        let columns = columns.unwrap_or_default();
        if have != wanted || wanted == 0 {
            return Err(SourceError::Changed {
                path: file.path().to_owned(),
            });
        }
        let block = Block {
            index: reader.next,
            bytes: columns.iter().map(ColumnData::memory_size).sum(),
            columns: Arc::new(columns),
        };
        reader.next += 1;
        Ok(block)
    }

    fn keep(&self, state: &mut State, block: &Block) {
        state.blocks.retain(|kept| kept.index != block.index);
        state.blocks.push(block.clone());
        let mut bytes: usize = state.blocks.iter().map(|block| block.bytes).sum();
        while bytes > self.cache_bytes_max && state.blocks.len() > 1 {
            bytes -= state.blocks.remove(0).bytes;
        }
    }
}

/// Bytes of one value, near enough.
fn row_bytes(column: &ColumnData, row: usize) -> usize {
    use quorate_binlog::Value;
    if row >= column.len() {
        return 0;
    }
    match column.value(row) {
        Value::VarChar(text) | Value::Json(text) => text.len(),
        Value::FloatVector(values) => size_of_val(values),
        Value::Bytes(bytes) => bytes.len(),
        _ => 8,
    }
}
