//! How one attempt ended, read off its status.

use std::error::Error;

use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::headers;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// A definite answer; repeating the call would only get it again.
    Answered,
    /// Certainly without effect; worth another attempt.
    NotApplied,
    /// Sent, and nobody knows.
    Unknown,
}

/// Only what surely never reached a leader's log counts as not applied.
pub(super) fn classify(status: &Status) -> Ended {
    // A handshake that fails is over before anything is read of the call; with TLS 1.3 the caller
    // learns of it only while it waits for the answer.
    if is_connect_error(status) || crate::tls::explain_status(status).is_some() {
        return Ended::NotApplied;
    }
    let metadata = status.metadata();
    if metadata.contains_key(headers::NOT_APPLIED) {
        return match status.code() {
            Code::Unavailable | Code::ResourceExhausted | Code::Aborted => Ended::NotApplied,
            _ => Ended::Answered,
        };
    }
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted => {
            Ended::Unknown
        }
        // Also what the transport says of a broken connection; a replica gives its own number.
        Code::Unknown | Code::Internal if !metadata.contains_key(headers::CODE) => {
            if status.code() == Code::Internal && status.source().is_none() {
                Ended::Answered
            } else {
                Ended::Unknown
            }
        }
        _ => Ended::Answered,
    }
}

/// Whether the connection was never opened, so that nothing was sent.
pub(crate) fn is_connect_error(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The leader's client address, when the answer names one that can be used.
pub(super) fn leader_named(metadata: &MetadataMap) -> Option<String> {
    let address = metadata.get(headers::LEADER)?.to_str().ok()?;
    crate::channel::check_address(address).ok()?;
    Some(address.to_owned())
}
