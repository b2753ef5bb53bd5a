#!/bin/sh
# Breaks the disks of real clusters: test-faults.sh TARGET [OPTION]... with quorate-jepsen's options.
# With --setup alone: only says whether it can run here, and installs what is missing.
set -eu
cd "$(dirname "$0")/.."

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] ||
    fail "the fault tests mount file systems and need root; run them as root: sudo make test-faults"
[ -c /dev/fuse ] || fail "there is no /dev/fuse here; the fault tests lose power on a FUSE file system"

missing=""
need() {
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}
need gcc command -v gcc
need libc6-dev test -e /usr/include/stdio.h
need pkg-config command -v pkg-config
need fuse3 command -v fusermount3
need libfuse3-dev pkg-config --exists fuse3
need e2fsprogs command -v mkfs.ext4
need mount command -v mount
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null 2>&1 ||
        fail "these are missing (names of Debian packages; install what your system has for them):$missing"
    printf 'test-faults: installing%s\n' "$missing"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    { apt-get update -q && apt-get install -q -y --no-install-recommends $missing; } ||
        fail "apt-get could not install:$missing; install them by hand and try again"
fi
[ "$1" != --setup ] || exit 0

target=$1
shift
jepsen/faults/build.sh "$target/faults"
exec "$target/release/quorate-jepsen" faults --kit jepsen/faults --built "$target/faults" "$@"
