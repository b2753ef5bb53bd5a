//! A whole data node against a small coordinator that can be made to misbehave.

#![allow(clippy::unwrap_used)]

mod compaction;
mod coordinator;
mod fixture;
mod index;

use coordinator::Fate;
use fixture::{CHANNEL, COLLECTION, Fixture, PARTITION, STREAM, columns, operation, quiet};
use quorate_binlog::{ColumnData, LogPath, PrimaryKey, position};
use quorate_datanode::Config;
use quorate_rpc::proto::milvus::data::{ChannelWatchState, SegmentLevel};
use quorate_rpc::status::Code;

#[tokio::test]
async fn rows_are_saved_under_the_right_paths_and_can_be_read() {
    let f = Fixture::watching(quiet()).await;
    assert_eq!(f.insert(7, 0..30).await.unwrap(), (30, 0));
    assert_eq!(f.insert(7, 30..50).await.unwrap(), (20, 0));
    assert_eq!(f.sync().await.unwrap().rows, 50);

    let save = f.coordinator.with(|seen| seen.saves[0].clone());
    assert_eq!((save.segment_id, save.collection_id), (7, COLLECTION));
    assert_eq!((save.partition_id, save.assignment_epoch), (PARTITION, 1));
    assert_eq!((save.channel.as_str(), save.flushed), (CHANNEL, false));
    assert_eq!(save.seg_level(), SegmentLevel::L1);
    assert_eq!(
        save.base.as_ref().unwrap().source_id,
        f.node.as_ref().unwrap().node_id()
    );
    assert_eq!(save.check_points[0].num_of_rows, 50);
    assert_eq!(save.start_positions.len(), 1);
    let at = save.check_points[0].position.as_ref().unwrap();
    assert_eq!(position::decode(&at.msg_id).unwrap()[STREAM], 50);
    assert_eq!((save.row_ranges[0].from, save.row_ranges[0].to), (0, 50));

    let fields: Vec<i64> = save
        .field2_binlog_paths
        .iter()
        .map(|f| f.field_id)
        .collect();
    assert_eq!(fields, [0, 1, 100, 101, 102]);
    for field in &save.field2_binlog_paths {
        let log = &field.binlogs[0];
        let path = format!(
            "insert_log/{COLLECTION}/{PARTITION}/7/{}/{}",
            field.field_id, log.log_id
        );
        assert_eq!(log.log_path, path);
        assert_eq!(log.entries_num, 50);
        assert_eq!(log.timestamp_to, at.timestamp);
        let size = std::fs::metadata(f.folder.path().join(&path))
            .unwrap()
            .len();
        assert_eq!(log.log_size as u64, size);
    }
    let ids = f.read(&save.field2_binlog_paths[0]).await;
    assert_eq!(ids, ColumnData::Int64((0..50).collect()));
    for (field, column) in save.field2_binlog_paths[2..].iter().zip(columns(0..50)) {
        assert_eq!(f.read(field).await, column);
    }
    let stats = &save.field2_statslog_paths[0].binlogs[0];
    let stats = f
        .store
        .read_stats(&LogPath::parse(&stats.log_path).unwrap())
        .await
        .unwrap();
    assert_eq!((stats.min, stats.rows), (PrimaryKey::Int64(10_000), 50));
}

#[tokio::test]
async fn a_second_sync_counts_on_and_has_no_start_position() {
    let f = Fixture::watching(quiet()).await;
    f.insert(7, 0..30).await.unwrap();
    f.sync().await.unwrap();
    f.insert(7, 30..40).await.unwrap();
    f.sync().await.unwrap();
    let save = f.coordinator.with(|seen| seen.saves[1].clone());
    assert_eq!(save.check_points[0].num_of_rows, 40);
    assert!(save.start_positions.is_empty());
    f.coordinator
        .until("statistics of all its rows", |seen| {
            let stats = seen.ticks.first()?.segments_stats.first()?;
            ((stats.segment_id, stats.num_rows) == (7, 40)).then_some(())
        })
        .await;
}

#[tokio::test]
async fn rows_sent_again_are_skipped_also_by_the_next_owner() {
    let f = Fixture::watching(quiet()).await;
    f.insert(7, 0..30).await.unwrap();
    assert_eq!(f.insert(8, 10..40).await.unwrap(), (10, 20));
    f.sync().await.unwrap();
    assert_eq!(f.insert(9, 0..45).await.unwrap(), (5, 40));
    // Another assignment: what was only buffered is dropped, what is stored is known.
    f.watch(2, 2).await;
    let timestamp = f.coordinator.timestamp();
    let answer = f.insert_at(timestamp, 2, 9, 0..50).await.unwrap();
    assert_eq!((answer.accepted_rows, answer.skipped_rows), (10, 40));
    let error = f.insert_at(timestamp, 1, 9, 0..50).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
    assert!(!error.metadata().contains_key("quorate-late"));
}

#[tokio::test]
async fn a_save_without_an_answer_is_repeated_with_the_same_logs() {
    let f = Fixture::watching(quiet()).await;
    // More than one call's deadline has room for.
    f.coordinator
        .with(|seen| seen.fates.extend(vec![Fate::AnswerLost; 8]));
    f.insert(7, 0..30).await.unwrap();
    f.sync().await.unwrap();
    let (attempts, saves) = f
        .coordinator
        .with(|seen| (seen.attempts.clone(), seen.saves.len()));
    assert_eq!(saves, 1);
    assert_eq!(attempts.len(), 9);
    assert!(attempts.iter().all(|attempt| *attempt == attempts[0]));
    assert_eq!(f.files(), 6);
    assert_eq!(f.insert(7, 0..30).await.unwrap(), (0, 30));
}

#[tokio::test]
async fn a_save_refused_to_the_owner_of_another_time_forfeits_the_channel() {
    let f = Fixture::watching(quiet()).await;
    f.coordinator
        .with(|seen| seen.fates.push_back(Fate::Refused(Code::ChannelNotFound)));
    f.insert(7, 0..30).await.unwrap();
    let error = f.sync().await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
    let error = f.insert(7, 30..31).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
    let asked = operation(ChannelWatchState::ToWatch, 1, 1);
    assert_eq!(f.outcome(&asked).await, ChannelWatchState::WatchFailure);
    f.coordinator
        .until("empty buffers", |seen| {
            let last = seen.heartbeats.last()?;
            (last.buffered_rows == 0 && last.buffered_bytes == 0).then_some(())
        })
        .await;
    // It may come back, and the rows with it.
    f.watch(2, 2).await;
    let timestamp = f.coordinator.timestamp();
    assert_eq!(
        f.insert_at(timestamp, 2, 7, 0..30)
            .await
            .unwrap()
            .accepted_rows,
        30
    );
}

#[tokio::test]
async fn rows_of_a_refused_save_are_taken_again_and_its_files_deleted() {
    let mut f = Fixture::watching(quiet()).await;
    f.coordinator
        .with(|seen| seen.fates.push_back(Fate::Refused(Code::SegmentNotFound)));
    f.insert(7, 0..30).await.unwrap();
    let error = f.sync().await.unwrap_err();
    assert!(error.message().contains("send the rest again"), "{error}");
    assert_eq!(f.insert(8, 0..30).await.unwrap(), (30, 0));
    f.sync().await.unwrap();
    assert_eq!(f.coordinator.with(|seen| seen.stored.len()), 30);
    f.node.take().unwrap().stop().await;
    assert_eq!(f.files(), 6);
}

#[tokio::test]
async fn files_that_an_unanswered_save_may_have_named_are_kept() {
    let mut f = Fixture::watching(quiet()).await;
    let fates = [Fate::AnswerLost, Fate::Refused(Code::ChannelNotFound)];
    f.coordinator.with(|seen| seen.fates.extend(fates));
    f.insert(7, 0..30).await.unwrap();
    f.sync().await.unwrap_err();
    f.node.take().unwrap().stop().await;
    let save = f.coordinator.with(|seen| seen.saves[0].clone());
    let ids = f.read(&save.field2_binlog_paths[2]).await;
    assert_eq!(ids, columns(0..30)[0]);
}

#[tokio::test]
async fn a_channel_with_an_unusable_schema_is_not_watched() {
    let f = Fixture::start(quiet()).await;
    let mut watch = operation(ChannelWatchState::ToWatch, 1, 1);
    watch.schema = None;
    f.notify(watch.clone()).await;
    assert_eq!(f.outcome(&watch).await, ChannelWatchState::WatchFailure);
    let error = f.insert(7, 0..1).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
}

#[tokio::test]
async fn an_outdated_watch_does_not_replace_a_newer_one() {
    let f = Fixture::watching(quiet()).await;
    f.watch(3, 5).await;
    let outdated = operation(ChannelWatchState::ToWatch, 2, 4);
    f.notify(outdated.clone()).await;
    assert_eq!(f.outcome(&outdated).await, ChannelWatchState::WatchFailure);
    let timestamp = f.coordinator.timestamp();
    assert_eq!(
        f.insert_at(timestamp, 3, 7, 0..5)
            .await
            .unwrap()
            .accepted_rows,
        5
    );
}

#[tokio::test]
async fn a_row_behind_the_tick_is_late() {
    let f = Fixture::watching(quiet()).await;
    let timestamp = f.coordinator.timestamp();
    let tick = f
        .coordinator
        .until("a tick beyond the timestamp", |seen| {
            let tick = seen.ticks.first()?;
            (tick.timestamp >= timestamp).then(|| tick.clone())
        })
        .await;
    assert_eq!(tick.channel_name, CHANNEL);
    let error = f.insert_at(timestamp, 1, 7, 0..1).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
    assert_eq!(error.metadata().get("quorate-late").unwrap(), "1");
    assert_eq!(f.insert(7, 0..1).await.unwrap(), (1, 0));
}

#[tokio::test]
async fn bad_rows_are_refused_whole_and_by_name() {
    let f = Fixture::watching(quiet()).await;
    let error = f
        .insert_at(f.coordinator.timestamp() + (1 << 40), 1, 7, 0..0)
        .await
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert_eq!(f.insert(7, 0..3).await.unwrap(), (3, 0));
}

#[tokio::test]
async fn an_empty_segment_is_flushed_by_a_save_without_logs() {
    let f = Fixture::watching(quiet()).await;
    f.insert(7, 0..30).await.unwrap();
    f.flush_segments(&[7, 8]).await;
    f.flush_segments(&[7, 8]).await;
    let saves = f
        .coordinator
        .until("two flushed segments", |seen| {
            (seen.saves.len() == 2).then(|| seen.saves.clone())
        })
        .await;
    let of = |id: i64| saves.iter().find(|save| save.segment_id == id).unwrap();
    assert!(of(7).flushed && of(8).flushed);
    assert_eq!(of(7).field2_binlog_paths.len(), 5);
    assert!(of(8).field2_binlog_paths.is_empty() && of(8).check_points.is_empty());
    f.flush_segments(&[7, 8]).await;
    let timestamp = f.coordinator.timestamp();
    let error = f.insert_at(timestamp, 1, 7, 30..31).await.unwrap_err();
    assert!(error.metadata().contains_key("quorate-late"), "{error}");
    f.sync().await.unwrap();
    assert_eq!(f.coordinator.with(|seen| seen.saves.len()), 2);
}

#[tokio::test]
async fn full_buffers_hold_writers_back_until_rows_are_saved() {
    let f = Fixture::watching(Config {
        buffer_max_bytes: 20_000,
        ..quiet()
    })
    .await;
    f.coordinator.with(|seen| seen.saves_held = true);
    let mut sent = 0;
    let error = loop {
        match f.insert(7, sent..sent + 50).await {
            Ok(_) => sent += 50,
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), tonic::Code::ResourceExhausted);
    assert!(sent > 0);
    let error = f.insert(7, 0..5000).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    f.coordinator
        .until("a save by memory pressure", |seen| {
            (!seen.attempts.is_empty()).then_some(())
        })
        .await;
    f.coordinator.with(|seen| seen.saves_held = false);
    f.coordinator
        .until("the saved rows", |seen| {
            let last = seen.heartbeats.last()?;
            (seen.stored.len() == sent && last.buffered_bytes == 0).then_some(())
        })
        .await;
    assert_eq!(f.insert(7, sent..sent + 50).await.unwrap(), (50, 0));
}

#[tokio::test]
async fn a_flush_of_the_channel_brings_its_checkpoint_beyond() {
    let f = Fixture::watching(quiet()).await;
    f.insert(7, 0..30).await.unwrap();
    let flush_ts = f.coordinator.timestamp();
    f.flush_channel(flush_ts).await;
    let checkpoint = f
        .coordinator
        .until("a checkpoint beyond the flush", |seen| {
            let last = seen.checkpoints.last()?;
            (last.timestamp >= flush_ts).then(|| last.clone())
        })
        .await;
    assert_eq!(checkpoint.channel_name, CHANNEL);
    assert_eq!(position::decode(&checkpoint.msg_id).unwrap()[STREAM], 30);
    assert_eq!(f.coordinator.with(|seen| seen.stored.len()), 30);
}

#[tokio::test]
async fn no_checkpoint_passes_rows_that_are_not_saved() {
    let f = Fixture::watching(quiet()).await;
    f.coordinator.with(|seen| seen.saves_held = true);
    f.insert(7, 0..30).await.unwrap();
    let after = f.coordinator.timestamp();
    f.flush_channel(after).await;
    f.coordinator
        .until("ticks beyond and attempts to save", |seen| {
            let ticked = seen.ticks.first()?.timestamp >= after;
            (ticked && seen.attempts.len() > 3).then_some(())
        })
        .await;
    let highest = f
        .coordinator
        .with(|seen| seen.checkpoints.iter().map(|cp| cp.timestamp).max());
    assert!(highest.is_none_or(|ts| ts < after));
}

#[tokio::test]
async fn deletes_become_a_segment_of_level_zero() {
    let f = Fixture::watching(quiet()).await;
    assert_eq!(f.delete(-1, vec![10_003, 10_004]).await.accepted_rows, 2);
    f.sync().await.unwrap();
    let save = f.coordinator.with(|seen| seen.saves[0].clone());
    assert_eq!(save.seg_level(), SegmentLevel::L0);
    assert!(save.flushed && save.partition_id == -1 && save.row_ranges.is_empty());
    assert_eq!(save.check_points[0].num_of_rows, 0);
    assert_eq!(save.start_positions[0].segment_id, save.segment_id);
    let log = &save.deltalogs[0].binlogs[0];
    let path = LogPath::parse(&log.log_path).unwrap();
    assert_eq!(path.segment(), save.segment_id);
    let rows = f.store.read_delta(&path).await.unwrap();
    assert_eq!(rows.keys, ColumnData::Int64(vec![10_003, 10_004]));
    assert_eq!(rows.timestamps, [log.timestamp_from; 2]);
}

#[tokio::test]
async fn a_release_saves_everything_first() {
    let f = Fixture::watching(quiet()).await;
    f.insert(7, 0..30).await.unwrap();
    f.delete(PARTITION, vec![1]).await;
    let release = operation(ChannelWatchState::ToRelease, 1, 2);
    f.notify(release.clone()).await;
    f.notify(release.clone()).await;
    assert_eq!(f.outcome(&release).await, ChannelWatchState::ReleaseSuccess);
    assert_eq!(f.coordinator.with(|seen| seen.saves.len()), 2);
    let error = f.insert(7, 30..31).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
    // A late repeat of the watch does not bring the channel back.
    let watch = operation(ChannelWatchState::ToWatch, 1, 1);
    f.notify(watch.clone()).await;
    assert_eq!(f.outcome(&watch).await, ChannelWatchState::WatchFailure);
    assert_eq!(f.outcome(&release).await, ChannelWatchState::ReleaseSuccess);
    // What nobody asked for is not known.
    let unknown = operation(ChannelWatchState::ToRelease, 1, 99);
    assert_eq!(f.outcome(&unknown).await, ChannelWatchState::ReleaseFailure);
    let unknown = operation(ChannelWatchState::ToWatch, 1, 98);
    assert_eq!(f.outcome(&unknown).await, ChannelWatchState::WatchFailure);
}

#[tokio::test]
async fn an_expired_node_forgets_its_channels_and_registers_as_a_new_one() {
    let f = Fixture::watching(quiet()).await;
    f.insert(7, 0..30).await.unwrap();
    f.coordinator.with(|seen| seen.expired = Some(1));
    let sessions = f
        .coordinator
        .until("a second registration with empty buffers", |seen| {
            let last = seen.heartbeats.last()?;
            let empty = last.node_id == 2 && last.buffered_bytes == 0;
            empty.then(|| {
                let registrations = &seen.registrations;
                (
                    registrations[0].session.clone(),
                    registrations[1].session.clone(),
                )
            })
        })
        .await;
    assert_ne!(sessions.0, sessions.1);
    assert_eq!(f.node.as_ref().unwrap().node_id(), 2);
    let error = f.insert(7, 30..31).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
}

#[tokio::test]
async fn stopping_saves_everything() {
    let mut f = Fixture::watching(quiet()).await;
    f.insert(7, 0..30).await.unwrap();
    f.node.take().unwrap().stop().await;
    assert_eq!(f.coordinator.with(|seen| seen.stored.len()), 30);
}

#[tokio::test]
async fn rows_survive_an_object_store_that_fails_for_a_while() {
    let f = Fixture::watching(Config {
        object_store_timeout: std::time::Duration::from_millis(50),
        ..quiet()
    })
    .await;
    let in_the_way = f.folder.path().join("insert_log");
    std::fs::write(&in_the_way, b"no folder").unwrap();
    f.insert(7, 0..30).await.unwrap();
    let syncing = f.sync();
    tokio::pin!(syncing);
    let waited = tokio::time::timeout(std::time::Duration::from_millis(300), &mut syncing).await;
    assert!(waited.is_err(), "nothing can be saved yet");
    std::fs::remove_file(&in_the_way).unwrap();
    syncing.await.unwrap();
    assert_eq!(f.coordinator.with(|seen| seen.stored.len()), 30);
}

#[tokio::test]
async fn a_segment_is_synced_by_itself_when_it_is_large_or_old() {
    for config in [
        Config {
            segment_sync_bytes: 100,
            ..quiet()
        },
        Config {
            sync_interval: std::time::Duration::from_millis(50),
            ..quiet()
        },
    ] {
        let f = Fixture::watching(config).await;
        f.insert(7, 0..30).await.unwrap();
        f.coordinator
            .until("the rows", |seen| (seen.stored.len() == 30).then_some(()))
            .await;
    }
}
