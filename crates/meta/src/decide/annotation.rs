//! Annotations: a linearizable register per key, with request tokens.

use bytes::Bytes;

use super::{Ctx, Reason, changed, reject};
use crate::command::Outcome;
use crate::pb;
use crate::state::{ANNOTATION_BYTES_MAX, Change, Delta, State};

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 512;
/// Longest value in bytes.
pub const VALUE_BYTES_MAX: usize = 64 << 10;
/// Longest request token in bytes.
const TOKEN_BYTES_MAX: usize = 64;
/// Tokens forgotten by one command.
const TOKENS_SLICE: usize = 1000;

fn refuse_bad(state: &State, key: &str, value: Option<&Bytes>, token: &Bytes) -> Option<Outcome> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Some(reject(
            Reason::Invalid,
            format!("a key has 1 to {KEY_BYTES_MAX} bytes, not {}", key.len()),
        ));
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Some(reject(
            Reason::Invalid,
            format!("a request token has at most {TOKEN_BYTES_MAX} bytes"),
        ));
    }
    let value = value?;
    if value.len() > VALUE_BYTES_MAX {
        return Some(reject(
            Reason::Invalid,
            format!(
                "a value has at most {VALUE_BYTES_MAX} bytes, not {}",
                value.len()
            ),
        ));
    }
    (state.annotation_bytes + key.len() + value.len() > ANNOTATION_BYTES_MAX).then(|| {
        reject(
            Reason::OverLimit,
            format!("annotations may take {ANNOTATION_BYTES_MAX} bytes in all; delete some"),
        )
    })
}

fn remember(token: &Bytes, expires_at: u64, reply: &pb::Reply, out: &mut Delta) {
    if !token.is_empty() {
        out.changes.push(Change::Token(
            token.clone(),
            pb::TokenRow {
                expires_at,
                reply: Some(reply.clone()),
            },
        ));
    }
}

fn answered_before(state: &State, token: &Bytes) -> Option<Outcome> {
    if token.is_empty() {
        return None;
    }
    let row = state.token(token)?;
    Some(Outcome::Already(row.reply.clone().unwrap_or_default()))
}

pub(super) fn put(state: &State, ctx: Ctx, cmd: &pb::PutAnnotation, out: &mut Delta) -> Outcome {
    if let Some(refusal) = refuse_bad(state, &cmd.key, Some(&cmd.value), &cmd.token) {
        return refusal;
    }
    if let Some(answer) = answered_before(state, &cmd.token) {
        return answer;
    }
    let row = pb::Annotation {
        key: cmd.key.clone(),
        value: cmd.value.clone(),
        revision: ctx.pos.revision(),
    };
    let reply = pb::Reply {
        revision: row.revision,
        ..Default::default()
    };
    out.changes.push(Change::Annotation(row));
    remember(&cmd.token, cmd.token_expires_at, &reply, out);
    Outcome::Done(reply)
}

pub(super) fn compare_and_set(
    state: &State,
    ctx: Ctx,
    cmd: &pb::CompareAndSetAnnotation,
    out: &mut Delta,
) -> Outcome {
    use pb::compare_and_set_annotation::Expected;
    if let Some(refusal) = refuse_bad(state, &cmd.key, cmd.new_value.as_ref(), &cmd.token) {
        return refusal;
    }
    if let Some(answer) = answered_before(state, &cmd.token) {
        return answer;
    }
    let current = state.annotation(&cmd.key);
    let swapped = match &cmd.expected {
        None => return reject(Reason::Invalid, "an expected revision or value is needed"),
        Some(Expected::Revision(revision)) => current.map_or(0, |row| row.revision) == *revision,
        Some(Expected::Value(value)) => current.is_some_and(|row| row.value == *value),
    };
    let after = match (&cmd.new_value, swapped) {
        (_, false) => current.map(|row| pb::Annotation::clone(row)),
        (None, true) => {
            if current.is_some() {
                out.changes.push(Change::ForgetAnnotation(cmd.key.clone()));
            }
            None
        }
        (Some(value), true) => {
            let row = pb::Annotation {
                key: cmd.key.clone(),
                value: value.clone(),
                revision: ctx.pos.revision(),
            };
            out.changes.push(Change::Annotation(row.clone()));
            Some(row)
        }
    };
    let reply = pb::Reply {
        swapped,
        annotation: after,
        ..Default::default()
    };
    remember(&cmd.token, cmd.token_expires_at, &reply, out);
    Outcome::Done(reply)
}

/// Forgets tokens whose time is over, a slice at a time.
pub(super) fn expire_tokens(state: &State, ctx: Ctx, out: &mut Delta) -> Outcome {
    for (at, token) in state.token_expiry.iter().take(TOKENS_SLICE) {
        if *at >= ctx.now.0 {
            break;
        }
        out.changes.push(Change::ForgetToken(token.clone()));
    }
    changed(out)
}
