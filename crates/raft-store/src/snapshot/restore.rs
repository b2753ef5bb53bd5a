//! A new cluster's member out of a snapshot, in an empty folder and without its cluster.
//!
//! What is made is what a member of the new cluster would hold if the snapshot's rows had been
//! applied by it: the rows as they are; behind them the new membership, as if an entry of the next
//! term had set it; behind that, in the log and not yet applied, one entry of the caller's. All of
//! it follows from the snapshot and the arguments, so members that are restored apart are equal. The
//! vote says that nobody can be elected in the term these entries have.
//!
//! Invariants: a folder is used only if it is empty, or holds what an earlier attempt left; until
//! everything in it is durable a marker says that it is not whole, and nothing opens it; an attempt
//! that fails leaves the folder empty.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;

use crate::identity::{self, DataDir, DataDirError, Identity};
use crate::log::LogStore;
use crate::machine::{Machine, with_membership};
use crate::state::{Applied, Staging, StateStore};
use crate::types::{
    Entry, EntryPayload, LogId, Membership, Payload, TypeConfig, Vote, log_id, term_of,
};
use crate::{OpenError, Options};

/// Why a member cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The folder cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The new stores cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The snapshot is damaged or of a newer release, or the disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where a restored member stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The last entry of its state: the one that set the new membership.
    pub applied: Applied,
    /// The last entry of its log, to be applied when there is a leader.
    pub last_log_id: LogId,
}

/// A member on its way out of a snapshot. Dropped before [`finish`](Self::finish) has succeeded, it
/// empties its folder again.
pub struct Restore<M: Machine> {
    path: PathBuf,
    /// `None` once it was taken apart.
    parts: Option<Parts<M>>,
    finished: bool,
}

struct Parts<M: Machine> {
    dir: DataDir,
    log: LogStore,
    state: StateStore<M>,
    staging: Staging,
    identity: Identity,
}

impl<M: Machine> Restore<M> {
    /// Begins in an empty folder, which is made if it is missing.
    ///
    /// # Errors
    /// The folder is not empty or in use, or the disk failed.
    pub fn begin(
        path: &Path,
        identity: Identity,
        machine: Arc<M>,
        options: &Options,
    ) -> Result<Self, RestoreError> {
        let dir = DataDir::begin_restore(path)?;
        let mut restore = Self {
            path: path.to_owned(),
            parts: None,
            finished: false,
        };
        dir.init(identity.clone())?;
        let (log, state) = crate::open(&dir, machine, options)?;
        let staging = state.stage()?;
        restore.parts = Some(Parts {
            dir,
            log,
            state,
            staging,
            identity,
        });
        Ok(restore)
    }

    /// Takes the snapshot's next frame.
    ///
    /// # Errors
    /// It is damaged, or the disk failed.
    pub fn push(&mut self, frame: &[u8]) -> io::Result<()> {
        match &mut self.parts {
            Some(parts) => parts.staging.push_chunk(frame),
            None => Err(io::Error::other("the restore has ended")),
        }
    }

    /// Rows taken so far.
    pub fn rows(&self) -> u64 {
        self.parts.as_ref().map_or(0, |parts| parts.staging.rows())
    }

    /// Makes the folder that of a member of `membership`, with `first` as the next entry of its log.
    ///
    /// # Errors
    /// The snapshot is not whole, this release cannot read its rows, or the disk failed.
    pub async fn finish(
        mut self,
        membership: Membership,
        first: Payload,
    ) -> Result<Restored, RestoreError> {
        let Some(parts) = self.parts.take() else {
            return Err(io::Error::other("the restore has ended").into());
        };
        // Afterwards every store is closed; nothing is written any more.
        let (restored, _locked) = parts.finish(membership, first).await?;
        identity::end_restore(&self.path)?;
        self.finished = true;
        Ok(restored)
    }
}

impl<M: Machine> Parts<M> {
    async fn finish(
        mut self,
        membership: Membership,
        first: Payload,
    ) -> Result<(Restored, DataDir), RestoreError> {
        if membership.get_node(&self.identity.node_id).is_none() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the member to be restored is not among the members",
            )
            .into());
        }
        let saved = self.staging.manifest().map(|m| m.applied.clone());
        let saved = saved.unwrap_or_default();
        let term = saved.log_id.as_ref().map_or(0, term_of) + 1;
        let index = saved.log_id.map_or(0, |id| id.index + 1);
        let applied = with_membership(&saved, log_id(term, index), membership);
        let next = log_id(term, index + 1);

        let state = self.state.clone();
        let staging = self.staging;
        let at = applied.clone();
        tokio::task::spawn_blocking(move || {
            let data = staging.finish_at(at)?;
            let meta = data.meta().clone();
            state.install(&meta, data)
        })
        .await
        .map_err(io::Error::other)??;

        self.log.purge(log_id(term, index)).await?;
        let (done, wait) = TypeConfig::oneshot();
        let entry = Entry {
            log_id: next,
            payload: EntryPayload::Normal(first),
        };
        self.log.append([entry], IOFlushed::signal(done)).await?;
        wait.await.map_err(io::Error::other)??;
        // Node 0 is nobody.
        self.log.save_vote(&Vote::new(term, 0)).await?;
        drop((self.log, self.state));
        let restored = Restored {
            applied,
            last_log_id: next,
        };
        Ok((restored, self.dir))
    }
}

impl<M: Machine> Drop for Restore<M> {
    fn drop(&mut self) {
        // Closes every store first.
        drop(self.parts.take());
        if self.finished {
            return;
        }
        if let Err(error) = identity::undo_restore(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot empty the folder again");
        }
    }
}
