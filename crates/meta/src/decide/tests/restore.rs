//! What a restored cluster does first.

use super::*;

fn restore() -> Command {
    Command::RestoreCluster(pb::RestoreCluster {
        ids_burnt: 1 << 40,
        node_ids_burnt: 1000,
        clock_bound: Ts::from_ms(1 << 30).0,
        gc_ticket: "restore".into(),
    })
}

#[test]
fn nothing_the_other_cluster_may_have_handed_out_is_handed_out_again() {
    let mut store = Store::with_watched_channel();
    let ids = store.state.id_bound();
    let node = store.done(register("other:1", "s")).id;
    store.done(restore());
    let first = store.done(Command::ReserveIds(pb::ReserveIds { count: 10 }));
    assert_eq!(first.id, ids + (1 << 40));
    assert!(store.done(register("other:1", "t")).id > node + 1000);
    assert_eq!(store.state.clock_bound(), Ts::from_ms(1 << 30));
    assert_eq!(violations(&store.state), Vec::<String>::new());
}

#[test]
fn the_clock_never_goes_back() {
    let mut store = Store::new();
    let bound = Ts::from_ms(1 << 35).0;
    store.done(Command::AdvanceClock(pb::AdvanceClock { bound }));
    store.done(restore());
    assert_eq!(store.state.clock_bound(), Ts(bound));
}

#[test]
fn the_other_clusters_data_nodes_own_nothing_any_more() {
    let mut store = Store::with_watched_channel();
    assert!(store.state.channels().any(|row| row.node_id != 0));
    store.done(restore());
    assert_eq!(store.state.nodes().count(), 0);
    assert!(store.state.channels().all(|row| row.node_id == 0));
    assert_eq!(violations(&store.state), Vec::<String>::new());
}

#[test]
fn nothing_is_collected_until_somebody_says_so() {
    let mut store = Store::new();
    store.done(restore());
    let now = store.state.now();
    assert!(store.state.gc_pause(CollectionId(0), now).is_some());
    store.done(Command::ResumeGc(pb::ResumeGc {
        ticket: "restore".into(),
        collection_id: 0,
    }));
    assert!(store.state.gc_pause(CollectionId(0), now).is_none());
}

#[test]
fn ids_that_are_used_up_are_refused() {
    let mut store = Store::new();
    let command = Command::RestoreCluster(pb::RestoreCluster {
        ids_burnt: u64::MAX,
        ..Default::default()
    });
    assert_eq!(store.refused(command), Reason::OverLimit);
}
