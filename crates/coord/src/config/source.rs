//! Where settings come from, and the errors that name the culprit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Config;
use super::keys::{KEYS, Key, MILVUS_KEYS};

/// Settings that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("configuration file {path} cannot be read: {problem}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// The file is not YAML.
    #[error("configuration file {path} is not valid YAML: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        problem: String,
    },
    /// No such key.
    #[error("{origin}: unknown key {key}; did you mean {nearest}?")]
    UnknownKey {
        /// Where it stands.
        origin: String,
        /// The key.
        key: String,
        /// The known key with the most similar name.
        nearest: String,
    },
    /// A bad value.
    #[error("{origin}: {key}: {problem}")]
    BadValue {
        /// Where it stands.
        origin: String,
        /// The key.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// Settings that do not fit together.
    #[error("configuration: {0}")]
    Inconsistent(String),
}

/// A configuration, and what was passed over on the way to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// For the log: sections and keys that have no effect.
    pub warnings: Vec<String>,
}

/// Reads the settings of a replica. `variables` are the process's environment, `overrides` the
/// `--set key=value` flags.
///
/// # Errors
/// The first setting that can't be used.
pub fn load(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (String, String)>,
    overrides: &[(String, String)],
) -> Result<Loaded, ConfigError> {
    let mut loaded = Loaded {
        config: Config::default(),
        warnings: Vec::new(),
    };
    if let Some(path) = file {
        loaded.read_file(path)?;
    }
    let by_variable: BTreeMap<String, &Key> =
        KEYS.iter().map(|key| (variable(key.name), key)).collect();
    for (name, value) in variables {
        if let Some(key) = by_variable.get(&name) {
            loaded.set(&name, key, &value)?;
        }
    }
    for (name, value) in overrides {
        match find(name) {
            Some(key) => loaded.set("--set", key, value)?,
            None => return Err(unknown("--set", name)),
        }
    }
    loaded.config.validate()?;
    Ok(loaded)
}

/// The environment variable of a key: `quorate.raft.heartbeat` is `QUORATE_RAFT_HEARTBEAT`,
/// `dataCoord.segment.maxRows` is `QUORATE_DATACOORD_SEGMENT_MAXROWS`.
pub(super) fn variable(key: &str) -> String {
    let name = key.replace('.', "_").to_uppercase();
    if name.starts_with("QUORATE_") {
        name
    } else {
        format!("QUORATE_{name}")
    }
}

fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

fn unknown(origin: &str, key: &str) -> ConfigError {
    let nearest = KEYS
        .iter()
        .map(|known| known.name)
        .chain(MILVUS_KEYS.lines())
        .min_by_key(|known| distance(&known.to_lowercase(), &key.to_lowercase()))
        .unwrap_or_default();
    ConfigError::UnknownKey {
        origin: origin.to_owned(),
        key: key.to_owned(),
        nearest: nearest.to_owned(),
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl Loaded {
    fn set(&mut self, origin: &str, key: &Key, value: &str) -> Result<(), ConfigError> {
        (key.set)(&mut self.config, value).map_err(|problem| ConfigError::BadValue {
            origin: origin.to_owned(),
            key: key.name.to_owned(),
            problem,
        })
    }

    fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            path: path.to_owned(),
            problem: error.to_string(),
        })?;
        let tree: Value =
            serde_saphyr::from_str(&text).map_err(|error| ConfigError::Malformed {
                path: path.to_owned(),
                problem: error.to_string(),
            })?;
        let origin = path.display().to_string();
        let mut flat = Vec::new();
        flatten("", &tree, &mut flat);
        let mut ignored = BTreeMap::new();
        for (name, value) in flat {
            let section = name.split('.').next().unwrap_or_default();
            if let Some(key) = find(&name) {
                self.set(&origin, key, &value)?;
            } else if MILVUS_KEYS.lines().any(|known| known == name) {
                self.warnings
                    .push(format!("{origin}: {name} is not used by this release"));
            } else if section == "quorate" || section == "dataCoord" {
                return Err(unknown(&origin, &name));
            } else {
                *ignored.entry(section.to_owned()).or_insert(0) += 1;
            }
        }
        for (section, keys) in ignored {
            self.warnings.push(format!(
                "{origin}: section {section} is ignored ({keys} keys)"
            ));
        }
        Ok(())
    }
}

fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let name = if prefix.is_empty() {
                    name.clone()
                } else {
                    format!("{prefix}.{name}")
                };
                flatten(&name, value, out);
            }
        }
        // A section that is named but empty says nothing.
        Value::Null => {}
        Value::String(text) => out.push((prefix.to_owned(), text.clone())),
        other => out.push((prefix.to_owned(), other.to_string())),
    }
}
