//! Searching the segments of a collection, and comparing all vectors one by one to see how good
//! the answer is.

use std::cmp::Ordering;
use std::sync::Arc;

use quorate_binlog::{IndexPath, LogStore};

use crate::error::IndexError;
use crate::metric::Metric;
use crate::reader::IndexFile;

/// A row of a segment, by its offset, and its distance to the query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Offset in the segment: rows of its insert logs, in the order of the log ids.
    pub row: u64,
    /// See [`Metric::distance`].
    pub distance: f32,
}

impl Hit {
    /// Nearer first, then the smaller row.
    pub fn order(&self, other: &Hit) -> Ordering {
        let distance = self.distance.total_cmp(&other.distance);
        distance.then(self.row.cmp(&other.row))
    }
}

/// A row of one of several segments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SegmentHit {
    /// Segment id.
    pub segment: i64,
    /// The row.
    pub hit: Hit,
}

impl SegmentHit {
    /// Nearer first, then the smaller segment and row.
    pub fn order(&self, other: &SegmentHit) -> Ordering {
        let distance = self.hit.distance.total_cmp(&other.hit.distance);
        distance.then((self.segment, self.hit.row).cmp(&(other.segment, other.hit.row)))
    }

    /// The `k` nearest of hits in any order and of any segments.
    pub fn merge(k: usize, hits: impl IntoIterator<Item = SegmentHit>) -> Vec<SegmentHit> {
        nearest(k, hits.into_iter(), SegmentHit::order)
    }
}

/// What to look for in every segment.
#[derive(Clone)]
pub struct Search {
    /// Vectors to find neighbours of, all of the dimension of the indexes.
    pub queries: Vec<Vec<f32>>,
    /// Neighbours of each.
    pub k: usize,
    /// Candidates a graph looks at; see [`Index::search`](crate::Index::search).
    pub ef: usize,
    /// Rows that count, by segment and offset: those that are not deleted.
    pub keep: Arc<dyn Fn(i64, u64) -> bool + Send + Sync>,
}

/// Searches the indexes of several segments, read from the object store one after the other, and
/// answers the nearest of all for each query. Segments without an index are the caller's: see
/// [`brute_force`] and [`SegmentHit::merge`].
pub async fn search_segments(
    store: &LogStore,
    indexes: &[IndexPath],
    search: Search,
) -> Result<Vec<Vec<SegmentHit>>, IndexError> {
    let search = Arc::new(search);
    let mut best = vec![Vec::new(); search.queries.len()];
    let mut first: Option<(&IndexPath, Metric)> = None;
    for path in indexes {
        let (metric, found) = search_one(store, path, &search).await?;
        let (first_path, expected) = *first.get_or_insert((path, metric));
        if metric != expected {
            return Err(IndexError::Metrics {
                first_path: first_path.to_string(),
                first: expected,
                other_path: path.to_string(),
                other: metric,
            });
        }
        for (best, found) in best.iter_mut().zip(found) {
            let found = found.into_iter().map(|hit| SegmentHit {
                segment: path.segment(),
                hit,
            });
            *best = SegmentHit::merge(search.k, best.drain(..).chain(found));
        }
    }
    Ok(best)
}

async fn search_one(
    store: &LogStore,
    path: &IndexPath,
    search: &Arc<Search>,
) -> Result<(Metric, Vec<Vec<Hit>>), IndexError> {
    let bytes = match store.get_index(path).await {
        Err(error) if error.is_missing() => {
            return Err(IndexError::Missing {
                path: path.under(store.root()).to_string(),
            });
        }
        other => other?,
    };
    let (found_at, search) = (path.clone(), Arc::clone(search));
    let searching = tokio::task::spawn_blocking(move || {
        let mut file = IndexFile::open(&found_at, &bytes)?;
        drop(bytes);
        let metric = file.metric();
        let index = file.load()?;
        let keep = |row| (search.keep)(found_at.segment(), row);
        let found = search
            .queries
            .iter()
            .map(|query| index.search_where(query, search.k, search.ef, &keep))
            .collect::<Result<Vec<_>, _>>()?;
        Ok((metric, found))
    });
    searching
        .await
        .unwrap_or_else(|_| Err(IndexError::query(path, "the search was interrupted")))
}

/// The `k` rows nearest to `query` by comparing it with all `vectors`, `dim` values each.
pub fn brute_force(
    metric: Metric,
    dim: usize,
    vectors: &[f32],
    query: &[f32],
    k: usize,
) -> Vec<Hit> {
    let hits = (0..)
        .zip(vectors.chunks_exact(dim.max(1)))
        .map(|(row, vector)| Hit {
            row,
            distance: metric.distance(query, vector),
        });
    nearest(k, hits, Hit::order)
}

/// The first `k` in the given order, in that order.
pub(crate) fn nearest<T>(
    k: usize,
    items: impl Iterator<Item = T>,
    order: impl Fn(&T, &T) -> Ordering,
) -> Vec<T> {
    let mut best = Vec::new();
    if k == 0 {
        return best;
    }
    for item in items {
        best.push(item);
        if best.len() >= k.saturating_mul(2) {
            best.select_nth_unstable_by(k - 1, &order);
            best.truncate(k);
        }
    }
    best.sort_unstable_by(&order);
    best.truncate(k);
    best
}
