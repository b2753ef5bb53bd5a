//! HTTP beside gRPC on the clients' port, for scripts: status and compaction by hand. A replica that
//! does not lead sends callers to the leader (307).

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use quorate_rpc::proto::milvus::common::CompactionState;
use quorate_rpc::proto::milvus::milvus::{GetCompactionStateRequest, ManualCompactionRequest};
use serde_json::{Value, json};

use super::host::Host;
use crate::error::CoordError;

const COMPACTION: &str = "/api/v1/compaction";

/// The routes.
pub(super) fn routes(host: Arc<Host>) -> Router {
    Router::new()
        .route("/api/v1/status", get(status))
        .route(COMPACTION, post(compact))
        .route("/api/v1/compaction/{id}", get(compaction_state))
        .with_state(host)
}

async fn status(State(host): State<Arc<Host>>) -> impl IntoResponse {
    let status = host.status();
    Json(json!({
        "cluster_id": status.cluster_id,
        "node_id": status.node_id,
        "role": status.role,
        "term": status.term,
        "leader": status.leader_client_address,
        "applied_index": status.applied_index,
        "version": status.version,
    }))
}

/// Compacts a collection: `{"collection_id": 1}` or `{"collection_name": "n"}`, narrowed down by
/// `partition_id`, `channel` and `segment_ids`.
async fn compact(State(host): State<Arc<Host>>, body: Bytes) -> Response {
    let request = match parse(&body) {
        Ok(request) => request,
        Err(problem) => return refuse(StatusCode::BAD_REQUEST, &problem),
    };
    let coordinator = match host.coordinator() {
        Ok(coordinator) => coordinator,
        Err(status) => return refuse(StatusCode::SERVICE_UNAVAILABLE, status.message()),
    };
    match coordinator.manual_compaction(request).await {
        Ok(started) => Json(json!({
            "compaction_id": started.compaction_id,
            "plan_count": started.compaction_plan_count,
        }))
        .into_response(),
        Err(error) => answer(&error, COMPACTION),
    }
}

/// How a compaction that was asked for stands.
async fn compaction_state(State(host): State<Arc<Host>>, Path(id): Path<i64>) -> Response {
    let coordinator = match host.coordinator() {
        Ok(coordinator) => coordinator,
        Err(status) => return refuse(StatusCode::SERVICE_UNAVAILABLE, status.message()),
    };
    let request = GetCompactionStateRequest { compaction_id: id };
    match coordinator.get_compaction_state(request).await {
        Ok(state) => Json(json!({
            "compaction_id": id,
            "state": match state.state() {
                CompactionState::Executing => "executing",
                _ => "completed",
            },
            "executing": state.executing_plan_no,
            "completed": state.completed_plan_no,
            "failed": state.failed_plan_no,
            "timed_out": state.timeout_plan_no,
        }))
        .into_response(),
        Err(error) => answer(&error, &format!("{COMPACTION}/{id}")),
    }
}

/// The request in a body; what nobody knows is refused by name.
fn parse(body: &[u8]) -> Result<ManualCompactionRequest, String> {
    let tree: Value =
        serde_json::from_slice(body).map_err(|error| format!("the body is no JSON: {error}"))?;
    let Value::Object(fields) = tree else {
        return Err("the body is no JSON object".into());
    };
    let mut request = ManualCompactionRequest::default();
    for (name, value) in &fields {
        match name.as_str() {
            "collection_id" => request.collection_id = id(name, value)?,
            "collection_name" => request.collection_name = text(name, value)?,
            "partition_id" => request.partition_id = id(name, value)?,
            "channel" => request.channel = text(name, value)?,
            "segment_ids" => {
                let Value::Array(ids) = value else {
                    return Err(format!("{name} is no list of ids"));
                };
                request.segment_ids = ids
                    .iter()
                    .map(|value| id(name, value))
                    .collect::<Result<_, _>>()?;
            }
            other => {
                return Err(format!(
                    "unknown field {other:?}; known are collection_id, collection_name, \
                     partition_id, channel, segment_ids"
                ));
            }
        }
    }
    if request.collection_id == 0 && request.collection_name.is_empty() {
        return Err("name a collection: collection_id or collection_name".into());
    }
    Ok(request)
}

/// Ids are too long for some writers of JSON, so they may come as text.
fn id(name: &str, value: &Value) -> Result<i64, String> {
    value
        .as_i64()
        .or_else(|| value.as_str()?.parse().ok())
        .ok_or_else(|| format!("{name}: {value} is no id"))
}

fn text(name: &str, value: &Value) -> Result<String, String> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| format!("{name}: {value} is no text"))
}

fn refuse(code: StatusCode, problem: &str) -> Response {
    (code, Json(json!({ "error": problem }))).into_response()
}

/// An error as HTTP; a caller that found a follower is sent to the leader.
fn answer(error: &CoordError, path: &str) -> Response {
    if let CoordError::NotLeader { hint: Some(leader) } = error {
        // Without a scheme: the caller stays with the one it used.
        let location = format!("//{leader}{path}");
        return (
            StatusCode::TEMPORARY_REDIRECT,
            [(header::LOCATION, location)],
            Json(json!({ "error": error.to_string() })),
        )
            .into_response();
    }
    let code = match error.code().grpc() {
        tonic::Code::InvalidArgument => StatusCode::BAD_REQUEST,
        tonic::Code::NotFound => StatusCode::NOT_FOUND,
        tonic::Code::AlreadyExists | tonic::Code::FailedPrecondition => StatusCode::CONFLICT,
        tonic::Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        tonic::Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        tonic::Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refuse(code, &error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_becomes_a_request() {
        let body = br#"{"collection_id": "7", "partition_id": 8, "segment_ids": [1, "2"]}"#;
        let request = parse(body);
        let expected = ManualCompactionRequest {
            collection_id: 7,
            partition_id: 8,
            segment_ids: vec![1, 2],
            ..Default::default()
        };
        assert_eq!(request, Ok(expected));
    }

    #[test]
    fn odd_bodies_are_refused_by_name() {
        for (body, hint) in [
            ("", "no JSON"),
            ("[]", "no JSON object"),
            ("{}", "name a collection"),
            (r#"{"collection_id": 1.5}"#, "collection_id: 1.5 is no id"),
            (r#"{"collection_id": 1, "force": true}"#, "\"force\""),
        ] {
            let problem = parse(body.as_bytes()).map(|_| ());
            assert!(problem.is_err_and(|text| text.contains(hint)), "{body}");
        }
    }

    #[test]
    fn a_follower_sends_callers_to_the_leader() {
        let error = CoordError::NotLeader {
            hint: Some("leader:13333".into()),
        };
        let response = answer(&error, COMPACTION);
        assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
        let location = response.headers().get(header::LOCATION);
        let location = location.and_then(|value| value.to_str().ok());
        assert_eq!(location, Some("//leader:13333/api/v1/compaction"));
    }
}
