#!/bin/sh
# Runs the first python3 that has the protobuf package: a python3 in front of the system's on PATH
# does not see what the system's package manager installed.
for python in python3 /usr/bin/python3; do
    if "$python" -c 'import google.protobuf' >/dev/null 2>&1; then
        exec "$python" "$@"
    fi
done
echo "error: no python3 with the protobuf package; run make setup" >&2
exit 1
