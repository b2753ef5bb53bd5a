//! What the log does about a database that is not one whole log.
#![allow(clippy::unwrap_used)]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::RaftLogReader;
use proptest::prelude::*;

use super::codec::{START, Stored, entry_key, get_meta, put_entry};
use super::{LogStore, Opened, WriterMode};
use crate::codec::encode_entry;
use crate::engine::{Engine, MemDisk, Volume, Write};
use crate::witness::{self, Witness};
use crate::{Entry, EntryPayload, Options, Payload, log_id};

/// The writes of a log of entries with these terms and indexes, each continuing the one before.
fn chain(ids: &[(u64, u64)]) -> Vec<Write> {
    let mut link = START;
    ids.iter()
        .map(|(term, index)| {
            let entry = Entry {
                log_id: log_id(*term, *index),
                payload: EntryPayload::Normal(Payload(Bytes::from_static(b"payload"))),
            };
            let (write, next) = put_entry(*index, link, &encode_entry(&entry));
            link = next;
            write
        })
        .collect()
}

struct Log {
    engine: Arc<dyn Engine>,
    volume: Box<dyn Volume>,
}

fn log(writes: Vec<Write>) -> Log {
    let volume = Box::new(MemDisk::new().volume());
    volume
        .create_block(witness::NAME, &witness::blank())
        .unwrap();
    let engine = volume.open("log").unwrap();
    engine.write(writes, true).unwrap();
    Log { engine, volume }
}

impl Log {
    fn open(&self) -> io::Result<LogStore> {
        let mode = WriterMode::Task {
            sync_latency: Duration::ZERO,
        };
        let options = Options::default();
        let witness = Witness::open(self.volume.open_block(witness::NAME)?)?;
        let opened = Opened::check(self.engine.clone(), witness, &options)?;
        LogStore::start(opened, mode, &options, None)
    }

    fn refusal(&self) -> String {
        self.open().err().unwrap().to_string()
    }
}

#[tokio::test]
async fn a_whole_log_opens() {
    let log = log(chain(&[(1, 0), (1, 1), (3, 2)])).open().unwrap();
    assert_eq!(log.state().last_log_id, Some(log_id(3, 2)));
    assert_eq!(log.stats().entries, 3);
}

#[tokio::test]
async fn a_log_with_a_hole_does_not_open() {
    let refusal = log(chain(&[(1, 0), (1, 2)])).refusal();
    assert!(refusal.contains("entry 1"), "{refusal}");
}

#[tokio::test]
async fn a_log_whose_terms_go_back_does_not_open() {
    assert!(log(chain(&[(2, 0), (1, 1)])).open().is_err());
}

#[tokio::test]
async fn an_entry_of_another_history_does_not_fit() {
    let mut writes = chain(&[(1, 0), (1, 1), (2, 2)]);
    // Sound by itself, at the right index, with a term that may stand there.
    writes[1] = chain(&[(2, 0), (2, 1)]).remove(1);
    let refusal = log(writes).refusal();
    assert!(refusal.contains("entry 1"), "{refusal}");
}

#[tokio::test]
async fn a_log_with_any_flipped_bit_does_not_open() {
    let Some(Write::Put { key, value }) = chain(&[(1, 0)]).pop() else {
        panic!("an entry is a put");
    };
    for bit in 0..value.len() * 8 {
        let mut value = value.clone();
        value[bit / 8] ^= 1 << (bit % 8);
        let put = Write::Put {
            key: key.clone(),
            value,
        };
        assert!(log(vec![put]).open().is_err(), "bit {bit}");
    }
}

#[tokio::test]
async fn an_entry_that_goes_missing_is_an_error_and_not_an_absence() {
    let store = log(chain(&[(1, 0), (1, 1), (1, 2)]));
    let mut log = store.open().unwrap();
    store
        .engine
        .write(vec![Write::Delete { key: entry_key(1) }], true)
        .unwrap();
    assert!(log.try_get_log_entries(0..3).await.is_err());
    assert!(log.try_get_log_entries(1..2).await.is_err());
    assert_eq!(log.try_get_log_entries(2..9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_entry_exchanged_while_the_log_is_open_is_not_read() {
    let store = log(chain(&[(1, 0), (1, 1), (2, 2)]));
    let mut log = store.open().unwrap();
    let other = chain(&[(2, 0), (2, 1)]).remove(1);
    store.engine.write(vec![other], true).unwrap();
    for range in [0..2, 0..3, 1..3] {
        let read = log.try_get_log_entries(range.clone()).await;
        assert!(read.is_err(), "{range:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_value_makes_reading_panic(
        noise in prop::collection::vec(any::<u8>(), 0..64),
        index in any::<u64>(),
    ) {
        if let Ok(stored) = Stored::check(index, &noise) {
            let _ = (stored.position(), stored.entry());
        }
        prop_assert!(get_meta(|_| Ok(Some(noise.clone()))).is_err());
    }
}
