//! The rules by example, by topic, and by random logs.
#![allow(clippy::unwrap_used)]

mod annotation;
mod channel;
mod compaction;
mod gc;
mod index;
mod life;
mod random;
mod restore;
mod segment;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::command::{fenced, unfenced};
use crate::id::{CollectionId, SegmentId};
use crate::invariants::violations;
use crate::model::SegmentState;
use crate::state::{FIRST_ID, RowWrite};

/// A state that applies commands one by one and keeps the rows a disk would hold.
struct Store {
    state: State,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    index: u64,
    term: u64,
}

impl Store {
    fn new() -> Self {
        let mut store = Self {
            state: State::new(),
            rows: BTreeMap::new(),
            index: 0,
            term: 1,
        };
        store.run(Command::ReserveIds(pb::ReserveIds { count: 1000 }));
        store
    }

    fn apply(&mut self, stamped: &pb::Stamped) -> Outcome {
        self.index += 1;
        let pos = LogPos {
            term: self.term,
            index: self.index,
            ordinal: 0,
        };
        let (outcome, delta) = self.state.decide(pos, stamped);
        self.state.merge(&delta);
        for row in delta.changes.iter().flat_map(Change::to_rows) {
            match row {
                RowWrite::Put { key, value } => {
                    self.rows.insert(key, value);
                }
                RowWrite::Delete { key } => {
                    self.rows.remove(&key);
                }
                RowWrite::DeleteRange { from, to } => {
                    self.rows.retain(|key, _| *key < from || *key >= to);
                }
            }
        }
        outcome
    }

    fn run(&mut self, command: Command) -> Outcome {
        self.apply(&unfenced(Ts::from_ms(1000 + self.index), command))
    }

    fn done(&mut self, command: Command) -> pb::Reply {
        match self.run(command) {
            Outcome::Done(reply) => reply,
            other => panic!("expected Done, got {other:?}"),
        }
    }

    fn refused(&mut self, command: Command) -> Reason {
        match self.run(command) {
            Outcome::Rejected(reason, _) => reason,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    fn reloaded(&self) -> State {
        let mut state = State::new();
        for (key, value) in &self.rows {
            state.load_row(key, value).unwrap();
        }
        state
    }

    /// A collection with one channel, watched by a node.
    fn with_watched_channel() -> Self {
        let mut store = Self::new();
        store.done(create(FIRST_ID, "c", &["ch"]));
        let node = store.done(register("n:1", "s1")).id;
        store.assign("ch", node, 7);
        store.run(step("ch", 7, true));
        store.run(step("ch", 7, true));
        store
    }

    fn assign(&mut self, channel: &str, node_id: i64, op_id: i64) {
        self.run(Command::AssignChannels(pb::AssignChannels {
            assignments: vec![pb::ChannelAssignment {
                channel: channel.into(),
                node_id,
                op_id,
            }],
        }));
    }

    fn state_of(&self, segment: i64) -> SegmentState {
        let segment = self.state.segment(SegmentId(segment)).unwrap();
        self.state.effective_state(segment)
    }
}

fn create(id: i64, name: &str, channels: &[&str]) -> Command {
    Command::CreateCollection(pb::CreateCollection {
        id,
        name: name.into(),
        schema: Bytes::from_static(b"s"),
        default_partition_id: id + 1,
        channels: channels.iter().map(|c| c.to_string()).collect(),
        row_size_bytes: 8,
    })
}

fn register(address: &str, session: &str) -> Command {
    Command::RegisterNode(pb::RegisterNode {
        address: address.into(),
        session: session.into(),
        version: "1".into(),
    })
}

fn step(channel: &str, op_id: i64, success: bool) -> Command {
    Command::StepChannel(pb::StepChannel {
        channel: channel.into(),
        op_id,
        success,
    })
}

fn open(id: i64) -> Command {
    Command::OpenSegment(pb::OpenSegment {
        id,
        collection_id: FIRST_ID,
        partition_id: FIRST_ID + 1,
        channel: "ch".into(),
        max_rows: 100,
        seal_rows: 90,
        max_size_bytes: 1 << 20,
    })
}

/// Rows `from..to` of one stream, saved as log file `log_id` on top of revision `rev`.
fn save(
    segment: i64,
    node: i64,
    log_id: i64,
    rev: u64,
    rows: std::ops::Range<u64>,
) -> pb::SaveBinlogs {
    let count = (rows.end - rows.start) as i64;
    pb::SaveBinlogs {
        segment_id: segment,
        collection_id: FIRST_ID,
        partition_id: FIRST_ID + 1,
        channel: "ch".into(),
        node_id: node,
        assignment_epoch: 0,
        level: 2,
        files_rev: rev,
        refs: vec![pb::BinlogRef {
            kind: pb::LogKind::Insert.into(),
            field_id: 100,
            log_id,
            rows: count,
            log_size_bytes: 10,
            ..Default::default()
        }],
        added_rows: count,
        row_ranges: vec![pb::RowRange {
            stream: Bytes::from_static(b"stream"),
            from: rows.start,
            to: rows.end,
        }],
        ..Default::default()
    }
}

/// Times of tests, so that tolerances need no waiting.
const HOUR_MS: u64 = 3_600_000;

impl Store {
    /// A Flushed segment with `rows` rows, its first position `start_ms` behind the channel's.
    fn flushed(&mut self, id: i64, rows: u64, start_ms: u64) -> SegmentId {
        self.done(open(id));
        let stored = self.state.coverage_of("ch").and_then(|streams| {
            let ranges = streams.values().next()?.ranges();
            ranges.last().map(|range| range.1)
        });
        let from = stored.unwrap_or(0);
        let mut save = save(id, 1, id, 0, from..from + rows);
        let at = |ms: u64| {
            let start = Ts::from_ms(500 + ms).0;
            vec![pb::SegmentPosition {
                segment_id: id,
                position: Some(pb::Position {
                    channel: "ch".into(),
                    msg_id: Bytes::from_static(&[1]),
                    ts: start,
                    ..Default::default()
                }),
            }]
        };
        save.start_positions = at(start_ms);
        save.checkpoints = at(start_ms + 1);
        save.flushed = true;
        self.done(Command::SaveBinlogs(save));
        self.done(Command::FinishFlush(pb::FinishFlush { segment_id: id }));
        SegmentId(id)
    }

    /// Deletes saved for a segment: level one, or a level-zero segment of its own.
    fn delete(&mut self, id: i64, log_id: i64, rows: i64, level: u32, at_ms: u64) {
        let rev = self.state.segment(SegmentId(id)).map_or(0, |s| s.files_rev);
        let position = pb::SegmentPosition {
            segment_id: id,
            position: Some(pb::Position {
                channel: "ch".into(),
                msg_id: Bytes::from_static(&[1]),
                ts: Ts::from_ms(500 + at_ms).0,
                ..Default::default()
            }),
        };
        let mut save = save(id, 1, log_id, rev, 0..0);
        save.row_ranges.clear();
        save.level = level;
        save.refs = vec![delta(log_id, rows)];
        if level == 1 {
            save.start_positions = vec![position.clone()];
            save.checkpoints = vec![position];
        }
        self.done(Command::SaveBinlogs(save));
    }

    /// The channel is durable up to here.
    fn checkpoint(&mut self, at_ms: u64) {
        self.run(Command::UpdateCheckpoints(pb::UpdateCheckpoints {
            node_id: 1,
            positions: vec![pb::Position {
                channel: "ch".into(),
                msg_id: Bytes::from_static(&[1]),
                ts: Ts::from_ms(500 + at_ms).0,
                ..Default::default()
            }],
        }));
    }

    fn rev(&self, id: i64) -> pb::SegmentRev {
        pb::SegmentRev {
            segment_id: id,
            files_rev: self.state.segment(SegmentId(id)).unwrap().files_rev,
        }
    }

    /// A plan over these segments as they are.
    fn plan(&self, plan_id: i64, kind: pb::CompactionKind, inputs: &[i64]) -> pb::StartCompaction {
        pb::StartCompaction {
            plan_id,
            kind: kind.into(),
            collection_id: FIRST_ID,
            partition_id: FIRST_ID + 1,
            channel: "ch".into(),
            inputs: inputs.iter().map(|&id| self.rev(id)).collect(),
            max_rows: 100,
            max_size_bytes: 1 << 20,
            ..Default::default()
        }
    }

    /// Starts a plan and gives it to node 1 with segment and log ids `[plan + 1, plan + 50)`.
    fn executing(&mut self, plan: pb::StartCompaction) -> u32 {
        let plan_id = plan.plan_id;
        self.done(Command::StartCompaction(plan));
        self.done(assign_compaction(plan_id, 1, 0));
        1
    }

    /// Compacts these segments into outputs of these (id, rows).
    fn compact(&mut self, plan_id: i64, inputs: &[i64], outputs: &[(i64, i64)]) {
        let kind = if inputs.len() == 1 {
            pb::CompactionKind::Mix
        } else {
            pb::CompactionKind::Merge
        };
        self.executing(self.plan(plan_id, kind, inputs));
        let finish = self.result(plan_id, inputs, outputs);
        self.done(Command::FinishCompaction(finish));
    }

    fn result(&self, plan_id: i64, inputs: &[i64], outputs: &[(i64, i64)]) -> pb::FinishCompaction {
        pb::FinishCompaction {
            plan_id,
            attempt: 1,
            inputs: inputs.iter().map(|&id| self.rev(id)).collect(),
            outputs: outputs
                .iter()
                .map(|&(segment_id, rows)| pb::CompactionOutput {
                    segment_id,
                    rows,
                    refs: vec![insert(segment_id, rows)],
                })
                .collect(),
            ..Default::default()
        }
    }

    /// Builds the index for a segment to its end; build and version are fresh.
    fn build(&mut self, build_id: i64, segment: i64, index_id: i64) {
        self.done(open_build(build_id, segment, index_id));
        self.done(Command::AssignIndexBuild(pb::AssignIndexBuild {
            build_id,
            node_id: 1,
            version: 1,
        }));
        self.done(Command::FinishIndexBuild(finish_build(build_id, 1)));
    }

    fn later(&mut self, ms: u64, command: Command) -> Outcome {
        let at = Ts::from_ms(self.state.now().ms() + ms);
        self.apply(&unfenced(at, command))
    }
}

fn delta(log_id: i64, rows: i64) -> pb::BinlogRef {
    pb::BinlogRef {
        kind: pb::LogKind::Delta.into(),
        log_id,
        rows,
        log_size_bytes: 5,
        ..Default::default()
    }
}

fn insert(log_id: i64, rows: i64) -> pb::BinlogRef {
    pb::BinlogRef {
        kind: pb::LogKind::Insert.into(),
        field_id: 100,
        log_id,
        rows,
        log_size_bytes: 10,
        ..Default::default()
    }
}

fn assign_compaction(plan_id: i64, node_id: i64, attempt: u32) -> Command {
    let ids = pb::IdRange {
        begin: plan_id + 1,
        end: plan_id + 50,
    };
    Command::AssignCompaction(pb::AssignCompaction {
        plan_id,
        node_id,
        attempt,
        segment_ids: (node_id != 0).then_some(ids),
        log_ids: (node_id != 0).then_some(ids),
    })
}

fn create_index(index_id: i64, field_id: i64, name: &str) -> pb::CreateIndex {
    let pair = |key: &str, value: &str| pb::KeyValue {
        key: key.into(),
        value: value.into(),
    };
    pb::CreateIndex {
        index_id,
        collection_id: FIRST_ID,
        field_id,
        name: name.into(),
        index_params: vec![pair("index_type", "HNSW"), pair("metric_type", "L2")],
        ..Default::default()
    }
}

fn open_build(build_id: i64, segment_id: i64, index_id: i64) -> Command {
    Command::OpenIndexBuilds(pb::OpenIndexBuilds {
        builds: vec![pb::IndexBuild {
            build_id,
            segment_id,
            index_id,
        }],
    })
}

fn finish_build(build_id: i64, version: u32) -> pb::FinishIndexBuild {
    pb::FinishIndexBuild {
        build_id,
        version,
        success: true,
        files: vec!["hnsw".into()],
        serialized_bytes: 100,
        memory_bytes: 200,
        ..Default::default()
    }
}

fn condemn(ids: &[i64]) -> Command {
    Command::CondemnSegments(pb::CondemnSegments {
        segment_ids: ids.to_vec(),
    })
}

fn forget(ids: &[i64]) -> Command {
    Command::ForgetSegments(pb::ForgetSegments {
        segment_ids: ids.to_vec(),
    })
}
