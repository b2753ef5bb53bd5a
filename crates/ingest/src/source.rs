//! The Parquet file rows come from: opened once, identified by its bytes, its columns understood.
//!
//! All reads are positional reads of one open file, so readers never disturb each other, and the
//! file is the same one even when its name is given to another. Everything here blocks; callers
//! use threads for blocking work.

mod blocks;
mod bound;
mod infer;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::errors::Result as ParquetResult;
use parquet::file::reader::{ChunkReader, Length};

use crate::error::SourceError;

pub(crate) use blocks::BlockReader;
pub(crate) use bound::BoundSource;
pub use infer::SourceColumn;

/// An open Parquet file whose columns can be the fields of a collection.
#[derive(Debug, Clone)]
pub struct SourceFile {
    path: PathBuf,
    chunks: Chunks,
    modified: Option<SystemTime>,
    metadata: ArrowReaderMetadata,
    columns: Vec<SourceColumn>,
    primary_key: usize,
}

impl SourceFile {
    /// Opens a file and works out the type of each column and the primary key: the column named,
    /// else `id`, else the first int64 or string column.
    pub fn open(path: &Path, primary_key: Option<&str>) -> Result<SourceFile, SourceError> {
        // The Parquet reader asserts on some damaged input; for us damage is an error.
        guarded(path, || Self::open_unguarded(path, primary_key))
    }

    fn open_unguarded(path: &Path, primary_key: Option<&str>) -> Result<SourceFile, SourceError> {
        let failed = |source| SourceError::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        if !about.is_file() {
            return Err(failed(io::Error::other("it is not a regular file")));
        }
        let chunks = Chunks {
            file: Arc::new(file),
            len: about.len(),
        };
        let metadata = ArrowReaderMetadata::load(&chunks, Default::default())
            .map_err(|error| unreadable(path, error))?;
        let mut source = SourceFile {
            path: path.to_owned(),
            chunks,
            modified: about.modified().ok(),
            metadata,
            columns: Vec::new(),
            primary_key: 0,
        };
        source.check_row_groups()?;
        source.columns = infer::columns(&source)?;
        source.primary_key = infer::primary_key(&source, primary_key)?;
        Ok(source)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Columns in the order of the file.
    pub fn columns(&self) -> &[SourceColumn] {
        &self.columns
    }

    /// The column that is the primary key of a collection made from this file.
    pub fn primary_key(&self) -> &SourceColumn {
        &self.columns[self.primary_key]
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.row_group_rows().sum()
    }

    /// BLAKE3 of the file's bytes.
    pub fn hash(&self) -> Result<[u8; 32], SourceError> {
        let failed = |source| SourceError::Open {
            path: self.path.clone(),
            source,
        };
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 256 * 1024];
        let mut at = 0;
        loop {
            let count = match self.chunks.file.read_at(&mut buffer, at) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            hasher.update(&buffer[..count]);
            at += count as u64;
        }
        self.check_unchanged()?;
        Ok(*hasher.finalize().as_bytes())
    }

    /// Fails when the file was written to since it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), SourceError> {
        let unchanged = self.chunks.file.metadata().is_ok_and(|about| {
            about.len() == self.chunks.len && about.modified().ok() == self.modified
        });
        if unchanged {
            return Ok(());
        }
        Err(SourceError::Changed {
            path: self.path.clone(),
        })
    }

    pub(super) fn row_group_rows(&self) -> impl Iterator<Item = u64> + '_ {
        // Checked at opening not to be negative.
        let groups = self.metadata.metadata().row_groups().iter();
        groups.map(|group| group.num_rows().max(0) as u64)
    }

    pub(super) fn builder(&self) -> ParquetRecordBatchReaderBuilder<Chunks> {
        ParquetRecordBatchReaderBuilder::new_with_metadata(
            self.chunks.clone(),
            self.metadata.clone(),
        )
    }

    pub(super) fn unreadable(&self, reason: impl ToString) -> SourceError {
        unreadable(&self.path, reason)
    }

    /// The footer may promise more than there is; nothing is read on its word alone.
    fn check_row_groups(&self) -> Result<(), SourceError> {
        for group in self.metadata.metadata().row_groups() {
            if group.num_rows() < 0 {
                return Err(self.unreadable("its footer states a negative number of rows"));
            }
            for chunk in group.columns() {
                let start = chunk
                    .dictionary_page_offset()
                    .unwrap_or(chunk.data_page_offset())
                    .min(chunk.data_page_offset());
                let end = start.checked_add(chunk.compressed_size());
                let inside = start >= 0
                    && end.is_some_and(|end| end >= start && end as u64 <= self.chunks.len);
                if !inside {
                    return Err(self.unreadable(format!(
                        "its footer places column {:?} beyond the end of the file",
                        chunk.column_path().string()
                    )));
                }
            }
        }
        Ok(())
    }
}

pub(super) fn unreadable(path: &Path, reason: impl ToString) -> SourceError {
    SourceError::Unreadable {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// Runs code that reads Parquet; a panic in it counts as damage of the file.
pub(super) fn guarded<T>(
    path: &Path,
    read: impl FnOnce() -> Result<T, SourceError>,
) -> Result<T, SourceError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(unreadable(path, "its contents are damaged")))
}

/// Positional reads of one open file.
#[derive(Debug, Clone)]
pub(super) struct Chunks {
    file: Arc<File>,
    len: u64,
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Chunks {
    type T = io::BufReader<ReadFrom>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(io::BufReader::new(ReadFrom {
            file: Arc::clone(&self.file),
            at: start,
        }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        if start
            .checked_add(length as u64)
            .is_none_or(|end| end > self.len)
        {
            return Err(parquet::errors::ParquetError::EOF(format!(
                "{length} bytes wanted at {start}, the file has {}",
                self.len
            )));
        }
        let mut buffer = vec![0; length];
        self.file.read_exact_at(&mut buffer, start)?;
        Ok(buffer.into())
    }
}

/// A sequential reader that begins at an offset.
#[derive(Debug)]
pub(super) struct ReadFrom {
    file: Arc<File>,
    at: u64,
}

impl Read for ReadFrom {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
