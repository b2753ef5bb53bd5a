//! Opening a log: is it one whole log, and does it hold all that its witness remembers?
//!
//! Invariant: nothing is changed before every check has passed; once the log is open, all of it is
//! on disk and the witness names its last entry.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::codec::{START, Stored, get_meta, put_group};
use super::store::{corrupt, purge_writes, scan};
use super::tail::Tail;
use crate::Options;
use crate::engine::{Engine, Volume};
use crate::types::LogId;
use crate::witness::{self, Found, Position, Testimony, Witness};

/// The log database's name.
pub(crate) const NAME: &str = "log";

/// A file that cannot be used, and why.
pub(crate) struct Refused {
    pub(crate) name: &'static str,
    pub(crate) source: io::Error,
}

fn refused(name: &'static str) -> impl Fn(io::Error) -> Refused {
    move |source| Refused { name, source }
}

/// A log that was found whole.
pub(crate) struct Opened {
    engine: Arc<dyn Engine>,
    witness: Witness,
    tail: Tail,
    group: u64,
}

impl Opened {
    /// Opens the log of a volume and checks it against its witness. A volume with neither gets
    /// both.
    pub(crate) fn open(volume: &dyn Volume, options: &Options) -> Result<Self, Refused> {
        let in_log = refused(NAME);
        let in_witness = refused(witness::NAME);
        let has_log = volume.exists(NAME).map_err(&in_log)?;
        if !volume.exists(witness::NAME).map_err(&in_witness)? {
            if has_log {
                return Err(in_witness(corrupt(
                    "it is missing, and without it nobody knows whether the log is whole",
                )));
            }
            volume
                .create_block(witness::NAME, &witness::blank())
                .map_err(&in_witness)?;
        }
        let witness = volume
            .open_block(witness::NAME)
            .and_then(Witness::open)
            .map_err(&in_witness)?;
        if !has_log && !witness.testimony().is_blank() {
            return Err(in_log(corrupt(match witness.testimony().last {
                Some(last) => format!("it is missing, with entries up to {}", last.log_id),
                None => "it is missing".to_owned(),
            })));
        }
        let engine = volume.open(NAME).map_err(&in_log)?;
        Self::check(engine, witness, options).map_err(in_log)
    }

    /// Checks the log in `engine` against `witness`.
    pub(super) fn check(
        engine: Arc<dyn Engine>,
        witness: Witness,
        options: &Options,
    ) -> io::Result<Self> {
        let testimony = *witness.testimony();
        let (tail, found) = load(&*engine, &testimony, options)?;
        testimony.check(&found)?;
        Ok(Self {
            engine,
            witness,
            tail,
            group: found.group,
        })
    }

    /// The last entry the log gave up.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.tail.purged.map(|purged| purged.log_id)
    }

    /// Makes all that was found durable, and lets the log go on after `applied`, the last entry of
    /// the state.
    pub(super) fn go_on_after(
        mut self,
        applied: Option<LogId>,
    ) -> io::Result<(Arc<dyn Engine>, Witness, Tail)> {
        self.engine.flush()?;
        self.witness.renew(self.testimony())?;
        match applied {
            Some(applied) if applied.index >= self.tail.end_index() => {
                // After a power loss the others may have committed, and the state kept, what the
                // log lost before it was acknowledged: it goes on after the state.
                tracing::warn!(
                    %applied,
                    last = ?self.tail.last(),
                    "the log ends before the state; it goes on after the state"
                );
                let upto = Position {
                    log_id: applied,
                    link: START,
                };
                self.group += 1;
                let mut batch = purge_writes(0, &upto);
                batch.push(put_group(self.group));
                self.engine.write(batch, true)?;
                self.tail.purge(upto);
                self.witness.record(self.testimony())?;
            }
            Some(applied) if applied.index >= self.tail.first_index() => {
                self.check_applied(applied)?;
            }
            _ => {}
        }
        Ok((self.engine, self.witness, self.tail))
    }

    fn testimony(&self) -> Testimony {
        Testimony {
            group: self.group,
            last: self.tail.last(),
            vote: self.tail.vote,
        }
    }

    /// What was applied was committed, so the log cannot hold another entry in its place.
    fn check_applied(&self, applied: LogId) -> io::Result<()> {
        let index = applied.index;
        scan(&*self.engine, index, index.saturating_add(1), |_, value| {
            let held = Stored::check(index, value)?.position()?.log_id;
            if held == applied {
                return Ok(ControlFlow::Break(()));
            }
            Err(corrupt(format!(
                "log entry {index} is {held}, but {applied} was applied to the state"
            )))
        })
    }
}

/// Reads what the database holds and checks that it is one whole log.
fn load(
    engine: &dyn Engine,
    testimony: &Testimony,
    options: &Options,
) -> io::Result<(Tail, Found)> {
    let mut meta = None;
    engine.with_view(&mut |view| meta = Some(get_meta(|key| view.get(key))))?;
    let meta = meta.unwrap_or_else(|| Err(io::Error::other("the log gave no view")))?;
    let mut tail = Tail::new(
        options.log_cache_bytes,
        meta.vote,
        meta.committed,
        meta.purged,
    );
    let mut at_last = None;
    let promised = testimony.last.map(|last| last.log_id.index);
    scan(engine, 0, u64::MAX, |index, value| {
        let stored = Stored::check(index, value)?;
        let position = stored.position()?;
        if let Some(last) = tail.last() {
            let next = last.log_id.index.saturating_add(1);
            if next != index {
                return Err(corrupt(format!(
                    "the log holds entry {index} where entry {next} must be"
                )));
            }
            if last.log_id >= position.log_id {
                return Err(corrupt(format!(
                    "the terms of the log go back at entry {index}"
                )));
            }
        }
        stored.follows(tail.link())?;
        tail.found(position, stored.bytes());
        if promised == Some(index) {
            at_last = Some(position);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let found = Found {
        group: meta.group,
        purged: meta.purged.map(|purged| purged.log_id),
        last: tail.last().map(|last| last.log_id),
        vote: meta.vote,
        at_last,
    };
    Ok((tail, found))
}
