//! Annotations: a linearizable register per key.

use quorate_meta::command::Command;
use quorate_meta::pb::{self, compare_and_set_annotation};
use quorate_rpc::proto::quorate::meta::{
    Annotation, CompareAndSetRequest, CompareAndSetResponse, GetRequest, GetResponse, ListRequest,
    ListResponse, PutRequest, PutResponse, compare_and_set_request,
};

use crate::coordinator::Coordinator;
use crate::error::{CoordError, Result};
use crate::leader::Scope;

/// Shortest request token: long enough that two callers never pick the same.
const TOKEN_BYTES_MIN: usize = 16;
/// Page of a listing.
const PAGE: u32 = 1000;
const PAGE_MAX: u32 = 10_000;

fn check_token(token: &[u8]) -> Result<()> {
    if !token.is_empty() && token.len() < TOKEN_BYTES_MIN {
        return Err(CoordError::Invalid(format!(
            "a request token has at least {TOKEN_BYTES_MIN} bytes, or none"
        )));
    }
    Ok(())
}

fn to_annotation(row: &pb::Annotation) -> Annotation {
    Annotation {
        key: row.key.clone(),
        value: row.value.to_vec(),
        revision: row.revision,
    }
}

impl Coordinator {
    fn token_expiry(&self, scope: &Scope) -> u64 {
        let ttl = u64::try_from(self.config().policy.token_ttl.as_millis()).unwrap_or(0);
        scope.clock.stamp().plus_ms(ttl).0
    }

    /// Sets a key.
    ///
    /// # Errors
    /// A bad key or value, too many annotations, or this replica does not lead.
    pub async fn put(&self, request: PutRequest) -> Result<PutResponse> {
        let scope = self.scope()?;
        check_token(&request.token)?;
        let reply = scope
            .propose_fact(Command::PutAnnotation(pb::PutAnnotation {
                key: request.key,
                value: request.value.to_vec().into(),
                token: request.token.to_vec().into(),
                token_expires_at: self.token_expiry(&scope),
            }))
            .await?;
        Ok(PutResponse {
            revision: reply.revision,
        })
    }

    /// A key, linearizable.
    ///
    /// # Errors
    /// This replica does not lead.
    pub async fn get(&self, request: GetRequest) -> Result<GetResponse> {
        let state = self.read().await?;
        Ok(GetResponse {
            annotation: state.annotation(&request.key).map(|row| to_annotation(row)),
        })
    }

    /// Sets or deletes a key if it is as expected.
    ///
    /// # Errors
    /// A bad key or value, nothing expected, or this replica does not lead.
    pub async fn compare_and_set(
        &self,
        request: CompareAndSetRequest,
    ) -> Result<CompareAndSetResponse> {
        use compare_and_set_annotation::Expected as Stored;
        use compare_and_set_request::Expected as Asked;
        let scope = self.scope()?;
        check_token(&request.token)?;
        let reply = scope
            .propose_fact(Command::CompareAndSetAnnotation(
                pb::CompareAndSetAnnotation {
                    key: request.key,
                    expected: request.expected.map(|expected| match expected {
                        Asked::Revision(revision) => Stored::Revision(revision),
                        Asked::Value(value) => Stored::Value(value.to_vec().into()),
                    }),
                    new_value: request.new_value.map(|value| value.to_vec().into()),
                    token: request.token.to_vec().into(),
                    token_expires_at: self.token_expiry(&scope),
                },
            ))
            .await?;
        Ok(CompareAndSetResponse {
            swapped: reply.swapped,
            current: reply.annotation.as_ref().map(to_annotation),
        })
    }

    /// Keys with a prefix, by key, a page at a time.
    ///
    /// # Errors
    /// This replica does not lead.
    pub async fn list(&self, request: ListRequest) -> Result<ListResponse> {
        let limit = match request.limit {
            0 => PAGE,
            limit => limit.min(PAGE_MAX),
        } as usize;
        let state = self.read().await?;
        let mut annotations: Vec<Annotation> = state
            .annotations(&request.prefix, &request.after)
            .take(limit + 1)
            .map(|row| to_annotation(row))
            .collect();
        let more = annotations.len() > limit;
        annotations.truncate(limit);
        Ok(ListResponse { annotations, more })
    }
}
