//! The result of a compaction: outputs for inputs in one command, or deletes for their targets.
//! A data node may lie, be late or speak twice: everything it says is checked against the task.

use std::collections::{BTreeMap, BTreeSet};

use super::compaction::{files_changed, no_task, refuse_dropped};
use super::segment::{dropped, no_segment};
use super::{Ctx, Reason, reject};
use crate::command::Outcome;
use crate::id::SegmentId;
use crate::model::compaction::{in_range, state_name};
use crate::model::{Level, Segment, SegmentState};
use crate::pb::{self, CompactionKind, CompactionState, LogKind};
use crate::state::{Change, Delta, Event, State};
use crate::time::Ts;

pub(super) fn finish(
    state: &State,
    ctx: Ctx,
    cmd: &pb::FinishCompaction,
    out: &mut Delta,
) -> Outcome {
    let Some(row) = state.compaction(cmd.plan_id) else {
        return no_task(cmd.plan_id);
    };
    if row.state() == CompactionState::Completed && row.attempt == cmd.attempt {
        return Outcome::already();
    }
    if row.state() != CompactionState::Executing || row.attempt != cmd.attempt {
        return reject(
            Reason::IllegalState,
            format!(
                "compaction plan {} is {} at try {}; a result of try {} does not count: {}",
                cmd.plan_id,
                state_name(row.state()),
                row.attempt,
                cmd.attempt,
                "discard it"
            ),
        );
    }
    let Some(plan) = &row.plan else {
        return no_task(cmd.plan_id);
    };
    if let Some(refusal) = refuse_dropped(state, plan) {
        return refusal;
    }
    let result = Result {
        state,
        ctx,
        row,
        plan,
        cmd,
    };
    match result.decide(out) {
        Ok(()) => Outcome::done(),
        Err(refusal) => refusal,
    }
}

struct Result<'a> {
    state: &'a State,
    ctx: Ctx,
    row: &'a pb::CompactionRow,
    plan: &'a pb::StartCompaction,
    cmd: &'a pb::FinishCompaction,
}

type Checked<T> = std::result::Result<T, Outcome>;

impl Result<'_> {
    fn decide(&self, out: &mut Delta) -> Checked<()> {
        let inputs = self.inputs()?;
        let outputs = match self.plan.kind() {
            CompactionKind::Level0 => {
                self.hand_out_deletes(out)?;
                Vec::new()
            }
            _ => self.outputs(&inputs, out)?,
        };
        for input in inputs {
            let mut gone = dropped(input, self.ctx.now);
            gone.compacted = true;
            // What a carried log brought left it with the log.
            self.let_carried_go(&mut gone, &outputs);
            out.put_segment(gone);
        }
        let mut row = self.row.clone();
        row.set_state(CompactionState::Completed);
        row.ended_at = self.ctx.now.0;
        row.outputs = outputs.iter().map(|segment| segment.id.0).collect();
        row.segment_ids = None;
        row.log_ids = None;
        out.put_compaction(row);
        out.events.push(Event::Gc);
        for segment in outputs {
            out.events.push(Event::Flushed(segment.id));
            out.put_segment(segment);
        }
        Ok(())
    }

    fn invalid<T>(&self, problem: impl std::fmt::Display) -> Checked<T> {
        Err(reject(
            Reason::Invalid,
            format!("result of compaction plan {}: {problem}", self.cmd.plan_id),
        ))
    }

    /// The plan's inputs: all of them, healthy, held, and with the files the proposer read.
    fn inputs(&self) -> Checked<Vec<&Segment>> {
        let read: BTreeMap<i64, u64> = self
            .cmd
            .inputs
            .iter()
            .map(|input| (input.segment_id, input.files_rev))
            .collect();
        if read.len() != self.plan.inputs.len() {
            return self.invalid("it does not name the plan's inputs");
        }
        let mut inputs = Vec::with_capacity(read.len());
        for input in &self.plan.inputs {
            let Some(&files_rev) = read.get(&input.segment_id) else {
                return self.invalid("it does not name the plan's inputs");
            };
            let Some(segment) = self.state.healthy_segment(SegmentId(input.segment_id)) else {
                return Err(no_segment(input.segment_id));
            };
            if self.state.held_by(segment.id) != Some(self.plan.plan_id) {
                return Err(reject(
                    Reason::IllegalState,
                    format!(
                        "segment {} is not held by compaction plan {}",
                        segment.id, self.plan.plan_id
                    ),
                ));
            }
            if segment.files_rev != files_rev {
                return Err(files_changed(segment, files_rev));
            }
            inputs.push(segment);
        }
        Ok(inputs)
    }

    /// Checks and makes the outputs of a merge or mix. One without rows is left out.
    fn outputs(&self, inputs: &[&Segment], out: &mut Delta) -> Checked<Vec<Segment>> {
        if !self.cmd.deltas.is_empty() {
            return self.invalid("only level-zero deletes are given to targets");
        }
        let mut outputs: Vec<Segment> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut logs = BTreeSet::new();
        for output in &self.cmd.outputs {
            let id = output.segment_id;
            if !in_range(self.row.segment_ids.as_ref(), id) {
                return self.invalid(format_args!("output {id} was never handed to it"));
            }
            if !seen.insert(id) || self.state.segment(SegmentId(id)).is_some() {
                return self.invalid(format_args!("output {id} is there already"));
            }
            self.check_rows(output, &mut logs)?;
            if output.rows > 0 {
                outputs.push(self.new_segment(inputs, output));
            }
        }
        self.check_totals(inputs, &outputs)?;
        for output in &self.cmd.outputs {
            let id = SegmentId(output.segment_id);
            if output.rows > 0 {
                let files = output.refs.iter().cloned();
                out.changes
                    .extend(files.map(|file| Change::Binlog(id, file)));
            }
        }
        let parents: Vec<SegmentId> = inputs.iter().map(|input| input.id).collect();
        for output in &outputs {
            out.changes.push(Change::Lineage {
                child: output.id,
                parents: parents.clone(),
            });
        }
        self.carry(inputs, &mut outputs, out)?;
        Ok(outputs)
    }

    /// Every field of an output has the rows it claims, in files with ids of this try.
    fn check_rows(
        &self,
        output: &pb::CompactionOutput,
        logs: &mut BTreeSet<(i32, i64, i64)>,
    ) -> Checked<()> {
        let id = output.segment_id;
        let mut fields: BTreeMap<i64, i64> = BTreeMap::new();
        for file in &output.refs {
            self.check_log(id, file)?;
            if !logs.insert((file.kind, file.field_id, file.log_id)) {
                return self.invalid(format_args!("log {} is named twice", file.log_id));
            }
            match file.kind() {
                LogKind::Insert => {
                    let rows = fields.entry(file.field_id).or_default();
                    *rows = rows.saturating_add(file.rows);
                }
                LogKind::Unspecified => {
                    return self.invalid(format_args!("log {} is of no kind", file.log_id));
                }
                LogKind::Stats | LogKind::Delta | LogKind::Bm25 => {}
            }
        }
        if output.rows < 0 || (output.rows > 0 && fields.is_empty()) {
            return self.invalid(format_args!(
                "output {id} has {} rows but no insert logs",
                output.rows
            ));
        }
        match fields.into_iter().find(|(_, rows)| *rows != output.rows) {
            Some((field, rows)) => self.invalid(format_args!(
                "output {id} has {} rows, but field {field} has {rows}",
                output.rows
            )),
            None => Ok(()),
        }
    }

    fn check_log(&self, segment: i64, file: &pb::BinlogRef) -> Checked<()> {
        if file.rows < 0 {
            return self.invalid(format_args!("log {} has less than no rows", file.log_id));
        }
        if !in_range(self.row.log_ids.as_ref(), file.log_id) {
            return self.invalid(format_args!(
                "log {} of segment {segment} was never handed to it",
                file.log_id
            ));
        }
        Ok(())
    }

    /// Rows only get fewer, and only by deletes.
    fn check_totals(&self, inputs: &[&Segment], outputs: &[Segment]) -> Checked<()> {
        let sum = |rows: &mut dyn Iterator<Item = i64>| rows.map(i128::from).sum::<i128>();
        let before = sum(&mut inputs.iter().map(|input| input.rows));
        let deletes = sum(&mut inputs.iter().map(|input| input.delta_rows));
        let after = sum(&mut outputs.iter().map(|output| output.rows));
        if after > before {
            return self.invalid(format_args!("{after} rows out of {before}"));
        }
        if after < before && deletes == 0 {
            return self.invalid(format_args!(
                "{after} rows out of {before}, and none is deleted"
            ));
        }
        if after == 0 && deletes < before {
            return self.invalid(format_args!(
                "no rows out of {before}, but only {deletes} deletes"
            ));
        }
        Ok(())
    }

    fn new_segment(&self, inputs: &[&Segment], output: &pb::CompactionOutput) -> Segment {
        let starts = inputs.iter().map(|input| input.start);
        let start = starts.filter(|ts| !ts.is_zero()).min();
        let dml = inputs.iter().map(|input| input.dml).max();
        let last_expire = inputs.iter().map(|input| input.last_expire).max();
        let fields: BTreeSet<i64> = output
            .refs
            .iter()
            .filter(|file| file.kind() == LogKind::Insert)
            .map(|file| file.field_id)
            .collect();
        let mut segment = Segment {
            id: SegmentId(output.segment_id),
            collection: inputs[0].collection,
            partition: inputs[0].partition,
            channel: inputs[0].channel.clone(),
            state: SegmentState::Flushed,
            level: Level::L1,
            rows: output.rows,
            // A merge may squeeze a little more in than a segment takes by itself.
            max_rows: self.plan.max_rows.max(output.rows),
            seal_rows: self.plan.max_rows.max(output.rows),
            max_size_bytes: self.plan.max_size_bytes,
            last_expire: last_expire.unwrap_or_default(),
            opened_at: self.ctx.now,
            sealed_at: self.ctx.now,
            dropped_at: Ts::ZERO,
            seal_reason: 0,
            files_rev: 1,
            size_bytes: 0,
            insert_files: 0,
            files: 0,
            delta_rows: 0,
            delta_bytes: 0,
            delta_files: 0,
            start: start.unwrap_or_default(),
            dml: dml.unwrap_or_default(),
            condemned_at: Ts::ZERO,
            compacted_from: true,
            compacted: false,
        };
        let insert_logs = output
            .refs
            .iter()
            .filter(|file| file.kind() == LogKind::Insert)
            .count();
        // Files of one field.
        segment.insert_files = u32::try_from(insert_logs / fields.len().max(1)).unwrap_or(u32::MAX);
        for file in &output.refs {
            segment.count_file(file);
        }
        segment
    }

    /// Delete logs that reached an input after the plan was read pass to every output; the object
    /// stays where it is.
    fn carry(&self, inputs: &[&Segment], outputs: &mut [Segment], out: &mut Delta) -> Checked<()> {
        let mut seen = BTreeSet::new();
        for carried in &self.cmd.carried {
            let input = SegmentId(carried.segment_id);
            if !inputs.iter().any(|segment| segment.id == input) {
                return self.invalid(format_args!("{input} carries deletes but is no input"));
            }
            for file in &carried.refs {
                if file.kind() != LogKind::Delta || file.path.is_empty() || file.rows < 0 {
                    return self.invalid(format_args!(
                        "log {} cannot be carried over: it is no delete log with its path",
                        file.log_id
                    ));
                }
                if !seen.insert(file.log_id) {
                    return self.invalid(format_args!("log {} is carried twice", file.log_id));
                }
                if outputs.is_empty() {
                    continue;
                }
                out.changes.push(Change::ForgetBinlog(input, file.clone()));
                let mut holders: BTreeSet<i64> = self
                    .state
                    .carried(file.log_id)
                    .map(|row| row.holders.iter().copied().collect())
                    .unwrap_or_default();
                holders.remove(&input.0);
                for output in outputs.iter_mut() {
                    holders.insert(output.id.0);
                    output.count_file(file);
                    out.changes.push(Change::Binlog(output.id, file.clone()));
                }
                let row = pb::CarriedRow {
                    file: Some(file.clone()),
                    holders: holders.into_iter().collect(),
                };
                out.changes.push(Change::Carried(file.log_id, row));
            }
        }
        Ok(())
    }

    fn let_carried_go(&self, input: &mut Segment, outputs: &[Segment]) {
        if outputs.is_empty() {
            return;
        }
        for carried in &self.cmd.carried {
            if carried.segment_id != input.id.0 || carried.refs.is_empty() {
                continue;
            }
            for file in &carried.refs {
                input.uncount_delta(file);
            }
            input.files_rev += 1;
        }
    }

    /// Adds the deletes of level-zero segments to their targets. A target that was dropped
    /// meanwhile has no rows to delete.
    fn hand_out_deletes(&self, out: &mut Delta) -> Checked<()> {
        if !self.cmd.outputs.is_empty() || !self.cmd.carried.is_empty() {
            return self.invalid("level-zero deletes make no segments");
        }
        let mut seen = BTreeSet::new();
        let mut logs = BTreeSet::new();
        for deltas in &self.cmd.deltas {
            let id = deltas.segment_id;
            if !self.plan.targets.contains(&id) || !seen.insert(id) {
                return self.invalid(format_args!("segment {id} is no target, or named twice"));
            }
            for file in &deltas.refs {
                self.check_log(id, file)?;
                if file.kind() != LogKind::Delta || !logs.insert(file.log_id) {
                    return self.invalid(format_args!(
                        "log {} is no delete log, or named twice",
                        file.log_id
                    ));
                }
            }
            let target = self.state.healthy_segment(SegmentId(id));
            let Some(target) = target.filter(|segment| segment.state.is_flush_state()) else {
                continue;
            };
            if deltas.refs.is_empty() {
                continue;
            }
            let mut target = target.clone();
            target.files_rev += 1;
            for file in &deltas.refs {
                target.count_file(file);
                out.changes.push(Change::Binlog(target.id, file.clone()));
            }
            out.events.push(Event::Flushed(target.id));
            out.put_segment(target);
        }
        Ok(())
    }
}
