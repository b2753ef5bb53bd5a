#!/bin/sh
# Compares the proto files with the tables of Milvus's releases: check-wire.sh XTASK [RELEASE]...
# Checks what Quorate serves and calls, and all that these methods reach.
set -eu
cd "$(dirname "$0")/.."
xtask=$1
shift
[ $# -gt 0 ] || set -- 2.3.5 2.5

descriptors=$(mktemp)
trap 'rm -f "$descriptors"' EXIT
"$xtask" descriptors "$descriptors"
methods=$("$xtask" methods milvus.proto.data | sed 's/^/--only-method /')

failed=0
for release in "$@"; do
    printf 'wire %s: ' "$release"
    # shellcheck disable=SC2086
    scripts/python.sh tests/wire/check_wire.py "$descriptors" "tests/wire/$release" $methods ||
        failed=1
done
exit $failed
