//! Collections and partitions, for a Quorate that runs alone.

use prost::Message;
use quorate_meta::command::{Command, Outcome};
use quorate_meta::decide::limits::CHANNELS_MAX;
use quorate_meta::model::Level;
use quorate_meta::pb::{self, CollectionRow};
use quorate_meta::{CollectionId, Reason, State};
use quorate_rpc::proto::milvus::schema::{CollectionSchema, DataType};
use quorate_rpc::proto::quorate::collection::{
    Collection, CreateCollectionRequest, CreateCollectionResponse, CreatePartitionRequest,
    CreatePartitionResponse, DescribeCollectionRequest, DescribeCollectionResponse,
    DropCollectionRequest, DropCollectionResponse, DropPartitionRequest, DropPartitionResponse,
    ListCollectionsResponse, Partition,
};

use super::schema_of;
use crate::coordinator::Coordinator;
use crate::error::{CoordError, Result};
use crate::wire;

/// Longest name.
const NAME_BYTES_MAX: usize = 255;
/// Field ids below this are Milvus's system fields.
const FIRST_FIELD_ID: i64 = 100;
/// Most fields of a collection.
const FIELDS_MAX: usize = 256;
/// Largest dimension of a vector, as in Milvus.
const DIM_MAX: u32 = 32_768;

impl Coordinator {
    /// Creates a collection with its default partition and channels, in one entry.
    ///
    /// # Errors
    /// A bad name or schema, the name is taken by another definition, or this replica does not
    /// lead.
    pub async fn create_collection(
        &self,
        request: CreateCollectionRequest,
    ) -> Result<CreateCollectionResponse> {
        let scope = self.scope()?;
        check_name("collection", &request.name)?;
        let mut schema = request.schema.unwrap_or_default();
        schema.name.clone_from(&request.name);
        check_schema(&mut schema)?;
        let shards = usize::try_from(request.shards.max(1)).unwrap_or(usize::MAX);
        if shards > CHANNELS_MAX {
            return Err(CoordError::Invalid(format!(
                "{shards} shards; at most {CHANNELS_MAX} are possible"
            )));
        }
        let first = scope.alloc_ids(2).await?;
        let command = Command::CreateCollection(pb::CreateCollection {
            id: first,
            name: request.name.clone(),
            schema: schema.encode_to_vec().into(),
            default_partition_id: first + 1,
            channels: (0..shards)
                .map(|shard| format!("quorate-dml_{shard}_{first}v{shard}"))
                .collect(),
            row_size_bytes: wire::row_size_bytes(&schema),
        });
        let (id, created) = match scope.submit_fact(command).await? {
            Outcome::Done(reply) => (reply.id, true),
            Outcome::Already(reply) => (reply.id, false),
            Outcome::Rejected(reason, detail) => {
                return Err(CoordError::Rejected(reason, detail));
            }
        };
        let state = self.state();
        let row = state
            .live_collection(CollectionId(id))
            .ok_or_else(|| not_found(&request.name))?;
        Ok(CreateCollectionResponse {
            collection: Some(to_collection(&state, row)?),
            created,
        })
    }

    /// Drops a collection. Dropping what is not there succeeds.
    ///
    /// # Errors
    /// This replica does not lead.
    pub async fn drop_collection(
        &self,
        request: DropCollectionRequest,
    ) -> Result<DropCollectionResponse> {
        let scope = self.scope()?;
        let id = {
            let state = self.read().await?;
            match find(&state, &request.name, request.id) {
                Some(row) => row.id,
                None => return Ok(DropCollectionResponse { dropped: false }),
            }
        };
        let command = Command::DropCollection(pb::DropCollection { id });
        let outcome = scope.submit_fact(command).await?;
        Ok(DropCollectionResponse {
            dropped: matches!(outcome, Outcome::Done(_)),
        })
    }

    /// A collection by name or id.
    ///
    /// # Errors
    /// `CollectionNotFound`, or this replica does not lead.
    pub async fn describe_collection(
        &self,
        request: DescribeCollectionRequest,
    ) -> Result<DescribeCollectionResponse> {
        let state = self.read().await?;
        let row = find(&state, &request.name, request.id).ok_or_else(|| {
            if request.name.is_empty() {
                not_found(&request.id.to_string())
            } else {
                not_found(&request.name)
            }
        })?;
        Ok(DescribeCollectionResponse {
            collection: Some(to_collection(&state, row)?),
        })
    }

    /// All collections, by id.
    ///
    /// # Errors
    /// This replica does not lead.
    pub async fn list_collections(&self) -> Result<ListCollectionsResponse> {
        let state = self.read().await?;
        let collections = state
            .collections()
            .map(|row| to_collection(&state, row))
            .collect::<Result<_>>()?;
        Ok(ListCollectionsResponse { collections })
    }

    /// Creates a partition; the name is its natural key.
    ///
    /// # Errors
    /// `CollectionNotFound`, a bad name, too many partitions, or this replica does not lead.
    pub async fn create_partition(
        &self,
        request: CreatePartitionRequest,
    ) -> Result<CreatePartitionResponse> {
        let scope = self.scope()?;
        check_name("partition", &request.name)?;
        let id = scope.alloc_ids(1).await?;
        let command = Command::CreatePartition(pb::CreatePartition {
            collection_id: request.collection_id,
            id,
            name: request.name.clone(),
        });
        let (id, created) = match scope.submit_fact(command).await? {
            Outcome::Done(reply) => (reply.id, true),
            Outcome::Already(reply) => (reply.id, false),
            Outcome::Rejected(reason, detail) => {
                return Err(CoordError::Rejected(reason, detail));
            }
        };
        Ok(CreatePartitionResponse {
            partition: Some(Partition {
                id,
                name: request.name,
            }),
            created,
        })
    }

    /// Drops a partition. Dropping what is not there succeeds.
    ///
    /// # Errors
    /// `CollectionNotFound`, the default partition, or this replica does not lead.
    pub async fn drop_partition(
        &self,
        request: DropPartitionRequest,
    ) -> Result<DropPartitionResponse> {
        let scope = self.scope()?;
        let command = Command::DropPartition(pb::DropPartition {
            collection_id: request.collection_id,
            name: request.name,
        });
        match scope.submit_fact(command).await? {
            Outcome::Done(_) => Ok(DropPartitionResponse { dropped: true }),
            Outcome::Already(_) => Ok(DropPartitionResponse { dropped: false }),
            Outcome::Rejected(reason, detail) => Err(CoordError::Rejected(reason, detail)),
        }
    }
}

fn find<'a>(state: &'a State, name: &str, id: i64) -> Option<&'a CollectionRow> {
    let row = if name.is_empty() {
        state.live_collection(CollectionId(id))
    } else {
        state.collection_named(name)
    };
    row.map(|row| row.as_ref())
}

fn not_found(what: &str) -> CoordError {
    CoordError::Rejected(
        Reason::CollectionNotFound,
        format!("collection not found[collection={what}]"),
    )
}

fn to_collection(state: &State, row: &CollectionRow) -> Result<Collection> {
    let healthy = || {
        state.segments_of(CollectionId(row.id)).filter(|segment| {
            state.healthy_segment(segment.id).is_some() && segment.level != Level::L0
        })
    };
    Ok(Collection {
        id: row.id,
        name: row.name.clone(),
        schema: Some(schema_of(row)?),
        partitions: row
            .partitions
            .iter()
            .filter(|partition| partition.dropped_at == 0)
            .map(|partition| Partition {
                id: partition.id,
                name: partition.name.clone(),
            })
            .collect(),
        channels: row.channels.clone(),
        created_at: row.created_at,
        rows: healthy().map(|segment| segment.rows).sum(),
        segments: i64::try_from(healthy().count()).unwrap_or(i64::MAX),
    })
}

/// Names start with a letter or an underscore and go on with letters, digits, underscores, as in
/// Milvus; hyphens and dots are fine behind the first letter.
fn check_name(what: &str, name: &str) -> Result<()> {
    let starts = name
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let goes_on = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if !starts || !goes_on || name.len() > NAME_BYTES_MAX {
        return Err(CoordError::Invalid(format!(
            "{what} name {name:?}: 1 to {NAME_BYTES_MAX} letters, digits, _ - . and a letter or _ \
             first"
        )));
    }
    Ok(())
}

/// Checks a schema and gives ids to fields that have none.
fn check_schema(schema: &mut CollectionSchema) -> Result<()> {
    let bad = |problem: String| Err(CoordError::Invalid(format!("schema: {problem}")));
    if schema.fields.is_empty() || schema.fields.len() > FIELDS_MAX {
        return bad(format!(
            "{} fields; 1 to {FIELDS_MAX} are possible",
            schema.fields.len()
        ));
    }
    let mut next = schema
        .fields
        .iter()
        .map(|field| field.field_id + 1)
        .fold(FIRST_FIELD_ID, i64::max);
    for field in &mut schema.fields {
        if field.field_id == 0 {
            field.field_id = next;
            next += 1;
        }
    }
    for (at, field) in schema.fields.iter().enumerate() {
        let earlier = &schema.fields[..at];
        if field.name.is_empty() || earlier.iter().any(|other| other.name == field.name) {
            return bad(format!("field name {:?} is empty or taken", field.name));
        }
        if field.field_id < FIRST_FIELD_ID
            || earlier.iter().any(|other| other.field_id == field.field_id)
        {
            return bad(format!(
                "field {}: id {} is taken",
                field.name, field.field_id
            ));
        }
        let vector = matches!(
            field.data_type(),
            DataType::FloatVector
                | DataType::BinaryVector
                | DataType::Float16Vector
                | DataType::BFloat16Vector
        );
        if vector {
            let dim = field.type_params.iter().find(|pair| pair.key == "dim");
            let dim = dim.and_then(|pair| pair.value.parse::<u32>().ok());
            if !dim.is_some_and(|dim| (1..=DIM_MAX).contains(&dim)) {
                return bad(format!(
                    "vector field {} needs a type parameter dim from 1 to {DIM_MAX}",
                    field.name
                ));
            }
        } else if field.data_type() == DataType::None {
            return bad(format!("field {} has no data type", field.name));
        }
    }
    let keys: Vec<_> = schema.fields.iter().filter(|f| f.is_primary_key).collect();
    match keys.as_slice() {
        [key] if matches!(key.data_type(), DataType::Int64 | DataType::VarChar) => Ok(()),
        [key] => bad(format!("primary key {} must be Int64 or VarChar", key.name)),
        _ => bad("exactly one field must be the primary key".into()),
    }
}
