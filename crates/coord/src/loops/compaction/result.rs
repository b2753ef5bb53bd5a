//! What a data node says a compaction made, as rows of the state. Nothing here is believed: paths
//! must name the segments they are told for, and apply checks ids and rows.

use std::collections::BTreeSet;
use std::sync::Arc;

use quorate_meta::model::{Level, Segment, SegmentState};
use quorate_meta::{SegmentId, State, pb};
use quorate_rpc::proto::milvus::data::{CompactionPlanResult, CompactionSegment, FieldBinlog};

use crate::wire;

/// Outputs of a merge or mix. One without rows is left out: nothing is made of it.
///
/// # Errors
/// What is wrong with the result.
pub(super) fn outputs(
    plan: &pb::StartCompaction,
    result: &CompactionPlanResult,
) -> Result<Vec<pb::CompactionOutput>, String> {
    let mut outputs = Vec::new();
    let mut seen = BTreeSet::new();
    for told in &result.segments {
        if !seen.insert(told.segment_id) {
            return Err(format!("segment {} is told twice", told.segment_id));
        }
        if has_files(&told.deltalogs) {
            return Err(format!(
                "segment {} comes with delete logs",
                told.segment_id
            ));
        }
        if told.num_of_rows < 0 {
            return Err(format!("segment {} has less than no rows", told.segment_id));
        }
        if told.num_of_rows == 0 && !has_files(&told.insert_logs) {
            continue;
        }
        outputs.push(pb::CompactionOutput {
            segment_id: told.segment_id,
            rows: told.num_of_rows,
            refs: refs(&output(plan, told), told)?,
        });
    }
    Ok(outputs)
}

/// Delete logs for the targets of a level-zero task. Targets that are gone are left out.
///
/// # Errors
/// What is wrong with the result.
pub(super) fn deltas(
    state: &State,
    plan: &pb::StartCompaction,
    result: &CompactionPlanResult,
) -> Result<Vec<pb::CompactionDeltas>, String> {
    let mut deltas = Vec::new();
    let mut seen = BTreeSet::new();
    for told in &result.segments {
        let id = told.segment_id;
        if !seen.insert(id) {
            return Err(format!("segment {id} is told twice"));
        }
        if has_files(&told.insert_logs) || has_files(&told.field2_statslog_paths) {
            return Err(format!(
                "segment {id} comes with other logs than delete logs"
            ));
        }
        if !plan.targets.contains(&id) {
            return Err(format!("segment {id} is no target of the plan"));
        }
        let Some(segment) = state.healthy_segment(SegmentId(id)) else {
            continue;
        };
        let refs = refs(segment, told)?;
        if !refs.is_empty() {
            deltas.push(pb::CompactionDeltas {
                segment_id: id,
                refs,
            });
        }
    }
    Ok(deltas)
}

fn has_files(fields: &[FieldBinlog]) -> bool {
    fields.iter().any(|field| !field.binlogs.is_empty())
}

/// Stands for a segment that does not exist yet, for building and checking paths.
fn output(plan: &pb::StartCompaction, told: &CompactionSegment) -> Segment {
    let row = pb::SegmentRow {
        id: told.segment_id,
        collection_id: plan.collection_id,
        partition_id: plan.partition_id,
        channel: plan.channel.clone(),
        state: SegmentState::Flushed as u32,
        level: Level::L1 as u32,
        ..Default::default()
    };
    Segment::from_row(&row, |name| Arc::from(name)).expect("the state and level are known ones")
}

fn refs(segment: &Segment, told: &CompactionSegment) -> Result<Vec<pb::BinlogRef>, String> {
    let kinds: [(pb::LogKind, &[FieldBinlog]); 4] = [
        (pb::LogKind::Insert, &told.insert_logs),
        (pb::LogKind::Stats, &told.field2_statslog_paths),
        (pb::LogKind::Delta, &told.deltalogs),
        (pb::LogKind::Bm25, &told.bm25logs),
    ];
    let mut refs = Vec::new();
    let mut seen = BTreeSet::new();
    for (kind, fields) in kinds {
        for field in fields {
            for binlog in &field.binlogs {
                if binlog.entries_num < 0 || binlog.log_size < 0 || binlog.memory_size < 0 {
                    return Err(format!(
                        "segment {}: a log of field {} counts less than nothing",
                        segment.id, field.field_id
                    ));
                }
                let file = wire::to_binlog_ref(segment, kind, field.field_id, binlog)
                    .map_err(|error| error.to_string())?;
                if !seen.insert((file.kind, file.field_id, file.log_id)) {
                    return Err(format!(
                        "segment {}: log {} of field {} is told twice",
                        segment.id, file.log_id, file.field_id
                    ));
                }
                refs.push(file);
            }
        }
    }
    Ok(refs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use quorate_rpc::proto::milvus::data::Binlog;

    use super::*;

    fn plan() -> pb::StartCompaction {
        pb::StartCompaction {
            plan_id: 9,
            collection_id: 1,
            partition_id: 2,
            channel: "c".into(),
            ..Default::default()
        }
    }

    fn logs(field_id: i64, path: &str, rows: i64) -> FieldBinlog {
        FieldBinlog {
            field_id,
            binlogs: vec![Binlog {
                entries_num: rows,
                log_path: path.into(),
                ..Default::default()
            }],
        }
    }

    fn told(segments: Vec<CompactionSegment>) -> CompactionPlanResult {
        CompactionPlanResult {
            plan_id: 9,
            segments,
            ..Default::default()
        }
    }

    fn segment(insert: FieldBinlog) -> CompactionSegment {
        CompactionSegment {
            segment_id: 3,
            num_of_rows: 5,
            insert_logs: vec![insert],
            ..Default::default()
        }
    }

    #[test]
    fn an_output_keeps_its_files_under_their_ids() {
        let good = told(vec![segment(logs(100, "insert_log/1/2/3/100/7", 5))]);
        let made = outputs(&plan(), &good).unwrap();
        assert_eq!(made.len(), 1);
        let file = &made[0].refs[0];
        assert_eq!((file.log_id, file.field_id, file.rows), (7, 100, 5));
        assert_eq!(file.path, "", "the path is the one built from the ids");
    }

    #[test]
    fn an_empty_output_is_none() {
        let empty = CompactionSegment {
            segment_id: 3,
            ..Default::default()
        };
        assert_eq!(outputs(&plan(), &told(vec![empty])), Ok(Vec::new()));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_segment_named() {
        let other = segment(logs(100, "insert_log/1/2/4/100/7", 5));
        let twice = segment(logs(100, "insert_log/1/2/3/100/7", 5));
        let negative = segment(logs(100, "insert_log/1/2/3/100/7", -5));
        let deleting = CompactionSegment {
            deltalogs: vec![logs(0, "delta_log/1/2/3/8", 1)],
            ..twice.clone()
        };
        let mut repeated = twice.clone();
        repeated.insert_logs.extend(twice.insert_logs.clone());
        for bad in [
            vec![other],
            vec![twice.clone(), twice],
            vec![negative],
            vec![deleting],
            vec![repeated],
        ] {
            let error = outputs(&plan(), &told(bad)).unwrap_err();
            assert!(error.contains('3'), "{error}");
        }
    }

    #[test]
    fn deletes_go_to_targets_only() {
        let state = State::new();
        let mut plan = plan();
        let deleting = CompactionSegment {
            segment_id: 3,
            deltalogs: vec![logs(0, "delta_log/1/2/3/8", 1)],
            ..Default::default()
        };
        let result = told(vec![deleting]);
        let error = deltas(&state, &plan, &result).unwrap_err();
        assert!(error.contains("no target"), "{error}");
        plan.targets = vec![3];
        assert_eq!(
            deltas(&state, &plan, &result),
            Ok(Vec::new()),
            "a target that is gone needs no deletes"
        );
    }
}
