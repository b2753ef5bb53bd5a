//! Whatever is thrown at the state.

use proptest::prelude::*;

use super::*;
use crate::command::{decode_entry, decode_outcomes, encode_entry, encode_outcomes};

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
        lifecycle_command(),
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

/// Commands of compaction, index and collection over the same few ids.
fn lifecycle_command() -> impl Strategy<Value = Command> {
    let id = FIRST_ID..FIRST_ID + 12;
    let some = prop::collection::vec(id.clone(), 0..3);
    let node = 0i64..3;
    prop_oneof![
        (id.clone(), 0i32..8, some.clone(), some.clone()).prop_map(
            |(plan, kind, inputs, targets)| {
                Command::StartCompaction(pb::StartCompaction {
                    plan_id: plan,
                    kind,
                    collection_id: FIRST_ID,
                    partition_id: FIRST_ID + 1,
                    channel: "ch".into(),
                    inputs: inputs
                        .into_iter()
                        .map(|segment_id| pb::SegmentRev {
                            segment_id,
                            files_rev: 1,
                        })
                        .collect(),
                    targets,
                    max_rows: 100,
                    ..Default::default()
                })
            }
        ),
        (id.clone(), node.clone(), 0u32..2, id.clone()).prop_map(
            |(plan_id, node_id, attempt, begin)| {
                let ids = Some(pb::IdRange {
                    begin,
                    end: begin + 4,
                });
                Command::AssignCompaction(pb::AssignCompaction {
                    plan_id,
                    node_id,
                    attempt,
                    segment_ids: ids,
                    log_ids: ids,
                })
            }
        ),
        (id.clone(), some.clone(), id.clone(), 0i64..40).prop_map(
            |(plan_id, inputs, output, rows)| {
                Command::FinishCompaction(pb::FinishCompaction {
                    plan_id,
                    attempt: 1,
                    inputs: inputs
                        .into_iter()
                        .map(|segment_id| pb::SegmentRev {
                            segment_id,
                            files_rev: 1,
                        })
                        .collect(),
                    outputs: vec![pb::CompactionOutput {
                        segment_id: output,
                        rows,
                        refs: vec![insert(output, rows)],
                    }],
                    ..Default::default()
                })
            }
        ),
        id.clone().prop_map(|plan_id| {
            Command::FailCompaction(pb::FailCompaction {
                plan_id,
                reason: "r".into(),
            })
        }),
        some.clone()
            .prop_map(|plan_ids| Command::ForgetCompactions(pb::ForgetCompactions { plan_ids })),
        (id.clone(), 100i64..102, "[vw]")
            .prop_map(|(id, field, name)| Command::CreateIndex(create_index(id, field, &name))),
        ("[vw]?", any::<bool>()).prop_map(|(name, all)| {
            Command::DropIndex(pb::DropIndex {
                collection_id: FIRST_ID,
                name,
                all,
            })
        }),
        (id.clone(), id.clone(), id.clone()).prop_map(|(b, s, i)| open_build(b, s, i)),
        (id.clone(), node, 0u32..3).prop_map(|(build_id, node_id, version)| {
            Command::AssignIndexBuild(pb::AssignIndexBuild {
                build_id,
                node_id,
                version,
            })
        }),
        (id.clone(), 0u32..3).prop_map(|(b, v)| Command::FinishIndexBuild(finish_build(b, v))),
        (some.clone(), some.clone()).prop_map(|(build_ids, index_ids)| {
            Command::ForgetIndexes(pb::ForgetIndexes {
                build_ids,
                index_ids,
            })
        }),
        some.clone().prop_map(|ids| condemn(&ids)),
        some.clone().prop_map(|ids| forget(&ids)),
        some.prop_map(
            |collection_ids| Command::ForgetCollections(pb::ForgetCollections { collection_ids })
        ),
        (0i64..2, "[tu]?", 0u64..1 << 40).prop_map(|(collection_id, ticket, until)| {
            Command::PauseGc(pb::PauseGc {
                ticket,
                collection_id,
                until,
            })
        }),
        (0i64..2, "[tu]?").prop_map(|(collection_id, ticket)| {
            Command::ResumeGc(pb::ResumeGc {
                ticket,
                collection_id,
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
