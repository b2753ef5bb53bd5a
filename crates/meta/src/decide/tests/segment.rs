//! Opening, saving, flushing.

use super::*;

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
