//! What "near" means.

use std::fmt;

/// Longest vector an index takes: its square, and the square of a difference of two, are still
/// finite.
pub const LENGTH_MAX: f64 = 1e18;

/// How the distance of two vectors is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Euclidean distance.
    L2,
    /// Angle between the vectors.
    Cosine,
    /// Inner product.
    InnerProduct,
}

impl Metric {
    /// All metrics.
    pub const ALL: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

    /// Milvus's name.
    pub fn name(self) -> &'static str {
        match self {
            Metric::L2 => "L2",
            Metric::Cosine => "COSINE",
            Metric::InnerProduct => "IP",
        }
    }

    /// The metric of a name, in capitals or not.
    pub fn from_name(name: &str) -> Option<Metric> {
        Self::ALL
            .into_iter()
            .find(|metric| metric.name().eq_ignore_ascii_case(name))
    }

    /// Distance of two vectors of equal length, smaller for what is nearer: for L2 the square of
    /// the Euclidean distance (as Milvus answers it), for COSINE 1 - cosine (a vector of length
    /// zero has cosine 0 to all), for IP the negative inner product.
    pub fn distance(self, a: &[f32], b: &[f32]) -> f32 {
        match self {
            Metric::L2 => squared_l2(a, b),
            Metric::Cosine => {
                let lengths = length(a) * length(b);
                if lengths == 0.0 {
                    return 1.0;
                }
                (1.0 - f64::from(dot(a, b)) / lengths).max(0.0) as f32
            }
            Metric::InnerProduct => -dot(a, b),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Euclidean length.
pub(crate) fn length(vector: &[f32]) -> f64 {
    let squares: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    squares.sqrt()
}

pub(crate) fn squared_l2(a: &[f32], b: &[f32]) -> f32 {
    sum(a, b, |x, y| (x - y) * (x - y))
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum(a, b, |x, y| x * y)
}

/// Sums in several lanes, which the compiler can do at once: a single sum has to be in order.
fn sum(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += term(a[lane], b[lane]);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| term(*x, *y)).sum();
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_smaller_for_what_is_nearer() {
        let a: Vec<f32> = (0..37).map(|n| n as f32).collect();
        let mut near = a.clone();
        near[36] += 0.5;
        let far: Vec<f32> = a.iter().map(|x| -x).collect();
        for metric in Metric::ALL {
            assert!(metric.distance(&a, &near) < metric.distance(&a, &far));
        }
        assert_eq!(Metric::L2.distance(&a, &near), 0.25);
        assert_eq!(
            Metric::InnerProduct.distance(&[1.0, 2.0], &[3.0, 4.0]),
            -11.0
        );
        assert_eq!(Metric::Cosine.distance(&[2.0, 0.0], &[0.0, 5.0]), 1.0);
        assert_eq!(Metric::Cosine.distance(&[2.0, 0.0], &[0.0, 0.0]), 1.0);
        assert_eq!(Metric::Cosine.distance(&[2.0, 0.0], &[-3.0, 0.0]), 2.0);
    }

    #[test]
    fn names_are_those_of_milvus() {
        for metric in Metric::ALL {
            assert_eq!(Metric::from_name(metric.name()), Some(metric));
        }
        assert_eq!(Metric::from_name("cosine"), Some(Metric::Cosine));
        assert_eq!(Metric::from_name("HAMMING"), None);
    }
}
