//! openraft's own storage suite.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use quorate_raft_store::{LogStore, MemDisk, StateStore, TypeConfig};

use crate::fixture::{Folder, Kv, open_disk};

struct Rocks;

impl StoreBuilder<TypeConfig, LogStore, StateStore<Kv>, Folder> for Rocks {
    async fn build(&self) -> Result<(Folder, LogStore, StateStore<Kv>), StorageError<TypeConfig>> {
        let folder = Folder::new();
        let (log, state) = folder.open();
        Ok((folder, log, state))
    }
}

struct Memory;

impl StoreBuilder<TypeConfig, LogStore, StateStore<Kv>, ()> for Memory {
    async fn build(&self) -> Result<((), LogStore, StateStore<Kv>), StorageError<TypeConfig>> {
        let (log, state) = open_disk(&MemDisk::new());
        Ok(((), log, state))
    }
}

#[tokio::test]
async fn the_rocksdb_store_passes_openrafts_suite() {
    Suite::test_all(Rocks).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_memory_store_passes_openrafts_suite() {
    Suite::test_all(Memory).await.unwrap();
}
