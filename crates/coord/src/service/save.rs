//! What data nodes report: saved files, checkpoints, time ticks, ended channels.

use std::collections::BTreeMap;

use prost::Message;
use quorate_meta::command::Command;
use quorate_meta::model::channel::owned_by;
use quorate_meta::model::{Level, Segment, SegmentState};
use quorate_meta::{Reason, SegmentId, State, pb};
use quorate_rpc::proto::milvus::common;
use quorate_rpc::proto::milvus::data::{
    DropVirtualChannelRequest, DropVirtualChannelResponse, FieldBinlog,
    ReportDataNodeTtMsgsRequest, SaveBinlogPathsRequest, UpdateChannelCheckpointRequest,
    WatchChannelsRequest, WatchChannelsResponse,
};
use quorate_rpc::status::{self, Code};

use crate::coordinator::Coordinator;
use crate::error::{CoordError, Result};
use crate::{metrics, wire};

/// Tries against a segment whose files keep changing.
const TRIES: usize = 5;

fn source_of(base: Option<&common::MsgBase>) -> i64 {
    base.map_or(0, |base| base.source_id)
}

impl Coordinator {
    /// Log files of a segment, its positions, and with `flushed` its end of growth. Idempotent by
    /// (segment, kind, field, log id): files that are known drop out, the same log id with other
    /// content is refused.
    ///
    /// # Errors
    /// `ChannelNotFound` to a node that does not own the channel, `SegmentNotFound`, bad paths.
    pub async fn save_binlog_paths(
        &self,
        request: SaveBinlogPathsRequest,
    ) -> Result<common::Status> {
        let scope = self.scope()?;
        for _ in 0..TRIES {
            let saved = match self.save_command(&request).await {
                Ok(command) => scope.propose_fact(Command::SaveBinlogs(command)).await,
                Err(error) => Err(error),
            };
            match saved {
                Ok(_) => return Ok(status::ok()),
                // Somebody saved to the segment in between: look again.
                Err(CoordError::Rejected(Reason::FilesChanged, _)) => {}
                Err(error) => {
                    if matches!(error, CoordError::Rejected(Reason::ChannelNotFound, _)) {
                        metrics::fenced("SaveBinlogPaths");
                    }
                    return Err(error);
                }
            }
        }
        Err(CoordError::Overloaded(format!(
            "segment {} is saved to from several sides",
            request.segment_id
        )))
    }

    /// The command for a save, with only the files the segment does not have yet. In Milvus's order:
    /// whose the channel is, whether the segment is there, and only then what the files are.
    async fn save_command(&self, request: &SaveBinlogPathsRequest) -> Result<pb::SaveBinlogs> {
        self.barrier().await?;
        let id = SegmentId(request.segment_id);
        let (segment, known, is_dropped) = {
            let state = self.state();
            refuse_stranger(&state, request)?;
            let segment = state.segment(id).cloned();
            let is_dropped = segment
                .as_ref()
                .is_some_and(|s| state.effective_state(s) == SegmentState::Dropped);
            // Read under the lock: files and their revision belong together.
            let known = match &segment {
                Some(_) => self.cold(id)?.files,
                None => Vec::new(),
            };
            (segment, known, is_dropped)
        };
        if segment.is_none() && request.seg_level() as u32 != Level::L0 as u32 {
            return Err(CoordError::Rejected(
                Reason::SegmentNotFound,
                format!("segment not found[segment={id}]"),
            ));
        }
        let files_rev = segment.as_ref().map_or(0, |segment| segment.files_rev);
        let target = segment.unwrap_or_else(|| new_segment(request));
        // A dropped segment stays dropped: apply ignores the save, whatever the files are.
        let refs = if is_dropped {
            Vec::new()
        } else {
            fresh_refs(request, &target, &known)?
        };
        let level = request.seg_level() as u32;
        let position = |entry: &quorate_rpc::proto::milvus::data::CheckPoint| pb::SegmentPosition {
            segment_id: entry.segment_id,
            position: entry.position.as_ref().map(wire::from_position),
        };
        let repeated = !is_dropped && refs.is_empty() && has_files(request);
        Ok(pb::SaveBinlogs {
            segment_id: request.segment_id,
            collection_id: request.collection_id,
            partition_id: request.partition_id,
            channel: request.channel.clone(),
            node_id: source_of(request.base.as_ref()),
            assignment_epoch: request.assignment_epoch,
            level,
            files_rev,
            added_rows: added_rows(&refs),
            refs,
            start_positions: request
                .start_positions
                .iter()
                .filter(|entry| {
                    let position = entry.start_position.as_ref();
                    position.is_some_and(|position| !position.msg_id.is_empty())
                })
                .map(|entry| pb::SegmentPosition {
                    segment_id: entry.segment_id,
                    position: entry.start_position.as_ref().map(wire::from_position),
                })
                .collect(),
            checkpoints: request.check_points.iter().map(position).collect(),
            flushed: request.flushed,
            dropped: request.dropped,
            // A repeated save brings no rows: they are counted already.
            row_ranges: if repeated {
                Vec::new()
            } else {
                request
                    .row_ranges
                    .iter()
                    .map(|range| pb::RowRange {
                        stream: range.stream.clone().into(),
                        from: range.from,
                        to: range.to,
                    })
                    .collect()
            },
        })
    }

    /// How far channels are durable. Older positions and channels of other nodes are passed over.
    ///
    /// # Errors
    /// A nil position (code 65535, as the real DataCoord), or this replica does not lead.
    pub async fn update_channel_checkpoint(
        &self,
        request: UpdateChannelCheckpointRequest,
    ) -> Result<common::Status> {
        let scope = self.scope()?;
        let mut positions: Vec<pb::Position> = request
            .channel_checkpoints
            .iter()
            .map(wire::from_position)
            .collect();
        if positions.is_empty() {
            let position = request.position.as_ref();
            match position.filter(|position| !position.msg_id.is_empty()) {
                Some(position) => positions.push(pb::Position {
                    channel: request.v_channel.clone(),
                    ..wire::from_position(position)
                }),
                None => {
                    return Ok(status::fail(
                        Code::UnexpectedError,
                        format!("channelCP is nil, vChannel={}", request.v_channel),
                    ));
                }
            }
        }
        scope
            .propose_fact(Command::UpdateCheckpoints(pb::UpdateCheckpoints {
                node_id: source_of(request.base.as_ref()),
                positions,
            }))
            .await?;
        // A pending flush may be waiting for it.
        scope.ticked.notify_one();
        Ok(status::ok())
    }

    /// Time ticks of channels with the rows their segments hold. Volatile: a lost tick is made up
    /// for by the next one. A sender that does not own the channel is ignored with success.
    ///
    /// # Errors
    /// This replica does not lead.
    pub async fn report_data_node_tt_msgs(
        &self,
        request: ReportDataNodeTtMsgsRequest,
    ) -> Result<common::Status> {
        let scope = self.scope()?;
        for tick in &request.msgs {
            let source = match source_of(request.base.as_ref()) {
                0 => source_of(tick.base.as_ref()),
                source => source,
            };
            let owned = self
                .state()
                .channel(&tick.channel_name)
                .is_some_and(|row| owned_by(row, source, 0));
            if !owned {
                continue;
            }
            let rows = tick
                .segments_stats
                .iter()
                .map(|stats| (SegmentId(stats.segment_id), stats.num_rows));
            let grants = scope.grants.channel(&tick.channel_name);
            grants
                .lock()
                .await
                .tick(quorate_meta::Ts(tick.timestamp), rows);
        }
        scope.confirm()?;
        scope.ticked.notify_one();
        Ok(status::ok())
    }

    /// Channels of a collection, as RootCoord announces them.
    ///
    /// # Errors
    /// `CollectionNotFound` for a collection nobody described, or this replica does not lead.
    pub async fn watch_channels(
        &self,
        request: WatchChannelsRequest,
    ) -> Result<WatchChannelsResponse> {
        let scope = self.scope()?;
        if !request.channel_names.is_empty() {
            let schema = request.schema.unwrap_or_default();
            let encoded = if schema.fields.is_empty() {
                Vec::new()
            } else {
                schema.encode_to_vec()
            };
            scope
                .propose_fact(Command::WatchChannels(pb::WatchChannels {
                    collection_id: request.collection_id,
                    channels: request.channel_names,
                    schema: encoded.into(),
                    create_ts: request.create_timestamp,
                    start_positions: request
                        .start_positions
                        .into_iter()
                        .map(|pair| pb::Position {
                            channel: pair.key,
                            msg_id: pair.data.into(),
                            ..Default::default()
                        })
                        .collect(),
                    row_size_bytes: wire::row_size_bytes(&schema),
                }))
                .await?;
        }
        Ok(WatchChannelsResponse {
            status: Some(status::ok()),
        })
    }

    /// The end of a dropped collection's channel; repeats succeed.
    ///
    /// # Errors
    /// `ChannelNotFound` to a node that does not own the channel.
    pub async fn drop_virtual_channel(
        &self,
        request: DropVirtualChannelRequest,
    ) -> Result<DropVirtualChannelResponse> {
        let scope = self.scope()?;
        if !request.channel_name.is_empty() {
            scope
                .propose_fact(Command::DropVirtualChannel(pb::DropVirtualChannel {
                    channel: request.channel_name,
                    node_id: source_of(request.base.as_ref()),
                }))
                .await?;
        }
        Ok(DropVirtualChannelResponse {
            status: Some(status::ok()),
        })
    }
}

/// Only the node a channel is assigned to may save; an empty channel skips the check, as in Milvus.
/// Apply checks it again.
fn refuse_stranger(state: &State, request: &SaveBinlogPathsRequest) -> Result<()> {
    let node = source_of(request.base.as_ref());
    let is_owner = request.channel.is_empty()
        || state
            .channel(&request.channel)
            .is_some_and(|row| owned_by(row, node, request.assignment_epoch));
    if is_owner {
        return Ok(());
    }
    Err(CoordError::Rejected(
        Reason::ChannelNotFound,
        format!(
            "for node {node}: channel not found[channel={}]",
            request.channel
        ),
    ))
}

/// Stands for a segment that does not exist, for building paths: apply decides what becomes of it.
fn new_segment(request: &SaveBinlogPathsRequest) -> Segment {
    let row = pb::SegmentRow {
        id: request.segment_id,
        collection_id: request.collection_id,
        partition_id: request.partition_id,
        channel: request.channel.clone(),
        state: SegmentState::Flushed as u32,
        level: Level::L0 as u32,
        ..Default::default()
    };
    Segment::from_row(&row, |name| std::sync::Arc::from(name))
        .expect("the state and level are known ones")
}

fn has_files(request: &SaveBinlogPathsRequest) -> bool {
    [
        &request.field2_binlog_paths,
        &request.field2_statslog_paths,
        &request.deltalogs,
        &request.field2_bm25log_paths,
    ]
    .iter()
    .any(|fields| fields.iter().any(|field| !field.binlogs.is_empty()))
}

/// The files of a save the segment does not have yet.
fn fresh_refs(
    request: &SaveBinlogPathsRequest,
    segment: &Segment,
    known: &[pb::BinlogRef],
) -> Result<Vec<pb::BinlogRef>> {
    let by_key: BTreeMap<_, _> = known
        .iter()
        .map(|file| ((file.kind, file.field_id, file.log_id), file))
        .collect();
    let mut fresh: BTreeMap<(i32, i64, i64), pb::BinlogRef> = BTreeMap::new();
    let kinds: [(pb::LogKind, &[FieldBinlog]); 4] = [
        (pb::LogKind::Insert, &request.field2_binlog_paths),
        (pb::LogKind::Stats, &request.field2_statslog_paths),
        (pb::LogKind::Delta, &request.deltalogs),
        (pb::LogKind::Bm25, &request.field2_bm25log_paths),
    ];
    let other_content = |file: &pb::BinlogRef| {
        CoordError::Rejected(
            Reason::IllegalState,
            format!(
                "segment {}: log {} of field {} is stored with other content",
                segment.id, file.log_id, file.field_id
            ),
        )
    };
    for (kind, fields) in kinds {
        for field in fields {
            for binlog in &field.binlogs {
                if binlog.entries_num < 0 || binlog.log_size < 0 {
                    return Err(CoordError::Invalid(format!(
                        "segment {}: a binlog of field {} counts less than nothing",
                        segment.id, field.field_id
                    )));
                }
                let file = wire::to_binlog_ref(segment, kind, field.field_id, binlog).map_err(
                    |error| CoordError::Rejected(Reason::IllegalState, error.to_string()),
                )?;
                let key = (file.kind, file.field_id, file.log_id);
                match by_key.get(&key) {
                    Some(stored) if **stored == file => {}
                    Some(_) => return Err(other_content(&file)),
                    None => {
                        if let Some(twice) = fresh.insert(key, file.clone())
                            && twice != file
                        {
                            return Err(other_content(&file));
                        }
                    }
                }
            }
        }
    }
    Ok(fresh.into_values().collect())
}

/// Rows the new insert logs bring: counted on one field, as every row has all of them.
fn added_rows(refs: &[pb::BinlogRef]) -> i64 {
    let inserts = || {
        refs.iter()
            .filter(|file| file.kind() == pb::LogKind::Insert)
    };
    let first = inserts().map(|file| file.field_id).min();
    inserts()
        .filter(|file| Some(file.field_id) == first)
        .map(|file| file.rows)
        .fold(0, i64::saturating_add)
}
