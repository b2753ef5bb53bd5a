//! Garbage collection for operators, and what Milvus's own components ask about it.

use std::time::Duration;

use quorate_meta::command::Command;
use quorate_meta::model::Segment;
use quorate_meta::plan::gc::{Wait, may_condemn, may_delete};
use quorate_meta::{CollectionId, State, Ts, pb};
use quorate_rpc::proto::milvus::common;
use quorate_rpc::proto::milvus::data::{
    GcCommand, GcConfirmRequest, GcConfirmResponse, GcControlRequest,
};
use quorate_rpc::proto::quorate::admin::{
    GcSegment, PauseGcRequest, PauseGcResponse, PlanGcRequest, PlanGcResponse, ResumeGcRequest,
    ResumeGcResponse, RunGcRequest, RunGcResponse,
};
use quorate_rpc::status::{self, Code};

use crate::coordinator::Coordinator;
use crate::error::{CoordError, Result};
use crate::leader::Scope;
use crate::loops::gc::{self, Done, Scan};

/// Segments named in a plan.
const NAMED_MAX: usize = 10_000;
/// How long a round that was asked for, or a look over the object store, may take.
const ROUND_MAX: Duration = Duration::from_secs(300);
/// Longest pause: what is forgotten is not paused for ever.
const PAUSE_MAX_S: u64 = 30 * 86_400;
/// Ticket of the pause Milvus's own call makes; it knows no tickets.
const MILVUS_TICKET: &str = "GcControl";

impl Coordinator {
    /// What garbage collection would do now, and why not more.
    ///
    /// # Errors
    /// This replica does not lead, or the object store cannot be listed.
    pub async fn plan_gc(&self, request: PlanGcRequest) -> Result<PlanGcResponse> {
        let scope = self.scope()?;
        self.barrier().await?;
        let mut response = PlanGcResponse {
            segments: self.verdicts(&scope),
            paused: gc::obstacle(self, &scope).unwrap_or_default(),
            ..Default::default()
        };
        if request.orphans && response.paused.is_empty() {
            let scan: Scan = tokio::time::timeout(ROUND_MAX, gc::look_for_orphans(self, &scope))
                .await
                .map_err(|_| {
                    CoordError::Unknown(format!(
                        "the object store was not listed within {ROUND_MAX:?}"
                    ))
                })??;
            response.orphans = scan.orphans;
            response.young_orphans = scan.young;
            response.unreadable_names = scan.unreadable;
        }
        scope.confirm()?;
        Ok(response)
    }

    /// Dropped segments, and how far each of them is. Those a tombstone covers come here when their
    /// rows are rewritten, which is soon.
    fn verdicts(&self, scope: &Scope) -> Vec<GcSegment> {
        let now = scope.clock.stamp();
        let state = self.state();
        let policy = gc::policy_of(self, scope);
        let verdict = |segment: &Segment| {
            if segment.condemned_at.is_zero() {
                match may_condemn(&state, segment, now, &policy) {
                    Ok(()) => "to condemn".to_owned(),
                    Err(wait) => format!("waits: {}", reason(&wait, now)),
                }
            } else {
                match may_delete(&state, segment, now, &policy) {
                    Ok(()) => "condemned".to_owned(),
                    Err(wait) => format!("condemned, waits: {}", reason(&wait, now)),
                }
            }
        };
        state
            .condemned()
            .chain(state.dropped_segments())
            .take(NAMED_MAX)
            .map(|segment| GcSegment {
                segment_id: segment.id.0,
                verdict: verdict(segment),
                dropped_at: state.dropped_at(segment).0,
            })
            .collect()
    }

    /// One round now, with tolerances as configured.
    ///
    /// # Errors
    /// This replica does not lead, collection is paused or off, or the round takes too long; what
    /// is left is done by a later round.
    pub async fn run_gc(&self, request: RunGcRequest) -> Result<RunGcResponse> {
        let scope = self.scope()?;
        let mut done = Done::default();
        let round = gc::round(self, &scope, request.orphans, &mut done);
        match tokio::time::timeout(ROUND_MAX, round).await {
            Ok(result) => result?,
            Err(_) => {
                return Err(CoordError::Unknown(format!(
                    "the round was not over within {ROUND_MAX:?}; so far: {done:?}"
                )));
            }
        }
        Ok(RunGcResponse {
            condemned: done.condemned,
            objects_deleted: done.objects,
            segments_forgotten: done.segments,
            indexes_forgotten: done.indexes,
            collections_forgotten: done.collections,
            orphans_deleted: done.orphans,
        })
    }

    /// Stops garbage collection for a time, of one collection or of all. It holds whoever leads;
    /// of several pauses the longest counts.
    ///
    /// # Errors
    /// No time or too much of it, or this replica does not lead.
    pub async fn pause_gc(&self, request: PauseGcRequest) -> Result<PauseGcResponse> {
        let scope = self.scope()?;
        if !(1..=PAUSE_MAX_S).contains(&request.seconds) {
            return Err(CoordError::Invalid(format!(
                "a pause has 1 to {PAUSE_MAX_S} seconds, not {}",
                request.seconds
            )));
        }
        let ticket = match request.ticket.as_str() {
            "" => format!("pause-{}", scope.alloc_ids(1).await?),
            given => given.to_owned(),
        };
        let until = scope.clock.stamp().plus_ms(request.seconds * 1000);
        scope
            .propose_fact(Command::PauseGc(pb::PauseGc {
                ticket: ticket.clone(),
                collection_id: request.collection_id,
                until: until.0,
            }))
            .await?;
        Ok(PauseGcResponse {
            ticket,
            until: until.0,
        })
    }

    /// Ends a pause, or all of them; one that is not there is fine.
    ///
    /// # Errors
    /// This replica does not lead.
    pub async fn resume_gc(&self, request: ResumeGcRequest) -> Result<ResumeGcResponse> {
        let scope = self.scope()?;
        scope
            .propose_fact(Command::ResumeGc(pb::ResumeGc {
                ticket: request.ticket,
                collection_id: request.collection_id,
            }))
            .await?;
        Ok(ResumeGcResponse {})
    }

    /// Whether nothing is left of a collection's partition, or with partition -1 of the whole.
    ///
    /// # Errors
    /// This replica does not lead.
    pub async fn gc_confirm(&self, request: GcConfirmRequest) -> Result<GcConfirmResponse> {
        let state = self.read().await?;
        let gc_finished = is_gone(
            &state,
            CollectionId(request.collection_id),
            request.partition_id,
        );
        Ok(GcConfirmResponse {
            status: Some(status::ok()),
            gc_finished,
        })
    }

    /// Milvus's pause and resume. Pause without a duration and unknown commands are refused in the
    /// real DataCoord's words.
    ///
    /// # Errors
    /// A duration that is no number of seconds, or this replica does not lead.
    pub async fn gc_control(&self, request: GcControlRequest) -> Result<common::Status> {
        match request.command() {
            GcCommand::Pause => {
                let duration = request.params.iter().find(|pair| pair.key == "duration");
                let Some(duration) = duration else {
                    return Ok(status::fail(
                        Code::UnexpectedError,
                        "pause duration param not found",
                    ));
                };
                let seconds = duration.value.parse().map_err(|_| {
                    CoordError::Invalid(format!(
                        "pause duration not valid, {:?} is no number of seconds",
                        duration.value
                    ))
                })?;
                self.pause_gc(PauseGcRequest {
                    seconds,
                    collection_id: 0,
                    ticket: MILVUS_TICKET.into(),
                })
                .await?;
            }
            GcCommand::Resume => {
                self.resume_gc(ResumeGcRequest {
                    ticket: MILVUS_TICKET.into(),
                    collection_id: 0,
                })
                .await?;
            }
            _ => {
                return Ok(status::fail(
                    Code::UnexpectedError,
                    format!("unknown gc command: {}", request.command),
                ));
            }
        }
        Ok(status::ok())
    }
}

fn is_gone(state: &State, collection: CollectionId, partition: i64) -> bool {
    !state
        .segments_of(collection)
        .any(|segment| partition < 0 || segment.partition.0 == partition)
}

/// Why a segment waits, for people.
fn reason(wait: &Wait, now: Ts) -> String {
    let left = |until: &Ts| until.ms_since(now).div_ceil(1000);
    match wait {
        Wait::Alive => "it is not dropped".to_owned(),
        Wait::Tolerance { until } => format!("its time is not over for {} s", left(until)),
        Wait::Held(plan) => format!("compaction {plan} reads it"),
        Wait::ChildNotReady(child) => {
            format!("segment {child} is to take its place and is not ready for readers")
        }
        Wait::CheckpointBehind => {
            "its channel's checkpoint has not passed its last position".to_owned()
        }
        Wait::Paused { until } => format!("garbage collection is paused for {} s", left(until)),
    }
}
