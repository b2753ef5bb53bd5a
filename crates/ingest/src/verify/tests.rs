#![allow(clippy::unwrap_used)]

use std::path::Path;

use quorate_binlog::{ColumnData, DeltaRows, LogPath, PrimaryKeyStats, delta, insert, stats};
use quorate_rpc::proto::milvus::common::SegmentState;
use quorate_rpc::proto::milvus::data::{FieldBinlog, SegmentInfo, SegmentLevel};

use super::*;
use crate::source::BlockReader;
use crate::testing::{COLLECTION_ID, Fake, PARTITION_ID, small_file};
use crate::{DeleteKeys, IngestOptions, IngestProgress, ingest, keys_of_fraction};

const ROWS: u64 = 300;

/// A file, a collection that has it, and an object store with its rows in segments 1 and 2.
struct Case {
    fake: Fake,
    folder: tempfile::TempDir,
    store: LogStore,
    source: BoundSource,
    next_log: i64,
}

impl Case {
    async fn new() -> Case {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        small_file(&path, ROWS as i64);
        let fake = Fake::start().await;
        // Creates the collection; what the fake nodes take is not looked at here.
        let options = IngestOptions {
            create: true,
            ..IngestOptions::new(&path, "c")
        };
        let progress = watch::Sender::new(IngestProgress::default());
        ingest(&fake.client, options, progress, Default::default())
            .await
            .unwrap();
        let file = SourceFile::open(&path, None).unwrap();
        let coordinator = Coordinator::new(&fake.client);
        let collection = collection::must_find(&coordinator, "c").await.unwrap();
        let url = folder.path().join("objects").display().to_string();
        Case {
            fake,
            store: LogStore::open(&url, Duration::from_secs(5)).unwrap(),
            source: BoundSource::new(Arc::new(file), collection.schema),
            next_log: 1,
            folder,
        }
    }

    async fn good() -> Case {
        let mut case = Case::new().await;
        let first = [case.rows(0..100), case.rows(100..150)];
        case.segment(1, &first, 10).await;
        let second = [case.rows(150..300)];
        case.segment(2, &second, 10).await;
        case
    }

    /// Rows of the file as columns.
    fn rows(&self, rows: std::ops::Range<u64>) -> Vec<ColumnData> {
        let reader = BlockReader::new(self.source.clone(), 1 << 20, 1);
        let rows: Vec<u64> = rows.collect();
        reader.read(&rows, usize::MAX).unwrap().1
    }

    /// Writes a flushed segment, one set of logs for each batch.
    async fn segment(&mut self, id: i64, batches: &[Vec<ColumnData>], timestamp: i64) {
        let mut info = SegmentInfo {
            id,
            collection_id: COLLECTION_ID,
            partition_id: PARTITION_ID,
            state: SegmentState::Flushed as i32,
            level: SegmentLevel::L1 as i32,
            ..Default::default()
        };
        let stamps = (timestamp as u64, timestamp as u64);
        for batch in batches {
            let rows = batch[0].len();
            info.num_of_rows += rows as i64;
            let ordinals = ColumnData::Int64((0..rows as i64).collect());
            let times = ColumnData::Int64(vec![timestamp; rows]);
            let columns = [(0, &ordinals), (1, &times)]
                .into_iter()
                .chain(batch.iter().enumerate().map(|(at, c)| (100 + at as i64, c)));
            for (field, column) in columns {
                let path = LogPath::Insert {
                    collection: COLLECTION_ID,
                    partition: PARTITION_ID,
                    segment: id,
                    field,
                    log_id: self.log_id(),
                };
                let log = insert::encode(path, column, stamps).unwrap();
                self.store.put(&log).await.unwrap();
                let binlog = log.to_binlog(self.store.root());
                match info.binlogs.iter_mut().find(|f| f.field_id == field) {
                    Some(known) => known.binlogs.push(binlog),
                    None => info.binlogs.push(FieldBinlog {
                        field_id: field,
                        binlogs: vec![binlog],
                    }),
                }
            }
            let path = LogPath::Stats {
                collection: COLLECTION_ID,
                partition: PARTITION_ID,
                segment: id,
                field: 100,
                log_id: self.log_id(),
            };
            let of_keys = PrimaryKeyStats::of(&batch[0]).unwrap();
            let log = stats::encode(path, &of_keys, stamps).unwrap();
            self.store.put(&log).await.unwrap();
            info.statslogs.push(FieldBinlog {
                field_id: 100,
                binlogs: vec![log.to_binlog(self.store.root())],
            });
        }
        self.fake.with(|state| state.segments.push(info));
    }

    async fn deletes(&mut self, segment: i64, partition: i64, keys: &[i64], timestamp: u64) {
        let path = LogPath::Delta {
            collection: COLLECTION_ID,
            partition,
            segment,
            log_id: self.log_id(),
        };
        let rows = DeltaRows {
            keys: ColumnData::Int64(keys.to_vec()),
            timestamps: vec![timestamp; keys.len()],
        };
        let log = delta::encode(path, &rows).unwrap();
        self.store.put(&log).await.unwrap();
        let info = SegmentInfo {
            id: segment,
            collection_id: COLLECTION_ID,
            partition_id: partition,
            state: SegmentState::Flushed as i32,
            level: SegmentLevel::L0 as i32,
            deltalogs: vec![FieldBinlog {
                field_id: 0,
                binlogs: vec![log.to_binlog(self.store.root())],
            }],
            ..Default::default()
        };
        self.fake.with(|state| state.segments.push(info));
    }

    fn log_id(&mut self) -> i64 {
        self.next_log += 1;
        self.next_log
    }

    fn options(&self) -> VerifyOptions {
        VerifyOptions {
            file: self.source.file().path().to_owned(),
            collection: "c".into(),
            object_store: self.folder.path().join("objects").display().to_string(),
            primary_key: None,
            deleted_fraction: None,
        }
    }

    async fn run(&self) -> VerifyReport {
        let progress = watch::Sender::new(VerifyProgress::default());
        let report = verify(&self.fake.client, self.options(), progress.clone())
            .await
            .unwrap();
        let seen = progress.borrow().clone();
        // What has no usable path is not read.
        assert!(seen.objects_read <= seen.objects_total);
        assert!(!report.ok() || seen.objects_read == seen.objects_total);
        report
    }

    /// Path of the log of a field in a segment's first batch.
    fn path_of(&self, segment: i64, field: i64) -> String {
        self.fake.with(|state| {
            let info = state.segments.iter().find(|s| s.id == segment).unwrap();
            let field = info.binlogs.iter().find(|f| f.field_id == field).unwrap();
            field.binlogs[0].log_path.clone()
        })
    }

    fn object(&self, path: &str) -> std::path::PathBuf {
        Path::new(&self.options().object_store).join(path)
    }
}

fn keys(found: &Findings<Key>) -> Vec<i64> {
    let mut keys: Vec<i64> = found
        .first
        .iter()
        .map(|key| match key {
            Key::Int64(key) => *key,
            Key::VarChar(key) => panic!("{key}"),
        })
        .collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn what_was_stored_as_it_is_verifies() {
    let case = Case::good().await;
    let report = case.run().await;
    assert!(report.ok(), "{report:?}");
    assert_eq!((report.rows_expected, report.rows_found), (ROWS, ROWS));
    assert_eq!((report.segments, report.extra), (2, 0));
    // Five insert logs and one stats log for each of three batches.
    assert_eq!(report.objects, 18);
    assert!(report.bytes > 0);
}

#[tokio::test]
async fn rows_that_are_not_stored_are_missing_by_key() {
    let mut case = Case::new().await;
    let rows = [case.rows(0..290)];
    case.segment(1, &rows, 10).await;
    let report = case.run().await;
    assert!(!report.ok());
    assert_eq!(report.missing.count, 10);
    assert_eq!(keys(&report.missing), (1290..1300).collect::<Vec<i64>>());
    assert_eq!(report.missing_deleted, 0);

    let mut nothing = Case::new().await;
    assert_eq!(nothing.run().await.missing.count, ROWS);
    let rows = [nothing.rows(0..1)];
    nothing.segment(1, &rows, 10).await;
    let report = nothing.run().await;
    assert_eq!(
        (report.missing.count, report.missing.first.len()),
        (299, KEPT_MAX)
    );
}

#[tokio::test]
async fn rows_stored_twice_are_doubled_by_key() {
    let mut case = Case::good().await;
    let rows = [case.rows(40..43)];
    case.segment(3, &rows, 10).await;
    let report = case.run().await;
    assert!(!report.ok());
    assert_eq!(report.doubled.count, 3);
    assert_eq!(keys(&report.doubled), [1040, 1041, 1042]);
    assert_eq!((report.missing.count, report.wrong.count), (0, 0));
}

#[tokio::test]
async fn a_value_that_differs_by_one_bit_is_wrong_by_field() {
    let mut case = Case::new().await;
    let mut rows = case.rows(0..300);
    let ColumnData::FloatVector { data, .. } = &mut rows[2] else {
        panic!("no vectors");
    };
    // Row 0: zero and its negative are equal as numbers.
    data[1] = -0.0;
    let bits = data[2 * 7].to_bits();
    data[2 * 7] = f32::from_bits(bits ^ 1);
    let ColumnData::VarChar(names) = &mut rows[1] else {
        panic!("no names");
    };
    names[9] = "row 10".into();
    case.segment(1, &[rows], 10).await;
    let report = case.run().await;
    assert!(!report.ok());
    assert_eq!(
        (
            report.wrong.count,
            report.missing.count,
            report.doubled.count
        ),
        (3, 0, 0)
    );
    let mut wrong = report.wrong.first.clone();
    wrong.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(
        wrong[0],
        WrongValue {
            key: Key::Int64(1000),
            field: "vector".into(),
            expected: "0.0 at element 1".into(),
            found: "-0.0 at element 1".into(),
        }
    );
    assert_eq!(wrong[1].field, "vector");
    assert_eq!(
        (wrong[2].key.clone(), wrong[2].field.as_str()),
        (Key::Int64(1009), "name")
    );
    assert_eq!(
        (wrong[2].expected.as_str(), wrong[2].found.as_str()),
        ("\"row 9\"", "\"row 10\"")
    );
}

#[tokio::test]
async fn a_row_is_gone_when_deleted_later_and_only_then() {
    let mut case = Case::good().await;
    // Deleted before they were inserted, in another partition, or for good.
    case.deletes(10, -1, &[1000, 1001], 9).await;
    case.deletes(11, PARTITION_ID + 1, &[1002], 20).await;
    case.deletes(12, -1, &[1003], 11).await;
    case.deletes(13, PARTITION_ID, &[1200, 9999], 12).await;
    let report = case.run().await;
    assert!(!report.ok());
    assert_eq!(keys(&report.missing), [1003, 1200]);
    assert_eq!((report.missing_deleted, report.rows_deleted), (2, 2));
    assert_eq!(report.rows_found, ROWS - 2);

    let again = [case.rows(3..4), case.rows(200..201)];
    case.segment(14, &again, 30).await;
    let report = case.run().await;
    assert!(report.ok(), "inserted again after the delete: {report:?}");
}

#[tokio::test]
async fn rows_deleted_on_purpose_must_be_gone_and_all_others_there() {
    let mut case = Case::good().await;
    let options = VerifyOptions {
        deleted_fraction: Some(0.25),
        ..case.options()
    };
    let run = async |case: &Case| {
        let progress = watch::Sender::new(VerifyProgress::default());
        let client = &case.fake.client;
        verify(client, options.clone(), progress).await.unwrap()
    };
    let DeleteKeys::Ids(ids) = keys_of_fraction(&options.file, None, 0.25).unwrap() else {
        panic!("the keys are numbers");
    };
    let report = run(&case).await;
    assert!(!report.ok());
    assert_eq!(report.not_deleted.count, ids.len() as u64);
    assert_eq!((report.missing.count, report.extra), (0, 0));

    case.deletes(13, -1, &ids, 12).await;
    let report = run(&case).await;
    assert!(report.ok(), "{report:?}");
    assert_eq!(report.rows_found, ROWS - ids.len() as u64);
    assert_eq!(report.rows_expected, report.rows_found);

    case.deletes(14, -1, &[first_kept(&ids)], 12).await;
    let report = run(&case).await;
    assert_eq!(keys(&report.missing), [first_kept(&ids)]);
}

/// The first key of the file that is not among these, which are in order.
fn first_kept(ids: &[i64]) -> i64 {
    (1000..).find(|id| !ids.contains(id)).unwrap()
}

#[tokio::test]
async fn a_view_reads_what_the_file_has() {
    let case = Case::good().await;
    let view = View::fetch(&case.fake.client, "c").await.unwrap();
    let store = open_store(&case.options().object_store).unwrap();
    let prints = |rows: &[RowPrint]| {
        let mut prints: Vec<_> = rows.iter().map(|row| (row.key, row.values)).collect();
        prints.sort_unstable();
        prints
    };
    let contents = view.read(&store).await.unwrap();
    let expected = file_prints(&case.options().file).await.unwrap();
    assert_eq!(prints(&contents.rows), prints(&expected));
    assert_eq!(contents.problems.count, 0);

    std::fs::remove_file(case.object(&case.path_of(1, 101))).unwrap();
    let contents = view.read(&store).await.unwrap();
    assert_eq!(contents.problems.first[0].kind, ProblemKind::Missing);
}

#[tokio::test]
async fn a_missing_or_damaged_object_is_named_with_its_segment() {
    let case = Case::good().await;
    let gone = case.path_of(2, 102);
    std::fs::remove_file(case.object(&gone)).unwrap();
    let cut = case.path_of(1, 101);
    let bytes = std::fs::read(case.object(&cut)).unwrap();
    std::fs::write(case.object(&cut), &bytes[..bytes.len() - 3]).unwrap();
    let report = case.run().await;
    assert!(!report.ok());
    assert_eq!(report.problems.count, 2);
    let text: Vec<String> = report
        .problems
        .first
        .iter()
        .map(|p| p.to_string())
        .collect();
    assert!(
        text[0].starts_with("segment 1: ") && text[0].contains(&cut),
        "{text:?}"
    );
    assert!(
        text[1].starts_with("segment 2: ") && text[1].contains(&gone),
        "{text:?}"
    );
    assert!(text[1].contains("does not exist"), "{text:?}");
    // Their rows cannot be read.
    assert_eq!(report.missing.count, 100 + 150);
}

#[tokio::test]
async fn a_missing_stats_log_is_a_failure_too() {
    let case = Case::good().await;
    let path = case
        .fake
        .with(|state| state.segments[0].statslogs[0].binlogs[0].log_path.clone());
    std::fs::remove_file(case.object(&path)).unwrap();
    let report = case.run().await;
    assert_eq!((report.problems.count, report.missing.count), (1, 0));
    assert!(!report.ok());
}

#[tokio::test]
async fn counts_that_do_not_agree_with_the_metadata_are_failures() {
    let case = Case::good().await;
    case.fake.with(|state| {
        state.segments[0].num_of_rows += 1;
        let path = state.segments[1].binlogs[2].clone();
        for field in &mut state.segments[1].binlogs {
            field.binlogs[0].entries_num -= 1;
        }
        state.segments[1].num_of_rows -= 1;
        assert_eq!(path.field_id, 100);
    });
    let report = case.run().await;
    let text: Vec<String> = report
        .problems
        .first
        .iter()
        .map(|p| p.to_string())
        .collect();
    assert!(
        text[0].contains("segment 1: its row count is 151, its binlogs have 150"),
        "{text:?}"
    );
    assert!(
        text[1].contains("it has 150 rows, its metadata says 149"),
        "{text:?}"
    );
}

#[tokio::test]
async fn a_path_that_belongs_to_another_segment_is_refused() {
    let case = Case::good().await;
    let other = case.path_of(1, 100);
    case.fake
        .with(|state| state.segments[1].binlogs[2].binlogs[0].log_path = other);
    let report = case.run().await;
    let problem = report.problems.first[0].to_string();
    assert!(
        problem.starts_with("segment 2: its path should end in insert_log/"),
        "{problem}"
    );
}

#[tokio::test]
async fn rows_of_other_files_are_extra_and_no_failure() {
    let mut case = Case::good().await;
    let mut rows = case.rows(0..5);
    rows[0] = ColumnData::Int64((5000..5005).collect());
    case.segment(3, &[rows], 10).await;
    let report = case.run().await;
    assert!(report.ok());
    assert_eq!((report.extra, report.rows_found), (5, ROWS + 5));
}

#[tokio::test]
async fn a_store_that_is_not_there_is_an_error() {
    let case = Case::good().await;
    let options = VerifyOptions {
        object_store: case.folder.path().join("elsewhere").display().to_string(),
        ..case.options()
    };
    let progress = watch::Sender::new(VerifyProgress::default());
    let error = verify(&case.fake.client, options, progress)
        .await
        .unwrap_err();
    assert!(matches!(error, VerifyError::NoStore { .. }), "{error}");
}
