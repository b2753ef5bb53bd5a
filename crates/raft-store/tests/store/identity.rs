//! Whose folder it is.

use std::sync::Arc;

use quorate_raft_store::{DataDir, DataDirError, FORMAT_VERSION, Identity, OpenError, open};
use tempfile::TempDir;

use crate::fixture::{Folder, Kv, small};

fn identity() -> Identity {
    Identity {
        format_version: FORMAT_VERSION,
        cluster_id: "a".into(),
        node_id: 7,
    }
}

#[test]
fn an_empty_folder_belongs_to_nobody_until_it_is_initialised() {
    let folder = TempDir::new().unwrap();
    let dir = DataDir::open(folder.path()).unwrap();
    assert_eq!(dir.identity(), None);
    let refused = open(&dir, Arc::<Kv>::default(), &small()).err().unwrap();
    assert!(matches!(
        refused,
        OpenError::DataDir(DataDirError::NotInitialised(_))
    ));

    dir.init(identity()).unwrap();
    assert!(matches!(
        dir.init(identity()),
        Err(DataDirError::AlreadyInitialised(_))
    ));
    drop(dir);
    assert_eq!(
        DataDir::open(folder.path()).unwrap().identity(),
        Some(identity())
    );
}

#[test]
fn a_folder_in_use_is_refused_until_every_store_is_closed() {
    let folder = Folder::new();
    let stores = folder.open();
    assert!(matches!(
        DataDir::open(folder.0.path()),
        Err(DataDirError::InUse(_))
    ));
    drop(stores);
    assert!(DataDir::open(folder.0.path()).is_ok());
}

#[test]
fn another_clusters_folder_is_refused() {
    let folder = Folder::new();
    assert!(folder.dir().check_cluster("test").is_ok());
    let error = folder.dir().check_cluster("other").unwrap_err();
    assert!(
        matches!(error, DataDirError::OtherCluster { .. }),
        "{error}"
    );
}

#[test]
fn a_newer_format_is_refused() {
    let folder = TempDir::new().unwrap();
    let newer = r#"{"format_version": 99, "members": ["unknown"]}"#;
    std::fs::write(folder.path().join("identity.json"), newer).unwrap();
    let error = DataDir::open(folder.path()).unwrap_err();
    assert!(
        matches!(error, DataDirError::Newer { found: 99, .. }),
        "{error}"
    );
}

#[test]
fn an_older_format_is_refused() {
    let folder = TempDir::new().unwrap();
    let older = r#"{"format_version": 1, "cluster_id": "a", "node_id": 7}"#;
    std::fs::write(folder.path().join("identity.json"), older).unwrap();
    let error = DataDir::open(folder.path()).unwrap_err();
    assert!(
        matches!(error, DataDirError::Older { found: 1, .. }),
        "{error}"
    );
}

#[test]
fn a_damaged_or_lost_identity_is_refused() {
    let folder = Folder::new();
    drop(folder.open());
    let path = folder.0.path().join("identity.json");
    std::fs::write(&path, "{").unwrap();
    assert!(matches!(
        DataDir::open(folder.0.path()),
        Err(DataDirError::Damaged(..))
    ));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(
        DataDir::open(folder.0.path()),
        Err(DataDirError::Lost(_))
    ));
}

#[test]
fn a_folder_that_lost_a_part_is_refused() {
    for part in ["log", "witness", "state/CURRENT", "state/2"] {
        let folder = Folder::new();
        drop(folder.open());
        let path = |name: &str| folder.0.path().join(name);
        // As after an install: the live state is the second folder.
        std::fs::rename(path("state/1"), path("state/2")).unwrap();
        std::fs::write(path("state/CURRENT"), "2\n").unwrap();
        drop(folder.open());
        if path(part).is_dir() {
            std::fs::remove_dir_all(path(part)).unwrap();
        } else {
            std::fs::remove_file(path(part)).unwrap();
        }
        // A second try finds no more than the first.
        for _ in 0..2 {
            let refused = open(&folder.dir(), Arc::<Kv>::default(), &small());
            let refused = refused.err().unwrap();
            assert!(
                matches!(refused, OpenError::Io { .. } | OpenError::Untrusted { .. }),
                "{part}: {refused}"
            );
        }
    }
}
