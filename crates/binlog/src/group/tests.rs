#![allow(clippy::unwrap_used)]

use quorate_rpc::proto::milvus::schema::{CollectionSchema, DataType, FieldSchema};

use super::*;

const PLACE: Place = Place {
    collection: 1,
    partition: 2,
    segment: 3,
};

fn schema() -> Schema {
    let field = |id, name: &str, data_type: DataType| FieldSchema {
        field_id: id,
        name: name.into(),
        data_type: data_type.into(),
        is_primary_key: id == 100,
        ..Default::default()
    };
    Schema::from_proto(&CollectionSchema {
        name: "docs".into(),
        fields: vec![
            field(100, "id", DataType::Int64),
            field(101, "size", DataType::Int32),
        ],
        ..Default::default()
    })
    .unwrap()
}

fn log(log_id: i64, rows: i64) -> Binlog {
    Binlog {
        log_id,
        entries_num: rows,
        ..Default::default()
    }
}

fn binlogs() -> Vec<FieldBinlog> {
    [0, 1, 100, 101]
        .into_iter()
        .map(|field| FieldBinlog {
            field_id: field,
            // Not in the order they were written in.
            binlogs: vec![log(2000 + field, 7), log(1000 + field, 5)],
        })
        .collect()
}

#[test]
fn logs_written_together_are_grouped_oldest_first() {
    let schema = schema();
    let (groups, problems) = by_write(PLACE, &schema, &all_fields(&schema), &binlogs());
    assert_eq!(problems, []);
    let rows: Vec<u64> = groups.iter().map(Group::rows).collect();
    assert_eq!(rows, [5, 7]);
    let paths: Vec<LogPath> = groups[0].logs.iter().map(|log| log.path).collect();
    let expected = [100, 101, 0, 1].map(|field| PLACE.insert(field, 1000 + field));
    assert_eq!(paths, expected);
}

#[test]
fn a_field_that_does_not_match_leaves_no_groups_and_is_named() {
    let schema = schema();
    for (damage, hint) in [
        (101, "field \"size\""),
        (0, "the row ids"),
        (1, "the timestamps"),
    ] {
        let mut logs = binlogs();
        let field = logs.iter_mut().find(|f| f.field_id == damage).unwrap();
        field.binlogs[1].entries_num += 1;
        let (groups, problems) = by_write(PLACE, &schema, &all_fields(&schema), &logs);
        assert!(groups.is_empty());
        assert!(problems[0].reason.contains(hint), "{problems:?}");
    }
    let (groups, problems) = by_write(PLACE, &schema, &[100, 105], &binlogs());
    assert!(groups.is_empty());
    assert!(problems[0].reason.contains("field 105"), "{problems:?}");
}

#[test]
fn a_log_at_an_impossible_path_leaves_its_group_out() {
    let schema = schema();
    let mut logs = binlogs();
    logs[3].binlogs[0].log_path = "root/insert_log/1/2/4/101/2101".into();
    logs[3].binlogs[1].log_path = "root/insert_log/1/2/3/101/1101".into();
    let (groups, problems) = by_write(PLACE, &schema, &all_fields(&schema), &logs);
    assert_eq!(groups.len(), 1);
    assert_eq!(groups[0].logs[1].path, PLACE.insert(101, 1101));
    assert_eq!(
        problems[0].to_string(),
        "its path should end in insert_log/1/2/3/101/2101 \
         (log path \"root/insert_log/1/2/4/101/2101\")"
    );
}

#[test]
fn a_delta_log_may_lie_with_another_segment_but_not_another_collection() {
    let delta = |path: &str| Binlog {
        log_id: 9,
        log_path: path.into(),
        ..Default::default()
    };
    assert_eq!(locate_delta(&delta(""), PLACE), Ok(PLACE.delta(9)));
    let elsewhere = locate_delta(&delta("delta_log/1/2/88/9"), PLACE).unwrap();
    assert_eq!(elsewhere.segment(), 88);
    for path in [
        "delta_log/7/2/3/9",
        "delta_log/1/2/3/8",
        "stats_log/1/2/3/1/9",
        "x",
    ] {
        let problem = locate_delta(&delta(path), PLACE).unwrap_err();
        assert_eq!(problem.path.as_deref(), Some(path));
    }
}

#[test]
fn the_limit_of_log_ids_counts_full_groups_and_one_more_for_each_output() {
    assert_eq!(rewrite_logs_max(10, 1000, 3, 1), 6);
    let (rows, bytes) = (3 * BATCH_ROWS as u64, 2 * BATCH_BYTES as u64);
    assert_eq!(rewrite_logs_max(rows, bytes, 1, 2), (3 + 2 + 2) * 3 + 2);
}
