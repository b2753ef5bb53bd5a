//! An open database that removes its folder once nobody needs it.
//!
//! Invariant: a folder is removed only after its engine was closed by the last holder.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Applied, tables};
use crate::engine::{Engine, View, Volume};

pub(crate) struct Database {
    engine: Option<Arc<dyn Engine>>,
    volume: Arc<dyn Volume>,
    name: String,
    discarded: AtomicBool,
}

impl Database {
    pub(crate) fn create(volume: &Arc<dyn Volume>, name: String) -> io::Result<Arc<Self>> {
        let engine = volume.open(&name)?;
        Ok(Self::wrap(volume, name, engine))
    }

    pub(crate) fn open_read(volume: &Arc<dyn Volume>, name: String) -> io::Result<Arc<Self>> {
        let engine = volume.open_read(&name)?;
        Ok(Self::wrap(volume, name, engine))
    }

    fn wrap(volume: &Arc<dyn Volume>, name: String, engine: Arc<dyn Engine>) -> Arc<Self> {
        Arc::new(Self {
            engine: Some(engine),
            volume: volume.clone(),
            name,
            discarded: AtomicBool::new(false),
        })
    }

    pub(crate) fn engine(&self) -> &dyn Engine {
        self.engine
            .as_deref()
            .expect("the engine is taken in drop only")
    }

    pub(crate) fn volume(&self) -> &Arc<dyn Volume> {
        &self.volume
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the folder goes with the last holder.
    pub(crate) fn set_discarded(&self, discarded: bool) {
        self.discarded.store(discarded, Ordering::Release);
    }

    /// Calls `f` with a view of this moment and gives back what it returns.
    pub(crate) fn view<T>(&self, f: impl FnOnce(&dyn View) -> io::Result<T>) -> io::Result<T> {
        let mut f = Some(f);
        let mut result = None;
        self.engine().with_view(&mut |view| {
            result = f.take().map(|f| f(view));
        })?;
        result.unwrap_or_else(|| Err(io::Error::other("the engine gave no view")))
    }

    pub(crate) fn applied(&self) -> io::Result<Applied> {
        self.view(tables::read_applied)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        drop(self.engine.take());
        if self.discarded.load(Ordering::Acquire)
            && let Err(error) = self.volume.remove(&self.name)
        {
            // Removed at the next start instead.
            tracing::debug!(%error, name = %self.name, "could not remove an old database");
        }
    }
}
