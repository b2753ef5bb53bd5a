//! The collection rows go to: found, checked against the file, or created from it.

use std::sync::Arc;

use quorate_binlog::schema::FIRST_USER_FIELD;
use quorate_binlog::{Field, FieldType, Schema};
use quorate_rpc::ClientError;
use quorate_rpc::proto::milvus::common::KeyValuePair;
use quorate_rpc::proto::milvus::schema::{CollectionSchema, FieldSchema};
use quorate_rpc::proto::quorate::collection::{Collection, CreateCollectionRequest};

use crate::coordinator::Coordinator;
use crate::error::CollectionError;
use crate::plan::CHANNELS_MAX;
use crate::source::SourceFile;

/// Name of the partition every collection has, in Milvus.
const DEFAULT_PARTITION: &str = "_default";

/// A collection with its schema checked.
#[derive(Debug, Clone)]
pub(crate) struct KnownCollection {
    pub(crate) proto: Collection,
    pub(crate) schema: Arc<Schema>,
}

impl KnownCollection {
    fn new(proto: Collection) -> Result<KnownCollection, CollectionError> {
        let unusable = |reason: &str| CollectionError::Unusable {
            collection: proto.name.clone(),
            reason: reason.to_owned(),
        };
        let schema = proto
            .schema
            .as_ref()
            .ok_or_else(|| unusable("it has no schema"))?;
        if schema.auto_id || schema.fields.iter().any(|field| field.auto_id) {
            return Err(unusable(
                "its primary keys are generated (autoID), which is not supported",
            ));
        }
        let schema = Schema::from_proto(schema).map_err(|source| CollectionError::Schema {
            collection: proto.name.clone(),
            source,
        })?;
        if proto.channels.is_empty() || proto.channels.len() > CHANNELS_MAX {
            return Err(unusable("it has no channels, or too many"));
        }
        Ok(KnownCollection {
            schema: Arc::new(schema),
            proto,
        })
    }

    pub(crate) fn id(&self) -> i64 {
        self.proto.id
    }

    pub(crate) fn name(&self) -> &str {
        &self.proto.name
    }

    pub(crate) fn channels(&self) -> &[String] {
        &self.proto.channels
    }

    /// Id of a partition by name.
    pub(crate) fn partition(&self, name: &str) -> Option<i64> {
        let partitions = self.proto.partitions.iter();
        partitions
            .filter(|partition| partition.name == name)
            .map(|partition| partition.id)
            .next()
    }
}

/// The collection with this name; none when there is none.
pub(crate) async fn find(
    coordinator: &Coordinator,
    name: &str,
) -> Result<Option<KnownCollection>, CollectionError> {
    let found = coordinator
        .describe(name)
        .await
        .map_err(|source| failed(format!("look collection {name:?} up"), source))?;
    found.map(KnownCollection::new).transpose()
}

/// The collection with this name, which must exist.
pub(crate) async fn must_find(
    coordinator: &Coordinator,
    name: &str,
) -> Result<KnownCollection, CollectionError> {
    find(coordinator, name)
        .await?
        .ok_or_else(|| CollectionError::Absent {
            name: name.to_owned(),
        })
}

/// Creates a collection for a file, or answers the one that exists by now.
pub(crate) async fn create(
    coordinator: &Coordinator,
    name: &str,
    source: &SourceFile,
    channels: u32,
) -> Result<(KnownCollection, bool), CollectionError> {
    let request = CreateCollectionRequest {
        name: name.to_owned(),
        schema: Some(schema_of(name, source)),
        shards: channels,
    };
    let (collection, created) = match coordinator.create(request).await {
        Ok((Some(collection), created)) => (KnownCollection::new(collection)?, created),
        Ok((None, _)) => {
            return Err(CollectionError::Unusable {
                collection: name.to_owned(),
                reason: "the coordinator created it but does not describe it".into(),
            });
        }
        // Somebody else created another one of that name: the comparison says how it differs.
        Err(error) if error.refusal() == Some(tonic::Code::AlreadyExists) => {
            match find(coordinator, name).await? {
                Some(collection) => (collection, false),
                None => return Err(failed(format!("create collection {name:?}"), error)),
            }
        }
        Err(error) => return Err(failed(format!("create collection {name:?}"), error)),
    };
    Ok((collection, created))
}

/// Id of the partition rows go to: the one named, else the default one. With `create`, a named
/// one that is not there is created.
pub(crate) async fn partition(
    coordinator: &Coordinator,
    collection: &KnownCollection,
    name: Option<&str>,
    create: bool,
) -> Result<i64, CollectionError> {
    let wanted = name.unwrap_or(DEFAULT_PARTITION);
    if let Some(id) = collection.partition(wanted) {
        return Ok(id);
    }
    // The default one by whatever name: the first of the collection.
    let first = collection.proto.partitions.iter().map(|p| p.id).min();
    if let (None, Some(id)) = (name, first) {
        return Ok(id);
    }
    let absent = || CollectionError::NoPartition {
        collection: collection.name().to_owned(),
        partition: wanted.to_owned(),
    };
    if !create {
        return Err(absent());
    }
    let created = coordinator
        .create_partition(collection.id(), wanted)
        .await
        .map_err(|source| failed(format!("create partition {wanted:?}"), source))?;
    created.map(|partition| partition.id).ok_or_else(absent)
}

/// Whether the columns of a file are the fields of a collection, by name and type, and the
/// primary keys agree if one was asked for.
pub(crate) fn check(
    collection: &KnownCollection,
    source: &SourceFile,
    primary_key: Option<&str>,
) -> Result<(), CollectionError> {
    let wrong = |column: &str, reason: String| CollectionError::Column {
        collection: collection.name().to_owned(),
        column: column.to_owned(),
        reason,
    };
    let schema = &collection.schema;
    for field in schema.fields() {
        let column = source
            .columns()
            .iter()
            .find(|column| column.name == field.name)
            .ok_or_else(|| {
                wrong(
                    &field.name,
                    format!(
                        "the file has no such column, the field is {}",
                        show(field.kind)
                    ),
                )
            })?;
        if !suits(column.kind, field) {
            return Err(wrong(
                &field.name,
                format!(
                    "the file has {}, the field is {}",
                    show(column.kind),
                    show(field.kind)
                ),
            ));
        }
    }
    for column in source.columns() {
        if schema.field_named(&column.name).is_none() {
            return Err(wrong(
                &column.name,
                "the collection has no such field".into(),
            ));
        }
    }
    let key = &schema.primary_key().name;
    match primary_key {
        Some(asked) if asked != key => Err(wrong(
            asked,
            format!("the collection's primary key is {key:?}"),
        )),
        _ => Ok(()),
    }
}

fn suits(column: FieldType, field: &Field) -> bool {
    match (column, field.kind) {
        (FieldType::VarChar { .. }, FieldType::VarChar { .. } | FieldType::Json) => true,
        (column, field) => column == field,
    }
}

fn show(kind: FieldType) -> String {
    match kind.dim() {
        Some(dim) => format!("{}({dim})", kind.name()),
        None => kind.name().to_owned(),
    }
}

/// The schema a collection made from a file will have, with field ids that are only good for
/// reading the file.
pub(crate) fn draft_schema(source: &SourceFile) -> Result<Schema, CollectionError> {
    let mut schema = schema_of("", source);
    for (at, field) in schema.fields.iter_mut().enumerate() {
        field.field_id = FIRST_USER_FIELD + at as i64;
    }
    Schema::from_proto(&schema).map_err(|error| CollectionError::Schema {
        collection: source.path().display().to_string(),
        source: error,
    })
}

/// The schema of a collection made from a file.
fn schema_of(name: &str, source: &SourceFile) -> CollectionSchema {
    let pair = |key: &str, value: u32| KeyValuePair {
        key: key.to_owned(),
        value: value.to_string(),
    };
    let fields = source
        .columns()
        .iter()
        .map(|column| FieldSchema {
            name: column.name.clone(),
            is_primary_key: column.name == source.primary_key().name,
            data_type: column.kind.data_type() as i32,
            type_params: match column.kind {
                FieldType::VarChar { max_length } => vec![pair("max_length", max_length)],
                kind => kind.dim().map(|dim| pair("dim", dim)).into_iter().collect(),
            },
            ..Default::default()
        })
        .collect();
    CollectionSchema {
        name: name.to_owned(),
        fields,
        ..Default::default()
    }
}

/// Coordinator failure while doing something.
pub(crate) fn failed(action: String, source: ClientError) -> CollectionError {
    CollectionError::Coordinator { action, source }
}

/// Stands for all partitions in a delete.
pub(crate) const ALL_PARTITIONS: i64 = -1;
