//! What the name of an object says. Only what is written exactly as we and Milvus write it is
//! understood; everything else is somebody else's and stays.

use quorate_binlog::LogPath;
use quorate_binlog::path::IndexPath;
use quorate_meta::SegmentId;
use quorate_meta::plan::gc::Object;

use crate::outbound::objects::is_half_written;

/// Folders below the root that hold our objects.
pub(super) const FOLDERS: [&str; 5] = [
    "insert_log",
    "stats_log",
    "delta_log",
    "bm25_stats",
    "index_files",
];

/// What the name of an object says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// What it is a file of; its segment, and for log files its collection.
    Known {
        object: Object,
        segment: SegmentId,
        collection: Option<i64>,
    },
    /// A local store left it half written.
    HalfWritten,
    /// Nothing we understand.
    Unreadable,
}

impl Name {
    /// Reads a path below the root.
    pub(super) fn of(path: &str) -> Self {
        if is_half_written(path) {
            return Name::HalfWritten;
        }
        if path.starts_with("index_files/") {
            return match IndexPath::parse(path) {
                Ok(index) if index.to_string() == path => Self::of_index(&index),
                _ => Name::Unreadable,
            };
        }
        match log_path(path) {
            Some(log) => Name::Known {
                object: Object::Log {
                    segment: SegmentId(log.segment()),
                    log_id: log.log_id(),
                },
                segment: SegmentId(log.segment()),
                collection: Some(log.collection()),
            },
            None => Name::Unreadable,
        }
    }

    fn of_index(index: &IndexPath) -> Self {
        let Ok(version) = u32::try_from(index.version()) else {
            return Name::Unreadable;
        };
        Name::Known {
            object: Object::Index {
                build_id: index.build(),
                version,
            },
            segment: SegmentId(index.segment()),
            collection: None,
        }
    }
}

/// A log file's path below the root. Statistics of full-text fields have the shape of the others'.
fn log_path(path: &str) -> Option<LogPath> {
    let (shape, folder) = match path.strip_prefix("bm25_stats/") {
        Some(rest) => (format!("stats_log/{rest}"), "stats_log"),
        None => (path.to_owned(), path.split('/').next()?),
    };
    let log = LogPath::parse(&shape).ok()?;
    (log.kind() == folder && log.to_string() == shape).then_some(log)
}

/// Where the object of a log file told as `path` lies below the root, if it is one of ours: what
/// stands before the layout is the root of who wrote it.
pub(super) fn below_root(path: &str) -> Option<String> {
    FOLDERS[..4].iter().find_map(|folder| {
        let at = path.rfind(&format!("{folder}/"))?;
        let below = &path[at..];
        let begins = at == 0 || path[..at].ends_with('/');
        (begins && log_path(below).is_some()).then(|| below.to_owned())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_of_ours_are_read() {
        let log = |segment, log_id| Name::Known {
            object: Object::Log {
                segment: SegmentId(segment),
                log_id,
            },
            segment: SegmentId(segment),
            collection: Some(1),
        };
        assert_eq!(Name::of("insert_log/1/2/3/100/7"), log(3, 7));
        assert_eq!(Name::of("stats_log/1/2/3/100/8"), log(3, 8));
        assert_eq!(Name::of("bm25_stats/1/2/3/100/9"), log(3, 9));
        assert_eq!(Name::of("delta_log/1/-1/3/10"), log(3, 10));
        assert_eq!(
            Name::of("index_files/5/2/1/3/hnsw"),
            Name::Known {
                object: Object::Index {
                    build_id: 5,
                    version: 2
                },
                segment: SegmentId(3),
                collection: None,
            }
        );
        assert_eq!(Name::of("insert_log/1/2/3/100/7#12"), Name::HalfWritten);
    }

    #[test]
    fn what_is_not_exactly_ours_is_not_read() {
        for path in [
            "",
            "insert_log",
            "insert_log/1/2/3/100",
            "insert_log/1/2/3/100/07",
            "insert_log/1/2/3/100/7/8",
            "insert_log/delta_log/1/2/3/4",
            "delta_log/1/2/3/100/7",
            "bm25_stats/1/2/3",
            "index_files/5/2/1/3",
            "index_files/5/2/1/3/../x",
            "index_files/5/4294967296/1/3/hnsw",
            "readme.txt",
        ] {
            assert_eq!(Name::of(path), Name::Unreadable, "{path}");
        }
    }

    #[test]
    fn told_paths_are_found_below_the_root() {
        assert_eq!(
            below_root("files/insert_log/1/2/3/100/7").unwrap(),
            "insert_log/1/2/3/100/7"
        );
        assert_eq!(
            below_root("delta_log/1/2/3/7").unwrap(),
            "delta_log/1/2/3/7"
        );
        for path in ["../insert_log/1/2/3/../7", "my_insert_log/1/2/3/100/7", "x"] {
            assert_eq!(below_root(path), None, "{path}");
        }
    }
}
