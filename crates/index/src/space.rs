//! The space an index searches in: Euclidean, whatever the metric.
//!
//! One distance for all metrics means one kind of graph, and one whose distances are never
//! negative, as a graph needs them. The order of neighbours is that of the metric:
//! - L2: vectors as they are.
//! - COSINE: vectors brought to length 1; the squared distance is 2 - 2 cosine. A vector of length
//!   zero stays as it is.
//! - IP: vectors get one more component that brings all of them to the length of the longest, and a
//!   query gets a zero there; the squared distance is then a constant minus twice the inner
//!   product. So vectors need not be of length 1.

use crate::metric::{LENGTH_MAX, Metric, length};

/// Components a vector of `dim` has in the index.
pub(crate) fn stored_dim(metric: Metric, dim: usize) -> usize {
    dim + usize::from(metric == Metric::InnerProduct)
}

/// Brings the vectors of one segment into the space.
pub(crate) struct Space {
    metric: Metric,
    dim: usize,
    /// Length of the longest vector.
    radius: f64,
}

impl Space {
    /// The space of these vectors, `dim` values each; or what is wrong with one of them.
    pub fn of(metric: Metric, dim: usize, vectors: &[f32]) -> Result<Space, String> {
        let mut radius = 0.0;
        for (row, vector) in vectors.chunks_exact(dim).enumerate() {
            let length = checked_length(vector).map_err(|wrong| format!("row {row} {wrong}"))?;
            radius = f64::max(radius, length);
        }
        Ok(Space {
            metric,
            dim,
            radius,
        })
    }

    /// Appends a row's vector as it is stored.
    pub fn push(&self, vector: &[f32], out: &mut Vec<f32>) {
        debug_assert_eq!(vector.len(), self.dim);
        match self.metric {
            Metric::L2 => out.extend_from_slice(vector),
            Metric::Cosine => push_unit(vector, out),
            Metric::InnerProduct => {
                out.extend_from_slice(vector);
                let rest = self.radius.powi(2) - length(vector).powi(2);
                out.push(rest.max(0.0).sqrt() as f32);
            }
        }
    }
}

/// A query as it is compared with stored vectors; or what is wrong with it.
pub(crate) fn query(metric: Metric, vector: &[f32]) -> Result<Vec<f32>, String> {
    checked_length(vector).map_err(|wrong| format!("the query {wrong}"))?;
    let mut out = Vec::with_capacity(vector.len() + 1);
    match metric {
        Metric::L2 => out.extend_from_slice(vector),
        Metric::Cosine => push_unit(vector, &mut out),
        Metric::InnerProduct => {
            out.extend_from_slice(vector);
            out.push(0.0);
        }
    }
    Ok(out)
}

fn push_unit(vector: &[f32], out: &mut Vec<f32>) {
    match length(vector) {
        0.0 => out.extend_from_slice(vector),
        length => out.extend(vector.iter().map(|x| (f64::from(*x) / length) as f32)),
    }
}

fn checked_length(vector: &[f32]) -> Result<f64, String> {
    let length = length(vector);
    if length <= LENGTH_MAX {
        Ok(length)
    } else if length.is_finite() {
        Err(format!(
            "has a vector of length {length:e}, the longest an index takes is {LENGTH_MAX:e}"
        ))
    } else {
        Err("has a vector with a value that is not finite".to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::metric::squared_l2;

    #[test]
    fn the_order_in_the_space_is_that_of_the_metric() {
        let dim = 3;
        let vectors: Vec<f32> = (0..60).map(|n| ((n * 37) % 23) as f32 - 9.0).collect();
        let asked = [2.0, -1.0, 0.5];
        for metric in Metric::ALL {
            let space = Space::of(metric, dim, &vectors).unwrap();
            let inside = query(metric, &asked).unwrap();
            let mut pairs: Vec<(f32, f32)> = vectors
                .chunks_exact(dim)
                .map(|vector| {
                    let mut stored = Vec::new();
                    space.push(vector, &mut stored);
                    assert_eq!(stored.len(), stored_dim(metric, dim));
                    (
                        metric.distance(&asked, vector),
                        squared_l2(&inside, &stored),
                    )
                })
                .collect();
            pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
            for pair in pairs.windows(2) {
                assert!(pair[0].1 <= pair[1].1 + 1e-3, "{metric}: {pair:?}");
            }
        }
    }

    #[test]
    fn vectors_that_cannot_be_compared_are_refused_by_row() {
        for (value, hint) in [
            (
                f32::NAN,
                "row 1 has a vector with a value that is not finite",
            ),
            (f32::INFINITY, "not finite"),
            (f32::MAX, "row 1 has a vector of length"),
        ] {
            let error = Space::of(Metric::L2, 2, &[0.0, 0.0, value, 1.0])
                .err()
                .unwrap();
            assert!(error.contains(hint), "{error}");
            assert!(query(Metric::L2, &[value]).is_err());
        }
    }
}
