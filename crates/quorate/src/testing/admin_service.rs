//! The administration of the fake replicas.

use quorate_rpc::proto::milvus::data;
use quorate_rpc::proto::quorate::admin;
use tonic::Request;

use super::{FakeReplica, Reply, not_faked, ok};

#[tonic::async_trait]
impl admin::admin_server::Admin for FakeReplica {
    async fn status(&self, _: Request<admin::StatusRequest>) -> Reply<admin::StatusResponse> {
        let state = self.state.lock().unwrap();
        let leads = self.index == 0 && !state.deposed;
        ok(admin::StatusResponse {
            cluster_id: "fake".to_owned(),
            node_id: self.index as u64 + 1,
            role: if leads { "leader" } else { "follower" }.to_owned(),
            term: 4,
            applied_index: 10,
            leading: leads,
            replicas: state.replicas.clone(),
            ..Default::default()
        })
    }

    async fn init(&self, _: Request<admin::InitRequest>) -> Reply<admin::InitResponse> {
        ok(admin::InitResponse {
            cluster_id: "fake".to_owned(),
        })
    }

    async fn list_segments(
        &self,
        request: Request<admin::ListSegmentsRequest>,
    ) -> Reply<admin::ListSegmentsResponse> {
        let request = request.into_inner();
        let count = self.state.lock().unwrap().segments as i64;
        let limit = match request.limit {
            0 => 10_000,
            limit => limit as usize,
        };
        let mut ids = (100..100 + count)
            .filter(|id| *id > request.after_id)
            .filter(|id| request.segment_ids.is_empty() || request.segment_ids.contains(id));
        let segments = ids.by_ref().take(limit).map(segment_of).collect();
        ok(admin::ListSegmentsResponse {
            segments,
            more: ids.next().is_some(),
        })
    }

    async fn list_channels(
        &self,
        _: Request<admin::ListChannelsRequest>,
    ) -> Reply<admin::ListChannelsResponse> {
        ok(admin::ListChannelsResponse {
            channels: vec![admin::Channel {
                name: "by-dev-docs_1v0".to_owned(),
                collection_id: 1,
                state: "Watched".to_owned(),
                node_id: 7,
                ..Default::default()
            }],
        })
    }

    async fn list_nodes(
        &self,
        _: Request<admin::ListNodesRequest>,
    ) -> Reply<admin::ListNodesResponse> {
        ok(admin::ListNodesResponse {
            nodes: vec![admin::Node {
                id: 7,
                address: "127.0.0.1:1".to_owned(),
                buffered_bytes: 1024,
                ..Default::default()
            }],
        })
    }

    async fn mark_check(
        &self,
        _: Request<admin::MarkCheckRequest>,
    ) -> Reply<admin::MarkCheckResponse> {
        ok(admin::MarkCheckResponse { index: 12 })
    }

    async fn get_check(
        &self,
        request: Request<admin::GetCheckRequest>,
    ) -> Reply<admin::GetCheckResponse> {
        let corrupt = self.state.lock().unwrap().corrupt == Some(self.index);
        ok(admin::GetCheckResponse {
            index: request.into_inner().index,
            digest: "d1".to_owned(),
            state_hash: if corrupt { "other" } else { "same" }.to_owned(),
            rows: 40,
            violations: Vec::new(),
        })
    }

    async fn list_compactions(
        &self,
        request: Request<admin::ListCompactionsRequest>,
    ) -> Reply<admin::ListCompactionsResponse> {
        let task = |plan_id, state: &str, fail_reason: &str| admin::Compaction {
            plan_id,
            kind: "merge".to_owned(),
            state: state.to_owned(),
            inputs: vec![100, 101],
            fail_reason: fail_reason.to_owned(),
            ..Default::default()
        };
        let mut compactions = vec![task(1, "executing", "")];
        if request.into_inner().include_ended {
            compactions.push(task(2, "failed", "disk full"));
        }
        ok(admin::ListCompactionsResponse { compactions })
    }

    async fn plan_gc(
        &self,
        request: Request<admin::PlanGcRequest>,
    ) -> Reply<admin::PlanGcResponse> {
        let orphans = match request.into_inner().orphans {
            true => (0..25).map(|n| format!("insert_log/{n}")).collect(),
            false => Vec::new(),
        };
        ok(admin::PlanGcResponse {
            segments: vec![admin::GcSegment {
                segment_id: 100,
                verdict: "waits: tolerance".to_owned(),
                dropped_at: 5 << 18,
            }],
            orphans,
            paused: match self.state.lock().unwrap().gc_pauses.is_empty() {
                true => String::new(),
                false => "paused by an operator".to_owned(),
            },
            ..Default::default()
        })
    }

    async fn run_gc(&self, _: Request<admin::RunGcRequest>) -> Reply<admin::RunGcResponse> {
        ok(admin::RunGcResponse {
            segments_forgotten: 2,
            ..Default::default()
        })
    }

    async fn pause_gc(
        &self,
        request: Request<admin::PauseGcRequest>,
    ) -> Reply<admin::PauseGcResponse> {
        let ticket = request.into_inner().ticket;
        self.state.lock().unwrap().gc_pauses.push(ticket.clone());
        ok(admin::PauseGcResponse {
            ticket,
            until: 5 << 18,
        })
    }

    async fn resume_gc(
        &self,
        request: Request<admin::ResumeGcRequest>,
    ) -> Reply<admin::ResumeGcResponse> {
        let ticket = request.into_inner().ticket;
        let pauses = &mut self.state.lock().unwrap().gc_pauses;
        pauses.retain(|pause| *pause != ticket);
        ok(admin::ResumeGcResponse {})
    }

    async fn add_member(
        &self,
        _: Request<admin::AddMemberRequest>,
    ) -> Reply<admin::AddMemberResponse> {
        not_faked()
    }

    async fn promote_member(
        &self,
        _: Request<admin::PromoteMemberRequest>,
    ) -> Reply<admin::PromoteMemberResponse> {
        not_faked()
    }

    async fn remove_member(
        &self,
        _: Request<admin::RemoveMemberRequest>,
    ) -> Reply<admin::RemoveMemberResponse> {
        not_faked()
    }

    async fn transfer_leader(
        &self,
        _: Request<admin::TransferLeaderRequest>,
    ) -> Reply<admin::TransferLeaderResponse> {
        not_faked()
    }
}

fn segment_of(id: i64) -> admin::Segment {
    admin::Segment {
        info: Some(data::SegmentInfo {
            id,
            binlogs: vec![data::FieldBinlog {
                field_id: 100,
                binlogs: vec![data::Binlog {
                    log_id: 9,
                    log_path: format!("insert_log/1/2/{id}/100/9"),
                    ..Default::default()
                }],
            }],
            ..Default::default()
        }),
        state: "Growing".to_owned(),
        ..Default::default()
    }
}
