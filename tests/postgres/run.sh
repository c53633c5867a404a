#!/usr/bin/env bash
# Starts a PostgreSQL of its own, runs tests/postgres against it and removes it, whatever happens in between.
#
#   tests/postgres/run.sh [PYTEST ...]      the command that runs pytest, `pytest` when left out
#
# Where no PostgreSQL is installed, Debian's is (as root, by apt-get). The server has a temporary folder, a port and a password of its own
# and listens on loopback alone; one that already runs on the machine is not touched. The server refuses to run as root: it runs as `postgres` then.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || set -- pytest

fail() {
    echo "tests/postgres/run.sh: $1" >&2
    echo "  -> $2" >&2
    exit 1
}

absent() { # no server is to be had: a failure, but where TUNESMITH_POSTGRES=optional a machine without a package index may go on without
    [ "${TUNESMITH_POSTGRES:-}" = optional ] || fail "$1" "$2"
    echo "tests/postgres/run.sh: $1: NOT RUN" >&2
    exit 0
}

programs() { # the folder of the newest initdb: Debian keeps it out of PATH
    find /usr/lib/postgresql -path '*/bin/initdb' 2>/dev/null | sort -V | tail -n 1 | xargs -r dirname
}

bin=$(programs)
[ -n "$bin" ] || ! command -v initdb >/dev/null || bin=$(dirname "$(readlink -f "$(command -v initdb)")")
if [ -z "$bin" ]; then
    command -v apt-get >/dev/null || absent "no PostgreSQL here, and no apt-get to install it with" "install PostgreSQL 13 or newer so that initdb is in PATH"
    [ "$(id -u)" = 0 ] || absent "no PostgreSQL here, and only root may install it" "run: sudo apt-get install postgresql"
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 # runlevel 1 keeps the package from starting a server on port 5432
    apt-get install -y -qq --no-install-recommends postgresql >/dev/null 2>&1 || {
        apt-get update -qq || absent "apt-get update failed" "check the network and /etc/apt/sources.list"
        apt-get install -y -qq --no-install-recommends postgresql >/dev/null || absent "apt-get could not install postgresql" "see its message above"
    }
    bin=$(programs)
    [ -n "$bin" ] || fail "the package postgresql brought no initdb" "look below /usr/lib/postgresql"
fi

folder=$(mktemp -d)
chmod 711 "$folder"
as=()
if [ "$(id -u)" = 0 ]; then
    id postgres >/dev/null 2>&1 || fail "PostgreSQL does not run as root, and there is no user postgres" "useradd --system postgres"
    as=(setpriv --reuid=postgres --regid=postgres --init-groups --)
    chown postgres "$folder"
fi
server() { (cd "$folder" && "${as[@]}" "$bin/$@"); }
# shellcheck disable=SC2317
remove() {
    server pg_ctl --pgdata="$folder/data" --mode=immediate stop >/dev/null 2>&1 || true
    rm -rf "$folder"
}
trap remove EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

export TUNESMITH_POSTGRES_PASSWORD="p@ss/wo:rd-$RANDOM$RANDOM"
"${as[@]}" sh -c 'umask 077; cat >"$1"' sh "$folder/password" <<<"$TUNESMITH_POSTGRES_PASSWORD"
server initdb --pgdata="$folder/data" --username=tester --auth=scram-sha-256 --pwfile="$folder/password" --encoding=UTF8 --locale=C --no-sync >"$folder/initdb.log" 2>&1 || {
    cat "$folder/initdb.log" >&2
    fail "initdb failed" "see its message above"
}
started=
for _ in 1 2 3 4 5; do # a port that is free now may be taken in a moment
    port=$((20000 + RANDOM % 12000)) # below 32768, where Linux begins to hand out ports by itself
    options="-c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories=$folder -c fsync=off -c max_connections=10"
    server pg_ctl --pgdata="$folder/data" --log="$folder/data/server.log" --wait --timeout=60 --options="$options" start >/dev/null 2>&1 && started=yes && break
done
[ -n "$started" ] || {
    cat "$folder/data/server.log" >&2
    fail "the server did not start" "see its log above"
}

# shellcheck disable=SC2016 # the password is looked up late, as in a recipe
export TUNESMITH_POSTGRES_URL='postgresql://tester:${TUNESMITH_POSTGRES_PASSWORD}@127.0.0.1:'"$port/postgres"
HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE "$@" tests/postgres
