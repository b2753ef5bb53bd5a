//! The rules of who may depend on whom, checked against what cargo resolved.
//!
//! Only normal dependencies count: what tests and build scripts use does not end up in a crate.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// Which crates of the workspace a crate may depend on directly. Dependencies point one way;
/// `quorate-meta`, `quorate-raft-store` and `quorate-rpc` know nothing of each other.
const ALLOWED: &[(&str, &[&str])] = &[
    ("quorate-meta", &[]),
    ("quorate-raft-store", &[]),
    ("quorate-rpc", &[]),
    (
        "quorate-coord",
        &[
            "quorate-binlog",
            "quorate-index",
            "quorate-meta",
            "quorate-raft-store",
            "quorate-rpc",
        ],
    ),
    ("quorate-binlog", &["quorate-rpc"]),
    ("quorate-index", &["quorate-binlog"]),
    (
        "quorate-datanode",
        &["quorate-binlog", "quorate-index", "quorate-rpc"],
    ),
    ("quorate-ingest", &["quorate-binlog", "quorate-rpc"]),
    (
        "quorate",
        &[
            "quorate-binlog",
            "quorate-coord",
            "quorate-datanode",
            "quorate-index",
            "quorate-ingest",
            "quorate-meta",
            "quorate-raft-store",
            "quorate-rpc",
        ],
    ),
    ("xtask", &["quorate-rpc"]),
    // Outside of what it breaks: it starts processes and talks to them.
    ("quorate-jepsen", &["quorate-rpc"]),
];

/// The crate of the tests, which may use everything.
const TESTS: &str = "quorate-tests";

/// Crates that must not be reached at all, through whatever others.
const UNREACHABLE: &[(&str, &[&str])] = &[(
    "quorate-meta",
    &[
        "async-std",
        "chrono",
        "fastrand",
        "futures",
        "getrandom",
        "h2",
        "hyper",
        "librocksdb-sys",
        "mio",
        "object_store",
        "openraft",
        "rand",
        "rand_core",
        "reqwest",
        "rocksdb",
        "socket2",
        "time",
        "tokio",
        "tonic",
        "tower",
    ],
)];

/// Crates only some of ours may use directly.
const KEPT_INSIDE: &[(&str, &[&str])] = &[
    ("hnsw_rs", &["quorate-index"]),
    ("openraft", &["quorate-raft-store", "quorate-coord", TESTS]),
    ("rocksdb", &["quorate-raft-store"]),
];

/// What depends on what.
pub(crate) struct Graph {
    members: BTreeSet<String>,
    /// Direct normal dependencies by package name.
    edges: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

impl Graph {
    /// The graph of the workspace the command is run in.
    pub(crate) fn of_workspace() -> Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked"])
            .output()
            .context("cannot run cargo metadata")?;
        if !output.status.success() {
            bail!(
                "cargo metadata failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let metadata = serde_json::from_slice(&output.stdout)
            .context("cargo metadata wrote what this program does not understand")?;
        Ok(Self::new(metadata))
    }

    fn new(metadata: Metadata) -> Self {
        let names: BTreeMap<&str, &str> = metadata
            .packages
            .iter()
            .map(|package| (package.id.as_str(), package.name.as_str()))
            .collect();
        let name = |id: &str| names.get(id).copied().unwrap_or(id).to_owned();
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in &metadata.resolve.nodes {
            // Several versions of a package count as one.
            let targets = edges.entry(name(&node.id)).or_default();
            for dependency in &node.deps {
                if dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()) {
                    targets.insert(name(&dependency.pkg));
                }
            }
        }
        Self {
            members: metadata
                .workspace_members
                .iter()
                .map(|id| name(id))
                .collect(),
            edges,
        }
    }

    /// The crates of the workspace.
    pub(crate) fn members(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(String::as_str)
    }

    /// One line for each broken rule.
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for member in self.members().filter(|member| *member != TESTS) {
            let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == member) else {
                lines.push(format!(
                    "{member} has no rule; say in crates/xtask/src/layers.rs what it may depend on"
                ));
                continue;
            };
            for target in self.direct(member) {
                if self.members.contains(target) && !allowed.contains(&target) {
                    lines.push(format!(
                        "{member} must not depend on {target}; it may depend on: {}",
                        if allowed.is_empty() {
                            "none of ours".to_owned()
                        } else {
                            allowed.join(", ")
                        }
                    ));
                }
            }
        }
        for (from, banned) in UNREACHABLE {
            for target in *banned {
                if let Some(path) = self.path(from, target) {
                    lines.push(format!(
                        "{from} must not reach {target}, but does: {}",
                        path.join(" -> ")
                    ));
                }
            }
        }
        for (target, users) in KEPT_INSIDE {
            for member in self.members() {
                if !users.contains(&member) && self.direct(member).any(|name| name == *target) {
                    lines.push(format!(
                        "{member} must not use {target}; only {} may",
                        users.join(", ")
                    ));
                }
            }
        }
        lines
    }

    fn direct(&self, from: &str) -> impl Iterator<Item = &str> {
        self.edges
            .get(from)
            .into_iter()
            .flatten()
            .map(String::as_str)
    }

    /// A shortest way from one package to another.
    fn path(&self, from: &str, to: &str) -> Option<Vec<String>> {
        let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(at) = queue.pop_front() {
            for next in self.direct(at) {
                if next == from || came_from.contains_key(next) {
                    continue;
                }
                came_from.insert(next, at);
                if next == to {
                    let mut path = vec![to.to_owned()];
                    let mut step = to;
                    while let Some(previous) = came_from.get(step) {
                        path.push((*previous).to_owned());
                        step = previous;
                    }
                    path.reverse();
                    return Some(path);
                }
                queue.push_back(next);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(members: &[&str], edges: &[(&str, &str)]) -> Graph {
        let mut graph = Graph {
            members: members.iter().map(|&name| name.to_owned()).collect(),
            edges: BTreeMap::new(),
        };
        for (from, to) in edges {
            let targets = graph.edges.entry((*from).to_owned()).or_default();
            targets.insert((*to).to_owned());
        }
        graph
    }

    #[test]
    fn the_rules_allow_what_they_say() {
        let edges = [
            ("quorate-coord", "quorate-meta"),
            ("quorate-coord", "openraft"),
            ("quorate-meta", "prost"),
            ("prost", "bytes"),
            ("openraft", "tokio"),
        ];
        let graph = graph(&["quorate-coord", "quorate-meta", "quorate-tests"], &edges);
        assert_eq!(graph.violations(), Vec::<String>::new());
    }

    #[test]
    fn a_dependency_against_the_direction_is_named() {
        let graph = graph(
            &["quorate-rpc", "quorate-meta"],
            &[("quorate-rpc", "quorate-meta")],
        );
        assert_eq!(
            graph.violations(),
            ["quorate-rpc must not depend on quorate-meta; it may depend on: none of ours"]
        );
    }

    #[test]
    fn what_is_reached_through_others_is_shown_with_the_way() {
        let graph = graph(
            &["quorate-meta"],
            &[
                ("quorate-meta", "a"),
                ("a", "b"),
                ("b", "tokio"),
                ("b", "a"),
            ],
        );
        assert_eq!(
            graph.violations(),
            ["quorate-meta must not reach tokio, but does: quorate-meta -> a -> b -> tokio"]
        );
    }

    #[test]
    fn openraft_stays_where_it_is_kept() {
        let graph = graph(&["quorate-datanode"], &[("quorate-datanode", "openraft")]);
        assert_eq!(graph.violations().len(), 1);
    }

    #[test]
    fn a_new_crate_needs_a_rule() {
        let graph = graph(&["quorate-new"], &[]);
        assert!(graph.violations()[0].contains("has no rule"));
    }
}
