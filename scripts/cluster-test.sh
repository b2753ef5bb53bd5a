#!/usr/bin/env bash
# Tries what cluster/ ships: cluster-test.sh QUORATE. Starts replicas and data nodes as separate
# processes by the command lines of the systemd units and with the shipped configuration, over TLS;
# restarts them one by one under load, replaces one, and shows wrong certificates and a wrong cluster.
#
# Only host names and paths are changed: quorate-N.example.net becomes an address of the loopback
# network, so that the ports stay as they are shipped. Leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."
QUORATE=$(realpath "$1")
ROOT=$(mktemp -d "${TMPDIR:-/tmp}/quorate-cluster-test.XXXXXX")
ETC=$ROOT/etc
VAR=$ROOT/var
NET=127.$((RANDOM % 254 + 1)).$((RANDOM % 256))
STARTED=$SECONDS

# --- processes ----------------------------------------------------------------------------------

declare -A PIDS

finish() {
    local code=$?
    trap - EXIT INT TERM HUP
    if [ "$code" -ne 0 ]; then
        for log in "$ROOT"/*.log; do
            [ -e "$log" ] || continue
            printf -- '--- the end of %s\n' "$(basename "$log")"
            tail -n 8 "$log"
        done >&2
    fi
    # The shell would tell of each process that it was killed.
    exec 2>/dev/null
    for pid in "${PIDS[@]}"; do kill -KILL "$pid" || true; done
    wait || true
    rm -rf "$ROOT"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
step() { printf '%4d s  %s\n' $((SECONDS - STARTED)) "$*"; }

# Shipped text with this test's hosts, addresses and paths: localized INSTANCE.
localized() {
    sed -e "s/quorate-\([0-9]\)\.example\.net/$NET.\1/g" \
        -e "s/datanode-\([0-9]\)\.example\.net/$NET.10\1/g" \
        -e "s/0\.0\.0\.0/$NET.$1/g" \
        -e "s#/etc/quorate#$ETC#g" -e "s#/var/lib/quorate#$VAR#g" \
        -e "s#/usr/bin/quorate#$QUORATE#g"
}

# The command of a unit, as systemd would read it: command_of UNIT INSTANCE HOST.
command_of() {
    local line
    line=$(sed -n 's/^ExecStart=//p' "cluster/systemd/$1@.service")
    [ -n "$line" ] || fail "cluster/systemd/$1@.service has no ExecStart"
    printf '%s\n' "${line//%i/$2}" | localized "$3"
}

# start NAME COMMAND...: in the background, its output in NAME.log.
start() {
    local name=$1
    shift
    "$@" >>"$ROOT/$name.log" 2>&1 </dev/null &
    PIDS[$name]=$!
}

start_replica() {
    local command
    command=$(command_of quorate "$1" "$1")
    # A unit's command line is split at spaces, as systemd does it.
    # shellcheck disable=SC2086
    start "replica-$1" $command
}

start_data_node() {
    local command
    command=$(command_of quorate-datanode "$1" "10$1")
    # shellcheck disable=SC2086,SC2046
    start "datanode-$1" env $(grep -v '^#' "$ETC/datanode-$1.env") $command
}

# ended NAME: SIGTERM, and waits until it is gone.
ended() {
    kill -TERM "${PIDS[$1]}"
    wait "${PIDS[$1]}" || fail "$1 did not end cleanly"
    unset "PIDS[$1]"
}

# until_true SECONDS WHAT COMMAND...
until_true() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || fail "waited in vain: $what"
        sleep 0.2
    done
}

# --- commands -----------------------------------------------------------------------------------

ENDPOINTS=$NET.1:13333,$NET.2:13333,$NET.3:13333
cli() {
    "$QUORATE" --endpoints "$ENDPOINTS" --timeout "${PATIENCE:-30}" --tls-ca "$ETC/certs/ca.pem" \
        --tls-cert "$ETC/certs/client-1.pem" --tls-key "$ETC/certs/client-1-key.pem" "$@"
}
json() { cli -o json "$@"; }

# refused WORDS COMMAND...: it fails and says WORDS.
refused() {
    local words=$1 said
    shift
    if said=$("$@" 2>&1); then
        fail "not refused: $*"
    fi
    case $said in
    *"$words"*) printf '          refused: %s\n' "$(printf '%s' "$said" | tail -n 1 | cut -c 1-220)" ;;
    *) fail "refused without \"$words\": $said" ;;
    esac
}

logged() { grep -q -- "$2" "$ROOT/$1.log"; }
http_ok() { (exec 3<>"/dev/tcp/$1/9091" && printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3 && grep -q '200 OK' <&3); }
leader() { json status | sed -n '/"leader": {/,/}/s/.*"node_id": \([0-9]*\).*/\1/p'; }
leads() { [ -n "$(leader)" ]; }
# node_of HOST: the node id of the replica at a host.
node_of() {
    json member list | tr -d '\n ' | tr '{' '\n' | grep "\"client_address\":\"$1:13333\"" |
        sed -n 's/.*"node_id":\([0-9]*\).*/\1/p'
}
voters() { json member list | grep -c '"voter": true' || true; }
three_voters() { [ "$(voters)" = 3 ]; }
data_nodes() { [ "$(json nodes list | grep -c '"address"')" = "$1" ]; }
in_certs() { "$QUORATE" certs --out "$ETC/certs" "$@" >/dev/null; }

# --- the units, the compose file, the chart -------------------------------------------------------

if command -v systemd-analyze >/dev/null 2>&1; then
    mkdir -p "$ROOT/units"
    for unit in cluster/systemd/*.service; do
        # Only the binary's path is changed: verify wants to find it.
        sed "s#/usr/bin/quorate#$QUORATE#" "$unit" >"$ROOT/units/$(basename "${unit/@/@1}")"
    done
    problems=$(systemd-analyze verify "$ROOT"/units/*.service 2>&1 | grep "$ROOT" || true)
    [ -z "$problems" ] || fail "systemd-analyze: $problems"
    step "units: systemd-analyze verify finds nothing"
else
    step "not checked: the units, systemd-analyze is missing"
fi
checked=
for python in python3 /usr/bin/python3; do
    if "$python" -c 'import yaml' >/dev/null 2>&1; then
        checked=$("$python" scripts/check-deployment.py) || fail "cluster/ has mistakes"
        break
    fi
done
if [ -n "$checked" ]; then
    step "$checked: YAML, references and blocks are right"
else
    step "not checked: compose file and chart, python3-yaml is missing"
fi
if docker compose version >/dev/null 2>&1; then
    docker compose -f cluster/compose/compose.yaml config --quiet || fail "docker refuses the compose file"
    step "compose file: docker compose config accepts it"
else
    step "not checked: the compose file by docker compose, which is missing; no image was built"
fi
if command -v helm >/dev/null 2>&1; then
    helm lint --quiet cluster/helm/quorate && helm template test cluster/helm/quorate >/dev/null ||
        fail "helm refuses the chart"
    step "chart: helm lint and helm template accept it"
else
    step "not checked: the chart by helm, which is missing"
fi

# --- a cluster ------------------------------------------------------------------------------------

mkdir -p "$ETC" "$VAR"
in_certs --hosts "$NET.1,$NET.2,$NET.3" --clients 1 --client datanode-1 --client datanode-2
for n in 1 2 3; do localized "$n" <"cluster/config/quorate-$n.yaml" >"$ETC/quorate-$n.yaml"; done
for n in 1 2; do localized "10$n" <"cluster/config/datanode-$n.env" >"$ETC/datanode-$n.env"; done
for n in 1 2 3; do start_replica "$n"; done
for n in 1 2 3; do
    until_true 30 "replica $n listens" grep -q listening "$ROOT/replica-$n.log"
done
PATIENCE=1 refused "belongs to no cluster yet" cli collections list
cli init --members "$NET.1:13334=$NET.1:13333,$NET.2:13334=$NET.2:13333,$NET.3:13334=$NET.3:13333" >/dev/null
until_true 30 "a leader" leads
for n in 1 2; do start_data_node "$n"; done
until_true 30 "the data nodes" data_nodes 2
step "three replicas and two data nodes are up, over TLS"

# --- a rolling restart under load -----------------------------------------------------------------

sample=tests/data/sample.parquet
cli ingest "$sample" --collection packages --create --rate 250 >"$ROOT/ingest.out" 2>"$ROOT/ingest.log" </dev/null &
PIDS[ingest]=$!
for n in 1 2 3; do
    ended "replica-$n"
    start_replica "$n"
    until_true 30 "replica $n is ready" http_ok "$NET.$n"
    until_true 30 "a leader after replica $n" leads
    step "replica $n restarted"
done
kill -0 "${PIDS[ingest]}" 2>/dev/null || step "note: all rows were in before the last restart"
wait "${PIDS[ingest]}" || fail "ingest failed during the rolling restart: $(tail -n 1 "$ROOT/ingest.log")"
unset 'PIDS[ingest]'
cli flush --collection packages --wait >/dev/null
verified() {
    cli verify "$sample" --collection packages --object-store "$VAR/objects" >/dev/null ||
        fail "verify: rows are lost or wrong"
    cli check --full >/dev/null || fail "the replicas differ"
}
verified
step "rolling restart: every row is stored once, the replicas are equal"

# --- leadership on request ------------------------------------------------------------------------

before=$(leader)
cli leader transfer >/dev/null
until_true 15 "a leader" leads
[ "$(leader)" != "$before" ] || fail "leadership was not handed over"
step "leadership handed over from node $before to node $(leader)"

# --- who is refused -------------------------------------------------------------------------------

"$QUORATE" certs --out "$ROOT/stranger" --hosts "$NET.9" --clients 1 >/dev/null
refused "an authority we do not know" "$QUORATE" --endpoints "$NET.1:13333" --timeout 3 \
    --tls-ca "$ROOT/stranger/ca.pem" collections list
refused "refused our certificate" "$QUORATE" --endpoints "$NET.1:13333" --timeout 3 \
    --tls-ca "$ETC/certs/ca.pem" --tls-cert "$ROOT/stranger/client-1.pem" \
    --tls-key "$ROOT/stranger/client-1-key.pem" collections list
refused "none was shown" "$QUORATE" --endpoints "$NET.1:13333" --timeout 3 \
    --tls-ca "$ETC/certs/ca.pem" collections list
logged replica-1 "refused a caller" || fail "replica 1 does not log whom it refused"
step "clients with a wrong certificate, or none, are refused and logged"

# A client's certificate on the peers' port.
refused "is not a replica's" "$QUORATE" --endpoints "$NET.1:13334" --timeout 3 \
    --tls-ca "$ETC/certs/ca.pem" --tls-cert "$ETC/certs/client-1.pem" \
    --tls-key "$ETC/certs/client-1-key.pem" collections list
logged replica-1 "refused a peer.*client-1" || fail "replica 1 does not log the client that acted as a peer"

# A replica with certificates of another authority, and one without any.
sed -e "s#$ETC/certs/$NET.3#$ROOT/stranger/$NET.9#g" -e "s#$ETC/certs/ca#$ROOT/stranger/ca#g" \
    -e "s#$NET.3#$NET.9#g" -e "s#replica-3#stranger#" "$ETC/quorate-3.yaml" >"$ETC/quorate-9.yaml"
start_replica 9
until_true 30 "the stranger listens" grep -q listening "$ROOT/replica-9.log"
refused "an authority we do not know" cli member add "$NET.9:13334=$NET.9:13333"
ended replica-9
refused "quorate certs" "$QUORATE" server --data-dir "$ROOT/none" --peer-listen "$NET.9:13334" \
    --client-listen "$NET.9:13333" --health-listen "$NET.9:9091"
step "replicas with a wrong certificate, or none, are refused"

# A replica of another cluster: not taken in, and not talked to when it claims a member's place.
in_certs --hosts "$NET.8"
sed -e "s#$NET.3#$NET.8#g" -e "s#replica-3#other#" "$ETC/quorate-3.yaml" >"$ETC/quorate-8.yaml"
start_replica 8
until_true 30 "the other cluster's replica listens" grep -q listening "$ROOT/replica-8.log"
cli init --members "$NET.8:13334=$NET.8:13333" >/dev/null
refused "already" cli member add "$NET.8:13334=$NET.8:13333"
ended replica-8
ended replica-3
identity=$VAR/replica-3/identity.json
cp "$identity" "$ROOT/identity.json"
sed -i 's/"cluster_id": "[^"]*"/"cluster_id": "another"/' "$identity"
start_replica 3
until_true 20 "replica 3 logs the wrong cluster" logged replica-3 "this is cluster another"
until_true 20 "the others log the wrong cluster" grep -q "this is cluster another" "$ROOT/replica-1.log" "$ROOT/replica-2.log"
printf '          refused: %s\n' "$(grep -h "this is cluster another" "$ROOT/replica-3.log" | head -n 1 | cut -c 1-220)"
ended replica-3
cp "$ROOT/identity.json" "$identity"
start_replica 3
until_true 30 "replica 3 is back" http_ok "$NET.3"
step "a replica of another cluster is refused, and logged on both sides"

# --- one replica replaced by another --------------------------------------------------------------

in_certs --hosts "$NET.4"
sed -e "s#$NET.3#$NET.4#g" -e "s#replica-3#replica-4#" "$ETC/quorate-3.yaml" >"$ETC/quorate-4.yaml"
old=$(node_of "$NET.3")
[ -n "$old" ] || fail "member list does not show the replica at $NET.3"
start_replica 4
until_true 30 "the new replica listens" grep -q listening "$ROOT/replica-4.log"
cli member add "$NET.4:13334=$NET.4:13333" >/dev/null
cli member remove "$old" >/dev/null
ENDPOINTS=$NET.1:13333,$NET.2:13333,$NET.4:13333
until_true 20 "three voters" three_voters
gone() { ! kill -0 "${PIDS[replica-3]}" 2>/dev/null; }
until_true 30 "the removed replica ends" gone
if wait "${PIDS[replica-3]}"; then fail "the removed replica ended as if nothing was"; fi
unset 'PIDS[replica-3]'
logged replica-3 "was removed from cluster" || fail "the removed replica does not say why it ended"
refused "was removed from cluster" "$QUORATE" server --config "$ETC/quorate-3.yaml"
cli ingest "$sample" --collection again --create >/dev/null 2>&1 </dev/null || fail "ingest after the replacement"
cli flush --collection again --wait >/dev/null
verified
step "node $old replaced by node $(node_of "$NET.4"), which has everything"

for name in datanode-1 datanode-2 replica-1 replica-2 replica-4; do ended "$name"; done
step "stopped; all passed"
