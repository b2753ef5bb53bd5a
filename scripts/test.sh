#!/bin/sh
# The whole check of the project: test.sh XTASK. Stops at the first thing that fails.
set -eu
cd "$(dirname "$0")/.."
xtask=$1

step() { printf '\n== %s\n' "$*"; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Runs a command with its output shown and kept in $log.
kept() {
    { "$@" 2>&1 && echo ok >"$log.rc" || echo failed >"$log.rc"; } | tee -a "$log"
    result=$(cat "$log.rc")
    rm -f "$log.rc"
    [ "$result" = ok ]
}
color=never
[ -t 1 ] && color=always

step "formatting"
cargo fmt --all --check
step "lints"
cargo clippy --release --workspace --all-targets -- -D warnings
step "layers"
"$xtask" layers
step "wire tables"
kept scripts/check-wire.sh "$xtask"
step "tests"
kept cargo nextest run --release --workspace --no-fail-fast --color "$color"
step "examples in the documentation"
kept cargo test --release --workspace --doc
step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps
step "what cluster/ ships"
scripts/cluster-test.sh "$(dirname "$xtask")/quorate"

plain=$(sed 's/\x1b\[[0-9;]*m//g' "$log")
tests=$(printf '%s\n' "$plain" | sed -n 's/^ *Summary .*] *\([0-9][0-9]*\) tests\{0,1\} run:.*/\1/p' | tail -n 1)
examples=$(printf '%s\n' "$plain" | sed -n 's/^test result: ok\. \([0-9][0-9]*\) passed.*/\1/p' |
    awk '{ sum += $1 } END { print sum + 0 }')
wire=$(printf '%s\n' "$plain" | sed -n 's/.*: \([0-9][0-9]*\) passed, 0 failed$/\1/p' |
    awk '{ sum += $1 } END { print sum + 0 }')
printf '\nall passed: %s tests, %s examples, %s checks against the wire tables\n' \
    "${tests:-0}" "$examples" "$wire"
