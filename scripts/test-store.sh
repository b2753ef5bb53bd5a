#!/bin/sh
# The store by itself: openraft's own suite, models, a death at every step, damage to every file,
# the example in its README, its documentation.
set -eu
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "tests"
cargo nextest run --release -p quorate-raft-store --no-fail-fast
step "the example in its README"
cargo test --release -p quorate-raft-store --doc
step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --release -p quorate-raft-store --no-deps
