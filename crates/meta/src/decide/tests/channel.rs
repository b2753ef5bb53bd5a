//! Channels, nodes and collections.

use super::*;

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
