//! Rows to ingest: slices of a Parquet file, each row with a key that was never used before.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use quorate_ingest::RowPrint;

use crate::error::CliError;

/// Column of the primary key.
const KEY: &str = "id";

/// The rows of a file, from which batches are cut.
pub(crate) struct Source {
    rows: RecordBatch,
    key: usize,
    folder: PathBuf,
    next_id: i64,
}

/// A file that was written, and the key of its first row; keys follow each other.
pub(crate) struct Cut {
    file: PathBuf,
    first: i64,
}

/// A file with some rows, deleted when dropped.
pub(crate) struct Slice {
    /// Where it is.
    pub(crate) file: PathBuf,
    /// By id, in the order of the file.
    pub(crate) rows: Vec<(i64, RowPrint)>,
}

impl Drop for Slice {
    fn drop(&mut self) {
        // The folder goes as a whole in the end; a file too many does no harm until then.
        let _ = std::fs::remove_file(&self.file);
    }
}

impl Source {
    /// Reads a file with an int64 column `id` and writes slices of it into a folder. Keys begin at
    /// `first_id`.
    pub(crate) fn open(file: &Path, folder: &Path, first_id: i64) -> Result<Self, CliError> {
        let failed = |error: anyhow::Error| {
            CliError::failed(error).context(format!("cannot use {}", file.display()))
        };
        let open = || -> anyhow::Result<RecordBatch> {
            let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(file)?)?;
            let schema = Arc::clone(builder.schema());
            let batches = builder.build()?.collect::<Result<Vec<_>, _>>()?;
            Ok(arrow_select::concat::concat_batches(&schema, &batches)?)
        };
        let rows = open().map_err(failed)?;
        let key = rows.schema().index_of(KEY);
        let key = key.map_err(|error| failed(error.into()))?;
        if rows.num_rows() == 0 || !rows.column(key).as_any().is::<Int64Array>() {
            return Err(failed(anyhow::anyhow!(
                "it has no rows, or its column {KEY} is not int64"
            )));
        }
        std::fs::create_dir_all(folder)?;
        Ok(Self {
            rows,
            key,
            folder: folder.to_owned(),
            next_id: first_id,
        })
    }

    /// A file of rows with new keys, beginning somewhere in the source.
    pub(crate) fn cut(&mut self, from: usize, count: usize) -> Result<Cut, CliError> {
        let total = self.rows.num_rows();
        let from = from % total;
        let count = count.min(total - from);
        let first = self.next_id;
        self.next_id += count as i64;
        let rows = self.rows.slice(from, count);
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        columns[self.key] = Arc::new(Int64Array::from_iter_values(first..self.next_id));
        let path = self.folder.join(format!("rows-{first}.parquet"));
        let write = || -> anyhow::Result<()> {
            let rows = RecordBatch::try_new(self.rows.schema(), columns)?;
            let mut writer = ArrowWriter::try_new(File::create(&path)?, rows.schema(), None)?;
            writer.write(&rows)?;
            writer.close()?;
            Ok(())
        };
        write().map_err(|error| {
            CliError::failed(error).context(format!("cannot write {}", path.display()))
        })?;
        Ok(Cut { file: path, first })
    }
}

impl Slice {
    /// A file that was cut, with the fingerprints of its rows.
    pub(crate) async fn of(cut: Cut) -> Result<Self, CliError> {
        let mut slice = Self {
            file: cut.file,
            rows: Vec::new(),
        };
        let prints = quorate_ingest::file_prints(&slice.file).await;
        slice.rows = (cut.first..)
            .zip(prints.map_err(CliError::failed)?)
            .collect();
        Ok(slice)
    }
}
