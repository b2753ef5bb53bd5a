//! Parameters of an index, as they come with CreateIndex: key-value pairs of text.
//!
//! Known are the index types `HNSW` (`M`, `efConstruction`), `FLAT` and `AUTOINDEX`, the metrics
//! `L2`, `COSINE` and `IP`, and vectors of floats. Everything else is refused by name: a parameter
//! that is silently ignored is found out about too late.

use quorate_binlog::FieldType;

use crate::metric::Metric;

/// Neighbours of a row (twice as many in the lowest layer) when nothing else is said.
pub const DEFAULT_M: u32 = 16;
/// Candidates looked at when a row is put in, when nothing else is said.
pub const DEFAULT_EF_CONSTRUCTION: u32 = 200;
/// Limits of `M`.
pub const M_RANGE: std::ops::RangeInclusive<u32> = 2..=128;
/// Limits of `efConstruction`.
pub const EF_CONSTRUCTION_RANGE: std::ops::RangeInclusive<u32> = 8..=4096;
/// Metric when nothing else is said, as in Milvus for float vectors.
pub const DEFAULT_METRIC: Metric = Metric::Cosine;

const SUPPORTED: &str = "HNSW, FLAT, AUTOINDEX";
/// Types Milvus has and we do not, so that the answer is "not supported" rather than "unknown".
const OTHER_TYPES: &[&str] = &[
    "BIN_FLAT",
    "BIN_IVF_FLAT",
    "BITMAP",
    "DISKANN",
    "GPU_BRUTE_FORCE",
    "GPU_CAGRA",
    "GPU_IVF_FLAT",
    "GPU_IVF_PQ",
    "HNSW_PQ",
    "HNSW_PRQ",
    "HNSW_SQ",
    "HYBRID",
    "INVERTED",
    "IVF_FLAT",
    "IVF_FLAT_CC",
    "IVF_PQ",
    "IVF_RABITQ",
    "IVF_SQ8",
    "MINHASH_LSH",
    "NGRAM",
    "RTREE",
    "SCANN",
    "SPARSE_INVERTED_INDEX",
    "SPARSE_WAND",
    "STL_SORT",
    "Trie",
];
const OTHER_METRICS: &[&str] = &[
    "BM25",
    "HAMMING",
    "JACCARD",
    "MAX_SIM",
    "MHJACCARD",
    "SUBSTRUCTURE",
    "SUPERSTRUCTURE",
    "TANIMOTO",
];

/// What kind of index to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexType {
    /// A graph: hierarchical navigable small worlds.
    Hnsw {
        /// Neighbours of a row; twice as many in the lowest layer.
        m: u32,
        /// Candidates looked at when a row is put in.
        ef_construction: u32,
    },
    /// The vectors as they are; exact, compared one by one.
    Flat,
    /// Whatever suits: the vectors as they are for few rows, a graph for more.
    Auto,
}

impl IndexType {
    /// Milvus's name.
    pub fn name(self) -> &'static str {
        match self {
            IndexType::Hnsw { .. } => "HNSW",
            IndexType::Flat => "FLAT",
            IndexType::Auto => "AUTOINDEX",
        }
    }
}

/// Checked parameters of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexParams {
    /// What to build.
    pub index_type: IndexType,
    /// How distances are measured.
    pub metric: Metric,
    /// Dimension of the vectors, when the parameters say it.
    pub dim: Option<u32>,
}

/// Parameters that make no sense, or none we can serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParamsError {
    /// A parameter that is needed is not there.
    #[error("index parameter {key} is missing; give one of {expected}")]
    Missing {
        /// Its name.
        key: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// Nobody knows a parameter of that name, or it has no meaning here.
    #[error("unknown index parameter {key:?} for {index_type}; known are: {known}")]
    Unknown {
        /// Its name.
        key: String,
        /// Type of the index.
        index_type: &'static str,
        /// The parameters there are.
        known: &'static str,
    },
    /// The same parameter with two values.
    #[error("index parameter {key} is given twice: {first:?} and {second:?}")]
    Twice {
        /// Its name.
        key: String,
        /// One value.
        first: String,
        /// The other.
        second: String,
    },
    /// A value that breaks a rule.
    #[error("index parameter {key} must be {expected}, not {value:?}")]
    Value {
        /// Name of the parameter.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: String,
    },
    /// Milvus knows it, we do not.
    #[error("{what} {name} is unsupported; supported are: {supported}")]
    Unsupported {
        /// "index type", "metric" or "an index on a field of type".
        what: &'static str,
        /// Its name.
        name: String,
        /// What is supported instead.
        supported: &'static str,
    },
}

impl IndexParams {
    /// Checks parameters as `(key, value)`: those of the field's type and those of the index.
    /// `mmap.enabled` and `max_length` are taken and have no effect.
    pub fn parse<'a>(
        type_params: impl IntoIterator<Item = (&'a str, &'a str)>,
        index_params: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<IndexParams, ParamsError> {
        let mut given = Given::default();
        for (key, value) in type_params.into_iter().chain(index_params) {
            given.add(key, value)?;
        }
        given.check()
    }

    /// As [`IndexParams::parse`], for an index on a field of the given type: it must be one we
    /// index, and of the dimension the parameters say, if they do.
    pub fn for_field<'a>(
        field: FieldType,
        type_params: impl IntoIterator<Item = (&'a str, &'a str)>,
        index_params: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<IndexParams, ParamsError> {
        let params = Self::parse(type_params, index_params)?;
        let FieldType::FloatVector { dim } = field else {
            return Err(ParamsError::Unsupported {
                what: "an index on a field of type",
                name: field.name().to_owned(),
                supported: "FloatVector",
            });
        };
        match params.dim {
            Some(given) if given != dim => Err(ParamsError::Value {
                key: "dim",
                value: given.to_string(),
                expected: format!("{dim}, the dimension of the field"),
            }),
            _ => Ok(IndexParams {
                dim: Some(dim),
                ..params
            }),
        }
    }
}

/// Parameters by name, before they are understood.
#[derive(Default)]
struct Given<'a> {
    index_type: Option<&'a str>,
    metric: Option<&'a str>,
    dim: Option<&'a str>,
    m: Option<&'a str>,
    ef_construction: Option<&'a str>,
    unknown: Option<&'a str>,
}

impl<'a> Given<'a> {
    fn add(&mut self, key: &'a str, value: &'a str) -> Result<(), ParamsError> {
        let slot = match key {
            "index_type" => &mut self.index_type,
            "metric_type" => &mut self.metric,
            "dim" => &mut self.dim,
            "M" => &mut self.m,
            "efConstruction" => &mut self.ef_construction,
            "mmap.enabled" | "max_length" => return Ok(()),
            _ => {
                self.unknown.get_or_insert(key);
                return Ok(());
            }
        };
        match *slot {
            Some(first) if first != value => Err(ParamsError::Twice {
                key: key.to_owned(),
                first: first.to_owned(),
                second: value.to_owned(),
            }),
            _ => {
                *slot = Some(value);
                Ok(())
            }
        }
    }

    fn check(self) -> Result<IndexParams, ParamsError> {
        let index_type = self.index_type()?;
        let known = match index_type {
            IndexType::Hnsw { .. } => "index_type, metric_type, dim, M, efConstruction",
            _ => "index_type, metric_type, dim",
        };
        let misplaced = match index_type {
            IndexType::Hnsw { .. } => None,
            _ => (self.m.map(|_| "M")).or(self.ef_construction.map(|_| "efConstruction")),
        };
        if let Some(key) = self.unknown.or(misplaced) {
            return Err(ParamsError::Unknown {
                key: key.to_owned(),
                index_type: index_type.name(),
                known,
            });
        }
        Ok(IndexParams {
            index_type,
            metric: self.metric()?,
            dim: match self.dim {
                None => None,
                Some(text) => Some(number("dim", text, &(1..=quorate_binlog::schema::MAX_DIM))?),
            },
        })
    }

    fn index_type(&self) -> Result<IndexType, ParamsError> {
        let Some(name) = self.index_type else {
            return Err(ParamsError::Missing {
                key: "index_type",
                expected: SUPPORTED,
            });
        };
        Ok(match name.to_ascii_uppercase().as_str() {
            "HNSW" => IndexType::Hnsw {
                m: self
                    .m
                    .map_or(Ok(DEFAULT_M), |text| number("M", text, &M_RANGE))?,
                ef_construction: self
                    .ef_construction
                    .map_or(Ok(DEFAULT_EF_CONSTRUCTION), |text| {
                        number("efConstruction", text, &EF_CONSTRUCTION_RANGE)
                    })?,
            },
            "FLAT" => IndexType::Flat,
            "AUTOINDEX" => IndexType::Auto,
            _ => {
                return Err(refuse(
                    "index_type",
                    "index type",
                    name,
                    OTHER_TYPES,
                    SUPPORTED,
                ));
            }
        })
    }

    fn metric(&self) -> Result<Metric, ParamsError> {
        let Some(name) = self.metric else {
            return Ok(DEFAULT_METRIC);
        };
        Metric::from_name(name).ok_or_else(|| {
            refuse(
                "metric_type",
                "metric",
                name,
                OTHER_METRICS,
                "L2, COSINE, IP",
            )
        })
    }
}

/// The error for a name that is not ours: one Milvus knows, or one nobody knows.
fn refuse(
    key: &'static str,
    what: &'static str,
    name: &str,
    others: &[&str],
    supported: &'static str,
) -> ParamsError {
    if others.iter().any(|other| other.eq_ignore_ascii_case(name)) {
        return ParamsError::Unsupported {
            what,
            name: name.to_owned(),
            supported,
        };
    }
    ParamsError::Value {
        key,
        value: name.to_owned(),
        expected: format!("one of {supported}"),
    }
}

fn number(
    key: &'static str,
    text: &str,
    range: &std::ops::RangeInclusive<u32>,
) -> Result<u32, ParamsError> {
    match text.parse() {
        Ok(value) if range.contains(&value) => Ok(value),
        _ => Err(ParamsError::Value {
            key,
            value: text.to_owned(),
            expected: format!("a number from {} to {}", range.start(), range.end()),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<IndexParams, String> {
        IndexParams::parse([("dim", "4")], pairs.iter().copied()).map_err(|e| e.to_string())
    }

    #[test]
    fn parameters_are_understood_with_their_defaults() {
        let params = parse(&[
            ("index_type", "HNSW"),
            ("metric_type", "l2"),
            ("M", "8"),
            ("efConstruction", "64"),
        ]);
        let expected = IndexParams {
            index_type: IndexType::Hnsw {
                m: 8,
                ef_construction: 64,
            },
            metric: Metric::L2,
            dim: Some(4),
        };
        assert_eq!(params.unwrap(), expected);
        let params = parse(&[("index_type", "HNSW"), ("mmap.enabled", "true")]).unwrap();
        let default = IndexType::Hnsw {
            m: DEFAULT_M,
            ef_construction: DEFAULT_EF_CONSTRUCTION,
        };
        assert_eq!(
            (params.index_type, params.metric),
            (default, Metric::Cosine)
        );
        let params = parse(&[("index_type", "AUTOINDEX"), ("metric_type", "IP")]).unwrap();
        assert_eq!(params.index_type, IndexType::Auto);
        assert_eq!(params.metric, Metric::InnerProduct);
        assert_eq!(
            parse(&[("index_type", "FLAT")]).unwrap().index_type,
            IndexType::Flat
        );
    }

    #[test]
    fn what_nobody_knows_is_refused_by_name() {
        for (pairs, hint) in [
            (vec![], "index parameter index_type is missing"),
            (
                vec![("index_type", "HNSW"), ("nlist", "8")],
                "unknown index parameter \"nlist\" for HNSW; known are: index_type, metric_type, \
                 dim, M, efConstruction",
            ),
            (
                vec![("index_type", "FLAT"), ("M", "8")],
                "unknown index parameter \"M\" for FLAT",
            ),
            (
                vec![("index_type", "HNSW"), ("M", "1")],
                "index parameter M must be a number from 2 to 128, not \"1\"",
            ),
            (
                vec![("index_type", "HNSW"), ("efConstruction", "many")],
                "efConstruction must be a number from 8 to 4096, not \"many\"",
            ),
            (
                vec![("index_type", "HNSW"), ("M", "8"), ("M", "9")],
                "M is given twice: \"8\" and \"9\"",
            ),
            (
                vec![("index_type", "BTREE")],
                "index_type must be one of HNSW, FLAT, AUTOINDEX, not \"BTREE\"",
            ),
            (
                vec![("index_type", "IVF_FLAT"), ("nlist", "8")],
                "index type IVF_FLAT is unsupported; supported are: HNSW, FLAT, AUTOINDEX",
            ),
            (
                vec![("index_type", "HNSW"), ("metric_type", "HAMMING")],
                "metric HAMMING is unsupported; supported are: L2, COSINE, IP",
            ),
            (
                vec![("index_type", "HNSW"), ("dim", "5")],
                "dim is given twice: \"4\" and \"5\"",
            ),
        ] {
            let error = parse(&pairs).unwrap_err();
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn only_fields_of_float_vectors_are_indexed() {
        let pairs = [("index_type", "HNSW")];
        let for_field = |field| IndexParams::for_field(field, [("dim", "4")], pairs);
        let params = for_field(FieldType::FloatVector { dim: 4 }).unwrap();
        assert_eq!(params.dim, Some(4));
        let error = for_field(FieldType::FloatVector { dim: 8 }).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("dim must be 8, the dimension of")
        );
        let error = for_field(FieldType::Int64).unwrap_err();
        assert_eq!(
            error.to_string(),
            "an index on a field of type Int64 is unsupported; supported are: FloatVector"
        );
    }
}
