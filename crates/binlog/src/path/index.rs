//! Where index files lie: `index_files/{build}/{version}/{partition}/{segment}/{file}`, Milvus's
//! layout below a root prefix.

use std::fmt;
use std::str::FromStr;

use object_store::path::{Path, PathPart};

use super::id;

const FOLDER: &str = "index_files";
/// Longest name of a file.
const FILE_NAME_MAX: usize = 64;

/// The path of an index file, by what it belongs to.
///
/// As for [`LogPath`](super::LogPath), parsing accepts exactly what display writes, below any root.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IndexPath {
    build: i64,
    version: i64,
    partition: i64,
    segment: i64,
    file: String,
}

/// A path that does not name an index file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{path:?} is no path of an index file: expected \
     [root/]index_files/build/version/partition/segment/file"
)]
pub struct IndexPathError {
    /// The offending text.
    pub path: String,
}

impl IndexPath {
    /// The path of a file. Ids must not be negative; the name is of letters, digits, `_`, `-` and
    /// `.`, begins with none of the last two and has at most 64 bytes.
    pub fn new(
        build: i64,
        version: i64,
        partition: i64,
        segment: i64,
        file: &str,
    ) -> Result<IndexPath, IndexPathError> {
        let path = IndexPath {
            build,
            version,
            partition,
            segment,
            file: file.to_owned(),
        };
        let positive = [build, version, partition, segment]
            .iter()
            .all(|id| *id >= 0);
        if positive && is_file_name(file) {
            Ok(path)
        } else {
            Err(IndexPathError {
                path: path.to_string(),
            })
        }
    }

    /// Parses a path below any root prefix. Never panics.
    pub fn parse(path: &str) -> Result<IndexPath, IndexPathError> {
        Self::try_parse(path).ok_or_else(|| IndexPathError {
            path: path.to_owned(),
        })
    }

    fn try_parse(path: &str) -> Option<IndexPath> {
        let mut parts = path.rsplit('/');
        let file = parts.next().filter(|name| is_file_name(name))?;
        let segment = id(parts.next()?)?;
        let partition = id(parts.next()?)?;
        let version = id(parts.next()?)?;
        let build = id(parts.next()?)?;
        (parts.next()? == FOLDER).then(|| IndexPath {
            build,
            version,
            partition,
            segment,
            file: file.to_owned(),
        })
    }

    /// The location of this file in an object store whose files begin at `root`.
    pub fn under(&self, root: &Path) -> Path {
        let below = self.to_string();
        root.parts()
            .chain(below.split('/').map(PathPart::from))
            .collect()
    }

    /// Build id: one segment's share of one index.
    pub fn build(&self) -> i64 {
        self.build
    }

    /// Version of the build; it grows with every attempt.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// Partition id.
    pub fn partition(&self) -> i64 {
        self.partition
    }

    /// Segment id.
    pub fn segment(&self) -> i64 {
        self.segment
    }

    /// Name of the file.
    pub fn file(&self) -> &str {
        &self.file
    }
}

fn is_file_name(name: &str) -> bool {
    (1..=FILE_NAME_MAX).contains(&name.len())
        && !name.starts_with(['-', '.'])
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

impl fmt::Display for IndexPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IndexPath {
            build,
            version,
            partition,
            segment,
            file,
        } = self;
        write!(f, "{FOLDER}/{build}/{version}/{partition}/{segment}/{file}")
    }
}

impl FromStr for IndexPath {
    type Err = IndexPathError;

    fn from_str(path: &str) -> Result<Self, IndexPathError> {
        IndexPath::parse(path)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use object_store::path::Path;
    use proptest::prelude::*;

    use super::IndexPath;

    proptest! {
        #[test]
        fn a_path_reads_back_below_any_root(
            ids in prop::array::uniform4(0..=i64::MAX),
            file in "[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,30}",
            root in "([a-z]{1,5}/){0,3}",
        ) {
            let path = IndexPath::new(ids[0], ids[1], ids[2], ids[3], &file).unwrap();
            let location = path.under(&Path::from(root));
            prop_assert_eq!(IndexPath::parse(location.as_ref()).unwrap(), path);
        }

        #[test]
        fn parsing_is_total_and_accepts_only_what_display_writes(
            text in "(index_files/)?[a-z_0-9/+.-]{0,60}",
        ) {
            if let Ok(path) = IndexPath::parse(&text) {
                prop_assert!(text.ends_with(&path.to_string()));
            }
        }
    }

    #[test]
    fn layout_is_that_of_milvus() {
        let path = IndexPath::new(9, 2, 3, 4, "index").unwrap();
        assert_eq!(path.to_string(), "index_files/9/2/3/4/index");
        let parts = (path.build(), path.version(), path.partition());
        assert_eq!(parts, (9, 2, 3));
        assert_eq!((path.segment(), path.file()), (4, "index"));
        let below = "/var/lib/milvus/index_files/9/2/3/4/index";
        assert_eq!(IndexPath::parse(below).unwrap(), path);
    }

    #[test]
    fn odd_paths_are_refused_with_the_path_in_the_message() {
        for text in [
            "",
            "/",
            "index_files/1/2/3/4",
            "index_files/1/2/3/4/",
            "index_files/1/2/3/4/..",
            "index_files/1/2/3/4/a b",
            "index_files/1/2/3/04/a",
            "index_files/1/2/-1/4/a",
            "xindex_files/1/2/3/4/a",
            "index_files/1/2/3/99999999999999999999/a",
        ] {
            let error = IndexPath::parse(text).unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
        assert!(IndexPath::new(1, 2, -1, 4, "a").is_err());
        assert!(IndexPath::new(1, 2, 3, 4, "a/b").is_err());
    }
}
