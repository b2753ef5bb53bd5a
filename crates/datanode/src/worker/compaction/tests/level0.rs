use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::carry_out_plan;
use super::*;

/// A segment of level zero.
fn level_zero(id: i64, partition: i64, deletes: Vec<(i64, u64)>) -> Segment {
    Segment {
        id,
        partition,
        deltas: vec![deletes],
        level_zero: true,
        ..Segment::default()
    }
}

fn any_case() -> impl Strategy<Value = (Vec<Segment>, Vec<Segment>)> {
    let deletes = |max| prop::collection::vec((0..60i64, 1..100u64), 0..max);
    let partition = || prop_oneof![Just(PARTITION), Just(PARTITION + 1)];
    let level_zero_partition = prop_oneof![partition(), Just(-1)];
    let level_zeros = prop::collection::vec((level_zero_partition, deletes(12)), 1..4);
    let groups = prop::collection::vec(prop::collection::vec((0..60i64, 1..100i64), 1..12), 0..3);
    let targets = prop::collection::vec((partition(), groups, deletes(6)), 0..4);
    (level_zeros, targets).prop_map(|(level_zeros, targets)| {
        let rows = |rows: Vec<(i64, i64)>| {
            let row = |(key, timestamp)| Row {
                key,
                row_id: key,
                timestamp,
            };
            rows.into_iter().map(row).collect()
        };
        let level_zeros = level_zeros
            .into_iter()
            .zip(10..)
            .map(|((partition, deletes), id)| level_zero(id, partition, deletes))
            .collect();
        let targets = targets
            .into_iter()
            .zip(20..)
            .map(|((partition, groups, deltas), id)| Segment {
                id,
                partition,
                groups: groups.into_iter().map(rows).collect(),
                deltas: vec![deltas],
                level_zero: false,
            })
            .collect();
        (level_zeros, targets)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn targets_get_the_deletes_that_hit_their_rows((level_zeros, targets) in any_case()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(&level_zeros, &targets));
    }
}

async fn check(level_zeros: &[Segment], targets: &[Segment]) {
    let schema = schema();
    let mut objects = Objects::new();
    let mut written = objects.write_all(level_zeros, &schema).await;
    written.extend(objects.write_all(targets, &schema).await);
    let mut before = objects.all().await;
    let plan = plan(CompactionType::Level0DeleteCompaction, written);
    let outputs = carry_out_plan(&objects.store, &plan).await.unwrap();

    let mut expected: Vec<(i64, BTreeMap<i64, u64>)> = Vec::new();
    for target in targets {
        let deletes: Vec<(i64, u64)> = level_zeros
            .iter()
            .filter(|segment| [-1, target.partition].contains(&segment.partition))
            .flat_map(|segment| segment.deltas.iter().flatten().copied())
            .collect();
        let mut hits = BTreeMap::new();
        for row in target.rows().filter(|row| !target.deletes(row)) {
            if hit(&deletes, row) {
                let of_key = deletes.iter().filter(|(key, _)| *key == row.key);
                hits.insert(row.key, of_key.map(|(_, ts)| *ts).max().unwrap());
            }
        }
        if !hits.is_empty() {
            expected.push((target.id, hits));
        }
    }
    let mut found = Vec::new();
    for output in &outputs {
        assert_eq!((output.plan_id, output.num_of_rows), (9, 0));
        assert!(output.insert_logs.is_empty() && output.field2_statslog_paths.is_empty());
        let logs: Vec<&Binlog> = named(output).collect();
        let target = targets.iter().find(|t| t.id == output.segment_id).unwrap();
        let path = LogPath::parse(&logs[0].log_path).unwrap();
        assert_eq!(path, target.place().delta(logs[0].log_id));
        let rows = objects.store.read_delta(&path).await.unwrap();
        assert_eq!((logs.len(), logs[0].entries_num), (1, rows.len() as i64));
        let ColumnData::Int64(keys) = &rows.keys else {
            panic!("keys are numbers");
        };
        let hits: BTreeMap<i64, u64> = keys.iter().copied().zip(rows.timestamps.clone()).collect();
        assert_eq!(hits.len(), rows.len());
        found.push((output.segment_id, hits));
    }
    assert_eq!(found, expected);
    before.extend(
        outputs
            .iter()
            .flat_map(named)
            .map(|log| log.log_path.clone()),
    );
    before.sort();
    assert_eq!(objects.all().await, before);
}

#[tokio::test]
async fn a_target_out_of_the_range_of_the_deletes_is_not_read() {
    let schema = schema();
    let mut objects = Objects::new();
    let row = |key| Row {
        key,
        row_id: key,
        timestamp: 1,
    };
    let target = |id: i64, keys: [i64; 2]| Segment {
        id,
        partition: PARTITION,
        groups: vec![keys.map(row).to_vec()],
        ..Segment::default()
    };
    let segments = [
        level_zero(10, PARTITION, vec![(5, 9)]),
        target(20, [1, 4]),
        target(21, [4, 6]),
        target(22, [5, 7]),
    ];
    let written = objects.write_all(&segments, &schema).await;
    for path in objects.all().await {
        if path.contains("/20/") && path.contains("insert_log") {
            objects.remove(&path).await;
        }
    }
    let plan = plan(CompactionType::Level0DeleteCompaction, written);
    let outputs = carry_out_plan(&objects.store, &plan).await.unwrap();
    // The key is within the range of 21, but no row of it has it.
    let hit: Vec<i64> = outputs.iter().map(|output| output.segment_id).collect();
    assert_eq!(hit, [22]);

    let error = {
        for path in objects.all().await {
            if path.contains("/22/100/") && path.contains("insert_log") {
                objects.remove(&path).await;
            }
        }
        carry_out_plan(&objects.store, &plan).await.unwrap_err()
    };
    assert!(
        error.to_string().contains("insert_log/1/2/22/100/"),
        "{error}"
    );
}
