//! A data folder: who it belongs to, and that only one process has it open.
//!
//! Invariants: an empty folder has no identity and gets one only by [`DataDir::init`];
//! a folder with an identity has a witness; an identity never changes; a folder of a newer format is not touched.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::REJOIN;
use crate::engine::rocks::{replace_file, sync_folder};
use crate::types::NodeId;
use crate::witness;

const IDENTITY: &str = "identity.json";
const LOCK: &str = "LOCK";
/// There for as long as the folder is being filled from a snapshot.
const RESTORING: &str = "RESTORING";

/// The format this release writes, and the newest it reads. Format 1, which was never released, had
/// neither a witness nor a chained log.
pub const FORMAT_VERSION: u32 = 2;
/// The oldest format this release reads.
const OLDEST_FORMAT: u32 = 2;

/// Who a data folder belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The format of everything in the folder.
    pub format_version: u32,
    /// The cluster.
    pub cluster_id: String,
    /// The member.
    pub node_id: NodeId,
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The operating system says no.
    #[error("cannot use {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it says.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error("{0} is in use by another process; stop that one first")]
    InUse(PathBuf),
    /// The identity file cannot be read.
    #[error("{0} is damaged; restore the file, or {REJOIN}")]
    Damaged(PathBuf, #[source] serde_json::Error),
    /// There is data but nothing says whose.
    #[error("{0} holds data but no identity.json; restore the file, or {REJOIN}")]
    Lost(PathBuf),
    /// Written by a newer release.
    #[error("{path} has format {found}, this release reads up to {known}; use a newer release")]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format this release knows.
        known: u32,
    },
    /// Written by an older release than this one can read.
    #[error("{path} has format {found}, this release reads from {oldest} on; {REJOIN}")]
    Older {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The oldest format this release reads.
        oldest: u32,
    },
    /// Belongs to another cluster.
    #[error("{path} belongs to cluster {found}, not {expected}; check the data folder's path")]
    OtherCluster {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// Was being filled from a snapshot.
    #[error("{0} holds a restore that did not get to its end; repeat `quorate snapshot restore`")]
    Restoring(PathBuf),
    /// Holds something already.
    #[error("{path} is not empty, it holds {found}; name an empty or a new folder")]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// Something in it.
        found: String,
    },
    /// Has no identity yet.
    #[error("{0} belongs to no cluster yet; initialise or join one first")]
    NotInitialised(PathBuf),
    /// Has an identity already.
    #[error("{0} has an identity already; it is given once")]
    AlreadyInitialised(PathBuf),
}

/// A data folder this process has to itself.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: Arc<File>,
    identity: Mutex<Option<Identity>>,
}

impl DataDir {
    /// Opens the folder, making it if it is missing, and locks it.
    ///
    /// The lock is held until this and every store opened in it is dropped.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataDirError> {
        let mut dir = Self::lock_folder(path.as_ref())?;
        if dir.path.join(RESTORING).exists() {
            return Err(DataDirError::Restoring(dir.path));
        }
        dir.identity = Mutex::new(read_identity(&dir.path)?);
        Ok(dir)
    }

    /// Locks an empty folder, or one in which an earlier attempt was cut off, and marks it as one
    /// that is being filled.
    pub(crate) fn begin_restore(path: &Path) -> Result<Self, DataDirError> {
        let dir = Self::lock_folder(path)?;
        let io = |source| DataDirError::Io {
            path: path.to_owned(),
            source,
        };
        if path.join(RESTORING).exists() {
            clear(path).map_err(io)?;
        } else if let Some(found) = contents(path).map_err(io)?.first() {
            return Err(DataDirError::NotEmpty {
                path: path.to_owned(),
                found: found.clone(),
            });
        }
        replace_file(&path.join(RESTORING), b"").map_err(io)?;
        Ok(dir)
    }

    fn lock_folder(path: &Path) -> Result<Self, DataDirError> {
        let path = path.to_owned();
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { path, source }
        };
        fs::create_dir_all(&path).map_err(io(&path))?;
        let lock_path = path.join(LOCK);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataDirError::InUse(path)),
            Err(TryLockError::Error(source)) => {
                return Err(DataDirError::Io {
                    path: lock_path,
                    source,
                });
            }
        }
        Ok(Self {
            path,
            lock: Arc::new(lock),
            identity: Mutex::new(None),
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose folder this is; `None` for an empty one.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Gives the folder its identity, once.
    pub fn init(&self, identity: Identity) -> Result<(), DataDirError> {
        let mut held = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_some() {
            return Err(DataDirError::AlreadyInitialised(self.path.clone()));
        }
        check_format(&self.path, identity.format_version)?;
        // Whoever has an identity has a witness.
        let path = self.path.join(witness::NAME);
        replace_file(&path, &witness::blank())
            .map_err(|source| DataDirError::Io { path, source })?;
        let path = self.path.join(IDENTITY);
        let bytes = serde_json::to_vec_pretty(&identity)
            .map_err(|e| DataDirError::Damaged(path.clone(), e))?;
        replace_file(&path, &bytes).map_err(|source| DataDirError::Io { path, source })?;
        *held = Some(identity);
        Ok(())
    }

    /// Refuses a folder of another cluster, or of none.
    pub fn check_cluster(&self, cluster_id: &str) -> Result<(), DataDirError> {
        let identity = self
            .identity()
            .ok_or_else(|| DataDirError::NotInitialised(self.path.clone()))?;
        if identity.cluster_id == cluster_id {
            return Ok(());
        }
        Err(DataDirError::OtherCluster {
            path: self.path.clone(),
            found: identity.cluster_id,
            expected: cluster_id.to_owned(),
        })
    }

    pub(crate) fn lock(&self) -> Arc<File> {
        self.lock.clone()
    }
}

/// What is in a folder, beside what is in every one.
fn contents(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for item in fs::read_dir(folder)? {
        let name = item?.file_name().to_string_lossy().into_owned();
        if ![LOCK, "lost+found", RESTORING].contains(&name.as_str()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Removes all of it. The marker stays.
fn clear(folder: &Path) -> io::Result<()> {
    for name in contents(folder)? {
        let path = folder.join(name);
        if path.is_dir() {
            fs::remove_dir_all(path)?;
        } else {
            fs::remove_file(path)?;
        }
    }
    sync_folder(folder)
}

/// The folder is whole and durable from now on.
pub(crate) fn end_restore(folder: &Path) -> io::Result<()> {
    sync_folder(folder)?;
    fs::remove_file(folder.join(RESTORING))?;
    sync_folder(folder)
}

/// Makes the folder as empty as it was.
pub(crate) fn undo_restore(folder: &Path) -> io::Result<()> {
    clear(folder)?;
    fs::remove_file(folder.join(RESTORING))
}

fn check_format(path: &Path, found: u32) -> Result<(), DataDirError> {
    let path = path.to_owned();
    if found > FORMAT_VERSION {
        return Err(DataDirError::Newer {
            path,
            found,
            known: FORMAT_VERSION,
        });
    }
    if found < OLDEST_FORMAT {
        return Err(DataDirError::Older {
            path,
            found,
            oldest: OLDEST_FORMAT,
        });
    }
    Ok(())
}

fn read_identity(folder: &Path) -> Result<Option<Identity>, DataDirError> {
    /// Only this is the same in every format there will be.
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let path = folder.join(IDENTITY);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return if folder.join("log").exists() || folder.join("state").exists() {
                Err(DataDirError::Lost(folder.to_owned()))
            } else {
                Ok(None)
            };
        }
        Err(source) => return Err(DataDirError::Io { path, source }),
    };
    let damaged = |e| DataDirError::Damaged(path.clone(), e);
    let version: Version = serde_json::from_slice(&bytes).map_err(damaged)?;
    check_format(folder, version.format_version)?;
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}
