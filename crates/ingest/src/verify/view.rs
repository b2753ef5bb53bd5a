//! What a collection consists of at one moment, as readers are told, and what its objects hold.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use quorate_binlog::{FieldType, LogStore, Schema, Value};
use quorate_rpc::Client;
use quorate_rpc::proto::milvus::data::SegmentInfo;
use quorate_rpc::proto::quorate::collection::Collection;
use tokio::sync::watch;

use super::fingerprint::RowPrint;
use super::stored::Reading;
use super::{Findings, ObjectProblem, VerifyProgress, VerifyReport, blocking, expected_rows};
use crate::Key;
use crate::collection::{self, KnownCollection};
use crate::coordinator::Coordinator;
use crate::error::{CollectionError, VerifyError};
use crate::source::{BlockReader, BoundSource, SourceFile};

/// Decoded rows kept while vectors are read, in bytes.
const CACHE_BYTES_MAX: usize = 16 << 20;

/// The segments of a collection that hold rows or deletes, by id, with their binlogs.
pub(super) async fn segments(
    coordinator: &Coordinator,
    collection_id: i64,
) -> Result<Vec<SegmentInfo>, CollectionError> {
    let failed = |action: &str, error| collection::failed(action.to_owned(), error);
    let info = coordinator
        .recovery_info(collection_id)
        .await
        .map_err(|error| failed("get the collection's segments", error))?;
    let mut ids: BTreeSet<i64> = info.segments.iter().map(|segment| segment.id).collect();
    for channel in &info.channels {
        ids.extend(&channel.flushed_segment_ids);
        ids.extend(&channel.unflushed_segment_ids);
        ids.extend(&channel.level_zero_segment_ids);
        let infos = channel.flushed_segments.iter();
        ids.extend(infos.chain(&channel.unflushed_segments).map(|s| s.id));
    }
    let ids: Vec<i64> = ids.into_iter().collect();
    let mut segments = coordinator
        .segments(&ids)
        .await
        .map_err(|error| failed("get the segments' binlogs", error))?;
    segments.sort_by_key(|segment| segment.id);
    Ok(segments)
}

/// A collection at one moment: the segments GetRecoveryInfoV2 names, with their log files.
#[derive(Debug, Clone)]
pub struct View {
    collection: KnownCollection,
    segments: Vec<SegmentInfo>,
}

/// What the objects of a [`View`] hold.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// Rows that are not deleted; their places are of no use to anybody else.
    pub rows: Vec<RowPrint>,
    /// Rows that are stored but deleted.
    pub deleted: u64,
    /// Objects that are missing or damaged, and counts that do not agree.
    pub problems: Findings<ObjectProblem>,
    /// Objects read.
    pub objects: u64,
    /// Bytes of the objects read.
    pub bytes: u64,
}

impl View {
    /// Asks the coordinator what a collection, given by name, consists of now.
    ///
    /// # Errors
    /// There is no such collection, or the coordinator does not answer in the client's time.
    pub async fn fetch(client: &Client, collection: &str) -> Result<View, CollectionError> {
        let coordinator = Coordinator::new(client);
        let collection = collection::must_find(&coordinator, collection).await?;
        let segments = segments(&coordinator, collection.id()).await?;
        Ok(View {
            collection,
            segments,
        })
    }

    /// The collection as the coordinator describes it.
    pub fn collection(&self) -> &Collection {
        &self.collection.proto
    }

    /// Its schema.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.collection.schema
    }

    /// The segments by id, with their log files.
    pub fn segments(&self) -> &[SegmentInfo] {
        &self.segments
    }

    /// Reads every object of the view.
    ///
    /// # Errors
    /// Of this process only; what is wrong with objects is in the answer.
    pub async fn read(&self, store: &LogStore) -> Result<Contents, VerifyError> {
        let progress = watch::Sender::new(VerifyProgress::default());
        let mut report = VerifyReport::default();
        let mut reading = Reading::new(store, &self.collection, &progress, &mut report);
        let stored = reading.read(&self.segments).await?;
        Ok(Contents {
            deleted: stored.deleted.len() as u64,
            rows: stored.rows,
            problems: report.problems,
            objects: report.objects,
            bytes: report.bytes,
        })
    }
}

/// The rows of a file as a collection made from it has them; `place` is the row's number.
///
/// # Errors
/// The file cannot be read or does not suit a collection.
pub async fn file_prints(file: &Path) -> Result<Vec<RowPrint>, VerifyError> {
    let path = file.to_owned();
    blocking(move || {
        let file = Arc::new(SourceFile::open(&path, None)?);
        let schema = Arc::new(collection::draft_schema(&file)?);
        expected_rows(&BoundSource::new(file, schema))
    })
    .await
}

/// The first rows of a file, as many as it has: their primary keys, and their vectors in a column.
///
/// # Errors
/// The file cannot be read, does not suit a collection, or has no such column of float vectors.
pub async fn file_vectors(
    file: &Path,
    column: &str,
    rows: u64,
) -> Result<Vec<(Key, Vec<f32>)>, VerifyError> {
    let (path, column) = (file.to_owned(), column.to_owned());
    blocking(move || {
        let file = Arc::new(SourceFile::open(&path, None)?);
        let schema = Arc::new(collection::draft_schema(&file)?);
        let at = schema.fields().iter().position(|field| {
            field.name == column && matches!(field.kind, FieldType::FloatVector { .. })
        });
        let (Some(at), key) = (at, schema.primary_key_index()) else {
            return Err(VerifyError::NoVectors {
                path: path.display().to_string(),
                column,
            });
        };
        let numbers: Vec<u64> = (0..rows.min(file.rows())).collect();
        let reader = BlockReader::new(BoundSource::new(file, schema), CACHE_BYTES_MAX, 1);
        let columns = match numbers.is_empty() {
            true => return Ok(Vec::new()),
            false => reader.read(&numbers, usize::MAX)?.1,
        };
        let row = |row| match columns[at].value(row) {
            Value::FloatVector(vector) => Some((Key::of(&columns[key], row)?, vector.to_vec())),
            _ => None,
        };
        Ok((0..columns[at].len()).filter_map(row).collect())
    })
    .await
}
