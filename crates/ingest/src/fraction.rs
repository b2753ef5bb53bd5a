//! A share of a file's rows, always the same ones: for deletes that a later comparison knows of.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::Key;
use crate::collection;
use crate::delete::DeleteKeys;
use crate::error::VerifyError;
use crate::source::{BoundSource, SourceFile};
use crate::verify::key_print;

/// Keys of a share of the rows of a file, from 0 (none) to 1 (all), rounded to whole rows. Which
/// ones depends on nothing but the keys; a larger share holds all keys of a smaller one.
///
/// # Errors
/// The file cannot be read or does not suit a collection, or the share is out of range.
pub fn keys_of_fraction(
    file: &Path,
    primary_key: Option<&str>,
    fraction: f64,
) -> Result<DeleteKeys, VerifyError> {
    let file = Arc::new(SourceFile::open(file, primary_key)?);
    let schema = Arc::new(collection::draft_schema(&file)?);
    let keys = deleted_prints(&BoundSource::new(file, schema), fraction)?;
    let mut ids = Vec::new();
    let mut texts = Vec::new();
    for key in keys.into_values() {
        match key {
            Key::Int64(id) => ids.push(id),
            Key::VarChar(text) => texts.push(text),
        }
    }
    ids.sort_unstable();
    texts.sort_unstable();
    Ok(match texts.is_empty() {
        true => DeleteKeys::Ids(ids),
        false => DeleteKeys::Strings(texts),
    })
}

/// The keys of the share by their hashes.
pub(crate) fn deleted_prints(
    source: &BoundSource,
    fraction: f64,
) -> Result<HashMap<u128, Key>, VerifyError> {
    if !(0.0..=1.0).contains(&fraction) {
        return Err(VerifyError::Fraction { fraction });
    }
    if fraction == 0.0 {
        return Ok(HashMap::new());
    }
    let at = source.schema().primary_key_index();
    let mut keys = Vec::new();
    source.for_each_batch(|_, columns| {
        let of = |row| Key::of(&columns[at], row);
        keys.extend(
            (0..columns[at].len())
                .filter_map(of)
                .map(|key| (key_print(&key), key)),
        );
    })?;
    // By hash: spread over the file, and in no order anything else goes by.
    keys.sort_unstable_by_key(|(print, _)| *print);
    keys.dedup_by_key(|(print, _)| *print);
    let count = (keys.len() as f64 * fraction).round() as usize;
    keys.truncate(count);
    Ok(keys.into_iter().collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::small_file;

    fn ids(file: &Path, fraction: f64) -> Vec<i64> {
        match keys_of_fraction(file, None, fraction).unwrap() {
            DeleteKeys::Ids(ids) => ids,
            DeleteKeys::Strings(texts) => panic!("{texts:?}"),
        }
    }

    #[test]
    fn a_share_is_exact_and_holds_every_smaller_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rows.parquet");
        small_file(&file, 200);
        let (tenth, quarter) = (ids(&file, 0.1), ids(&file, 0.25));
        assert_eq!((tenth.len(), quarter.len()), (20, 50));
        assert!(tenth.iter().all(|id| quarter.contains(id)));
        assert_eq!(quarter, ids(&file, 0.25));
        assert_eq!((ids(&file, 0.0).len(), ids(&file, 1.0).len()), (0, 200));
    }

    #[test]
    fn a_share_beyond_all_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rows.parquet");
        small_file(&file, 10);
        for fraction in [-0.1, 1.1, f64::NAN] {
            let error = keys_of_fraction(&file, None, fraction).unwrap_err();
            assert!(error.to_string().contains("from 0 to 1"), "{error}");
        }
    }
}
