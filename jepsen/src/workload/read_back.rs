//! Reads back what was written, in few calls.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use quorate_rpc::proto::quorate::admin::ListSegmentsRequest;
use quorate_rpc::proto::quorate::admin::admin_client::AdminClient;
use quorate_rpc::proto::quorate::meta::ListRequest;
use quorate_rpc::proto::quorate::meta::meta_client::MetaClient;

use super::Shared;
use super::call::ask;
use super::client::text;
use crate::history::{Call, Open, Outcome};

const DEADLINE: Duration = Duration::from_secs(40);
/// What single writers' keys begin with.
const PREFIX: &str = "w/";

/// Whether a key is one that is read back.
pub(super) fn covers(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// Reads every key marked, in pages, and all segments. How many keys.
pub(super) async fn run(shared: &Shared) -> Result<usize> {
    let turn = shared.readers.fetch_add(1, Ordering::Relaxed);
    let marked = std::mem::take(&mut *shared.dirty.lock().unwrap_or_else(PoisonError::into_inner));
    let count = marked.len();
    // Each key is read by a reader of its own: all of them wait for the same pages.
    let mut open: BTreeMap<String, Open> = marked
        .into_iter()
        .enumerate()
        .map(|(number, key)| {
            let process = format!("reader.{turn}.{number}");
            let call = Call::Read {
                key: key.clone(),
                value: None,
            };
            let open = shared.history.invoke(&process, &call);
            (key, open)
        })
        .collect();
    let mut after = String::new();
    loop {
        let request = ListRequest {
            prefix: PREFIX.to_owned(),
            limit: 0,
            after: after.clone(),
        };
        let answer = ask(&shared.client, DEADLINE, |leader| {
            let request = request.clone();
            async move { MetaClient::new(leader).list(request).await }
        })
        .await;
        let page = answer.result.context("cannot read back")?;
        let mut values: BTreeMap<String, String> = page
            .annotations
            .into_iter()
            .map(|row| (row.key, text(&row.value)))
            .collect();
        let last = values.keys().next_back().cloned();
        let rest = match &last {
            Some(last) if page.more => {
                let beyond = format!("{last}\0");
                open.split_off(&beyond)
            }
            _ => BTreeMap::new(),
        };
        for (key, open) in std::mem::replace(&mut open, rest) {
            let value = values.remove(&key);
            let call = Call::Read { key, value };
            shared
                .history
                .complete(open, call, Outcome::Ok, answer.term, None);
        }
        match last {
            Some(last) if page.more => after = last,
            _ => break,
        }
    }
    segments(shared, turn).await?;
    Ok(count)
}

async fn segments(shared: &Shared, turn: u64) -> Result<()> {
    let call = Call::Snapshot {
        segments: Vec::new(),
    };
    let open = shared.history.invoke(&format!("lister.{turn}"), &call);
    let answer = ask(&shared.client, DEADLINE, |leader| async move {
        let request = ListSegmentsRequest {
            include_dropped: true,
            limit: 100_000,
            ..ListSegmentsRequest::default()
        };
        AdminClient::new(leader).list_segments(request).await
    })
    .await;
    let term = answer.term;
    let page = answer.result.context("cannot list the segments")?;
    if page.more {
        bail!("there are more segments than fit one page");
    }
    let segments = page
        .segments
        .iter()
        .filter_map(|row| Some(row.info.as_ref()?.id));
    let call = Call::Snapshot {
        segments: segments.collect(),
    };
    shared.history.complete(open, call, Outcome::Ok, term, None);
    Ok(())
}
