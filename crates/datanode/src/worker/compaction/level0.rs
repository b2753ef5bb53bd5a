//! Level zero: deletes that were stored apart become delete logs of the segments they hit.
//!
//! The statistics of a target say whether a delete can concern it at all; whether it does is read
//! from its keys and timestamps, so that a target's count of deletes is one of deleted keys.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::StreamExt;
use quorate_binlog::{
    ColumnData, Deletes, DeltaRows, LogStore, PrimaryKey, PrimaryKeyStats, delta,
};
use quorate_rpc::proto::milvus::data::{CompactionSegment, FieldBinlog};

use super::job::{Input, Job, PlanError};
use super::output::Ids;
use super::read;

/// Partition id of deletes that apply to all of them.
const ALL_PARTITIONS: i64 = -1;

/// Deletes by the partition they apply to.
type ByPartition = HashMap<i64, Arc<Deletes>>;

pub(crate) async fn run(store: &LogStore, job: &Job) -> Result<Vec<CompactionSegment>, PlanError> {
    let mut held = 0;
    let mut by_partition: HashMap<i64, Deletes> = HashMap::new();
    for input in &job.inputs {
        let deletes = by_partition.entry(input.place.partition).or_default();
        read::deletes(store, &job.schema, &input.deltas, deletes, &mut held).await?;
    }
    let by_partition: ByPartition = by_partition
        .into_iter()
        .map(|(partition, deletes)| (partition, Arc::new(deletes)))
        .collect();

    let mut log_ids = Ids::new("log", job.log_ids.clone());
    let mut segments = Vec::new();
    for target in &job.targets {
        let concerned: Vec<Arc<Deletes>> = [ALL_PARTITIONS, target.place.partition]
            .iter()
            .filter_map(|partition| by_partition.get(partition).cloned())
            .collect();
        let stats = stats(store, target).await?;
        let possible = stats.is_none_or(|stats| {
            let any = |deletes: &Arc<Deletes>| deletes.any_within(&stats.min, &stats.max);
            concerned.iter().any(any)
        });
        if !possible {
            continue;
        }
        let (mut own, mut held) = (Deletes::default(), held);
        read::deletes(store, &job.schema, &target.deltas, &mut own, &mut held).await?;
        let hits = hits(store, job, target, concerned, own).await?;
        if hits.is_empty() {
            continue;
        }
        let path = target.place.delta(log_ids.take(1)?);
        let log = read::blocking(move || Ok(delta::encode(path, &rows(hits))?)).await?;
        store.put(&log).await?;
        segments.push(CompactionSegment {
            plan_id: job.plan_id,
            segment_id: target.place.segment,
            deltalogs: vec![FieldBinlog {
                field_id: job.schema.primary_key().id,
                binlogs: vec![log.to_binlog(store.root())],
            }],
            channel: job.channel.clone(),
            ..Default::default()
        });
    }
    Ok(segments)
}

/// Statistics of all rows of a target; none when a part of it has none.
async fn stats(store: &LogStore, target: &Input) -> Result<Option<PrimaryKeyStats>, PlanError> {
    let mut all: Option<PrimaryKeyStats> = None;
    for path in &target.stats {
        let stats = store.read_stats(path).await?;
        match &mut all {
            Some(all) => all.merge(stats),
            none => *none = Some(stats),
        }
    }
    let rows: u64 = target.groups.iter().map(|group| group.rows()).sum();
    Ok(all.filter(|stats| stats.rows == rows))
}

/// The keys of rows of a target that are deleted, and were not before, each with its latest delete.
async fn hits(
    store: &LogStore,
    job: &Job,
    target: &Input,
    concerned: Vec<Arc<Deletes>>,
    own: Deletes,
) -> Result<BTreeMap<PrimaryKey, u64>, PlanError> {
    let own = Arc::new(own);
    let mut all = BTreeMap::new();
    let mut groups = std::pin::pin!(read::groups(store, &job.schema, &target.groups));
    while let Some(columns) = groups.next().await {
        let columns = columns?;
        let (concerned, own) = (concerned.clone(), Arc::clone(&own));
        all.extend(read::blocking(move || of_group(&columns, &concerned, &own)).await?);
    }
    Ok(all)
}

fn of_group(
    columns: &[ColumnData],
    concerned: &[Arc<Deletes>],
    own: &Deletes,
) -> Result<Vec<(PrimaryKey, u64)>, PlanError> {
    let [keys, timestamps] = columns else {
        return Err(PlanError::Internal(format!(
            "{} columns were read instead of 2",
            columns.len()
        )));
    };
    let mut hits = Vec::new();
    for (row, timestamp) in read::timestamps(timestamps)?.iter().enumerate() {
        let (key, timestamp) = (keys.value(row), *timestamp as u64);
        let latest = concerned.iter().filter_map(|deletes| deletes.latest(key));
        if let Some(deleted) = latest.max()
            && deleted > timestamp
            && !own.hits(key, timestamp)
        {
            hits.extend(PrimaryKey::of(keys, row).map(|key| (key, deleted)));
        }
    }
    Ok(hits)
}

fn rows(hits: BTreeMap<PrimaryKey, u64>) -> DeltaRows {
    let texts = matches!(hits.keys().next(), Some(PrimaryKey::VarChar(_)));
    let (mut numbers, mut names) = (Vec::new(), Vec::new());
    let mut timestamps = Vec::with_capacity(hits.len());
    // All keys are of one type: they are of one column.
    for (key, timestamp) in hits {
        match key {
            PrimaryKey::Int64(key) => numbers.push(key),
            PrimaryKey::VarChar(key) => names.push(key),
        }
        timestamps.push(timestamp);
    }
    let keys = if texts {
        ColumnData::VarChar(names)
    } else {
        ColumnData::Int64(numbers)
    };
    DeltaRows { keys, timestamps }
}
