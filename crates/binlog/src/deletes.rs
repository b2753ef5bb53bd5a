//! Deletes gathered from delta logs: the latest one of each key.
//!
//! Of several deletes of one key only the latest counts: a delete removes every row of its key
//! with a lower timestamp.

use std::collections::BTreeMap;

use crate::column::Value;
use crate::delta::DeltaRows;
use crate::stats::PrimaryKey;

/// The latest delete of each key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deletes {
    numbers: BTreeMap<i64, u64>,
    texts: BTreeMap<String, u64>,
}

impl Deletes {
    /// Takes the deletes of a delta log in.
    pub fn add(&mut self, rows: &DeltaRows) {
        for (key, timestamp) in rows.iter() {
            let latest = match key {
                PrimaryKey::Int64(key) => self.numbers.entry(key).or_default(),
                PrimaryKey::VarChar(key) => self.texts.entry(key).or_default(),
            };
            *latest = timestamp.max(*latest);
        }
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.numbers.len() + self.texts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty() && self.texts.is_empty()
    }

    /// Timestamp of the latest delete of a key.
    pub fn latest(&self, key: Value<'_>) -> Option<u64> {
        match key {
            Value::Int64(key) => self.numbers.get(&key).copied(),
            Value::VarChar(key) => self.texts.get(key).copied(),
            _ => None,
        }
    }

    /// Whether a row of this key and timestamp is deleted.
    pub fn hits(&self, key: Value<'_>, timestamp: u64) -> bool {
        self.latest(key).is_some_and(|deleted| deleted > timestamp)
    }

    /// Whether a key from `min` to `max`, both included, was deleted.
    pub fn any_within(&self, min: &PrimaryKey, max: &PrimaryKey) -> bool {
        match (min, max) {
            (PrimaryKey::Int64(min), PrimaryKey::Int64(max)) => {
                min <= max && self.numbers.range(*min..=*max).next().is_some()
            }
            (PrimaryKey::VarChar(min), PrimaryKey::VarChar(max)) => {
                let first = self.texts.range::<String, _>(min..).next();
                first.is_some_and(|(key, _)| key <= max)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::column::ColumnData;

    #[test]
    fn the_latest_delete_of_a_key_counts_and_only_for_older_rows() {
        let mut deletes = Deletes::default();
        deletes.add(&DeltaRows {
            keys: ColumnData::Int64(vec![5, 7, 5]),
            timestamps: vec![10, 20, 30],
        });
        deletes.add(&DeltaRows {
            keys: ColumnData::Int64(vec![5]),
            timestamps: vec![20],
        });
        assert_eq!(deletes.len(), 2);
        assert!(deletes.hits(Value::Int64(5), 29));
        assert!(!deletes.hits(Value::Int64(5), 30));
        assert!(!deletes.hits(Value::Int64(6), 0));
        assert!(!deletes.hits(Value::VarChar("5"), 0));
    }

    #[test]
    fn a_range_of_keys_is_searched_with_its_ends() {
        let mut deletes = Deletes::default();
        assert!(deletes.is_empty());
        for keys in [
            ColumnData::Int64(vec![5, 9]),
            ColumnData::VarChar(vec!["k".into()]),
        ] {
            let timestamps = vec![1; keys.len()];
            deletes.add(&DeltaRows { keys, timestamps });
        }
        let number =
            |min, max| deletes.any_within(&PrimaryKey::Int64(min), &PrimaryKey::Int64(max));
        assert!(number(5, 5) && number(6, 9) && number(i64::MIN, i64::MAX));
        assert!(!number(6, 8) && !number(10, 4));
        let text = |min: &str, max: &str| {
            let key = |text: &str| PrimaryKey::VarChar(text.to_owned());
            deletes.any_within(&key(min), &key(max))
        };
        assert!(text("a", "k") && text("k", "z"));
        assert!(!text("a", "j") && !text("l", "z") && !text("z", "a"));
    }
}
