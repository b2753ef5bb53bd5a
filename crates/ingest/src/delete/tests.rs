#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{Fake, small_file};
use crate::{IngestOptions, IngestProgress, ingest};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

async fn cluster_with_rows() -> Fake {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    small_file(&path, 100);
    let options = IngestOptions {
        create: true,
        channels: 3,
        ..IngestOptions::new(path, "c")
    };
    let progress = watch::Sender::new(IngestProgress::default());
    ingest(&fake.client, options, progress, CancellationToken::new())
        .await
        .unwrap();
    fake
}

fn deleted(fake: &Fake) -> Vec<i64> {
    fake.with(|state| {
        let mut all = Vec::new();
        for (name, channel) in &state.channels {
            for key in &channel.deleted {
                let index = channel_of(&Key::Int64(*key), 3);
                assert_eq!(*name, format!("ch{index}"));
                all.push(*key);
            }
        }
        all.sort_unstable();
        all
    })
}

#[tokio::test]
async fn keys_go_to_the_channels_of_their_rows_and_are_stored() {
    let fake = cluster_with_rows().await;
    let keys: Vec<i64> = (1000..1050).chain([1000, 1001]).collect();
    let options = DeleteOptions::new("c", DeleteKeys::Ids(keys));
    let report = delete(&fake.client, options).await.unwrap();
    assert_eq!(
        (report.keys, report.channels, report.keys_sent_again),
        (50, 3, 0)
    );
    assert_eq!(deleted(&fake), (1000..1050).collect::<Vec<i64>>());
}

#[tokio::test]
async fn deletes_that_an_owner_lost_are_sent_to_the_next_one() {
    let fake = cluster_with_rows().await;
    fake.with(|state| state.moving_syncs = 1);
    let options = DeleteOptions::new("c", DeleteKeys::Ids((1000..1050).collect()));
    let report = delete(&fake.client, options).await.unwrap();
    assert!(report.keys_sent_again > 0);
    assert_eq!(deleted(&fake), (1000..1050).collect::<Vec<i64>>());
}

#[tokio::test]
async fn deletes_that_get_nowhere_are_an_error() {
    let fake = cluster_with_rows().await;
    fake.with(|state| state.unowned = true);
    let options = DeleteOptions {
        stall_timeout: Duration::from_millis(200),
        ..DeleteOptions::new("c", DeleteKeys::Ids(vec![1000]))
    };
    let error = delete(&fake.client, options).await.unwrap_err();
    assert!(matches!(error, DeleteError::Stalled { .. }), "{error}");
    assert!(
        error.to_string().contains("nobody owns the channel"),
        "{error}"
    );
}

#[tokio::test]
async fn keys_of_another_type_and_unknown_collections_are_refused() {
    let fake = cluster_with_rows().await;
    let options = DeleteOptions::new("c", DeleteKeys::Strings(vec!["a".into()]));
    let error = delete(&fake.client, options).await.unwrap_err().to_string();
    assert!(
        error.contains("\"id\"") && error.contains("Int64"),
        "{error}"
    );
    let options = DeleteOptions::new("d", DeleteKeys::Ids(vec![1]));
    let error = delete(&fake.client, options).await.unwrap_err().to_string();
    assert!(error.contains("\"d\" does not exist"), "{error}");
}
