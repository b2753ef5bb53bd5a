//! Reading the inputs: groups of logs, checked against their metadata, and deletes.

use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use quorate_binlog::{
    BinlogError, ColumnData, Deletes, FieldType, Group, LogPath, LogStore, NamedLog, Schema,
};

use super::job::PlanError;

/// Groups read ahead of the one that is worked on.
const GROUPS_AHEAD: usize = 1;
/// Log files of a group fetched at a time.
const LOGS_AT_ONCE: usize = 2;
/// Deletes of a plan held in memory at most; some tens of bytes each.
const DELETES_MAX: u64 = 16 << 20;

/// The columns of groups of logs, one group after the other, the next one read meanwhile.
pub(crate) fn groups<'a>(
    store: &'a LogStore,
    schema: &'a Schema,
    groups: impl IntoIterator<Item = &'a Group, IntoIter: Send + 'a>,
) -> impl Stream<Item = Result<Vec<ColumnData>, PlanError>> + Send + 'a {
    stream::iter(groups)
        .map(move |group| one_group(store, schema, group))
        .buffered(1 + GROUPS_AHEAD)
}

/// The columns of a group, in the order of its logs.
async fn one_group(
    store: &LogStore,
    schema: &Schema,
    group: &Group,
) -> Result<Vec<ColumnData>, PlanError> {
    let logs = group.logs.iter();
    let reads: Vec<_> = logs.map(|log| one_log(store, schema, log)).collect();
    stream::iter(reads)
        .buffered(LOGS_AT_ONCE)
        .try_collect()
        .await
}

async fn one_log(
    store: &LogStore,
    schema: &Schema,
    log: &NamedLog,
) -> Result<ColumnData, PlanError> {
    let column = store.read_insert(&log.path).await?.column;
    if i64::try_from(column.len()) != Ok(log.entry.entries_num) {
        let reason = format!(
            "it has {} rows, its metadata says {}",
            column.len(),
            log.entry.entries_num
        );
        return Err(damaged(store, &log.path, reason));
    }
    let field = log.path.field().and_then(|id| schema.field(id));
    // What is no field of the schema is a system field: they are all 64-bit numbers.
    let kind = field.map_or(FieldType::Int64, |field| field.kind);
    if !column.fits(kind) {
        let reason = format!(
            "its values are of type {}, they should be {}",
            column.kind().name(),
            kind.name()
        );
        return Err(damaged(store, &log.path, reason));
    }
    Ok(column)
}

/// Reads delta logs; `held` counts the entries of all deletes of the plan.
pub(crate) async fn deletes(
    store: &LogStore,
    schema: &Schema,
    paths: &[LogPath],
    into: &mut Deletes,
    held: &mut u64,
) -> Result<(), PlanError> {
    let key = schema.primary_key().kind;
    for path in paths {
        let rows = store.read_delta(path).await?;
        if !rows.keys.fits(key) {
            let reason = format!(
                "its keys are of type {}, they should be {}",
                rows.keys.kind().name(),
                key.name()
            );
            return Err(damaged(store, path, reason));
        }
        *held += rows.len() as u64;
        if *held > DELETES_MAX {
            return Err(PlanError::TooManyDeletes {
                deletes: *held,
                limit: DELETES_MAX,
            });
        }
        into.add(&rows);
    }
    Ok(())
}

/// Timestamps as they are compared.
pub(crate) fn timestamps(column: &ColumnData) -> Result<&[i64], PlanError> {
    match column {
        ColumnData::Int64(timestamps) => Ok(timestamps),
        other => Err(PlanError::Internal(format!(
            "timestamps were read as {}",
            other.kind().name()
        ))),
    }
}

/// Work that takes long, away from the threads that serve requests.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PlanError> + Send + 'static,
) -> Result<T, PlanError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| PlanError::Internal(error.to_string()))?
}

fn damaged(store: &LogStore, path: &LogPath, reason: String) -> PlanError {
    PlanError::Log(BinlogError::File {
        path: store.location(path).to_string(),
        reason,
    })
}
