#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::error::SourceError;
use crate::route::channel_of;
use crate::testing::{Fake, Trick, sample, small_file, vectors, write_parquet};
use arrow_array::{Int64Array, StringArray};
use quorate_binlog::PrimaryKey;

const ROWS: u64 = 1500;

/// A folder with a file of [`ROWS`] rows, and what is needed to ingest it.
struct Case {
    fake: Fake,
    _folder: tempfile::TempDir,
    options: IngestOptions,
}

impl Case {
    async fn new(channels: u32) -> Case {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        small_file(&path, ROWS as i64);
        Case {
            fake: Fake::start().await,
            options: IngestOptions {
                create: true,
                channels,
                batch_rows: 100,
                stall_timeout: Duration::from_secs(20),
                ..IngestOptions::new(path, "c")
            },
            _folder: folder,
        }
    }

    async fn run(&self) -> Result<IngestReport, IngestError> {
        self.run_for(self.options.clone()).await
    }

    async fn run_for(&self, options: IngestOptions) -> Result<IngestReport, IngestError> {
        let progress = watch::Sender::new(IngestProgress::default());
        ingest(
            &self.fake.client,
            options,
            progress,
            CancellationToken::new(),
        )
        .await
    }

    /// Every row of the file is stored on its channel, in the order of the file.
    fn assert_all_stored(&self, channels: usize) {
        self.fake.with(|state| {
            let mut keys = BTreeSet::new();
            for (name, channel) in &state.channels {
                let rows = channel.keys.len() as u64;
                let stream = channel.stored.streams().next().map(<[u8]>::to_vec);
                if let Some(stream) = stream {
                    assert!(channel.stored.contains_all(&stream, 0, rows), "{name}");
                    assert_eq!(channel.stored.len(), rows);
                }
                let ordered: Vec<i64> = channel.keys.values().copied().collect();
                assert!(ordered.is_sorted(), "the order of the file is kept");
                for key in ordered {
                    let index = channel_of(&PrimaryKey::Int64(key), channels);
                    assert_eq!(*name, format!("ch{index}"));
                    assert!(keys.insert(key), "key {key} went to two places");
                }
            }
            let all: BTreeSet<i64> = (1000..1000 + ROWS as i64).collect();
            assert_eq!(keys, all);
        });
    }
}

#[tokio::test]
async fn every_row_is_stored_once_and_repeating_adds_nothing() {
    let case = Case::new(3).await;
    let report = case.run().await.unwrap();
    assert!(report.created);
    case.assert_all_stored(3);
    assert_eq!(report.progress.rows_total, ROWS);
    assert_eq!(report.progress.rows_accepted, ROWS);
    assert_eq!(report.progress.rows_durable, ROWS);
    assert_eq!(report.progress.rows_sent_again, 0);
    assert!(report.progress.bytes_sent > ROWS * 8);
    assert_eq!(report.channels.len(), 3);

    let calls = case.fake.with(|state| state.insert_calls);
    let again = case.run().await.unwrap();
    assert!(!again.created);
    assert_eq!(again.stream, report.stream);
    assert_eq!(again.progress.rows_already_stored, ROWS);
    assert_eq!(again.progress.rows_accepted, 0);
    assert_eq!(case.fake.with(|state| state.insert_calls), calls);
}

#[tokio::test]
async fn the_sample_goes_in_with_its_vectors() {
    let case = Case::new(2).await;
    let options = IngestOptions {
        file: sample(),
        ..case.options.clone()
    };
    let report = case.run_for(options).await.unwrap();
    assert_eq!(report.progress.rows_durable, 3000);
    assert!(report.progress.bytes_sent > 3000 * 384 * 4);
}

#[tokio::test]
async fn inserts_of_a_channel_go_in_order_with_grants_split_over_segments() {
    let case = Case::new(1).await;
    case.run().await.unwrap();
    case.fake.with(|state| {
        let mut next = 0;
        let mut timestamp = 0;
        for insert in &state.inserts {
            assert_eq!(insert.segments.len(), 2);
            assert_eq!(insert.ordinals, [(next, next + insert.rows)]);
            assert!(insert.timestamp > timestamp);
            (next, timestamp) = (next + insert.rows, insert.timestamp);
        }
        assert_eq!(next, ROWS);
    });
}

#[tokio::test]
async fn a_new_owner_is_sent_only_what_is_not_stored() {
    let case = Case::new(1).await;
    let trick = Trick::Replaced { stored: 450 };
    case.fake.with(|state| state.tricks.push((8, trick)));
    let report = case.run().await.unwrap();
    case.assert_all_stored(1);
    // 800 rows were taken by the first owner, 450 of them stored.
    assert_eq!(report.progress.rows_sent_again, 350);
    assert_eq!(report.progress.rows_accepted, ROWS);
    assert_eq!(report.progress.owner_changes, 1);
    assert_eq!(report.channels[0].rows_sent_again, 350);
    case.fake.with(|state| {
        let second: Vec<_> = state.inserts.iter().filter(|i| i.node == 1).collect();
        assert_eq!(second.iter().map(|i| i.rows).sum::<u64>(), ROWS - 450);
        assert_eq!(second[0].ordinals[0].0, 450);
    });
}

#[tokio::test]
async fn what_a_dead_owner_held_in_memory_is_sent_again() {
    let case = Case::new(2).await;
    case.fake.with(|state| {
        state.tricks.push((5, Trick::Dead));
        state.tricks.push((3, Trick::Dead));
    });
    let report = case.run().await.unwrap();
    case.assert_all_stored(2);
    assert!(report.progress.rows_sent_again > 0);
    assert_eq!(report.progress.rows_accepted, ROWS);
    assert_eq!(report.progress.owner_changes, 2);
}

#[tokio::test]
async fn an_answer_that_got_lost_costs_nothing() {
    let case = Case::new(1).await;
    case.fake
        .with(|state| state.tricks.push((2, Trick::LoseAnswer)));
    let report = case.run().await.unwrap();
    case.assert_all_stored(1);
    assert_eq!(report.progress.rows_accepted, ROWS);
    assert_eq!(report.progress.rows_sent_again, 0);
    case.fake.with(|state| {
        assert_eq!(state.inserts[2].ordinals, state.inserts[3].ordinals);
    });
}

#[tokio::test]
async fn late_rows_get_new_segments_and_a_new_timestamp() {
    let case = Case::new(1).await;
    case.fake.with(|state| {
        state.tricks.push((2, Trick::Late));
        state.tricks.push((0, Trick::Late));
        state.tricks.push((1, Trick::Busy));
    });
    let report = case.run().await.unwrap();
    case.assert_all_stored(1);
    assert_eq!(report.progress.rows_sent_again, 0);
    assert_eq!(report.progress.owner_changes, 0);
    case.fake.with(|state| {
        let times: Vec<u64> = state.inserts.iter().map(|i| i.timestamp).collect();
        assert!(times.is_sorted(), "{times:?}");
        let segments: Vec<i64> = state
            .inserts
            .iter()
            .flat_map(|i| i.segments.clone())
            .collect();
        let distinct: BTreeSet<i64> = segments.iter().copied().collect();
        assert_eq!(distinct.len(), segments.len(), "each grant was used once");
    });
}

#[tokio::test]
async fn expired_grants_and_a_starting_coordinator_are_waited_out() {
    let case = Case::new(1).await;
    case.fake.with(|state| {
        state.stale_grants = 2;
        state.assign_failures = 2;
    });
    case.run().await.unwrap();
    case.assert_all_stored(1);
}

#[tokio::test]
async fn rows_that_a_sync_did_not_store_are_sent_again() {
    let case = Case::new(1).await;
    case.fake.with(|state| state.lossy_syncs = 1);
    let report = case.run().await.unwrap();
    case.assert_all_stored(1);
    assert_eq!(report.progress.rows_sent_again, ROWS);
    assert_eq!(report.progress.rows_accepted, ROWS);
}

#[tokio::test]
async fn an_interrupted_ingest_continues_where_it_ended() {
    let case = Case::new(1).await;
    case.fake.with(|state| {
        state.tricks.push((4, Trick::Replaced { stored: 400 }));
        state.tricks.push((0, Trick::Invalid));
    });
    let error = case.run().await.unwrap_err();
    assert!(matches!(error, IngestError::Refused { .. }), "{error}");
    let report = case.run().await.unwrap();
    case.assert_all_stored(1);
    assert_eq!(report.progress.rows_already_stored, 400);
    assert_eq!(report.progress.rows_accepted, ROWS - 400);
}

#[tokio::test]
async fn a_refusal_for_good_says_what_the_node_says() {
    let case = Case::new(1).await;
    case.fake
        .with(|state| state.tricks.push((1, Trick::Invalid)));
    let error = case.run().await.unwrap_err().to_string();
    assert!(
        error.contains("data node 1") && error.contains("field x, row 3: bad"),
        "{error}"
    );
}

#[tokio::test]
async fn an_ingest_that_does_not_move_ends_and_says_what_is_missing() {
    let mut case = Case::new(1).await;
    case.options.stall_timeout = Duration::from_millis(300);
    case.fake.with(|state| state.unowned = true);
    let error = case.run().await.unwrap_err();
    let text = error.to_string();
    match error {
        IngestError::Stalled {
            channel,
            missing,
            total,
            first_missing,
            ..
        } => assert_eq!(
            (channel.as_str(), missing, total, first_missing),
            ("ch0", ROWS, ROWS, 0)
        ),
        other => panic!("{other}"),
    }
    assert!(text.contains("nobody owns the channel"), "{text}");

    case.fake.with(|state| {
        state.unowned = false;
        state.lossy_syncs = usize::MAX;
    });
    let text = case.run().await.unwrap_err().to_string();
    assert!(text.contains("taken and synced are not stored"), "{text}");
    assert!(text.contains("data node 1 at 127.0.0.1"), "{text}");
}

#[tokio::test]
async fn nothing_is_created_for_a_bad_file() {
    let case = Case::new(1).await;
    let whole = std::fs::read(&case.options.file).unwrap();
    std::fs::write(&case.options.file, &whole[..whole.len() / 2]).unwrap();
    let error = case.run().await.unwrap_err();
    assert!(
        matches!(error, IngestError::Source(SourceError::Unreadable { .. })),
        "{error}"
    );
    // The last row has no name: found before the first one is sent.
    let names = (0..ROWS).map(|row| (row + 1 < ROWS).then_some("x"));
    write_parquet(
        &case.options.file,
        vec![
            ("id", Arc::new(Int64Array::from_iter_values(0..ROWS as i64))),
            ("name", Arc::new(StringArray::from_iter(names))),
            ("vector", vectors(0..ROWS as i64)),
        ],
    );
    let error = case.run().await.unwrap_err();
    assert!(error.to_string().contains("row 1499"), "{error}");
    assert_eq!(case.fake.with(|state| state.creates), 0);
}

#[tokio::test]
async fn an_absent_collection_needs_create() {
    let mut case = Case::new(1).await;
    case.options.create = false;
    let error = case.run().await.unwrap_err().to_string();
    assert!(
        error.contains("\"c\" does not exist") && error.contains("--create"),
        "{error}"
    );
    assert_eq!(case.fake.with(|state| state.creates), 0);
}

#[tokio::test]
async fn a_file_that_does_not_suit_the_collection_is_refused_by_column() {
    let case = Case::new(1).await;
    case.run().await.unwrap();
    let error = case
        .run_for(IngestOptions {
            file: sample(),
            ..case.options.clone()
        })
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("column \"name\"") && error.contains("\"c\""),
        "{error}"
    );

    let error = case
        .run_for(IngestOptions {
            primary_key: Some("name".into()),
            ..case.options.clone()
        })
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("primary key is \"id\""), "{error}");

    let error = case
        .run_for(IngestOptions {
            create: false,
            partition: Some("p".into()),
            ..case.options.clone()
        })
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("no partition \"p\""), "{error}");
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused() {
    let case = Case::new(1).await;
    let good = || case.options.clone();
    let bad = [
        IngestOptions {
            channels: 0,
            ..good()
        },
        IngestOptions {
            channels: 65,
            ..good()
        },
        IngestOptions {
            batch_rows: 0,
            ..good()
        },
        IngestOptions {
            rate_rows_per_s: Some(0),
            ..good()
        },
        IngestOptions {
            stall_timeout: Duration::ZERO,
            ..good()
        },
        IngestOptions {
            collection: String::new(),
            ..good()
        },
    ];
    for options in bad {
        let error = case.run_for(options).await.unwrap_err();
        assert!(matches!(error, IngestError::Option { .. }), "{error}");
    }
}

#[tokio::test]
async fn cancelling_ends_it_and_it_can_be_continued() {
    let case = Case::new(1).await;
    let cancel = CancellationToken::new();
    let (sender, mut progress) = watch::channel(IngestProgress::default());
    let options = IngestOptions {
        rate_rows_per_s: Some(1),
        ..case.options.clone()
    };
    let stop = cancel.clone();
    let watching = tokio::spawn(async move {
        progress.wait_for(|p| p.rows_accepted > 0).await.unwrap();
        stop.cancel();
    });
    let error = ingest(&case.fake.client, options, sender, cancel)
        .await
        .unwrap_err();
    assert!(matches!(error, IngestError::Cancelled), "{error}");
    watching.await.unwrap();
    assert!(case.fake.with(|state| state.inserts.len()) < 15);
    case.run().await.unwrap();
    case.assert_all_stored(1);
}

#[test]
fn the_stream_depends_on_collection_and_contents_only() {
    let file = SourceFile::open(Path::new(&sample()), None).unwrap();
    let hash = file.hash().unwrap();
    assert_eq!(stream_id(1, &hash), stream_id(1, &hash));
    assert_ne!(stream_id(1, &hash), stream_id(2, &hash));
    assert_ne!(stream_id(1, &hash), stream_id(1, &[0; 32]));
}
