#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::command::{
    decode_entry, decode_outcomes, encode_entry, encode_outcomes, fenced, unfenced,
};
use crate::id::{CollectionId, SegmentId};
use crate::invariants::violations;
use crate::model::SegmentState;
use crate::state::FIRST_ID;

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
        for change in &delta.changes {
            let row = change.to_row();
            match row.value {
                Some(value) => self.rows.insert(row.key, value),
                None => self.rows.remove(&row.key),
            };
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

#[test]
fn a_command_of_another_term_is_fenced() {
    let mut store = Store::with_watched_channel();
    let stale = fenced(9, Ts::from_ms(1), open(FIRST_ID + 5));
    assert!(matches!(
        store.apply(&stale),
        Outcome::Rejected(Reason::Fenced, _)
    ));
    assert!(store.state.segment(SegmentId(FIRST_ID + 5)).is_none());
}

#[test]
fn a_name_is_created_once_and_free_again_after_the_drop() {
    let mut store = Store::new();
    assert_eq!(store.done(create(FIRST_ID, "c", &["a"])).id, FIRST_ID);
    assert!(matches!(
        store.run(create(FIRST_ID + 10, "c", &["b"])),
        Outcome::Already(pb::Reply { id: FIRST_ID, .. })
    ));
    assert_eq!(
        store.refused(create(FIRST_ID + 10, "c", &["b", "d"])),
        Reason::Exists
    );
    let drop = Command::DropCollection(pb::DropCollection { id: FIRST_ID });
    store.done(drop.clone());
    assert!(matches!(store.run(drop), Outcome::Already(_)));
    store.done(create(FIRST_ID + 20, "c", &["b"]));
}

#[test]
fn an_id_that_was_never_handed_out_is_refused() {
    let mut store = Store::with_watched_channel();
    assert_eq!(store.refused(open(FIRST_ID + 1_000_000)), Reason::Invalid);
}

#[test]
fn only_the_owner_under_its_assignment_may_save() {
    let mut store = Store::with_watched_channel();
    store.done(open(FIRST_ID + 5));
    let stranger = save(FIRST_ID + 5, 99, 1, 0, 0..10);
    assert_eq!(
        store.refused(Command::SaveBinlogs(stranger)),
        Reason::ChannelNotFound
    );
    let mut stale = save(FIRST_ID + 5, 1, 1, 0, 0..10);
    stale.assignment_epoch = 2;
    assert_eq!(
        store.refused(Command::SaveBinlogs(stale.clone())),
        Reason::ChannelNotFound
    );
    stale.assignment_epoch = 1;
    store.done(Command::SaveBinlogs(stale));
}

#[test]
fn a_row_is_stored_once_whatever_segment_it_comes_in() {
    let mut store = Store::with_watched_channel();
    store.done(open(FIRST_ID + 5));
    store.done(open(FIRST_ID + 6));
    store.done(Command::SaveBinlogs(save(FIRST_ID + 5, 1, 1, 0, 0..10)));
    let again = save(FIRST_ID + 6, 1, 2, 0, 9..12);
    assert_eq!(
        store.refused(Command::SaveBinlogs(again)),
        Reason::RowsStored
    );
    assert_eq!(
        store.state.segment(SegmentId(FIRST_ID + 6)).unwrap().rows,
        0
    );
    store.done(Command::SaveBinlogs(save(FIRST_ID + 6, 1, 2, 0, 10..12)));
    let stored = &store.state.coverage_of("ch").unwrap()[&Bytes::from_static(b"stream")];
    assert_eq!(stored.ranges(), [(0, 12)]);
}

#[test]
fn a_save_on_an_old_view_of_the_files_must_look_again() {
    let mut store = Store::with_watched_channel();
    store.done(open(FIRST_ID + 5));
    store.done(Command::SaveBinlogs(save(FIRST_ID + 5, 1, 1, 0, 0..10)));
    let old = save(FIRST_ID + 5, 1, 2, 0, 10..20);
    assert_eq!(
        store.refused(Command::SaveBinlogs(old)),
        Reason::FilesChanged
    );
}

#[test]
fn the_final_save_makes_flushing_and_an_empty_segment_is_dropped() {
    let mut store = Store::with_watched_channel();
    for id in [5, 6] {
        store.done(open(FIRST_ID + id));
    }
    let mut last = save(FIRST_ID + 5, 1, 1, 0, 0..10);
    last.flushed = true;
    store.done(Command::SaveBinlogs(last));
    assert_eq!(store.state_of(FIRST_ID + 5), SegmentState::Flushing);
    let mut empty = save(FIRST_ID + 6, 1, 1, 0, 0..0);
    empty.refs.clear();
    empty.row_ranges.clear();
    empty.flushed = true;
    store.done(Command::SaveBinlogs(empty));
    assert_eq!(store.state_of(FIRST_ID + 6), SegmentState::Dropped);
    let finish = Command::FinishFlush(pb::FinishFlush {
        segment_id: FIRST_ID + 5,
    });
    store.done(finish.clone());
    assert!(matches!(store.run(finish), Outcome::Already(_)));
    assert_eq!(store.state_of(FIRST_ID + 5), SegmentState::Flushed);
    let late = save(FIRST_ID + 5, 1, 9, 1, 50..60);
    assert_eq!(
        store.refused(Command::SaveBinlogs(late)),
        Reason::IllegalState
    );
}

#[test]
fn checkpoints_only_move_forward_and_only_by_the_owner() {
    let mut store = Store::with_watched_channel();
    let move_to = |ts: u64, node_id: i64| {
        Command::UpdateCheckpoints(pb::UpdateCheckpoints {
            node_id,
            positions: vec![pb::Position {
                channel: "ch".into(),
                msg_id: Bytes::from_static(&[1]),
                ts,
                ..Default::default()
            }],
        })
    };
    let start = store
        .state
        .channel("ch")
        .unwrap()
        .checkpoint
        .clone()
        .unwrap()
        .ts;
    store.done(move_to(start + 50, 1));
    for (ts, node) in [(start + 40, 1), (start + 60, 2)] {
        assert!(matches!(store.run(move_to(ts, node)), Outcome::Already(_)));
    }
    let now = store
        .state
        .channel("ch")
        .unwrap()
        .checkpoint
        .clone()
        .unwrap()
        .ts;
    assert_eq!(now, start + 50);
}

#[test]
fn an_expired_node_gives_all_its_channels_back_at_once() {
    let mut store = Store::with_watched_channel();
    store.done(Command::ExpireNode(pb::ExpireNode {
        node_id: 1,
        session: "s1".into(),
    }));
    let row = store.state.channel("ch").unwrap().clone();
    assert_eq!(
        (row.state(), row.node_id, row.last_node_id),
        (pb::ChannelState::Standby, 0, 1)
    );
    let node = store.done(register("n:1", "s2")).id;
    store.assign("ch", node, 8);
    assert_eq!(store.state.channel("ch").unwrap().assignment_epoch, 2);
}

#[test]
fn the_result_of_an_older_operation_is_ignored() {
    let mut store = Store::with_watched_channel();
    assert!(matches!(
        store.run(step("ch", 6, false)),
        Outcome::Already(_)
    ));
    assert_eq!(
        store.state.channel("ch").unwrap().state(),
        pb::ChannelState::Watched
    );
}

#[test]
fn a_drop_is_seen_at_once_and_its_tombstone_outlives_the_rewriting() {
    let mut store = Store::with_watched_channel();
    store.done(open(FIRST_ID + 5));
    store.done(Command::DropCollection(pb::DropCollection { id: FIRST_ID }));
    assert_eq!(store.state_of(FIRST_ID + 5), SegmentState::Dropped);
    store.done(Command::ReleaseChannel(pb::ReleaseChannel {
        channel: "ch".into(),
        op_id: 20,
    }));
    store.run(step("ch", 20, true));
    store.run(step("ch", 20, true));
    let remove = Command::RemoveChannel(pb::RemoveChannel {
        channel: "ch".into(),
    });
    assert_eq!(store.refused(remove.clone()), Reason::IllegalState);
    store.done(Command::RewriteDropped(pb::RewriteDropped {
        segment_ids: vec![FIRST_ID + 5],
    }));
    store.done(remove);
    assert!(store.state.channel("ch").is_none());
    assert_eq!(store.state.segments_of(CollectionId(FIRST_ID)).count(), 1);
}

#[test]
fn a_request_token_gives_the_same_answer_until_it_expires() {
    let mut store = Store::new();
    let put = |value: &'static str| {
        Command::PutAnnotation(pb::PutAnnotation {
            key: "k".into(),
            value: Bytes::from_static(value.as_bytes()),
            token: Bytes::from_static(b"0123456789abcdef"),
            token_expires_at: Ts::from_ms(1500).0,
        })
    };
    let first = store.done(put("one"));
    assert_eq!(store.run(put("two")), Outcome::Already(first));
    assert_eq!(store.state.annotation("k").unwrap().value, "one");
    store.apply(&unfenced(
        Ts::from_ms(2000),
        Command::ExpireTokens(pb::ExpireTokens {}),
    ));
    store.done(put("three"));
}

#[test]
fn two_writes_of_one_entry_have_their_own_revisions() {
    let state = State::new();
    let pos = |ordinal| LogPos {
        term: 1,
        index: 5,
        ordinal,
    };
    assert!(pos(0).revision() < pos(1).revision());
    assert!(state.now().is_zero());
}

fn any_command() -> impl Strategy<Value = Command> {
    let id = FIRST_ID..FIRST_ID + 12;
    let channel = prop_oneof![Just("ch"), Just("ch2"), Just("nowhere")];
    let node = 1i64..4;
    prop_oneof![
        (1u64..3).prop_map(|term| Command::BeginEpoch(pb::BeginEpoch { term })),
        (0u64..1 << 40).prop_map(|bound| Command::AdvanceClock(pb::AdvanceClock { bound })),
        (0u64..50).prop_map(|count| Command::ReserveIds(pb::ReserveIds { count })),
        (id.clone(), "[ab]").prop_map(|(id, name)| create(id, &name, &["ch", "ch2"])),
        id.clone()
            .prop_map(|id| Command::DropCollection(pb::DropCollection { id })),
        (id.clone(), id.clone(), "[pq]").prop_map(|(collection_id, id, name)| {
            Command::CreatePartition(pb::CreatePartition {
                collection_id,
                id,
                name,
            })
        }),
        (id.clone(), "[pq]").prop_map(|(collection_id, name)| {
            Command::DropPartition(pb::DropPartition {
                collection_id,
                name,
            })
        }),
        (id.clone(), id.clone(), channel.clone()).prop_map(|(id, collection_id, channel)| {
            Command::OpenSegment(pb::OpenSegment {
                id,
                collection_id,
                partition_id: collection_id + 1,
                channel: channel.into(),
                max_rows: 100_000,
                seal_rows: 90,
                max_size_bytes: 1000,
            })
        }),
        (id.clone(), 0u64..1 << 40).prop_map(|(segment_id, ts)| {
            Command::SealSegments(pb::SealSegments {
                seals: vec![pb::Seal {
                    segment_id,
                    last_expire_ts: ts,
                    reason: 1,
                }],
                flush_ts: ts,
                flush_channels: vec!["ch".into()],
            })
        }),
        (
            id.clone(),
            node.clone(),
            0i64..6,
            0u64..4,
            0u64..40,
            0u64..9,
            any::<(bool, bool)>()
        )
            .prop_map(|(segment, node, log, rev, from, len, (flushed, l0))| {
                let mut save = save(segment, node, log, rev, from..from + len);
                save.flushed = flushed;
                save.level = if l0 { 1 } else { 2 };
                Command::SaveBinlogs(save)
            }),
        id.clone()
            .prop_map(|segment_id| Command::FinishFlush(pb::FinishFlush { segment_id })),
        id.prop_map(|id| Command::RewriteDropped(pb::RewriteDropped {
            segment_ids: vec![id]
        })),
        (channel.clone(), node.clone(), 1i64..5).prop_map(|(channel, node_id, op_id)| {
            Command::AssignChannels(pb::AssignChannels {
                assignments: vec![pb::ChannelAssignment {
                    channel: channel.into(),
                    node_id,
                    op_id,
                }],
            })
        }),
        (channel.clone(), 0i64..5, any::<bool>()).prop_map(|(c, op, ok)| step(c, op, ok)),
        (channel.clone(), 1i64..5).prop_map(|(channel, op_id)| {
            Command::ReleaseChannel(pb::ReleaseChannel {
                channel: channel.into(),
                op_id,
            })
        }),
        channel.clone().prop_map(|channel| {
            Command::RemoveChannel(pb::RemoveChannel {
                channel: channel.into(),
            })
        }),
        (channel, node.clone(), 0u64..1 << 40).prop_map(|(channel, node_id, ts)| {
            Command::UpdateCheckpoints(pb::UpdateCheckpoints {
                node_id,
                positions: vec![pb::Position {
                    channel: channel.into(),
                    msg_id: Bytes::from_static(b"m"),
                    ts,
                    ..Default::default()
                }],
            })
        }),
        (0u8..3, 0u8..3).prop_map(|(a, s)| register(&format!("n:{a}"), &format!("s{s}"))),
        (node, 0u8..3).prop_map(|(node_id, s)| {
            Command::ExpireNode(pb::ExpireNode {
                node_id,
                session: format!("s{s}"),
            })
        }),
        ("[kl]", 0u64..2000).prop_map(|(key, revision)| {
            Command::CompareAndSetAnnotation(pb::CompareAndSetAnnotation {
                key,
                expected: Some(pb::compare_and_set_annotation::Expected::Revision(revision)),
                new_value: (revision % 2 == 0).then(|| Bytes::from_static(b"v")),
                ..Default::default()
            })
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever is thrown at the state: invariants hold, a refusal leaves no row but time, memory
    /// is what the rows say, and the same log gives the same state.
    #[test]
    fn any_log_keeps_the_invariants(commands in prop::collection::vec(any_command(), 1..120)) {
        let mut store = Store::new();
        let mut twin = Store::new();
        for command in commands {
            let before = store.state.clone();
            let outcome = store.run(command.clone());
            prop_assert_eq!(&outcome, &twin.run(command.clone()));
            if matches!(outcome, Outcome::Rejected(..)) {
                let mut after = store.state.clone();
                after.singleton.now = before.singleton.now;
                prop_assert_eq!(&after, &before, "refused {:?}", command);
            }
            prop_assert_eq!(violations(&store.state), Vec::<String>::new(), "after {:?}", command);
        }
        prop_assert_eq!(&store.rows, &twin.rows);
        prop_assert_eq!(&store.reloaded(), &store.state);
    }

    #[test]
    fn entries_and_outcomes_round_trip(commands in prop::collection::vec(any_command(), 0..10), at: u64) {
        let stamped: Vec<_> = commands.into_iter().map(|c| fenced(at, Ts(at), c)).collect();
        prop_assert_eq!(&decode_entry(&encode_entry(stamped.clone())).unwrap(), &stamped);
        let mut store = Store::new();
        let outcomes: Vec<_> = stamped.iter().map(|s| store.apply(s)).collect();
        prop_assert_eq!(decode_outcomes(&encode_outcomes(&outcomes)).unwrap(), outcomes);
    }

    #[test]
    fn any_bytes_are_an_entry_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_entry(&bytes);
        let _ = decode_outcomes(&bytes);
        let _ = State::new().load_row(&bytes, &bytes);
    }
}
