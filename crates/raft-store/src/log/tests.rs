//! What the log does about a database that is not one whole log.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::RaftLogReader;

use super::codec::{entry_key, put_entry};
use super::{LogStore, WriterMode};
use crate::engine::{Engine, MemDisk, Volume, Write};
use crate::{Entry, EntryPayload, Options, Payload, log_id};

fn entry(term: u64, index: u64) -> Write {
    put_entry(&Entry {
        log_id: log_id(term, index),
        payload: EntryPayload::Normal(Payload(Bytes::from_static(b"payload"))),
    })
}

fn engine(writes: Vec<Write>) -> Arc<dyn Engine> {
    let engine = MemDisk::new().volume().open("log").unwrap();
    engine.write(writes, true).unwrap();
    engine
}

fn open(engine: &Arc<dyn Engine>) -> std::io::Result<LogStore> {
    let mode = WriterMode::Task {
        sync_latency: Duration::ZERO,
    };
    LogStore::open(engine.clone(), mode, &Options::default(), None)
}

#[tokio::test]
async fn a_whole_log_opens() {
    let log = open(&engine(vec![entry(1, 0), entry(1, 1), entry(3, 2)])).unwrap();
    assert_eq!(log.state().last_log_id, Some(log_id(3, 2)));
}

#[tokio::test]
async fn a_log_with_a_hole_does_not_open() {
    let error = open(&engine(vec![entry(1, 0), entry(1, 2)])).err().unwrap();
    assert!(error.to_string().contains("entry 1"), "{error}");
}

#[tokio::test]
async fn a_log_whose_terms_go_back_does_not_open() {
    assert!(open(&engine(vec![entry(2, 0), entry(1, 1)])).is_err());
}

#[tokio::test]
async fn a_log_with_any_flipped_bit_does_not_open() {
    let Write::Put { key, value } = entry(1, 0) else {
        panic!("an entry is a put");
    };
    for bit in 0..value.len() * 8 {
        let mut value = value.clone();
        value[bit / 8] ^= 1 << (bit % 8);
        let put = Write::Put {
            key: key.clone(),
            value,
        };
        assert!(open(&engine(vec![put])).is_err(), "bit {bit}");
    }
}

#[tokio::test]
async fn an_entry_that_goes_missing_is_an_error_and_not_an_absence() {
    let engine = engine(vec![entry(1, 0), entry(1, 1), entry(1, 2)]);
    let mut log = open(&engine).unwrap();
    engine
        .write(vec![Write::Delete { key: entry_key(1) }], true)
        .unwrap();
    assert!(log.try_get_log_entries(0..3).await.is_err());
    assert!(log.try_get_log_entries(1..2).await.is_err());
    assert_eq!(log.try_get_log_entries(2..9).await.unwrap().len(), 1);
}
