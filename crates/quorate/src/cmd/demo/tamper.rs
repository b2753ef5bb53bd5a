//! The demo's own test: a changed row, a deleted object, an orphan and a deleted index file must
//! each make it fail, and be named.

use std::path::Path;
use std::time::Duration;

use quorate_binlog::{ColumnData, InsertLog, LogPath, LogStore, Schema, insert};
use quorate_ingest::{Key, VerifyReport};
use quorate_rpc::proto::milvus::data::{GetRecoveryInfoRequestV2, GetSegmentInfoRequest};
use quorate_rpc::status::checked;
use quorate_rpc::{Client, Retry};
use serde_json::json;

use super::stages::{COLLECTION, Demo, problems_of};
use crate::answer::Answer;
use crate::cmd::{data_coord, describe, inventory};
use crate::error::{CliError, Exit};

const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the damage is done.
struct Target {
    keys: InsertLog,
    /// Log of another field of the same rows.
    values: InsertLog,
    field: String,
}

pub(super) async fn selftest(demo: &Demo) -> Result<Answer, CliError> {
    let client = demo.client();
    let store = LogStore::open(&demo.object_store(), STORE_TIMEOUT).map_err(CliError::failed)?;
    let target = find(&client, &store).await?;
    let again = || demo.compare();

    let key = alter(&store, &target).await?;
    eprintln!("           altered row {key:?}, field {}", target.field);
    let report = again().await?;
    let row_named = names_row(&report, &key, &target.field);
    let row_problems = problems_of(&report);
    restore(&store, &target).await?;

    store
        .delete(&target.values.path)
        .await
        .map_err(CliError::failed)?;
    let path = target.values.path.to_string();
    eprintln!("           deleted object {path}");
    let report = again().await?;
    let object_problems = problems_of(&report);
    let object_named = !report.ok() && object_problems.iter().any(|p| p.contains(&path));

    let orphan = put_orphan(&store, &target).await?;
    eprintln!("           put orphan {orphan}");
    let index_file = remove_index_file(Path::new(&demo.object_store()))?;
    eprintln!("           deleted index file {index_file}");
    let inventory = demo.take_inventory().await?;
    let orphan_named = inventory.orphans.contains(&orphan);
    let searched = demo.recall().await;
    let search_problem = searched.err().map_or_else(
        || "the search found everything".to_owned(),
        |error| error.to_string(),
    );
    let index_named =
        inventory.missing.contains(&index_file) && search_problem.contains(&index_file);

    let passed = row_named && object_named && orphan_named && index_named;
    let text = format!(
        "altered row: {}\n  {}\ndeleted object: {}\n  {}\norphan: {}\n  {}\n\
         deleted index file: {}\n  {search_problem}\n\nself-test {}",
        verdict(row_named),
        row_problems.join("\n  "),
        verdict(object_named),
        object_problems.join("\n  "),
        verdict(orphan_named),
        inventory.problems().join("\n  "),
        verdict(index_named),
        if passed { "passed" } else { "failed" }
    );
    let json = json!({
        "altered_row_named": row_named,
        "deleted_object_named": object_named,
        "orphan_named": orphan_named,
        "deleted_index_file_named": index_named,
        "altered_row": row_problems,
        "deleted_object": object_problems,
    });
    Ok(Answer::new(&json, text)?.unless(passed, Exit::Failed))
}

fn verdict(named: bool) -> &'static str {
    if named {
        "the demo failed and named it"
    } else {
        "NOT named"
    }
}

fn names_row(report: &VerifyReport, key: &Key, field: &str) -> bool {
    !report.ok()
        && report.wrong.count == 1
        && report
            .wrong
            .first
            .iter()
            .any(|wrong| wrong.key == *key && wrong.field == field)
}

/// The first flushed segment's primary keys, and the log of a text or number field beside them.
async fn find(client: &Client, store: &LogStore) -> Result<Target, CliError> {
    let collection = describe(client, COLLECTION).await?;
    let proto = collection.schema.clone().unwrap_or_default();
    let schema = Schema::from_proto(&proto).map_err(CliError::failed)?;
    let recovery = client
        .call(Retry::Idempotent, |leader| async move {
            let request = GetRecoveryInfoRequestV2 {
                collection_id: collection.id,
                ..Default::default()
            };
            checked(data_coord(leader).get_recovery_info_v2(request).await?)
        })
        .await?;
    let segment = recovery
        .segments
        .iter()
        .find(|segment| segment.num_of_rows > 0)
        .ok_or_else(|| CliError::failed(anyhow::anyhow!("no flushed segment has rows")))?;
    let info = client
        .call(Retry::Idempotent, |leader| async move {
            let request = GetSegmentInfoRequest {
                segment_i_ds: vec![segment.id],
                ..Default::default()
            };
            checked(data_coord(leader).get_segment_info(request).await?)
        })
        .await?;
    let key_field = schema.primary_key().id;
    let other = schema
        .fields()
        .iter()
        .find(|field| field.id != key_field && field.name == "description")
        .or_else(|| schema.fields().iter().find(|field| field.id != key_field))
        .ok_or_else(|| CliError::failed(anyhow::anyhow!("the collection has one field only")))?;
    let first_log = |field: i64| {
        info.infos
            .iter()
            .flat_map(|info| &info.binlogs)
            .find(|logs| logs.field_id == field)
            .and_then(|logs| logs.binlogs.first())
            .and_then(|log| LogPath::parse(&log.log_path).ok())
            .ok_or_else(|| CliError::failed(anyhow::anyhow!("no log of field {field}")))
    };
    Ok(Target {
        keys: read(store, &first_log(key_field)?).await?,
        values: read(store, &first_log(other.id)?).await?,
        field: other.name.clone(),
    })
}

async fn read(store: &LogStore, path: &LogPath) -> Result<InsertLog, CliError> {
    store.read_insert(path).await.map_err(CliError::failed)
}

async fn write(store: &LogStore, log: &InsertLog, column: &ColumnData) -> Result<(), CliError> {
    let timestamps = (log.timestamp_from, log.timestamp_to);
    let encoded = insert::encode(log.path, column, timestamps).map_err(CliError::failed)?;
    store.put(&encoded).await.map_err(CliError::failed)
}

/// Changes one value of one row, in a file that is otherwise sound.
async fn alter(store: &LogStore, target: &Target) -> Result<Key, CliError> {
    let row = target.values.column.len() / 2;
    let mut column = target.values.column.clone();
    let changed = match &mut column {
        ColumnData::VarChar(values) => values.get_mut(row).map(|value| value.push('!')),
        ColumnData::Int64(values) => values.get_mut(row).map(|value| *value ^= 1),
        _ => None,
    };
    changed.ok_or_else(|| CliError::failed(anyhow::anyhow!("no value that can be changed")))?;
    write(store, &target.values, &column).await?;
    match &target.keys.column {
        ColumnData::Int64(keys) => keys.get(row).map(|key| Key::Int64(*key)),
        ColumnData::VarChar(keys) => keys.get(row).map(|key| Key::VarChar(key.clone())),
        _ => None,
    }
    .ok_or_else(|| CliError::failed(anyhow::anyhow!("keys and values are not of the same rows")))
}

async fn restore(store: &LogStore, target: &Target) -> Result<(), CliError> {
    write(store, &target.values, &target.values.column).await
}

/// Stores a sound log file of a segment that nobody knows; its path.
async fn put_orphan(store: &LogStore, target: &Target) -> Result<String, CliError> {
    let keys = &target.keys;
    let path = LogPath::Insert {
        collection: keys.path.collection(),
        partition: keys.path.partition(),
        // Ids of segments are handed out upwards, and this one was never used for one.
        segment: 1,
        field: keys.path.field().unwrap_or_default(),
        log_id: keys.path.log_id(),
    };
    let timestamps = (keys.timestamp_from, keys.timestamp_to);
    let encoded = insert::encode(path, &keys.column, timestamps).map_err(CliError::failed)?;
    store.put(&encoded).await.map_err(CliError::failed)?;
    Ok(path.to_string())
}

/// Deletes an index file from a local store; its path.
fn remove_index_file(store: &Path) -> Result<String, CliError> {
    let files = inventory::walk(store)?;
    let path = files
        .into_iter()
        .map(|(path, _)| path)
        .find(|path| path.starts_with("index_files/"))
        .ok_or_else(|| CliError::failed(anyhow::anyhow!("there is no index file")))?;
    std::fs::remove_file(store.join(&path))?;
    Ok(path)
}
