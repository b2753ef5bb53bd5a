#![allow(clippy::unwrap_used)]

use object_store::path::Path;
use proptest::prelude::*;

use super::LogPath;

fn any_path() -> impl Strategy<Value = LogPath> {
    let id = 0..=i64::MAX;
    (
        0..3u8,
        id.clone(),
        -1..=i64::MAX,
        id.clone(),
        id.clone(),
        id,
    )
        .prop_map(
            |(kind, collection, partition, segment, field, log_id)| match kind {
                0 => LogPath::Insert {
                    collection,
                    partition: partition.max(0),
                    segment,
                    field,
                    log_id,
                },
                1 => LogPath::Stats {
                    collection,
                    partition: partition.max(0),
                    segment,
                    field,
                    log_id,
                },
                _ => LogPath::Delta {
                    collection,
                    partition,
                    segment,
                    log_id,
                },
            },
        )
}

proptest! {
    #[test]
    fn a_path_reads_back_below_any_root(path in any_path(), root in "([a-z]{1,5}/){0,3}") {
        let root = Path::from(root);
        let location = path.under(&root);
        prop_assert_eq!(LogPath::parse(location.as_ref()).unwrap(), path);
        prop_assert!(location.as_ref().ends_with(&path.to_string()));
    }

    #[test]
    fn parsing_is_total_and_accepts_only_what_display_writes(text in "[a-z_0-9/+-]{0,60}") {
        if let Ok(path) = LogPath::parse(&text) {
            prop_assert!(text.ends_with(&path.to_string()));
        }
    }
}

#[test]
fn layout_is_that_of_milvus() {
    let insert = LogPath::Insert {
        collection: 1,
        partition: 2,
        segment: 3,
        field: 100,
        log_id: 5,
    };
    assert_eq!(insert.to_string(), "insert_log/1/2/3/100/5");
    let delta = LogPath::Delta {
        collection: 1,
        partition: -1,
        segment: 3,
        log_id: 5,
    };
    assert_eq!(delta.to_string(), "delta_log/1/-1/3/5");
    assert_eq!(
        LogPath::parse("/var/lib/milvus/data/insert_log/1/2/3/100/5").unwrap(),
        insert
    );
}

#[test]
fn odd_paths_are_refused_with_the_path_in_the_message() {
    for text in [
        "",
        "/",
        "abc",
        "insert_log/1/2/3/100",
        "insert_log/1/2/3/100/",
        "insert_log/1/2/3/100/05",
        "insert_log/1/2/3/+1/5",
        "insert_log/1/-1/3/100/5",
        "delta_log/1/-2/3/5",
        "delta_log/1/2/3/4/5",
        "xinsert_log/1/2/3/100/5",
        "insert_log/1/2/3/100/99999999999999999999",
    ] {
        let error = LogPath::parse(text).unwrap_err();
        assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
    }
}
