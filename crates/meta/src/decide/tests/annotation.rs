//! Annotations and revisions.

use super::*;

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
