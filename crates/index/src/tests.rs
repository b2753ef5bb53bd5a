//! An index from vectors to object and back: what it finds, and what it refuses.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use quorate_binlog::{IndexPath, LogStore};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::file::HEADER_BYTES;
use crate::{
    BuiltIndex, INDEX_FILE, IndexError, IndexFile, IndexParams, Metric, Search, SegmentHit,
    brute_force, build, search_segments,
};

fn path(segment: i64) -> IndexPath {
    IndexPath::new(9, 1, 2, segment, INDEX_FILE).unwrap()
}

fn params(index_type: &str, metric: Metric) -> IndexParams {
    let pairs = [("index_type", index_type), ("metric_type", metric.name())];
    IndexParams::parse([], pairs).unwrap()
}

fn random(rows: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..rows * dim)
        .map(|_| rng.random_range(-1.0..1.0))
        .collect()
}

fn built(path: &IndexPath, params: &IndexParams, dim: usize, vectors: &[f32]) -> BuiltIndex {
    build(path, params, dim as u32, vectors, &|| false).unwrap()
}

/// Share of the true neighbours that the index finds.
fn recall(built: &BuiltIndex, metric: Metric, dim: usize, vectors: &[f32], ef: usize) -> f64 {
    const K: usize = 10;
    let mut file = IndexFile::open(&path(3), &built.bytes).unwrap();
    let index = file.load().unwrap();
    let queries: Vec<&[f32]> = vectors.chunks_exact(dim).step_by(30).collect();
    let mut found = 0;
    for query in &queries {
        let truth: HashSet<u64> = brute_force(metric, dim, vectors, query, K)
            .iter()
            .map(|hit| hit.row)
            .collect();
        let hits = index.search(query, K, ef).unwrap();
        assert_eq!(hits.len(), K);
        assert!(hits.is_sorted_by(|a, b| a.distance <= b.distance));
        found += hits.iter().filter(|hit| truth.contains(&hit.row)).count();
    }
    found as f64 / (K * queries.len()) as f64
}

#[test]
fn random_vectors_are_found_again() {
    let (rows, dim) = (3000, 32);
    let vectors = random(rows, dim, 1);
    for metric in Metric::ALL {
        let built = built(&path(3), &params("HNSW", metric), dim, &vectors);
        assert_eq!(built.rows, rows as u64);
        let recall = recall(&built, metric, dim, &vectors, 128);
        println!("random vectors, {metric}: recall@10 {recall:.3}");
        assert!(recall >= 0.9, "{metric}: {recall}");
    }
}

#[test]
fn the_sample_is_found_again() {
    let file = std::fs::File::open("../../tests/data/sample.parquet").unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let mut vectors = Vec::new();
    for batch in reader.build().unwrap() {
        let batch = batch.unwrap();
        let column = batch.column_by_name("embedding").unwrap();
        let values = column.as_fixed_size_list().values();
        vectors.extend_from_slice(values.as_primitive::<Float32Type>().values());
    }
    let dim = vectors.len() / 3000;
    assert_eq!(vectors.len(), 3000 * 384);
    for metric in Metric::ALL {
        let started = std::time::Instant::now();
        let built = built(&path(3), &params("AUTOINDEX", metric), dim, &vectors);
        let elapsed = started.elapsed();
        let recall = recall(&built, metric, dim, &vectors, 64);
        println!(
            "sample, {metric}: recall@10 {recall:.3}, {} bytes, built in {elapsed:.1?}",
            built.bytes.len()
        );
        assert!(recall >= 0.9, "{metric}: {recall}");
    }
}

#[test]
fn few_rows_and_flat_are_exact() {
    let dim = 5;
    for rows in [1, 2, 3, 17, 200] {
        let vectors = random(rows, dim, 2);
        for metric in Metric::ALL {
            for kind in ["FLAT", "HNSW", "AUTOINDEX"] {
                let built = built(&path(3), &params(kind, metric), dim, &vectors);
                let mut file = IndexFile::open(&path(3), &built.bytes).unwrap();
                let expected = if kind == "HNSW" { "HNSW" } else { "FLAT" };
                assert_eq!(file.kind(), expected);
                let facts = (file.rows(), file.dim(), file.metric());
                assert_eq!(facts, (rows as u64, dim as u32, metric));
                let query = &vectors[..dim];
                let hits = file.load().unwrap().search(query, 4, 256).unwrap();
                let truth = brute_force(metric, dim, &vectors, query, 4);
                let found: Vec<u64> = hits.iter().map(|hit| hit.row).collect();
                let expected: Vec<u64> = truth.iter().map(|hit| hit.row).collect();
                assert_eq!(found, expected, "{kind} {metric} {rows}");
                for (hit, truth) in hits.iter().zip(&truth) {
                    assert!((hit.distance - truth.distance).abs() < 1e-5);
                }
            }
        }
    }
}

#[test]
fn rows_that_do_not_count_are_passed_over() {
    let (rows, dim) = (2000, 8);
    let vectors = random(rows, dim, 3);
    for kind in ["FLAT", "HNSW"] {
        let built = built(&path(3), &params(kind, Metric::L2), dim, &vectors);
        let mut file = IndexFile::open(&path(3), &built.bytes).unwrap();
        let index = file.load().unwrap();
        let keep = |row: u64| row % 50 == 7;
        let hits = index.search_where(&vectors[..dim], 10, 16, &keep).unwrap();
        assert_eq!(hits.len(), 10);
        assert!(hits.iter().all(|hit| keep(hit.row)));
        let hits = index
            .search_where(&vectors[..dim], 10, 16, &|_| false)
            .unwrap();
        assert!(hits.is_empty());
    }
}

#[test]
fn vectors_of_length_zero_and_many_equal_ones_are_taken() {
    let dim = 4;
    let mut vectors = vec![0.0; 300 * dim];
    vectors.extend(vec![1.0; 1500 * dim]);
    vectors.extend([0.0, 1.0, 0.0, 0.0]);
    for metric in Metric::ALL {
        let built = built(&path(3), &params("HNSW", metric), dim, &vectors);
        let mut file = IndexFile::open(&path(3), &built.bytes).unwrap();
        let index = file.load().unwrap();
        let hits = index.search(&[1.0; 4], 10, 64).unwrap();
        assert!(hits.iter().all(|hit| (300..1800).contains(&hit.row)));
    }
}

#[test]
fn a_build_ends_when_nobody_wants_it() {
    let vectors = random(5000, 4, 4);
    let asked = std::cell::Cell::new(0);
    let cancelled = || asked.replace(asked.get() + 1) == 2;
    let error = build(
        &path(3),
        &params("HNSW", Metric::L2),
        4,
        &vectors,
        &cancelled,
    );
    assert!(matches!(error, Err(IndexError::Cancelled { .. })));
    assert_eq!(asked.get(), 3);
}

#[test]
fn vectors_that_make_no_index_are_refused() {
    for (params, dim, vectors, hint) in [
        (
            "HNSW",
            4,
            vec![0.0; 7],
            "7 values are no rows of dimension 4",
        ),
        ("HNSW", 4, vec![], "0 values are no rows"),
        (
            "FLAT",
            2,
            vec![0.0, f32::NAN],
            "row 0 has a vector with a value",
        ),
    ] {
        let params = self::params(params, Metric::L2);
        let error = build(&path(3), &params, dim, &vectors, &|| false).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("cannot build index index_files/9/1/2/3/index"));
        assert!(error.contains(hint), "{error}");
    }
}

#[test]
fn a_cut_file_is_refused_by_path_at_every_length() {
    for kind in ["FLAT", "HNSW"] {
        let vectors = random(40, 3, 5);
        let bytes = built(&path(3), &params(kind, Metric::L2), 3, &vectors).bytes;
        for length in 0..bytes.len() {
            let error = IndexFile::open(&path(3), &bytes.slice(..length)).err();
            let error = error.unwrap().to_string();
            assert!(error.contains("index file index_files/9/1/2/3/index cannot"));
        }
        let longer = [&bytes[..], &[0]].concat().into();
        assert!(IndexFile::open(&path(3), &longer).is_err());
    }
}

#[test]
fn a_changed_byte_is_an_error() {
    for kind in ["FLAT", "HNSW"] {
        let vectors = random(40, 3, 6);
        let bytes = built(&path(3), &params(kind, Metric::L2), 3, &vectors).bytes;
        for at in (0..bytes.len()).step_by(3).chain(0..HEADER_BYTES) {
            let mut changed = bytes.to_vec();
            changed[at] ^= 0x10;
            assert!(IndexFile::open(&path(3), &changed.into()).is_err(), "{at}");
        }
    }
}

#[test]
fn another_index_and_a_foreign_file_are_refused() {
    let bytes = built(&path(3), &params("FLAT", Metric::L2), 3, &[1.0; 6]).bytes;
    let error = IndexFile::open(&path(4), &bytes).err().unwrap().to_string();
    assert!(
        error.contains("the file is another index: build 9, version 1, partition 2, segment 3")
    );
    let foreign = Bytes::from(vec![b'x'; 500]);
    let error = IndexFile::open(&path(3), &foreign).err().unwrap();
    assert!(error.to_string().contains("not an index file of Quorate"));
}

#[test]
fn queries_that_do_not_fit_are_refused() {
    let bytes = built(&path(3), &params("FLAT", Metric::L2), 3, &[1.0; 6]).bytes;
    let mut file = IndexFile::open(&path(3), &bytes).unwrap();
    let index = file.load().unwrap();
    for (query, k, hint) in [
        (vec![1.0; 2], 1, "the query has dimension 2, the index 3"),
        (vec![1.0; 3], 0, "0 is not from 1 to 16384 neighbours"),
        (
            vec![f32::NAN; 3],
            1,
            "the query has a vector with a value that is not finite",
        ),
    ] {
        let error = index.search(&query, k, 10).unwrap_err().to_string();
        assert!(error.contains(hint), "{error}");
    }
}

#[tokio::test]
async fn segments_are_searched_together() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().display().to_string();
    let store = LogStore::open(&url, Duration::from_secs(5)).unwrap();
    let dim = 6;
    let vectors = random(900, dim, 7);
    let mut paths = Vec::new();
    for (segment, vectors) in (10..).zip(vectors.chunks(300 * dim)) {
        let path = path(segment);
        let kind = if segment == 11 { "HNSW" } else { "FLAT" };
        let built = built(&path, &params(kind, Metric::L2), dim, vectors);
        store.put_index(&path, &built.bytes).await.unwrap();
        paths.push(path);
    }
    let gone = brute_force(Metric::L2, dim, &vectors, &vectors[..dim], 2)[1].row;
    let search = Search {
        queries: vec![vectors[..dim].to_vec(), vectors[dim..2 * dim].to_vec()],
        k: 5,
        ef: 300,
        keep: Arc::new(move |segment, row| (segment as u64 - 10) * 300 + row != gone),
    };
    let found = search_segments(&store, &paths, search.clone())
        .await
        .unwrap();
    for (query, found) in search.queries.iter().zip(found) {
        let truth = brute_force(Metric::L2, dim, &vectors, query, 6);
        let truth: Vec<u64> = truth
            .iter()
            .map(|hit| hit.row)
            .filter(|row| *row != gone)
            .take(5)
            .collect();
        let found: Vec<u64> = found
            .iter()
            .map(|found| (found.segment as u64 - 10) * 300 + found.hit.row)
            .collect();
        assert_eq!(found, truth);
    }

    let other = path(14);
    let built = built(&other, &params("FLAT", Metric::Cosine), dim, &vectors);
    store.put_index(&other, &built.bytes).await.unwrap();
    paths.push(other);
    let error = search_segments(&store, &paths, search.clone()).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("indexes of different metrics"), "{error}");
    let missing = search_segments(&store, &[path(15)], search).await;
    assert_eq!(
        missing.unwrap_err().to_string(),
        "index file index_files/9/1/2/15/index does not exist in the object store"
    );
}

proptest! {
    #[test]
    fn merging_is_the_same_as_sorting_all(
        hits in prop::collection::vec((0..5i64, 0..50u64, 0..20u8), 0..200),
        k in 0..30usize,
    ) {
        let hits: Vec<SegmentHit> = hits
            .into_iter()
            .map(|(segment, row, distance)| SegmentHit {
                segment,
                hit: crate::Hit { row, distance: f32::from(distance) },
            })
            .collect();
        let mut sorted = hits.clone();
        sorted.sort_by(SegmentHit::order);
        sorted.truncate(k);
        prop_assert_eq!(SegmentHit::merge(k, hits), sorted);
    }

    #[test]
    fn opening_is_total(head in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(IndexFile::open(&path(3), &head.clone().into()).is_err());
        let mut ours = b"QRTINDEX\x01\0\0\0".to_vec();
        ours.extend(head);
        prop_assert!(IndexFile::open(&path(3), &ours.into()).is_err());
    }
}
