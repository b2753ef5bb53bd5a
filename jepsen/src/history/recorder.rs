//! Writes a history while it happens.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;

use super::{Call, Op, Outcome, line};

/// An operation that was sent and not answered yet.
#[derive(Debug)]
pub struct Open {
    process: String,
    invoked: u64,
}

#[derive(Debug)]
struct Inner {
    file: BufWriter<File>,
    ops: Vec<Op>,
    /// When each acknowledged operation was answered, in order.
    acks: Vec<u64>,
    /// The first thing that went wrong with the file.
    broken: Option<String>,
}

/// All operations of a run, in memory for the checkers and in a file for everybody.
#[derive(Debug)]
pub struct History {
    started: Instant,
    inner: Mutex<Inner>,
}

impl History {
    /// A new history in a new file.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self {
            started: Instant::now(),
            inner: Mutex::new(Inner {
                file: BufWriter::new(file),
                ops: Vec::new(),
                acks: Vec::new(),
                broken: None,
            }),
        })
    }

    /// Another future of the same past: the operations so far are taken over, and the clock.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn fork(&self, path: &Path) -> Result<Self> {
        let fork = Self {
            started: self.started,
            ..Self::create(path)?
        };
        {
            let (own, mut inner) = (self.inner(), fork.inner());
            inner.ops = own.ops.clone();
            inner.acks = own.acks.clone();
        }
        Ok(fork)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nanoseconds since the history began, on the monotonic clock.
    pub fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// To be called before the operation is sent.
    pub fn invoke(&self, process: &str, call: &Call) -> Open {
        let mut inner = self.inner();
        let invoked = self.now();
        inner.line(&line::invocation(process, call, invoked));
        Open {
            process: process.to_owned(),
            invoked,
        }
    }

    /// To be called once the answer is there, or it is clear that none will be.
    pub fn complete(
        &self,
        open: Open,
        call: Call,
        outcome: Outcome,
        term: Option<u64>,
        error: Option<String>,
    ) {
        let mut inner = self.inner();
        let mut op = Op {
            process: open.process,
            call,
            invoked: open.invoked,
            completed: self.now(),
            outcome,
            term,
            error,
        };
        inner.line(&line::completion(&op));
        match outcome {
            Outcome::Ok => inner.acks.push(op.completed),
            Outcome::Fail => {}
            Outcome::Info => op.completed = u64::MAX,
        }
        inner.ops.push(op);
    }

    /// Notes a fault, or its end.
    pub fn nemesis(&self, what: &str) {
        let mut inner = self.inner();
        let time = self.now();
        inner.line(&json!({
            "process": "nemesis", "type": "info", "f": "nemesis", "value": what, "time": time,
        }));
    }

    /// A copy of everything so far.
    pub fn ops(&self) -> Vec<Op> {
        self.inner().ops.clone()
    }

    /// Acknowledged operations so far.
    pub fn acks(&self) -> usize {
        self.inner().acks.len()
    }

    /// The longest time between `from` and now in which nothing was acknowledged.
    pub fn longest_gap(&self, from: u64) -> std::time::Duration {
        let inner = self.inner();
        let first = inner.acks.partition_point(|at| *at < from);
        let mut last = from;
        let mut longest = 0;
        for at in inner.acks[first..].iter().copied().chain([self.now()]) {
            longest = longest.max(at - last);
            last = at;
        }
        std::time::Duration::from_nanos(longest)
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// The file could not be written, now or before.
    pub fn flush(&self) -> Result<()> {
        let mut inner = self.inner();
        inner.file.flush().context("cannot write the history")?;
        match &inner.broken {
            Some(error) => anyhow::bail!("cannot write the history: {error}"),
            None => Ok(()),
        }
    }
}

impl Inner {
    fn line(&mut self, line: &serde_json::Value) {
        if let Err(error) = writeln!(self.file, "{line}") {
            self.broken.get_or_insert_with(|| error.to_string());
        }
    }
}
