//! A compaction plan, checked and taken apart.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use quorate_binlog::group::{self, GroupProblem};
use quorate_binlog::{BinlogError, Group, LogPath, Place, Schema, TIMESTAMP_FIELD};
use quorate_rpc::proto::milvus::data::{
    Binlog, CompactionPlan, CompactionSegmentBinlogs, CompactionType, FieldBinlog, IdRange,
    SegmentLevel,
};

/// Time a plan has that names none.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(900);

/// Why a plan is refused or fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    /// The plan itself makes no sense; it would not get better.
    #[error("invalid compaction plan: {0}")]
    Invalid(String),
    /// A segment's metadata does not add up.
    #[error("segment {segment}: {problem}")]
    Segment { segment: i64, problem: GroupProblem },
    /// A log file is missing, damaged, or could not be written.
    #[error(transparent)]
    Log(#[from] BinlogError),
    /// More outputs or log files than ids were handed out for.
    #[error("all {what} ids of the plan are used up: [{}, {})", .range.start, .range.end)]
    OutOfIds {
        what: &'static str,
        range: Range<i64>,
    },
    /// More deletes than are held in memory.
    #[error(
        "the plan's delete logs have {deletes} entries, {limit} are possible at a time; compact fewer segments"
    )]
    TooManyDeletes { deletes: u64, limit: u64 },
    /// Work on other threads ended early.
    #[error("internal: {0}")]
    Internal(String),
}

/// A segment that is read.
#[derive(Debug)]
pub(crate) struct Input {
    pub place: Place,
    /// Merge and mix: logs of all fields, in the order of [`group::all_fields`]. Target of level
    /// zero: those of the primary key and the timestamps.
    pub groups: Vec<Group>,
    pub stats: Vec<LogPath>,
    pub deltas: Vec<LogPath>,
}

/// What there is to do.
#[derive(Debug)]
pub(crate) struct Job {
    pub plan_id: i64,
    pub kind: Kind,
    pub channel: String,
    pub schema: Arc<Schema>,
    /// Merge and mix: what is rewritten, in the order of the plan. Level zero: the level-zero
    /// segments.
    pub inputs: Vec<Input>,
    /// Level zero: the segments that get the deletes.
    pub targets: Vec<Input>,
    /// Rows of an output at most.
    pub max_rows: u64,
    pub segment_ids: Range<i64>,
    pub log_ids: Range<i64>,
    pub timeout: Duration,
}

/// What kinds of compaction there are here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Merge and mix do the same: rewrite inputs without their deleted rows.
    Rewrite,
    LevelZero,
}

impl Job {
    pub fn parse(plan: &CompactionPlan) -> Result<Job, PlanError> {
        let kind = match plan.r#type() {
            CompactionType::MergeCompaction | CompactionType::MixCompaction => Kind::Rewrite,
            CompactionType::Level0DeleteCompaction => Kind::LevelZero,
            other => {
                return invalid(format!(
                    "type {} is not supported; this node knows MergeCompaction, MixCompaction and Level0DeleteCompaction",
                    other.as_str_name()
                ));
            }
        };
        if plan.plan_id <= 0 {
            return invalid(format!("plan id {} is not above 0", plan.plan_id));
        }
        let Some(schema) = &plan.schema else {
            return invalid("it has no schema".to_owned());
        };
        let schema =
            Schema::from_proto(schema).map_err(|error| PlanError::Invalid(error.to_string()))?;
        let max_rows = match plan.max_segment_rows {
            0 => u64::MAX,
            rows => match u64::try_from(rows) {
                Ok(rows) => rows,
                Err(_) => return invalid(format!("max_segment_rows {rows} is below 0")),
            },
        };
        let (inputs, targets) = segments(plan, kind, &schema)?;
        Ok(Job {
            plan_id: plan.plan_id,
            kind,
            channel: plan.channel.clone(),
            inputs,
            targets,
            max_rows,
            segment_ids: range(
                plan.pre_allocated_segment_i_ds.as_ref(),
                kind == Kind::Rewrite,
                "segment",
            )?,
            log_ids: range(plan.pre_allocated_log_i_ds.as_ref(), true, "log")?,
            timeout: match u64::try_from(plan.timeout_in_seconds) {
                Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
                _ => TIMEOUT_DEFAULT,
            },
            schema: Arc::new(schema),
        })
    }
}

/// Inputs and targets of a plan.
fn segments(
    plan: &CompactionPlan,
    kind: Kind,
    schema: &Schema,
) -> Result<(Vec<Input>, Vec<Input>), PlanError> {
    let Some(first) = plan.segment_binlogs.first() else {
        return invalid("it names no segments".to_owned());
    };
    let mut seen = BTreeSet::new();
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    for segment in &plan.segment_binlogs {
        let id = segment.segment_id;
        if !seen.insert(id) {
            return invalid(format!("segment {id} is named twice"));
        }
        if segment.collection_id != first.collection_id {
            return invalid(format!(
                "segment {id} is of collection {}, segment {} of {}",
                segment.collection_id, first.segment_id, first.collection_id
            ));
        }
        let level_zero = segment.level() == SegmentLevel::L0;
        match kind {
            Kind::Rewrite if level_zero => {
                return invalid(format!("segment {id} is of level zero: it has no rows"));
            }
            Kind::Rewrite if segment.partition_id != first.partition_id => {
                return invalid(format!(
                    "segment {id} is of partition {}, segment {} of {}",
                    segment.partition_id, first.segment_id, first.partition_id
                ));
            }
            Kind::Rewrite => {
                inputs.push(input(segment, schema, &group::all_fields(schema))?);
            }
            Kind::LevelZero if level_zero => inputs.push(input(segment, schema, &[])?),
            Kind::LevelZero => {
                let fields = [schema.primary_key().id, TIMESTAMP_FIELD];
                targets.push(input(segment, schema, &fields)?);
            }
        }
    }
    if inputs.is_empty() {
        return invalid("it names no level-zero segments".to_owned());
    }
    Ok((inputs, targets))
}

fn input(
    segment: &CompactionSegmentBinlogs,
    schema: &Schema,
    fields: &[i64],
) -> Result<Input, PlanError> {
    let place = Place {
        collection: segment.collection_id,
        partition: segment.partition_id,
        segment: segment.segment_id,
    };
    let wrong = |problem| PlanError::Segment {
        segment: place.segment,
        problem,
    };
    let (groups, problems) = group::by_write(place, schema, fields, &segment.field_binlogs);
    if let Some(problem) = problems.into_iter().next() {
        return Err(wrong(problem));
    }
    let key = schema.primary_key().id;
    let stats = logs(&segment.field2_statslog_paths)
        .filter(|(field, _)| *field == key)
        .map(|(field, log)| group::locate(log, place.stats(field, log.log_id)))
        .collect::<Result<_, _>>()
        .map_err(wrong)?;
    let deltas = logs(&segment.deltalogs)
        .map(|(_, log)| group::locate_delta(log, place))
        .collect::<Result<_, _>>()
        .map_err(wrong)?;
    Ok(Input {
        place,
        groups,
        stats,
        deltas,
    })
}

fn logs(fields: &[FieldBinlog]) -> impl Iterator<Item = (i64, &Binlog)> {
    fields
        .iter()
        .flat_map(|field| field.binlogs.iter().map(|log| (field.field_id, log)))
}

fn range(range: Option<&IdRange>, needed: bool, what: &str) -> Result<Range<i64>, PlanError> {
    match range {
        Some(range) if range.begin > 0 && range.begin < range.end => Ok(range.begin..range.end),
        None if !needed => Ok(0..0),
        Some(range) if !needed && range.begin == range.end => Ok(0..0),
        range => invalid(format!(
            "it needs a range of {what} ids, not {}",
            range.map_or("none".to_owned(), |r| format!("[{}, {})", r.begin, r.end))
        )),
    }
}

fn invalid<T>(reason: String) -> Result<T, PlanError> {
    Err(PlanError::Invalid(reason))
}
