use proptest::prelude::*;
use quorate_binlog::group::{BATCH_ROWS, rewrite_logs_max};

use super::super::carry_out_plan;
use super::*;

/// Carries a plan out and answers its outputs, or why it failed.
async fn run(objects: &Objects, plan: &CompactionPlan) -> Result<Vec<CompactionSegment>, String> {
    let outputs = carry_out_plan(&objects.store, plan).await;
    outputs.map_err(|error| error.to_string())
}

/// Keys and timestamps of rows, by what is written together.
type Groups = Vec<Vec<(i64, i64)>>;

/// Segments with few keys, so that deletes hit.
fn any_segments() -> impl Strategy<Value = Vec<Segment>> {
    let groups = prop::collection::vec(prop::collection::vec((0..30i64, 1..100i64), 1..20), 0..4);
    let deltas = prop::collection::vec(prop::collection::vec((0..30i64, 1..100u64), 0..8), 0..3);
    prop::collection::vec((groups, deltas), 1..5).prop_map(|segments| {
        let mut row_id = 0;
        let mut segment = |(at, (groups, deltas)): (usize, (Groups, _))| {
            let mut row = |(key, timestamp)| {
                row_id += 1;
                Row {
                    key,
                    row_id,
                    timestamp,
                }
            };
            let mut group = |rows: Vec<_>| rows.into_iter().map(&mut row).collect();
            Segment {
                id: 10 + at as i64,
                partition: PARTITION,
                groups: groups.into_iter().map(&mut group).collect(),
                deltas,
                level_zero: false,
            }
        };
        segments.into_iter().enumerate().map(&mut segment).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn outputs_are_the_inputs_without_their_deleted_rows(
        segments in any_segments(),
        max_rows in 0..40i64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(&segments, max_rows));
    }
}

async fn check(segments: &[Segment], max_rows: i64) {
    let schema = schema();
    let mut objects = Objects::new();
    let written = objects.write_all(segments, &schema).await;
    let before = objects.all().await;
    let plan = CompactionPlan {
        max_segment_rows: max_rows,
        ..plan(CompactionType::MixCompaction, written)
    };
    let outputs = run(&objects, &plan).await.unwrap();

    let expected: Vec<Row> = segments
        .iter()
        .flat_map(|segment| segment.rows().filter(|row| !segment.deletes(row)))
        .copied()
        .collect();
    let limit = if max_rows == 0 {
        usize::MAX
    } else {
        max_rows as usize
    };
    let mut expected_outputs: Vec<&[Row]> = expected.chunks(limit).collect();
    if expected_outputs.is_empty() {
        expected_outputs.push(&[]);
    }
    assert_eq!(outputs.len(), expected_outputs.len());
    for ((output, rows), segment_id) in outputs.iter().zip(expected_outputs).zip(50_000..) {
        assert_eq!((output.plan_id, output.segment_id), (9, segment_id));
        assert_eq!(output.num_of_rows, rows.len() as i64);
        assert_eq!(output.channel, CHANNEL);
        assert!(output.deltalogs.is_empty());
        let groups = read_output(&objects, &schema, output).await;
        if rows.is_empty() {
            assert_eq!(named(output).count(), 0);
            continue;
        }
        let expected = columns(rows, &schema);
        // Far below what makes a batch complete.
        assert_eq!(groups, std::slice::from_ref(&expected));
        let stats = read_stats(&objects, output).await;
        assert_eq!(Some(stats), PrimaryKeyStats::of(&expected[0]));
        let timestamps = || rows.iter().map(|row| row.timestamp as u64);
        let range = (timestamps().min().unwrap(), timestamps().max().unwrap());
        assert!(named(output).all(|log| (log.timestamp_from, log.timestamp_to) == range));
    }
    check_objects(&objects, before, &outputs).await;
}

/// What is there is what was there and what the outputs name, under ids used once.
async fn check_objects(objects: &Objects, mut before: Vec<String>, outputs: &[CompactionSegment]) {
    let logs: Vec<&Binlog> = outputs.iter().flat_map(named).collect();
    let mut ids: Vec<i64> = logs.iter().map(|log| log.log_id).collect();
    ids.sort_unstable();
    assert!(ids.iter().copied().eq((60_000..).take(ids.len())));
    before.extend(logs.iter().map(|log| log.log_path.clone()));
    before.sort();
    assert_eq!(objects.all().await, before);
}

#[tokio::test]
async fn big_outputs_are_split_into_batches_within_the_limit_of_log_ids() {
    let only_key = CollectionSchema {
        fields: vec![proto_schema().fields[0].clone()],
        ..proto_schema()
    };
    let schema = Schema::from_proto(&only_key).unwrap();
    let mut objects = Objects::new();
    let segment = |id: i64| Segment {
        id,
        partition: PARTITION,
        groups: vec![
            (0..100_000)
                .map(|row| Row {
                    key: row,
                    row_id: id * 1_000_000 + row,
                    timestamp: 5,
                })
                .collect(),
        ],
        deltas: vec![vec![(70_000, 6)]],
        level_zero: false,
    };
    let written = objects.write_all(&[segment(1), segment(2)], &schema).await;
    let memory = written.iter().flat_map(|segment| &segment.field_binlogs);
    let memory = memory
        .flat_map(|field| &field.binlogs)
        .map(|log| log.memory_size);
    let limit = rewrite_logs_max(200_000, memory.sum::<i64>() as u64, 1, 2) as i64;
    let plan = CompactionPlan {
        schema: Some(only_key),
        max_segment_rows: 150_000,
        pre_allocated_segment_i_ds: id_range(50_000..50_002),
        pre_allocated_log_i_ds: id_range(60_000..60_000 + limit),
        ..plan(CompactionType::MergeCompaction, written)
    };
    let outputs = run(&objects, &plan).await.unwrap();
    let mut row_ids = Vec::new();
    let mut batches = Vec::new();
    for output in &outputs {
        for group in read_output(&objects, &schema, output).await {
            batches.push(group[0].len());
            let ColumnData::Int64(ids) = &group[1] else {
                panic!("row ids are numbers");
            };
            row_ids.extend_from_slice(ids);
        }
    }
    assert_eq!(
        batches,
        [BATCH_ROWS, BATCH_ROWS, 150_000 - 2 * BATCH_ROWS, 49_998]
    );
    let of = |id: i64| {
        (0..100_000)
            .filter(|row| *row != 70_000)
            .map(move |row| id * 1_000_000 + row)
    };
    assert!(row_ids.into_iter().eq(of(1).chain(of(2))));
}

/// Two segments of three rows each and a delete.
fn small() -> Vec<Segment> {
    let segment = |id: i64| Segment {
        id,
        partition: PARTITION,
        groups: vec![
            (0..3)
                .map(|at| Row {
                    key: at,
                    row_id: id * 10 + at,
                    timestamp: 5,
                })
                .collect(),
        ],
        deltas: vec![vec![(1, 6)]],
        level_zero: false,
    };
    vec![segment(10), segment(11)]
}

#[tokio::test]
async fn a_delta_log_that_lies_with_another_segment_counts_for_the_one_that_names_it() {
    let schema = schema();
    let mut objects = Objects::new();
    let mut written = objects.write_all(&small(), &schema).await;
    // As after a compaction during which deletes arrived: the object stays where it was.
    let carried = std::mem::take(&mut written[1].deltalogs);
    written[0].deltalogs = carried;
    let outputs = run(&objects, &plan(CompactionType::MixCompaction, written))
        .await
        .unwrap();
    assert_eq!(outputs[0].num_of_rows, 5);
}

#[tokio::test]
async fn a_missing_or_damaged_input_fails_the_plan_by_its_path() {
    let schema = schema();
    let mut objects = Objects::new();
    let written = objects.write_all(&small(), &schema).await;
    let plan = plan(CompactionType::MixCompaction, written);
    for path in objects.all().await {
        if path.contains("stats_log") {
            // A rewrite makes statistics anew.
            continue;
        }
        let location = object_store::path::Path::from(path.as_str());
        let whole = objects
            .inner
            .get(&location)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        objects.remove(&path).await;
        let error = run(&objects, &plan).await.unwrap_err();
        assert!(
            error.contains(&path) && error.contains("does not exist"),
            "{error}"
        );
        let cut = whole.slice(..whole.len() - 9);
        objects.inner.put(&location, cut.into()).await.unwrap();
        let error = run(&objects, &plan).await.unwrap_err();
        assert!(
            error.contains(&path) && error.contains("cannot be read"),
            "{error}"
        );
        objects.inner.put(&location, whole.into()).await.unwrap();
    }
    assert_eq!(run(&objects, &plan).await.unwrap()[0].num_of_rows, 4);
}

#[tokio::test]
async fn logs_that_are_not_what_the_metadata_says_fail_the_plan() {
    let schema = schema();
    let mut objects = Objects::new();
    let written = objects.write_all(&small(), &schema).await;

    let mut more_rows = written.clone();
    for field in &mut more_rows[0].field_binlogs {
        field.binlogs[0].entries_num = 4;
    }
    let mut other_type = plan(CompactionType::MixCompaction, written.clone());
    other_type.schema.as_mut().unwrap().fields[1].data_type = DataType::Json.into();
    let mut one_field_less = written.clone();
    one_field_less[1].field_binlogs[4].binlogs.clear();
    let plan = |segments| plan(CompactionType::MixCompaction, segments);
    for (plan, hint) in [
        (plan(more_rows), "it has 3 rows, its metadata says 4"),
        (other_type, "of type VarChar, they should be JSON"),
        (
            plan(one_field_less),
            "segment 11: the binlogs of the timestamps do not match",
        ),
    ] {
        let error = run(&objects, &plan).await.unwrap_err();
        assert!(error.contains(hint), "{error}");
    }
}

#[tokio::test]
async fn a_plan_without_enough_ids_fails_and_names_them() {
    let schema = schema();
    let mut objects = Objects::new();
    let written = objects.write_all(&small(), &schema).await;
    for (segments, logs, hint) in [
        (
            50_000..50_002,
            60_000..60_011,
            "all log ids of the plan are used up: [60000, 60011)",
        ),
        (
            50_000..50_001,
            60_000..61_000,
            "all segment ids of the plan are used up",
        ),
    ] {
        let plan = CompactionPlan {
            max_segment_rows: 2,
            pre_allocated_segment_i_ds: id_range(segments),
            pre_allocated_log_i_ds: id_range(logs),
            ..plan(CompactionType::MixCompaction, written.clone())
        };
        let error = run(&objects, &plan).await.unwrap_err();
        assert!(error.contains(hint), "{error}");
    }
}

#[tokio::test]
async fn plans_that_make_no_sense_are_refused() {
    let schema = schema();
    let mut objects = Objects::new();
    let written = objects.write_all(&small(), &schema).await;
    let good = plan(CompactionType::MergeCompaction, written);
    let with = |change: &dyn Fn(&mut CompactionPlan)| {
        let mut plan = good.clone();
        change(&mut plan);
        plan
    };
    for (plan, hint) in [
        (with(&|p| p.plan_id = 0), "plan id 0"),
        (with(&|p| p.schema = None), "no schema"),
        (with(&|p| p.segment_binlogs.clear()), "names no segments"),
        (with(&|p| p.max_segment_rows = -1), "max_segment_rows -1"),
        (
            with(&|p| p.set_type(CompactionType::ClusteringCompaction)),
            "type ClusteringCompaction is not supported",
        ),
        (
            with(&|p| p.set_type(CompactionType::Level0DeleteCompaction)),
            "no level-zero segments",
        ),
        (
            with(&|p| p.segment_binlogs[1].set_level(SegmentLevel::L0)),
            "segment 11 is of level zero",
        ),
        (
            with(&|p| p.segment_binlogs[1].segment_id = 10),
            "segment 10 is named twice",
        ),
        (
            with(&|p| p.segment_binlogs[1].partition_id = 3),
            "segment 11 is of partition 3, segment 10 of 2",
        ),
        (
            with(&|p| p.segment_binlogs[1].collection_id = 3),
            "segment 11 is of collection 3",
        ),
        (
            with(&|p| p.pre_allocated_log_i_ds = None),
            "needs a range of log ids, not none",
        ),
        (
            with(&|p| p.pre_allocated_segment_i_ds = id_range(5..5)),
            "needs a range of segment ids, not [5, 5)",
        ),
        (
            with(&|p| p.segment_binlogs[0].deltalogs[0].binlogs[0].log_path = "x".into()),
            "no path of a log file",
        ),
    ] {
        let error = run(&objects, &plan).await.unwrap_err();
        assert!(error.contains(hint), "{error}");
    }
}
