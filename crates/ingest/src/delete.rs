//! Deletes rows by primary key: sends each key to the owner of its channel and has it stored.
//!
//! A delete counts as done only when the owner that took it has synced it and was still the owner
//! afterwards; until then all keys of the channel are sent again, which is harmless.

use std::time::Duration;

use quorate_binlog::{ColumnData, FieldType};
use quorate_rpc::Client;
use quorate_rpc::proto::quorate::node::{Column, DeleteRequest};
use tokio::task::JoinSet;

use crate::Key;
use crate::collection::{self, ALL_PARTITIONS, KnownCollection};
use crate::coordinator::{Coordinator, Owner, is_final_error};
use crate::error::{CollectionError, DeleteError};
use crate::owner::{Denied, OwnerConnection};
use crate::pace::{Backoff, Patience};
use crate::route::channel_of;

/// Keys sent at a time.
const KEYS_PER_CALL: usize = 4096;
/// How long storing the deletes may take, unless the stall timeout is shorter.
const SYNC_DEADLINE: Duration = Duration::from_secs(60);
/// No stream has this name: only the owner is asked for, not what is stored.
const NO_STREAM: &[u8] = b"-";

/// Primary keys, all of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeleteKeys {
    /// Of an Int64 field.
    Ids(Vec<i64>),
    /// Of a VarChar field.
    Strings(Vec<String>),
}

/// What to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Name of the collection.
    pub collection: String,
    /// Primary keys; keys without a row are fine.
    pub keys: DeleteKeys,
    /// Name of the partition; all partitions when none is given.
    pub partition: Option<String>,
    /// Give up when nothing moved on a channel for so long.
    pub stall_timeout: Duration,
}

impl DeleteOptions {
    /// Deletes in all partitions, with a stall timeout of 60 s.
    pub fn new(collection: impl Into<String>, keys: DeleteKeys) -> DeleteOptions {
        DeleteOptions {
            collection: collection.into(),
            keys,
            partition: None,
            stall_timeout: Duration::from_secs(60),
        }
    }
}

/// How a delete went: all of it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteReport {
    /// Keys deleted, whether or not they had rows.
    pub keys: u64,
    /// Channels they went to.
    pub channels: u64,
    /// Keys that were sent again because an owner was lost.
    pub keys_sent_again: u64,
}

/// Deletes rows by primary key. Rows inserted later with the same key are not affected.
pub async fn delete(client: &Client, options: DeleteOptions) -> Result<DeleteReport, DeleteError> {
    let coordinator = Coordinator::new(client);
    let collection = collection::must_find(&coordinator, &options.collection).await?;
    let partition_id = match &options.partition {
        None => ALL_PARTITIONS,
        Some(name) => collection
            .partition(name)
            .ok_or_else(|| CollectionError::NoPartition {
                collection: options.collection.clone(),
                partition: name.clone(),
            })?,
    };
    let mut keys = checked_keys(&collection, options.keys)?;
    keys.sort();
    keys.dedup();
    let mut report = DeleteReport {
        keys: keys.len() as u64,
        channels: 0,
        keys_sent_again: 0,
    };
    let channels = collection.channels();
    let mut by_channel: Vec<Vec<Key>> = vec![Vec::new(); channels.len()];
    for key in keys {
        by_channel[channel_of(&key, channels.len())].push(key);
    }
    let field_id = collection.schema.primary_key().id;
    let mut work = JoinSet::new();
    for (channel, keys) in channels.iter().zip(by_channel) {
        if keys.is_empty() {
            continue;
        }
        report.channels += 1;
        let channel = ChannelDelete {
            coordinator: coordinator.clone(),
            collection_id: collection.id(),
            partition_id,
            channel: channel.clone(),
            count: keys.len(),
            columns: columns(&keys, field_id),
            patience: Patience::new(options.stall_timeout),
            backoff: Backoff::new(),
            owner: None,
            furthest: 0,
            last: "nothing was tried yet".into(),
        };
        work.spawn(channel.run());
    }
    while let Some(ended) = work.join_next().await {
        report.keys_sent_again +=
            ended.map_err(|error| DeleteError::Keys(format!("internal error: {error}")))??;
    }
    Ok(report)
}

fn checked_keys(collection: &KnownCollection, keys: DeleteKeys) -> Result<Vec<Key>, DeleteError> {
    let field = collection.schema.primary_key();
    let wrong = |given: &str| {
        Err(DeleteError::Keys(format!(
            "the primary key {:?} of collection {:?} is of type {}, the keys given are {given}",
            field.name,
            collection.name(),
            field.kind.name()
        )))
    };
    match (keys, field.kind) {
        (DeleteKeys::Ids(ids), FieldType::Int64) => Ok(ids.into_iter().map(Key::Int64).collect()),
        (DeleteKeys::Strings(keys), FieldType::VarChar { .. }) => {
            Ok(keys.into_iter().map(Key::VarChar).collect())
        }
        (DeleteKeys::Ids(_), _) => wrong("numbers"),
        (DeleteKeys::Strings(_), _) => wrong("strings"),
    }
}

/// Keys as columns, a call's worth each.
fn columns(keys: &[Key], field_id: i64) -> Vec<(usize, Column)> {
    let chunks = keys.chunks(KEYS_PER_CALL);
    chunks
        .map(|keys| {
            let mut column = match keys.first() {
                Some(Key::VarChar(_)) => ColumnData::VarChar(Vec::new()),
                _ => ColumnData::Int64(Vec::new()),
            };
            for key in keys {
                match (key, &mut column) {
                    (Key::Int64(key), ColumnData::Int64(out)) => out.push(*key),
                    (Key::VarChar(key), ColumnData::VarChar(out)) => out.push(key.clone()),
                    _ => {}
                }
            }
            (keys.len(), column.to_proto(field_id))
        })
        .collect()
}

struct ChannelDelete {
    coordinator: Coordinator,
    collection_id: i64,
    partition_id: i64,
    channel: String,
    count: usize,
    columns: Vec<(usize, Column)>,
    patience: Patience,
    backoff: Backoff,
    owner: Option<Owner>,
    /// Most calls' worth of keys that one attempt got through.
    furthest: usize,
    last: String,
}

impl ChannelDelete {
    /// Answers how many keys were sent again.
    async fn run(mut self) -> Result<u64, DeleteError> {
        let mut sent = 0;
        loop {
            let owner = self.find_owner().await?;
            match self.attempt(&owner, &mut sent).await {
                Ok(()) if self.find_owner().await? == owner => {
                    return Ok((sent - self.count) as u64);
                }
                Ok(()) => self.last = "the channel's owner changed meanwhile".into(),
                Err(Denied::Refused(message)) => {
                    return Err(DeleteError::Refused {
                        channel: self.channel,
                        by: owner.to_string(),
                        action: "delete",
                        message,
                    });
                }
                Err(Denied::Late(message) | Denied::Busy(message) | Denied::Lost(message)) => {
                    self.last = message;
                }
            }
            self.pause().await?;
        }
    }

    /// Sends all keys to one owner and has it store them.
    async fn attempt(&mut self, owner: &Owner, sent: &mut usize) -> Result<(), Denied> {
        let connection = OwnerConnection::new(owner.clone())?;
        for (at, (count, column)) in self.columns.iter().enumerate() {
            let timestamp = self
                .coordinator
                .timestamp(self.patience.left())
                .await
                .map_err(|error| Denied::Lost(error.to_string()))?;
            let request = DeleteRequest {
                collection_id: self.collection_id,
                partition_id: self.partition_id,
                channel: self.channel.clone(),
                assignment_epoch: owner.epoch,
                timestamp,
                primary_keys: Some(column.clone()),
            };
            connection.delete(request).await?;
            *sent += count;
            if at >= self.furthest {
                self.furthest = at + 1;
                self.patience.renew();
            }
        }
        let deadline = SYNC_DEADLINE.min(self.patience.left());
        connection.sync(&self.channel, deadline).await.map(drop)
    }

    async fn find_owner(&mut self) -> Result<Owner, DeleteError> {
        loop {
            let answer = self
                .coordinator
                .coverage(self.patience.left(), &self.channel, NO_STREAM)
                .await;
            match answer {
                Ok(coverage) => match coverage.owner {
                    Some(owner) => {
                        self.owner = Some(owner.clone());
                        return Ok(owner);
                    }
                    None => self.last = "nobody owns the channel".into(),
                },
                Err(error) if is_final_error(&error) => {
                    return Err(DeleteError::Refused {
                        channel: self.channel.clone(),
                        by: "the coordinator".into(),
                        action: "look the channel up",
                        message: error.to_string(),
                    });
                }
                Err(error) => self.last = error.to_string(),
            }
            self.pause().await?;
        }
    }

    async fn pause(&mut self) -> Result<(), DeleteError> {
        if self.patience.is_over() {
            return Err(DeleteError::Stalled {
                channel: self.channel.clone(),
                keys: self.count,
                waited: self.patience.waited(),
                owner: self
                    .owner
                    .as_ref()
                    .map_or_else(|| "unknown".to_owned(), Owner::to_string),
                last: self.last.clone(),
            });
        }
        self.backoff.pause().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
