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
methods=$("$xtask" methods milvus.proto.data && "$xtask" methods milvus.proto.index)

# What a release does not have, or answers with other messages: not compared with it.
newer_than() {
    case $1 in
    2.3.5) echo 'DataNode\.\(CompactionV2\|GetCompactionState\|DropCompactionPlan\)$' ;;
    *) echo '^$' ;;
    esac
}

failed=0
for release in "$@"; do
    printf 'wire %s: ' "$release"
    compared=$(printf '%s\n' "$methods" | grep -v "$(newer_than "$release")" | sed 's/^/--only-method /')
    # shellcheck disable=SC2086
    scripts/python.sh tests/wire/check_wire.py "$descriptors" "tests/wire/$release" $compared ||
        failed=1
done
exit $failed
