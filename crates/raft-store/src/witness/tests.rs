//! What a witness file says when parts of it are old, torn or damaged.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::engine::{MemDisk, Volume};

fn block() -> (Arc<MemDisk>, Arc<dyn Block>) {
    let disk = MemDisk::new();
    let volume = disk.volume();
    volume.create_block(NAME, &blank()).unwrap();
    let block = volume.open_block(NAME).unwrap();
    (disk, block)
}

fn testimony(number: u64) -> Testimony {
    Testimony {
        group: number,
        last: Some(Position {
            log_id: log_id(number, number * 10),
            link: 7,
        }),
        vote: Some(Vote::new_committed(number, 3)),
    }
}

/// The file after each of `count` testimonies.
fn history(count: u64) -> Vec<Vec<u8>> {
    let (_disk, block) = block();
    let mut witness = Witness::open(block.clone()).unwrap();
    (1..=count)
        .map(|number| {
            witness.record(testimony(number)).unwrap();
            block.read(FILE_BYTES).unwrap()
        })
        .collect()
}

fn copy(sequence: u64, which: usize) -> std::ops::Range<usize> {
    let start = offsets(sequence)[which];
    start..start + RECORD_BYTES
}

#[test]
fn the_newest_testimony_comes_back() {
    assert_eq!(read(&blank()).unwrap(), (1, Testimony::default()));
    for (file, number) in history(5).iter().zip(1..) {
        assert_eq!(read(file).unwrap(), (number + 1, testimony(number)));
    }
}

#[test]
fn any_one_damaged_copy_changes_nothing() {
    let file = history(5).pop().unwrap();
    for sequence in [5, 6] {
        for which in 0..2 {
            for bit in 0..RECORD_BYTES * 8 {
                let mut file = file.clone();
                file[copy(sequence, which)][bit / 8] ^= 1 << (bit % 8);
                assert_eq!(read(&file).unwrap(), (6, testimony(5)));
            }
        }
    }
}

#[test]
fn a_slot_without_a_sound_copy_is_doubt() {
    let file = history(5).pop().unwrap();
    for sequence in [5, 6] {
        let mut file = file.clone();
        for which in 0..2 {
            file[copy(sequence, which)].fill(0);
        }
        assert!(read(&file).is_err(), "record {sequence}");
    }
    for length in [0, 100, SLOT_BYTES, COPY_BYTES - 1] {
        let cut = &file[..length];
        // The first copy of both slots is whole from here on.
        assert_eq!(
            read(cut).is_ok(),
            length >= SLOT_BYTES + RECORD_BYTES,
            "{length}"
        );
    }
}

#[test]
fn a_write_cut_off_by_a_power_loss_leaves_sound_evidence() {
    let files = history(5);
    let (before, after) = (&files[3], &files[4]);
    // Each copy of the record being written is old or new.
    for new in [[false, false], [true, false], [false, true], [true, true]] {
        let mut file = before.clone();
        for which in 0..2 {
            if new[which] {
                file[copy(6, which)].copy_from_slice(&after[copy(6, which)]);
            }
        }
        let expected = if new.contains(&true) { 5 } else { 4 };
        assert_eq!(read(&file).unwrap().1, testimony(expected), "{new:?}");
    }
}

#[test]
fn a_slot_copied_over_the_other_is_doubt() {
    let mut file = history(5).pop().unwrap();
    let (first, second) = file.split_at_mut(COPY_BYTES);
    for half in [first, second] {
        half.copy_within(..SLOT_BYTES, SLOT_BYTES);
    }
    assert!(read(&file).is_err());
}

#[test]
fn a_renewed_witness_has_no_damaged_copy() {
    let (_disk, block) = block();
    let mut witness = Witness::open(block.clone()).unwrap();
    witness.record(testimony(1)).unwrap();
    block.write(offsets(2)[0] as u64, &[0xff; 20]).unwrap();
    let mut witness = Witness::open(block.clone()).unwrap();
    witness.renew(testimony(1)).unwrap();
    let file = block.read(FILE_BYTES).unwrap();
    for sequence in [3, 4] {
        for which in 0..2 {
            assert_eq!(
                decode(&file[copy(sequence, which)]),
                Some((sequence, testimony(1)))
            );
        }
    }
}

#[test]
fn what_was_not_synced_is_not_remembered() {
    let (disk, block) = block();
    let mut witness = Witness::open(block).unwrap();
    witness.record(testimony(1)).unwrap();
    disk.crash();
    let volume = disk.volume();
    let witness = Witness::open(volume.open_block(NAME).unwrap()).unwrap();
    assert_eq!(*witness.testimony(), testimony(1));
}

/// What a log holds that agrees with `testimony(3)`.
fn whole() -> Found {
    Found {
        group: 3,
        purged: None,
        last: testimony(3).last.map(|last| last.log_id),
        vote: testimony(3).vote,
        at_last: testimony(3).last,
    }
}

#[test]
fn a_log_that_holds_what_was_promised_is_believed() {
    let witness = testimony(3);
    witness.check(&whole()).unwrap();
    let longer = Found {
        group: 4,
        last: Some(log_id(4, 31)),
        vote: Some(Vote::new(4, 1)),
        ..whole()
    };
    witness.check(&longer).unwrap();
    let purged = Found {
        purged: Some(log_id(4, 40)),
        at_last: None,
        ..longer
    };
    witness.check(&purged).unwrap();
    Testimony::default().check(&Found::default()).unwrap();
}

#[test]
fn a_log_that_lost_something_is_not() {
    let other = Position {
        log_id: log_id(4, 30),
        link: 7,
    };
    let unlike = Position {
        link: 8,
        ..testimony(3).last.unwrap()
    };
    for (name, found) in [
        ("nothing left", Found::default()),
        (
            "a shorter log",
            Found {
                last: Some(log_id(3, 29)),
                at_last: None,
                ..whole()
            },
        ),
        (
            "another entry",
            Found {
                at_last: Some(other),
                ..whole()
            },
        ),
        (
            "another history",
            Found {
                at_last: Some(unlike),
                ..whole()
            },
        ),
        (
            "another purge",
            Found {
                purged: Some(log_id(2, 30)),
                at_last: None,
                ..whole()
            },
        ),
        (
            "no vote",
            Found {
                vote: None,
                ..whole()
            },
        ),
        (
            "an older vote",
            Found {
                vote: Some(Vote::new(3, 3)),
                ..whole()
            },
        ),
        (
            "another's vote",
            Found {
                vote: Some(Vote::new_committed(2, 9)),
                ..whole()
            },
        ),
        (
            "an older group",
            Found {
                group: 2,
                ..whole()
            },
        ),
        (
            "an old witness",
            Found {
                group: 5,
                ..whole()
            },
        ),
    ] {
        assert!(testimony(3).check(&found).is_err(), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_file_makes_reading_panic(
        noise in prop::collection::vec(any::<u8>(), 0..600),
        at in 0..FILE_BYTES,
        flips in prop::collection::vec((0..FILE_BYTES, 1..=255u8), 0..6),
    ) {
        prop_assert!(read(&noise).is_err());
        let file = history(3).pop().unwrap();
        let mut near = file.clone();
        for (at, bits) in flips {
            near[at] ^= bits;
        }
        if let Ok(said) = read(&near) {
            prop_assert_eq!(said, (4, testimony(3)));
        }
        if let Ok(said) = read(&file[..at]) {
            prop_assert_eq!(said, (4, testimony(3)));
        }
    }
}
