//! Damage to log and witness of a stopped member: it never starts as if nothing had been, unless
//! nothing acknowledged was lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::{RaftLogReader, RaftLogStorage};
use quorate_raft_store::{DataDir, Entry, Vote, open};
use tempfile::TempDir;

use crate::fixture::{Folder, Kv, append, normal, small};

fn entries() -> Vec<Entry> {
    (0..300)
        .map(|index| normal(2, index, &format!("key-{index}={}", "v".repeat(200))))
        .collect()
}

fn vote() -> Vote {
    Vote::new_committed(2, 3)
}

/// A stopped member with a part of its log in a table file and the rest in the write-ahead log.
async fn member() -> Folder {
    let folder = Folder::new();
    let all = entries();
    let (mut log, state) = folder.open();
    append(&mut log, all[..150].to_vec()).await.unwrap();
    drop((log, state));
    let (mut log, _state) = folder.open();
    for chunk in all[150..].chunks(10) {
        append(&mut log, chunk.to_vec()).await.unwrap();
    }
    log.save_vote(&vote()).await.unwrap();
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &target);
        } else {
            fs::copy(item.path(), target).unwrap();
        }
    }
}

/// The largest file in `log/` whose name contains `part`.
fn log_file(folder: &Path, part: &str) -> PathBuf {
    fs::read_dir(folder.join("log"))
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().contains(part))
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap_or_else(|| panic!("no {part} in the log"))
}

/// Replaces a file by what `change` makes of it.
fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// What is done to a file's bytes.
type Damage = fn(&mut Vec<u8>);

#[derive(Debug, PartialEq)]
enum After {
    /// Everything acknowledged is there.
    Whole,
    /// It does not start.
    Refused,
}

/// Damages a copy of `member` and tries to start it, twice.
async fn damaged(member: &Folder, name: &str, damage: impl FnOnce(&Path)) -> After {
    let copied = TempDir::new().unwrap();
    copy(member.0.path(), copied.path());
    damage(copied.path());
    for _ in 0..2 {
        let dir = DataDir::open(copied.path()).unwrap();
        match open(&dir, Arc::<Kv>::default(), &small()) {
            Ok((mut log, _state)) => {
                let held = log.try_get_log_entries(..).await.unwrap();
                assert_eq!(
                    held,
                    entries(),
                    "{name}: opened without what it had acknowledged"
                );
                assert_eq!(log.read_vote().await.unwrap(), Some(vote()), "{name}");
                return After::Whole;
            }
            Err(refused) => {
                let text = refused.to_string();
                let place = copied.path().display().to_string();
                assert!(
                    text.contains(&place)
                        && text.contains("quorate member remove")
                        && text.contains("quorate member add"),
                    "{name}: {text}"
                );
            }
        }
    }
    After::Refused
}

#[tokio::test]
async fn an_undamaged_copy_is_whole() {
    let member = member().await;
    assert_eq!(damaged(&member, "nothing", |_| {}).await, After::Whole);
}

#[tokio::test]
async fn a_damaged_write_ahead_log_is_refused() {
    let member = member().await;
    let rows: [(&str, Damage); 7] = [
        ("a bit flipped in the middle", |bytes| {
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
        }),
        ("a bit of the last record flipped", |bytes| {
            let at = bytes.len() - 10;
            bytes[at] ^= 1;
        }),
        ("cut by 30 bytes", |bytes| bytes.truncate(bytes.len() - 30)),
        ("cut in half", |bytes| bytes.truncate(bytes.len() / 2)),
        ("emptied", Vec::clear),
        ("a page zeroed", |bytes| {
            let at = bytes.len() / 2 / 4096 * 4096;
            bytes[at..at + 4096].fill(0);
        }),
        ("its end zeroed", |bytes| {
            let at = bytes.len() - 100;
            bytes[at..].fill(0);
        }),
    ];
    for (name, damage) in rows {
        let after = damaged(&member, name, |folder| {
            change(&log_file(folder, ".log"), damage);
        });
        assert_eq!(after.await, After::Refused, "{name}");
    }
    let after = damaged(&member, "gone", |folder| {
        fs::remove_file(log_file(folder, ".log")).unwrap();
    });
    assert_eq!(after.await, After::Refused, "gone");
}

#[tokio::test]
async fn any_cut_of_the_write_ahead_log_is_refused() {
    let member = member().await;
    let length = fs::read(log_file(member.0.path(), ".log")).unwrap().len();
    for part in 0..24 {
        let name = format!("cut to {part}/24");
        let after = damaged(&member, &name, |folder| {
            change(&log_file(folder, ".log"), |bytes| {
                bytes.truncate(length * part / 24);
            });
        });
        assert_eq!(after.await, After::Refused, "{name}");
    }
}

#[tokio::test]
async fn a_damaged_table_file_is_refused() {
    let member = member().await;
    for (name, damage) in [
        (
            "a bit flipped",
            (|bytes| {
                let at = bytes.len() / 3;
                bytes[at] ^= 1;
            }) as Damage,
        ),
        ("cut", |bytes| bytes.truncate(bytes.len() / 2)),
        ("its end zeroed", |bytes| {
            let at = bytes.len() - 48;
            bytes[at..].fill(0);
        }),
    ] {
        let after = damaged(&member, name, |folder| {
            change(&log_file(folder, ".sst"), damage);
        });
        assert_eq!(after.await, After::Refused, "{name}");
    }
    let after = damaged(&member, "gone", |folder| {
        fs::remove_file(log_file(folder, ".sst")).unwrap();
    });
    assert_eq!(after.await, After::Refused, "gone");
}

#[tokio::test]
async fn damaged_bookkeeping_of_the_database_loses_nothing_silently() {
    let member = member().await;
    // What becomes of these is RocksDB's to say; `damaged` checks that it is one of the two.
    for file in ["MANIFEST", "CURRENT", "OPTIONS"] {
        let flip = |bytes: &mut Vec<u8>| {
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
        };
        let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len().saturating_sub(10));
        damaged(&member, &format!("{file} flipped"), |folder| {
            change(&log_file(folder, file), flip);
        })
        .await;
        damaged(&member, &format!("{file} cut"), |folder| {
            change(&log_file(folder, file), cut);
        })
        .await;
        damaged(&member, &format!("{file} empty"), |folder| {
            change(&log_file(folder, file), Vec::clear);
        })
        .await;
        damaged(&member, &format!("{file} gone"), |folder| {
            fs::remove_file(log_file(folder, file)).unwrap();
        })
        .await;
    }
    let after = damaged(&member, "the log gone", |folder| {
        fs::remove_dir_all(folder.join("log")).unwrap();
    });
    assert_eq!(after.await, After::Refused);
}

#[tokio::test]
async fn a_witness_is_believed_only_while_it_proves_something() {
    let member = member().await;
    let sectors = [0, 4096, 8192, 12288];
    for at in sectors {
        let after = damaged(&member, "one copy flipped", |folder| {
            change(&folder.join("witness"), |bytes| bytes[at + 20] ^= 1);
        });
        assert_eq!(after.await, After::Whole, "one copy, at {at}");
    }
    for slot in [0, 4096] {
        let after = damaged(&member, "one slot flipped", |folder| {
            change(&folder.join("witness"), |bytes| {
                bytes[slot + 20] ^= 1;
                bytes[8192 + slot + 20] ^= 1;
            });
        });
        assert_eq!(after.await, After::Refused, "slot at {slot}");
    }
    let rows: [(&str, Damage); 4] = [
        ("both slots", |bytes| {
            for at in [0, 4096, 8192, 12288] {
                bytes[at + 20] ^= 1;
            }
        }),
        ("zeroed", |bytes| bytes.fill(0)),
        ("emptied", Vec::clear),
        ("cut to one slot", |bytes| bytes.truncate(4096)),
    ];
    for (name, damage) in rows {
        let after = damaged(&member, name, |folder| {
            change(&folder.join("witness"), damage);
        });
        assert_eq!(after.await, After::Refused, "{name}");
    }
    let after = damaged(&member, "gone", |folder| {
        fs::remove_file(folder.join("witness")).unwrap();
    });
    assert_eq!(after.await, After::Refused, "gone");
}

#[tokio::test]
async fn an_old_copy_of_log_or_witness_is_refused() {
    let old = member().await;
    let new = TempDir::new().unwrap();
    copy(old.0.path(), new.path());
    {
        let dir = DataDir::open(new.path()).unwrap();
        let (mut log, _state) = open(&dir, Arc::<Kv>::default(), &small()).unwrap();
        for index in 300..303 {
            append(&mut log, vec![normal(2, index, "a=1")])
                .await
                .unwrap();
        }
    }
    for part in ["log", "witness"] {
        let mixed = TempDir::new().unwrap();
        copy(new.path(), mixed.path());
        let (from, to) = (old.0.path().join(part), mixed.path().join(part));
        if from.is_dir() {
            fs::remove_dir_all(&to).unwrap();
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
        let dir = DataDir::open(mixed.path()).unwrap();
        let refused = open(&dir, Arc::<Kv>::default(), &small()).err();
        assert!(refused.is_some(), "an old {part}");
    }
}
