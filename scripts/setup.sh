#!/bin/sh
# Makes sure that everything a build and a test run need is there. Installs what is missing when
# that can be done, else says exactly what to install. Does nothing when nothing is missing.
set -eu

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Debian packages, each with the check that tells whether what it brings is there already.
missing=""
need() {
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}
# The C interface, which bindgen loads; libclang-cpp, which LLVM brings, is another library.
have_libclang() {
    for folder in /usr/lib/llvm-*/lib /usr/lib/*-linux-gnu /usr/lib64 /usr/lib /usr/local/lib \
        "${LIBCLANG_PATH:-/nonexistent}"; do
        for lib in "$folder"/libclang.so* "$folder"/libclang-[0-9]*.so*; do
            [ -e "$lib" ] && return 0
        done
    done
    return 1
}
need g++ command -v g++
need make command -v make
need libclang-dev have_libclang
need python3 command -v python3
need python3-protobuf "$(dirname "$0")/python.sh" -c 'import google.protobuf'

if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing$missing"
        export DEBIAN_FRONTEND=noninteractive
        # shellcheck disable=SC2086
        { apt-get update -q && apt-get install -q -y --no-install-recommends $missing; } ||
            fail "apt-get could not install:$missing; install them by hand and run make setup again"
    elif command -v apt-get >/dev/null 2>&1; then
        fail "these packages are missing; install them with: sudo apt-get install$missing"
    else
        fail "these are missing (names of Debian packages; install what your system has for them):$missing"
    fi
fi

# The Rust toolchain.
command -v cargo >/dev/null 2>&1 ||
    fail "cargo is missing; install Rust 1.95 or newer, see https://rustup.rs"
version=$(rustc --version | cut -d' ' -f2 | cut -d- -f1)
oldest=$(printf '1.95.0\n%s\n' "$version" | sort -V | head -n 1)
[ "$oldest" = 1.95.0 ] ||
    fail "rustc $version is too old; Quorate needs 1.95 or newer: rustup update stable"
cargo fmt --version >/dev/null 2>&1 ||
    fail "rustfmt is missing; install it with: rustup component add rustfmt"
cargo clippy --version >/dev/null 2>&1 ||
    fail "clippy is missing; install it with: rustup component add clippy"
if ! cargo nextest --version >/dev/null 2>&1; then
    say "installing cargo-nextest, the test runner (some minutes, once)"
    # From / and with its own target folder, so that this project's flags do not apply to it.
    (cd / && env -u CARGO_TARGET_DIR cargo install --locked cargo-nextest) ||
        fail "cargo-nextest could not be installed; see https://nexte.st for other ways, then run make setup again"
fi
