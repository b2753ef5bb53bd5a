//! Everything that exists only while this replica leads: made when leadership is confirmed, gone
//! before it can be lost. Nothing in it is needed by a successor.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_meta::command::{Command, Outcome, fenced, unfenced};
use quorate_meta::{Ts, pb};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::grants::Grants;
use super::ids::Ids;
use crate::clock::WallClock;
use crate::config::Policy;
use crate::consensus::Consensus;
use crate::error::{CoordError, Result};
use crate::proposer::Proposer;

/// A data node's lease, as this leader knows it.
#[derive(Clone, Copy, Debug)]
pub struct NodeLease {
    /// When the last heartbeat came, or the epoch began.
    pub renewed: Instant,
    /// Rows it holds in memory.
    pub buffered_rows: u64,
    /// Bytes it holds in memory.
    pub buffered_bytes: u64,
}

/// One epoch of leadership.
pub struct Scope {
    /// Its term; every command its loops propose is fenced by it.
    pub term: u64,
    /// Timestamps.
    pub clock: Clock,
    /// Ids.
    pub ids: Ids,
    /// Rows promised to writers.
    pub grants: Grants,
    /// Every grant of earlier leaders ends at or before this.
    pub floor: Ts,
    /// Data nodes' leases. They restart with each epoch.
    pub leases: Mutex<BTreeMap<i64, NodeLease>>,
    /// Wakes the seal and flush loop: a time tick came, or a flush was asked for.
    pub ticked: Notify,
    /// One round of garbage collection at a time.
    pub gc_round: tokio::sync::Mutex<()>,
    /// One look for orphans at a time; it may take hours.
    pub gc_scan: tokio::sync::Mutex<()>,
    /// When this epoch began, on the monotonic clock.
    pub opened: Instant,
    /// How far time jumped forward when this epoch began, ms. The cluster may have been without a
    /// leader for so long, or this machine's clock is ahead: nobody can tell.
    pub jumped_ms: u64,
    /// Ends the loops.
    pub cancel: CancellationToken,
    consensus: Consensus,
    proposer: Proposer,
}

impl Scope {
    /// A fresh scope for a term whose `BeginEpoch` is applied here.
    pub async fn open(
        term: u64,
        wall: &dyn WallClock,
        policy: &Policy,
        consensus: Consensus,
        proposer: Proposer,
        cancel: CancellationToken,
    ) -> Result<Arc<Self>> {
        let (bound, nodes) = {
            let state = consensus.store().machine().read();
            let nodes: Vec<i64> = state.nodes().map(|node| node.id).collect();
            (state.clock_bound(), nodes)
        };
        let wall_ms = wall.now_ms();
        let clock = Clock::new(term, wall_ms, bound, policy.clock_window, proposer.clone());
        let first = clock.alloc(1).await?;
        let expiration = u64::try_from(policy.assignment_expiration.as_millis()).unwrap_or(0);
        let lease = NodeLease {
            renewed: Instant::now(),
            buffered_rows: 0,
            buffered_bytes: 0,
        };
        Ok(Arc::new(Self {
            term,
            ids: Ids::new(term, policy.id_window, proposer.clone()),
            grants: Grants::default(),
            floor: first.max(bound).plus_ms(expiration),
            leases: Mutex::new(nodes.into_iter().map(|id| (id, lease)).collect()),
            ticked: Notify::new(),
            gc_round: tokio::sync::Mutex::default(),
            gc_scan: tokio::sync::Mutex::default(),
            opened: Instant::now(),
            // A cluster that never had a leader has no time to jump from.
            jumped_ms: if bound.is_zero() {
                0
            } else {
                wall_ms.saturating_sub(bound.ms())
            },
            cancel,
            clock,
            consensus,
            proposer,
        }))
    }

    /// Every answer served from memory ends with this check: a leader that was cut off must not
    /// hand out what its successor hands out, too.
    ///
    /// # Errors
    /// The lease has run out.
    pub fn confirm(&self) -> Result<()> {
        let leads = !self.cancel.is_cancelled()
            && self.consensus.leading_term() == Some(self.term)
            && self.consensus.lease_runs();
        if leads {
            Ok(())
        } else {
            Err(CoordError::NotReady("the leader lease has run out".into()))
        }
    }

    /// `count` timestamps, unique for ever; the first of them.
    ///
    /// # Errors
    /// No quorum, or leadership is gone.
    pub async fn alloc_ts(&self, count: u32) -> Result<Ts> {
        let first = self.clock.alloc(count).await?;
        self.confirm()?;
        Ok(first)
    }

    /// `count` ids, unique for ever; the first of them.
    ///
    /// # Errors
    /// No quorum, or leadership is gone.
    pub async fn alloc_ids(&self, count: u32) -> Result<i64> {
        let first = self.ids.alloc(count, self.clock.stamp()).await?;
        self.confirm()?;
        Ok(first)
    }

    /// Proposes what one of this leader's loops decided.
    ///
    /// # Errors
    /// `Overloaded` or `Unknown` as the proposer says, and the refusal of apply.
    pub async fn propose(&self, command: Command) -> Result<pb::Reply> {
        accept(
            self.proposer
                .submit(fenced(self.term, self.clock.stamp(), command))
                .await?,
        )
    }

    /// Proposes a client's or node's fact; it holds whoever leads.
    ///
    /// # Errors
    /// `Overloaded` or `Unknown` as the proposer says, and the refusal of apply.
    pub async fn propose_fact(&self, command: Command) -> Result<pb::Reply> {
        accept(self.submit_fact(command).await?)
    }

    /// The same, with the whole outcome.
    ///
    /// # Errors
    /// `Overloaded` or `Unknown`, as the proposer says.
    pub async fn submit_fact(&self, command: Command) -> Result<Outcome> {
        self.proposer
            .submit(unfenced(self.clock.stamp(), command))
            .await
    }

    /// Data nodes whose lease runs, with the length of a lease given.
    pub fn live_nodes(&self, lease: Duration) -> Vec<i64> {
        self.leases
            .lock()
            .iter()
            .filter(|(_, node)| node.renewed.elapsed() < lease)
            .map(|(id, _)| *id)
            .collect()
    }
}

fn accept(outcome: Outcome) -> Result<pb::Reply> {
    outcome
        .into_reply()
        .map_err(|(reason, detail)| CoordError::Rejected(reason, detail))
}
