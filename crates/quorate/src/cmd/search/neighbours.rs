//! Neighbours from index files, from comparing every row, and how far both agree.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use quorate_binlog::{Field, IndexPath, LogStore};
use quorate_index::{Hit, Metric, SegmentHit, brute_force, search_segments};
use quorate_ingest::{Key, View};

use super::rows::{self, LevelZero, Rows, is_level_zero};
use crate::error::CliError;

/// What to look for, and how.
pub(super) struct Search<'a> {
    pub(super) field: &'a Field,
    pub(super) metric: Metric,
    /// Index files by segment; a segment without is searched row by row.
    pub(super) indexes: &'a BTreeMap<i64, IndexPath>,
    pub(super) k: usize,
    pub(super) ef: usize,
    /// Whether to compare with every row as well.
    pub(super) recall: bool,
}

pub(super) struct Found {
    pub(super) segments_indexed: usize,
    pub(super) segments_compared: usize,
    /// Rows that count.
    pub(super) rows: u64,
    pub(super) rows_deleted: u64,
    /// In the order of the queries.
    pub(super) queries: Vec<QueryFound>,
}

pub(super) struct QueryFound {
    /// Nearest first.
    pub(super) neighbours: Vec<Neighbour>,
    /// Part of the true neighbours found, from 0 to 1.
    pub(super) recall: Option<f64>,
}

pub(super) struct Neighbour {
    pub(super) key: Key,
    pub(super) segment: i64,
    pub(super) distance: f32,
}

/// Nearest rows of each query so far.
type Best = Vec<Vec<SegmentHit>>;

pub(super) async fn search(
    store: &LogStore,
    view: &View,
    search: &Search<'_>,
    queries: Vec<Vec<f32>>,
) -> Result<Found, CliError> {
    let dim = search.field.kind.dim().unwrap_or(0) as usize;
    if let Some(query) = queries.iter().find(|query| query.len() != dim) {
        return Err(CliError::failed(anyhow::anyhow!(
            "the vectors of the file have {} values, those of field {} have {dim}",
            query.len(),
            search.field.name
        )));
    }
    let queries = Arc::new(queries);
    let level_zero = LevelZero::read(store, view).await?;
    let mut found = Found {
        segments_indexed: 0,
        segments_compared: 0,
        rows: 0,
        rows_deleted: 0,
        queries: Vec::new(),
    };
    let mut segments: HashMap<i64, Rows> = HashMap::new();
    let mut compared: Best = vec![Vec::new(); queries.len()];
    let mut exact: Best = vec![Vec::new(); queries.len()];
    let mut paths = Vec::new();
    for segment in view.segments().iter().filter(|s| !is_level_zero(s)) {
        let index = search.indexes.get(&segment.id);
        let vectors = (index.is_none() || search.recall).then_some(search.field.id);
        let mut rows = rows::read(store, view, segment, &level_zero, vectors).await?;
        if rows.total == 0 {
            continue;
        }
        found.rows += rows.offsets.len() as u64;
        found.rows_deleted += rows.total - rows.offsets.len() as u64;
        if vectors.is_some() {
            let hits;
            (rows, hits) =
                compare(rows, search.metric, dim, &queries, search.k, segment.id).await?;
            if index.is_none() {
                merge(&mut compared, hits.clone(), search.k);
            }
            merge(&mut exact, hits, search.k);
        }
        match index {
            Some(path) => {
                found.segments_indexed += 1;
                paths.push(path.clone());
            }
            None => found.segments_compared += 1,
        }
        // Only their keys are needed from here on.
        rows.vectors = Vec::new();
        segments.insert(segment.id, rows);
    }
    let segments = Arc::new(segments);
    let counts = Arc::clone(&segments);
    let by_index = search_segments(
        store,
        &paths,
        quorate_index::Search {
            queries: queries.to_vec(),
            k: search.k,
            ef: search.ef,
            keep: Arc::new(move |segment, row| {
                let rows = counts.get(&segment);
                rows.is_some_and(|rows| rows.key(row).is_some())
            }),
        },
    )
    .await
    .map_err(CliError::failed)?;
    merge(&mut compared, by_index, search.k);
    found.queries = compared
        .into_iter()
        .zip(&exact)
        .map(|(hits, exact)| QueryFound {
            recall: search.recall.then(|| recall(&hits, exact)),
            neighbours: hits
                .iter()
                .filter_map(|hit| named(&segments, hit))
                .collect(),
        })
        .collect();
    Ok(found)
}

fn named(segments: &HashMap<i64, Rows>, hit: &SegmentHit) -> Option<Neighbour> {
    let key = segments.get(&hit.segment)?.key(hit.hit.row)?;
    Some(Neighbour {
        key: key.clone(),
        segment: hit.segment,
        distance: hit.hit.distance,
    })
}

fn merge(best: &mut Best, more: Best, k: usize) {
    for (best, more) in best.iter_mut().zip(more) {
        *best = SegmentHit::merge(k, best.drain(..).chain(more));
    }
}

/// Compares the rows of a segment with every query, away from the threads that serve requests.
async fn compare(
    rows: Rows,
    metric: Metric,
    dim: usize,
    queries: &Arc<Vec<Vec<f32>>>,
    k: usize,
    segment: i64,
) -> Result<(Rows, Best), CliError> {
    let queries = Arc::clone(queries);
    let work = move || {
        let nearest = |query: &Vec<f32>| {
            let hits = brute_force(metric, dim, &rows.vectors, query, k);
            let by_offset = |hit: Hit| SegmentHit {
                segment,
                hit: Hit {
                    row: rows.offsets[hit.row as usize],
                    ..hit
                },
            };
            hits.into_iter().map(by_offset).collect()
        };
        let hits = queries.iter().map(nearest).collect();
        (rows, hits)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| CliError::failed(error).context("the comparison was interrupted"))
}

/// The part of the true neighbours that was found. Of rows at the same distance as the last true
/// one, any is as good as the other.
fn recall(found: &[SegmentHit], exact: &[SegmentHit]) -> f64 {
    let Some(last) = exact.last() else { return 1.0 };
    let right = found
        .iter()
        .filter(|hit| hit.hit.distance <= last.hit.distance);
    right.count().min(exact.len()) as f64 / exact.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(distances: &[f32]) -> Vec<SegmentHit> {
        let rows = (0..).zip(distances);
        rows.map(|(row, distance)| SegmentHit {
            segment: 1,
            hit: Hit {
                row,
                distance: *distance,
            },
        })
        .collect()
    }

    #[test]
    fn recall_counts_what_is_as_near_as_the_true_neighbours() {
        let exact = hits(&[0.1, 0.2, 0.2, 0.4]);
        assert_eq!(recall(&exact, &exact), 1.0);
        assert_eq!(recall(&hits(&[0.1, 0.2, 0.4, 0.5]), &exact), 0.75);
        assert_eq!(recall(&[], &exact), 0.0);
        assert_eq!(recall(&[], &[]), 1.0);
    }

    #[tokio::test]
    async fn rows_are_compared_by_their_offsets() {
        let rows = Rows {
            total: 3,
            offsets: vec![0, 2],
            keys: vec![Key::Int64(5), Key::Int64(7)],
            vectors: vec![0.0, 0.0, 3.0, 4.0],
        };
        let queries = Arc::new(vec![vec![3.0, 3.0]]);
        let (rows, best) = compare(rows, Metric::L2, 2, &queries, 1, 9).await.unwrap();
        let hit = &best[0][0];
        assert_eq!((hit.segment, hit.hit.row, hit.hit.distance), (9, 2, 1.0));
        assert_eq!(
            named(&HashMap::from([(9, rows)]), hit).unwrap().key,
            Key::Int64(7)
        );
    }
}
