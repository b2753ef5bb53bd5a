//! What simulated data nodes do about compaction plans. They keep the protocol of the reference
//! data node: a plan and its ids are one try, another range of ids is another try; results are kept
//! until the plan is dropped; what is left of an ended try is never taken back.
//!
//! Beyond it they misbehave as real ones do: a try that was given up goes on writing, an older try's
//! result is told again, plans fail, and a liar tells of rows that are not there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_rpc::proto::milvus::data::{
    Binlog, CompactionPlan, CompactionPlanResult, CompactionSegment, CompactionSegmentBinlogs,
    CompactionTaskState, CompactionType, FieldBinlog, IdRange, SegmentLevel,
};
use tokio_util::sync::CancellationToken;

use super::data_node::DataNode;
use super::node_work::FIELDS;
use super::objects::{Content, Piece, Store, rows};

/// Plans a node works on at a time; more are refused.
const PLANS_MAX: usize = 4;

/// A try of a plan.
pub(super) struct Compaction {
    plan: CompactionPlan,
    result: Option<CompactionPlanResult>,
    /// What an earlier try of the plan came to.
    older: Option<CompactionPlanResult>,
    over: CancellationToken,
}

/// A try hands out each of its ids once.
struct Ids {
    next: i64,
    end: i64,
}

impl Ids {
    fn of(range: Option<&IdRange>) -> Self {
        Self {
            next: range.map_or(0, |range| range.begin),
            end: range.map_or(0, |range| range.end),
        }
    }

    fn take(&mut self) -> Result<i64, String> {
        let id = self.next;
        self.next += 1;
        (id < self.end)
            .then_some(id)
            .ok_or("the plan's ids are used up".to_owned())
    }
}

impl DataNode {
    /// Takes a plan; the same try again is no second one.
    pub(super) fn take_plan(self: &Arc<Self>, plan: CompactionPlan) -> Result<(), String> {
        let id = plan.plan_id;
        let mut process = self.hold();
        let process = process.as_mut().ok_or("connection refused")?;
        let mut older = None;
        if let Some(known) = process.compactions.get(&id) {
            if known.plan.pre_allocated_segment_i_ds == plan.pre_allocated_segment_i_ds {
                return Ok(());
            }
            known.over.cancel();
            older = known.result.clone();
        } else {
            let busy = process.compactions.values();
            if busy.filter(|known| known.result.is_none()).count() >= PLANS_MAX {
                return Err("too many compactions".into());
            }
        }
        // One that nobody waits for any more may go on, as a process that was taken for dead.
        let goes_on = self.world.chance(300);
        let over = match goes_on {
            true => CancellationToken::new(),
            false => process.life.child_token(),
        };
        let known = Compaction {
            plan: plan.clone(),
            result: None,
            older,
            over: over.clone(),
        };
        process.compactions.insert(id, known);
        let node = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = over.cancelled() => {}
                () = node.carry_out(plan) => {}
            }
        });
        Ok(())
    }

    async fn carry_out(&self, plan: CompactionPlan) {
        let world = &self.world;
        let time = world.between(Duration::from_millis(10), Duration::from_millis(600));
        tokio::time::sleep(time).await;
        let done = match world.chance(30) {
            true => Err("simulated: the plan fails".to_owned()),
            false if is_level_zero(&plan) => spread(&self.store, &plan).await,
            false => rewrite(&self.store, &plan).await,
        };
        if let Err(reason) = &done {
            world.note(format_args!(
                "d{} plan {}: {reason}",
                self.number, plan.plan_id
            ));
        }
        let (state, segments, fail_reason) = match done {
            Ok(segments) => (CompactionTaskState::Completed, segments, String::new()),
            Err(reason) => (CompactionTaskState::Failed, Vec::new(), reason),
        };
        let mut process = self.hold();
        let known = process
            .as_mut()
            .and_then(|process| process.compactions.get_mut(&plan.plan_id))
            .filter(|known| known.plan == plan);
        if let Some(known) = known {
            known.result = Some(CompactionPlanResult {
                plan_id: plan.plan_id,
                state: state.into(),
                segments,
                channel: plan.channel.clone(),
                r#type: plan.r#type,
                fail_reason,
            });
        }
    }

    /// How a plan stands; nothing if it is not known.
    pub(super) fn plan_results(&self, plan_id: i64) -> Vec<CompactionPlanResult> {
        let stale = self.world.chance(30);
        let lies = self.lies_now();
        let process = self.hold();
        let known = process
            .as_ref()
            .and_then(|process| process.compactions.get(&plan_id));
        let Some(known) = known else {
            return Vec::new();
        };
        if stale && let Some(older) = &known.older {
            return vec![older.clone()];
        }
        let running = || CompactionPlanResult {
            plan_id,
            state: CompactionTaskState::Executing.into(),
            channel: known.plan.channel.clone(),
            r#type: known.plan.r#type,
            ..CompactionPlanResult::default()
        };
        match &known.result {
            None => vec![running()],
            Some(result) if lies => vec![self.lie(&known.plan, result)],
            Some(result) => vec![result.clone()],
        }
    }

    /// Forgets a plan and stops what is done for it, most of the time.
    pub(super) fn drop_plan(&self, plan_id: i64) {
        if let Some(process) = self.hold().as_mut()
            && let Some(known) = process.compactions.remove(&plan_id)
        {
            known.over.cancel();
        }
    }

    /// Plans and builds it works on.
    pub fn work(&self) -> usize {
        self.hold().as_ref().map_or(0, |process| {
            let open = process.compactions.values();
            open.filter(|known| known.result.is_none()).count() + process.builds.len()
        })
    }

    /// A result with something wrong in it that its numbers give away.
    fn lie(&self, plan: &CompactionPlan, truth: &CompactionPlanResult) -> CompactionPlanResult {
        let mut told = truth.clone();
        let Some(first) = told.segments.first_mut() else {
            return told;
        };
        // A few rows more or none at all are a lie that shows only if nothing was deleted.
        let nothing_deleted = plan.segment_binlogs.iter().all(|s| s.deltalogs.is_empty());
        let which = self.world.draw(0, if nothing_deleted { 6 } else { 4 });
        match which {
            0 => first.num_of_rows += 1,
            1 => first.num_of_rows = -7,
            2 => first.segment_id = plan.plan_id,
            3 => {
                for field in first.insert_logs.iter_mut().chain(&mut first.deltalogs) {
                    for binlog in &mut field.binlogs {
                        binlog.log_id = plan.plan_id;
                        binlog.log_path = String::new();
                    }
                }
            }
            4 => {
                for binlog in first.insert_logs.iter_mut().flat_map(|f| &mut f.binlogs) {
                    binlog.entries_num += 5;
                }
                first.num_of_rows += 5;
            }
            _ => {
                first.num_of_rows = 0;
                first.insert_logs.clear();
                first.field2_statslog_paths.clear();
                told.segments.truncate(1);
            }
        }
        self.world.note(format_args!(
            "d{} lies about plan {}, way {which}",
            self.number, plan.plan_id
        ));
        told
    }
}

fn is_level_zero(plan: &CompactionPlan) -> bool {
    plan.r#type == i32::from(CompactionType::Level0DeleteCompaction)
}

fn paths(fields: &[FieldBinlog], field: Option<i64>) -> impl Iterator<Item = &str> {
    fields
        .iter()
        .filter(move |logs| field.is_none_or(|field| logs.field_id == field))
        .flat_map(|logs| logs.binlogs.iter().map(|log| log.log_path.as_str()))
}

async fn deletes_of(
    store: &Store,
    input: &CompactionSegmentBinlogs,
) -> Result<BTreeMap<u64, u64>, String> {
    let mut deletes = BTreeMap::new();
    for path in paths(&input.deltalogs, None) {
        let Some(Content::Deletes(found)) = store.get(path).await else {
            return Err(format!("{path} is missing"));
        };
        for (ordinal, ts) in found.iter() {
            let highest = deletes.entry(*ordinal).or_insert(0);
            *highest = (*ts).max(*highest);
        }
    }
    Ok(deletes)
}

async fn rows_of(store: &Store, input: &CompactionSegmentBinlogs) -> Result<Vec<Piece>, String> {
    let mut pieces: Vec<Piece> = Vec::new();
    for field in FIELDS {
        let mut found = Vec::new();
        for path in paths(&input.field_binlogs, Some(field)) {
            let Some(Content::Rows(rows)) = store.get(path).await else {
                return Err(format!("{path} is missing"));
            };
            found.extend(rows.iter().cloned());
        }
        if field != FIELDS[0] && found != pieces {
            return Err(format!("fields of segment {} differ", input.segment_id));
        }
        pieces = found;
    }
    Ok(pieces)
}

/// What deletes leave of rows, in their order.
pub(super) fn without(pieces: &[Piece], deletes: &BTreeMap<u64, u64>) -> Vec<Piece> {
    let mut left = Vec::new();
    for piece in pieces {
        let mut from = piece.from;
        let hits = deletes
            .range(piece.from..piece.to)
            .filter(|(_, ts)| **ts > piece.ts);
        for (&ordinal, _) in hits {
            if ordinal > from {
                left.push(Piece {
                    from,
                    to: ordinal,
                    ts: piece.ts,
                });
            }
            from = ordinal + 1;
        }
        if from < piece.to {
            left.push(Piece {
                from,
                to: piece.to,
                ts: piece.ts,
            });
        }
    }
    left
}

/// Cuts rows into groups of at most `most` rows.
fn cut(pieces: Vec<Piece>, most: u64) -> Vec<Vec<Piece>> {
    let mut groups = vec![Vec::new()];
    let mut room = most;
    for mut piece in pieces {
        while piece.from < piece.to {
            if room == 0 {
                groups.push(Vec::new());
                room = most;
            }
            let to = piece.to.min(piece.from + room);
            room -= to - piece.from;
            let group = groups.last_mut().expect("there is always a last group");
            group.push(Piece {
                from: piece.from,
                to,
                ts: piece.ts,
            });
            piece.from = to;
        }
    }
    groups
}

/// Merge and mix: the rows of all inputs without those their own deletes hit.
async fn rewrite(store: &Store, plan: &CompactionPlan) -> Result<Vec<CompactionSegment>, String> {
    let mut kept = Vec::new();
    for input in &plan.segment_binlogs {
        let deletes = deletes_of(store, input).await?;
        kept.extend(without(&rows_of(store, input).await?, &deletes));
    }
    let first = plan
        .segment_binlogs
        .first()
        .ok_or("a plan without inputs")?;
    let most = match u64::try_from(plan.max_segment_rows) {
        Ok(most) if most > 0 => most,
        _ => u64::MAX,
    };
    let mut segments = Ids::of(plan.pre_allocated_segment_i_ds.as_ref());
    let mut logs = Ids::of(plan.pre_allocated_log_i_ds.as_ref());
    let mut outputs = Vec::new();
    for group in cut(kept, most) {
        let segment = segments.take()?;
        let place = format!("{}/{}/{segment}", first.collection_id, first.partition_id);
        let log = Log::of(&group);
        let content = Content::Rows(Arc::new(group));
        let mut output = CompactionSegment {
            plan_id: plan.plan_id,
            segment_id: segment,
            num_of_rows: log.rows,
            channel: plan.channel.clone(),
            ..CompactionSegment::default()
        };
        if log.rows > 0 {
            for field in FIELDS {
                let id = logs.take()?;
                let path = format!("insert_log/{place}/{field}/{id}");
                store.put(&path, content.clone()).await;
                output.insert_logs.push(log.told(field, id, path));
            }
            let id = logs.take()?;
            let path = format!("stats_log/{place}/{}/{id}", FIELDS[0]);
            store.put(&path, Content::Opaque).await;
            output
                .field2_statslog_paths
                .push(log.told(FIELDS[0], id, path));
        }
        outputs.push(output);
    }
    Ok(outputs)
}

/// Level zero: each target gets the deletes that hit one of its rows.
async fn spread(store: &Store, plan: &CompactionPlan) -> Result<Vec<CompactionSegment>, String> {
    let level_zero = i32::from(SegmentLevel::L0);
    let mut deletes: BTreeMap<u64, u64> = BTreeMap::new();
    for input in plan
        .segment_binlogs
        .iter()
        .filter(|s| s.level == level_zero)
    {
        for (ordinal, ts) in deletes_of(store, input).await? {
            let highest = deletes.entry(ordinal).or_insert(0);
            *highest = ts.max(*highest);
        }
    }
    let mut logs = Ids::of(plan.pre_allocated_log_i_ds.as_ref());
    let mut outputs = Vec::new();
    for target in plan
        .segment_binlogs
        .iter()
        .filter(|s| s.level != level_zero)
    {
        let pieces = rows_of(store, target).await?;
        let hits: Vec<(u64, u64)> = pieces
            .iter()
            .flat_map(|piece| {
                let hits = deletes.range(piece.from..piece.to);
                hits.filter(|(_, ts)| **ts > piece.ts)
                    .map(|(o, ts)| (*o, *ts))
            })
            .collect();
        let stamps = hits.iter().map(|(_, ts)| *ts);
        let (Some(first), Some(last)) = (stamps.clone().min(), stamps.max()) else {
            continue;
        };
        let log = Log {
            rows: i64::try_from(hits.len()).unwrap_or(i64::MAX),
            first,
            last,
        };
        let id = logs.take()?;
        let path = format!(
            "delta_log/{}/{}/{}/{id}",
            target.collection_id, target.partition_id, target.segment_id
        );
        store.put(&path, Content::Deletes(Arc::new(hits))).await;
        outputs.push(CompactionSegment {
            plan_id: plan.plan_id,
            segment_id: target.segment_id,
            deltalogs: vec![log.told(0, id, path)],
            channel: plan.channel.clone(),
            ..CompactionSegment::default()
        });
    }
    Ok(outputs)
}

struct Log {
    rows: i64,
    first: u64,
    last: u64,
}

impl Log {
    fn of(pieces: &[Piece]) -> Self {
        Self {
            rows: i64::try_from(rows(pieces)).unwrap_or(i64::MAX),
            first: pieces.iter().map(|piece| piece.ts).min().unwrap_or(0),
            last: pieces.iter().map(|piece| piece.ts).max().unwrap_or(0),
        }
    }

    fn told(&self, field_id: i64, log_id: i64, log_path: String) -> FieldBinlog {
        FieldBinlog {
            field_id,
            binlogs: vec![Binlog {
                entries_num: self.rows,
                timestamp_from: self.first,
                timestamp_to: self.last,
                log_path,
                log_size: self.rows * 8,
                log_id,
                memory_size: self.rows * 8,
            }],
        }
    }
}
