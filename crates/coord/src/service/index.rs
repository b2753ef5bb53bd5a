//! Indexes: created, described, dropped (`semantics.md` §8). Answers to odd input are those of the
//! real DataCoord where it refuses it.

mod progress;

use quorate_binlog::FieldType;
use quorate_index::IndexParams;
use quorate_meta::command::Command;
use quorate_meta::pb::{self, BuildState, IndexRow};
use quorate_meta::{CollectionId, Reason, SegmentId, State};
use quorate_rpc::proto::milvus::common::{self, IndexState, KeyValuePair};
use quorate_rpc::proto::milvus::index::{
    CreateIndexRequest, DescribeIndexRequest, DescribeIndexResponse, DropIndexRequest,
    GetIndexBuildProgressRequest, GetIndexBuildProgressResponse, GetIndexInfoRequest,
    GetIndexInfoResponse, GetIndexStateRequest, GetIndexStateResponse, GetIndexStatisticsRequest,
    GetIndexStatisticsResponse, GetSegmentIndexStateRequest, GetSegmentIndexStateResponse,
    IndexFilePathInfo, IndexInfo, SegmentIndexState, SegmentInfo,
};
use quorate_rpc::proto::milvus::schema::DataType;
use quorate_rpc::status::{self, Code};

use super::info::bounded;
use super::{schema_of, segment_ids};
use crate::coordinator::Coordinator;
use crate::error::{CoordError, Result};
use crate::metrics;
use progress::Progress;

/// Longest name of an index.
const NAME_BYTES_MAX: usize = 255;

impl Coordinator {
    /// Creates an index on a vector field; an empty name is the field's. The same again succeeds.
    /// Segments are built one by one afterwards.
    ///
    /// # Errors
    /// Parameters nobody knows, a field that is none or no vector, another index on the field or of
    /// that name, `CollectionNotFound`, or this replica does not lead.
    pub async fn create_index(&self, request: CreateIndexRequest) -> Result<common::Status> {
        let created = self.new_index(request).await;
        metrics::index_requested(match &created {
            Ok(_) => "success",
            Err(_) => "fail",
        });
        match created {
            Err(CoordError::Rejected(Reason::Exists, detail)) => Ok(status::fail(
                Code::UnexpectedError,
                format!("CreateIndex failed: {detail}"),
            )),
            Err(error) => Err(error),
            Ok(()) => Ok(status::ok()),
        }
    }

    async fn new_index(&self, request: CreateIndexRequest) -> Result<()> {
        let scope = self.scope()?;
        self.barrier().await?;
        let field_name = self.check_index(&request)?;
        let name = match request.index_name.as_str() {
            "" => field_name,
            name => name.to_owned(),
        };
        if name.len() > NAME_BYTES_MAX {
            return Err(CoordError::Invalid(format!(
                "an index name of {} bytes; at most {NAME_BYTES_MAX} are possible",
                name.len()
            )));
        }
        let index_id = scope.alloc_ids(1).await?;
        let reply = scope
            .propose_fact(Command::CreateIndex(pb::CreateIndex {
                index_id,
                collection_id: request.collection_id,
                field_id: request.field_id,
                name: name.clone(),
                type_params: from_pairs(request.type_params),
                index_params: from_pairs(request.index_params),
                user_params: from_pairs(request.user_index_params),
                is_auto: request.is_auto_index,
            }))
            .await
            .map_err(|error| self.name_conflict(error, request.collection_id, &name))?;
        tracing::info!(
            collection = request.collection_id,
            index = reply.id,
            name,
            "index created"
        );
        Ok(())
    }

    /// Checks field and parameters; gives the field's name.
    fn check_index(&self, request: &CreateIndexRequest) -> Result<String> {
        let state = self.state();
        let collection = CollectionId(request.collection_id);
        let row = state.live_collection(collection).ok_or_else(|| {
            CoordError::Rejected(
                Reason::CollectionNotFound,
                format!("collection not found[collection={collection}]"),
            )
        })?;
        let schema = schema_of(row)?;
        let field = schema
            .fields
            .iter()
            .find(|field| field.field_id == request.field_id)
            .ok_or_else(|| {
                CoordError::Invalid(format!(
                    "collection {} has no field {}",
                    row.name, request.field_id
                ))
            })?;
        if field.data_type() != DataType::FloatVector {
            return Err(CoordError::Invalid(format!(
                "field {} is of type {}; indexes are supported on FloatVector",
                field.name,
                field.data_type().as_str_name()
            )));
        }
        let dim = field.type_params.iter().find(|pair| pair.key == "dim");
        let dim = dim.and_then(|pair| pair.value.parse().ok()).unwrap_or(0);
        IndexParams::for_field(
            FieldType::FloatVector { dim },
            as_text(&request.type_params),
            as_text(&request.index_params),
        )
        .map_err(|error| CoordError::Invalid(error.to_string()))?;
        Ok(field.name.clone())
    }

    /// What is in the way of an index, in the words of the real DataCoord.
    fn name_conflict(&self, error: CoordError, collection: i64, name: &str) -> CoordError {
        let CoordError::Rejected(Reason::Exists, detail) = error else {
            return error;
        };
        let state = self.state();
        let taken = named(&state, collection, name).next().is_some();
        let words = if taken {
            "at most one distinct index is allowed per field"
        } else {
            "creating multiple indexes on same field is not supported"
        };
        CoordError::Rejected(Reason::Exists, format!("{words}: {detail}"))
    }

    /// Indexes of a collection with their progress as readers see it: parents count until the
    /// segments made of them are ready.
    ///
    /// # Errors
    /// `IndexNotFound`, or this replica does not lead.
    pub async fn describe_index(
        &self,
        request: DescribeIndexRequest,
    ) -> Result<DescribeIndexResponse> {
        let state = self.read().await?;
        let rows = found(&state, request.collection_id, &request.index_name)?;
        Ok(DescribeIndexResponse {
            status: Some(status::ok()),
            index_infos: rows
                .into_iter()
                .map(|row| to_info(row, &Progress::for_readers(&state, row)))
                .collect(),
        })
    }

    /// Indexes of a collection with their progress in real time.
    ///
    /// # Errors
    /// `IndexNotFound`, or this replica does not lead.
    pub async fn get_index_statistics(
        &self,
        request: GetIndexStatisticsRequest,
    ) -> Result<GetIndexStatisticsResponse> {
        let state = self.read().await?;
        let rows = found(&state, request.collection_id, &request.index_name)?;
        Ok(GetIndexStatisticsResponse {
            status: Some(status::ok()),
            index_infos: rows
                .into_iter()
                .map(|row| to_info(row, &Progress::now(&state, row)))
                .collect(),
        })
    }

    /// Whether an index is built for the segments that were there when it was created.
    ///
    /// # Errors
    /// `IndexNotFound`, several indexes and no name, or this replica does not lead.
    pub async fn get_index_state(
        &self,
        request: GetIndexStateRequest,
    ) -> Result<GetIndexStateResponse> {
        let state = self.read().await?;
        let row = only(&state, request.collection_id, &request.index_name)?;
        let progress = Progress::now(&state, row);
        Ok(GetIndexStateResponse {
            status: Some(status::ok()),
            state: progress.state().into(),
            fail_reason: progress.fail_reason,
        })
    }

    /// How an index stands for single segments.
    ///
    /// # Errors
    /// `IndexNotFound`, too many segments, or this replica does not lead.
    pub async fn get_segment_index_state(
        &self,
        request: GetSegmentIndexStateRequest,
    ) -> Result<GetSegmentIndexStateResponse> {
        bounded(request.segment_i_ds.len())?;
        let state = self.read().await?;
        let row = only(&state, request.collection_id, &request.index_name)?;
        let index = row.index.clone().unwrap_or_default();
        let states = segment_ids(&request.segment_i_ds)
            .into_iter()
            .map(|id| {
                let mut told = SegmentIndexState {
                    segment_id: id.0,
                    index_name: index.name.clone(),
                    ..Default::default()
                };
                match (state.segment(id), state.build_of(id, index.index_id)) {
                    (None, _) => {
                        told.set_state(IndexState::None);
                        told.fail_reason = format!("segment not found[segment={id}]");
                    }
                    (Some(_), None) => told.set_state(IndexState::Unissued),
                    (Some(_), Some(build)) => {
                        told.set_state(to_state(build.state()));
                        told.fail_reason.clone_from(&build.fail_reason);
                        told.index_version = i32::try_from(build.version).unwrap_or(i32::MAX);
                    }
                }
                told
            })
            .collect();
        Ok(GetSegmentIndexStateResponse {
            status: Some(status::ok()),
            states,
        })
    }

    /// Index files of segments, of the indexes that are built for them.
    ///
    /// # Errors
    /// Too many segments, or this replica does not lead.
    pub async fn get_index_infos(
        &self,
        request: GetIndexInfoRequest,
    ) -> Result<GetIndexInfoResponse> {
        bounded(request.segment_i_ds.len())?;
        let state = self.read().await?;
        let rows: Vec<&IndexRow> =
            named(&state, request.collection_id, &request.index_name).collect();
        let segment_info = segment_ids(&request.segment_i_ds)
            .into_iter()
            .map(|id| {
                let index_infos: Vec<IndexFilePathInfo> = rows
                    .iter()
                    .filter_map(|row| to_files(&state, row, id))
                    .collect();
                let info = SegmentInfo {
                    collection_id: request.collection_id,
                    segment_id: id.0,
                    enable_index: !index_infos.is_empty(),
                    index_infos,
                };
                (id.0, info)
            })
            .collect();
        Ok(GetIndexInfoResponse {
            status: Some(status::ok()),
            segment_info,
        })
    }

    /// Rows an index is built for, of how many.
    ///
    /// # Errors
    /// `IndexNotFound`, several indexes and no name, or this replica does not lead.
    pub async fn get_index_build_progress(
        &self,
        request: GetIndexBuildProgressRequest,
    ) -> Result<GetIndexBuildProgressResponse> {
        let state = self.read().await?;
        let row = only(&state, request.collection_id, &request.index_name)?;
        let progress = Progress::for_readers(&state, row);
        Ok(GetIndexBuildProgressResponse {
            status: Some(status::ok()),
            indexed_rows: progress.indexed_rows,
            total_rows: progress.total_rows,
            pending_index_rows: progress.total_rows - progress.indexed_rows,
        })
    }

    /// Drops an index, or all of a collection. Dropping what is not there succeeds. With partitions
    /// named it is the end of these partitions that is meant, which takes their builds with it.
    ///
    /// # Errors
    /// Several indexes and neither a name nor `drop_all`, or this replica does not lead.
    pub async fn drop_index(&self, request: DropIndexRequest) -> Result<common::Status> {
        let scope = self.scope()?;
        if !request.partition_i_ds.is_empty() {
            return Ok(status::ok());
        }
        scope
            .propose_fact(Command::DropIndex(pb::DropIndex {
                collection_id: request.collection_id,
                name: request.index_name,
                all: request.drop_all,
            }))
            .await?;
        Ok(status::ok())
    }
}

/// Live indexes of a live collection, by name; an empty name is any.
fn named<'a>(
    state: &'a State,
    collection: i64,
    name: &'a str,
) -> impl Iterator<Item = &'a IndexRow> {
    let collection = CollectionId(collection);
    let live = state.live_collection(collection).is_some();
    state
        .indexes_of(collection)
        .map(|row| row.as_ref())
        .filter(move |row| {
            let own = row.index.as_ref().map(|index| index.name.as_str());
            live && (name.is_empty() || own == Some(name))
        })
}

fn found<'a>(state: &'a State, collection: i64, name: &'a str) -> Result<Vec<&'a IndexRow>> {
    let rows: Vec<_> = named(state, collection, name).collect();
    if rows.is_empty() {
        return Err(CoordError::IndexNotFound(name.to_owned()));
    }
    Ok(rows)
}

fn only<'a>(state: &'a State, collection: i64, name: &'a str) -> Result<&'a IndexRow> {
    match found(state, collection, name)?.as_slice() {
        [row] => Ok(row),
        rows => Err(CoordError::Invalid(format!(
            "collection {collection} has {} indexes; name one",
            rows.len()
        ))),
    }
}

fn to_state(state: BuildState) -> IndexState {
    match state {
        BuildState::Unspecified => IndexState::None,
        BuildState::Init => IndexState::Unissued,
        BuildState::InProgress => IndexState::InProgress,
        BuildState::Finished => IndexState::Finished,
        BuildState::Failed => IndexState::Failed,
    }
}

fn to_info(row: &IndexRow, progress: &Progress) -> IndexInfo {
    let index = row.index.clone().unwrap_or_default();
    IndexInfo {
        collection_id: index.collection_id,
        field_id: index.field_id,
        index_name: index.name,
        index_id: index.index_id,
        type_params: to_pairs(index.type_params),
        index_params: to_pairs(index.index_params),
        indexed_rows: progress.indexed_rows,
        total_rows: progress.total_rows,
        state: progress.state().into(),
        index_state_fail_reason: progress.fail_reason.clone(),
        is_auto_index: index.is_auto,
        user_index_params: to_pairs(index.user_params),
        pending_index_rows: progress.total_rows - progress.indexed_rows,
        ..Default::default()
    }
}

/// The files of an index for one segment, once they are built.
fn to_files(state: &State, row: &IndexRow, segment: SegmentId) -> Option<IndexFilePathInfo> {
    let index = row.index.as_ref()?;
    let build = state.build_of(segment, index.index_id)?;
    if build.state() != BuildState::Finished || build.collection_id != index.collection_id {
        return None;
    }
    Some(IndexFilePathInfo {
        segment_id: segment.0,
        field_id: index.field_id,
        index_id: index.index_id,
        build_id: build.build_id,
        index_name: index.name.clone(),
        index_params: to_pairs(index.index_params.clone()),
        index_file_paths: build.files.clone(),
        serialized_size: build.serialized_bytes,
        index_version: i64::from(build.version),
        num_rows: build.rows,
        mem_size: build.memory_bytes,
        ..Default::default()
    })
}

fn as_text(pairs: &[KeyValuePair]) -> impl Iterator<Item = (&str, &str)> {
    pairs
        .iter()
        .map(|pair| (pair.key.as_str(), pair.value.as_str()))
}

fn from_pairs(pairs: Vec<KeyValuePair>) -> Vec<pb::KeyValue> {
    pairs
        .into_iter()
        .map(|pair| pb::KeyValue {
            key: pair.key,
            value: pair.value,
        })
        .collect()
}

fn to_pairs(pairs: Vec<pb::KeyValue>) -> Vec<KeyValuePair> {
    pairs
        .into_iter()
        .map(|pair| KeyValuePair {
            key: pair.key,
            value: pair.value,
        })
        .collect()
}
