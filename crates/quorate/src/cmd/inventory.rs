//! The objects there are against those the metadata names.

use std::collections::BTreeSet;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use quorate_binlog::{LogPath, ObjectStoreConfig, Place};
use quorate_rpc::proto::milvus::common::SegmentState;
use quorate_rpc::proto::milvus::data::{FieldBinlog, SegmentInfo};
use quorate_rpc::proto::milvus::index::GetIndexInfoRequest;
use quorate_rpc::proto::quorate::admin::ListSegmentsRequest;
use quorate_rpc::status::checked;
use quorate_rpc::{Client, Retry};

use super::{admin, data_coord};
use crate::error::CliError;

/// Segments asked for at a time.
const PAGE: u32 = 1000;

/// An object store that can be listed.
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    root: Path,
    /// Of a local store: it is read itself, so that files left from writing are seen, too.
    folder: Option<PathBuf>,
}

/// What is there and what should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inventory {
    /// Objects there are.
    pub(crate) objects: u64,
    /// Their size.
    pub(crate) bytes: u64,
    /// Objects that nobody names.
    pub(crate) orphans: Vec<String>,
    /// Objects that are named and not there.
    pub(crate) missing: Vec<String>,
    /// Segments that are dropped and not forgotten yet.
    pub(crate) dropped: Vec<i64>,
}

impl Inventory {
    /// Exactly the objects that are named, and nothing left to collect.
    pub(crate) fn is_clean(&self) -> bool {
        self.orphans.is_empty() && self.missing.is_empty() && self.dropped.is_empty()
    }

    /// What is wrong, in words; empty when it is clean.
    pub(crate) fn problems(&self) -> Vec<String> {
        let named = |what: &str, paths: &[String]| {
            let first: Vec<&str> = paths.iter().take(5).map(String::as_str).collect();
            (!paths.is_empty()).then(|| format!("{} {what}: {}", paths.len(), first.join(", ")))
        };
        let dropped: Vec<String> = self.dropped.iter().map(i64::to_string).collect();
        [
            named("orphan objects", &self.orphans),
            named("missing objects", &self.missing),
            named("dropped segments are not forgotten", &dropped),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl Objects {
    pub(crate) fn of(config: &ObjectStoreConfig) -> Result<Self, CliError> {
        let (store, root) = config.open().map_err(CliError::failed)?;
        Ok(Self {
            store,
            root,
            folder: config.folder(),
        })
    }

    /// Every object below the root, with its size.
    async fn list(&self) -> Result<Vec<(String, u64)>, CliError> {
        if let Some(folder) = &self.folder {
            let folder = folder.clone();
            let walked = tokio::task::spawn_blocking(move || walk(&folder)).await;
            return Ok(walked.map_err(CliError::failed)??);
        }
        let root = self.root.to_string();
        let objects: Vec<_> = self
            .store
            .list(Some(&self.root))
            .try_collect()
            .await
            .map_err(CliError::failed)?;
        let below = |location: &Path| {
            let path = location.to_string();
            let below = path
                .strip_prefix(&root)
                .map(|path| path.trim_start_matches('/'));
            below.unwrap_or(&path).to_owned()
        };
        let objects = objects.iter();
        Ok(objects
            .map(|object| (below(&object.location), object.size))
            .collect())
    }

    /// Compares what is there with what the metadata names, now. During changes either may be
    /// ahead of the other.
    pub(crate) async fn inventory(&self, client: &Client) -> Result<Inventory, CliError> {
        let segments = segments(client).await?;
        let mut named = index_files(client, &segments).await?;
        for segment in &segments {
            named.extend(log_files(segment));
        }
        let there = self.list().await?;
        let paths: BTreeSet<&String> = there.iter().map(|(path, _)| path).collect();
        let dropped = |segment: &&SegmentInfo| segment.state == SegmentState::Dropped as i32;
        Ok(Inventory {
            objects: there.len() as u64,
            bytes: there.iter().map(|(_, size)| size).sum(),
            orphans: paths
                .iter()
                .filter(|path| !named.contains(**path))
                .map(|path| (*path).clone())
                .collect(),
            missing: named
                .iter()
                .filter(|path| !paths.contains(path))
                .cloned()
                .collect(),
            dropped: segments
                .iter()
                .filter(dropped)
                .map(|segment| segment.id)
                .collect(),
        })
    }
}

/// Files below a folder, by their paths from there, with their sizes.
pub(crate) fn walk(folder: &FilePath) -> std::io::Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                // Deleted meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                let path = entry.path();
                let below = path.strip_prefix(folder).unwrap_or(&path);
                files.push((below.display().to_string(), metadata.len()));
            }
        }
    }
    Ok(files)
}

/// Every segment that is remembered, dropped ones too, with its log files.
async fn segments(client: &Client) -> Result<Vec<SegmentInfo>, CliError> {
    let mut segments: Vec<SegmentInfo> = Vec::new();
    let mut request = ListSegmentsRequest {
        include_dropped: true,
        details: true,
        limit: PAGE,
        ..Default::default()
    };
    loop {
        let reply = client
            .call(Retry::Idempotent, |leader| {
                let request = request.clone();
                async move { admin(leader).list_segments(request).await }
            })
            .await?;
        segments.extend(reply.segments.into_iter().filter_map(|segment| {
            let mut info = segment.info?;
            // A segment of a dropped partition or collection says so here only.
            if segment.state == "Dropped" {
                info.state = SegmentState::Dropped as i32;
            }
            Some(info)
        }));
        match segments.last() {
            Some(last) if reply.more && last.id > request.after_id => request.after_id = last.id,
            _ => return Ok(segments),
        }
    }
}

/// Paths of a segment's log files, as they lie below the root.
fn log_files(segment: &SegmentInfo) -> Vec<String> {
    let place = Place {
        collection: segment.collection_id,
        partition: segment.partition_id,
        segment: segment.id,
    };
    type Made = fn(&Place, i64, i64) -> LogPath;
    let delta: Made = |place, _, log_id| place.delta(log_id);
    let kinds: [(&[FieldBinlog], Made); 3] = [
        (&segment.binlogs, Place::insert),
        (&segment.statslogs, Place::stats),
        (&segment.deltalogs, delta),
    ];
    let mut paths = Vec::new();
    for (fields, made) in kinds {
        for field in fields {
            // A delete log may lie with another segment, and its path says so.
            paths.extend(field.binlogs.iter().map(|log| {
                let path = LogPath::parse(&log.log_path);
                let path = path.unwrap_or_else(|_| made(&place, field.field_id, log.log_id));
                path.to_string()
            }));
        }
    }
    paths
}

/// Paths of the index files of some segments.
async fn index_files(
    client: &Client,
    segments: &[SegmentInfo],
) -> Result<BTreeSet<String>, CliError> {
    let collections: BTreeSet<i64> = segments.iter().map(|s| s.collection_id).collect();
    let mut files = BTreeSet::new();
    for collection in collections {
        let of = segments.iter().filter(|s| s.collection_id == collection);
        let ids: Vec<i64> = of.map(|segment| segment.id).collect();
        for ids in ids.chunks(PAGE as usize) {
            files.extend(index_files_of(client, collection, ids).await?);
        }
    }
    Ok(files)
}

async fn index_files_of(
    client: &Client,
    collection: i64,
    segments: &[i64],
) -> Result<Vec<String>, CliError> {
    let request = GetIndexInfoRequest {
        collection_id: collection,
        segment_i_ds: segments.to_vec(),
        ..Default::default()
    };
    let reply = client
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { checked(data_coord(leader).get_index_infos(request).await?) }
        })
        .await;
    let infos = match reply {
        Ok(reply) => reply.segment_info.into_values(),
        // No index, or the collection is dropped and its segments are not forgotten yet.
        Err(error) if error.refusal() == Some(tonic::Code::NotFound) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let paths = infos
        .flat_map(|segment| segment.index_infos)
        .flat_map(|info| info.index_file_paths);
    Ok(paths
        .map(|path| match quorate_binlog::IndexPath::parse(&path) {
            Ok(known) => known.to_string(),
            Err(_) => path,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCluster;

    #[tokio::test]
    async fn what_nobody_names_is_an_orphan_and_what_is_not_there_is_missing() {
        let cluster = FakeCluster::start(1).await;
        cluster.segments(2);
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        };
        // The fake segments 100 and 101 have one log each.
        put("insert_log/1/2/100/100/9");
        put("insert_log/1/2/100/100/9#1");
        let config = ObjectStoreConfig::at(folder.path().display().to_string());
        let objects = Objects::of(&config).unwrap();
        let client = cluster.context().client().unwrap();
        let found = objects.inventory(&client).await.unwrap();
        assert_eq!(found.orphans, ["insert_log/1/2/100/100/9#1"]);
        assert_eq!(found.missing, ["insert_log/1/2/101/100/9"]);
        assert_eq!((found.objects, found.bytes), (2, 2));
        assert!(!found.is_clean());

        put("insert_log/1/2/101/100/9");
        std::fs::remove_file(folder.path().join("insert_log/1/2/100/100/9#1")).unwrap();
        let found = objects.inventory(&client).await.unwrap();
        assert!(found.is_clean() && found.problems().is_empty(), "{found:?}");
    }
}
