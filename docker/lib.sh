# What the scripts of this folder share; sourced by them, after `set -eu`.
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
cd "$root"
umask 077

fail() {
    echo "$(basename -- "$0"): $*" >&2
    exit 1
}
say() { echo "$(basename -- "$0"): $*"; }

# Compose 2 is a plugin of docker, Compose 1 a program of its own. Both read .env of this folder.
if docker compose version >/dev/null 2>&1; then
    compose() { docker compose "$@"; }
elif command -v docker-compose >/dev/null 2>&1; then
    compose() { docker-compose "$@"; }
else
    fail "neither \`docker compose\` nor \`docker-compose\` is installed here"
fi

[ -s .env ] || fail "there is no .env; docker/make-env writes one"

value_of() { sed -n "s/^$1=//p" .env | tail -n 1; }
random() { head -c "$1" /dev/urandom | base64 | tr -d '\n' | tr '+/' '-_'; }

# $1 file, $2 name, $3 value: replace a line. The value goes by the environment, because arguments are for everybody to see.
set_value() {
    NAME=$2 VALUE=$3 awk 'BEGIN { name = ENVIRON["NAME"]; value = ENVIRON["VALUE"] }
        index($0, name "=") == 1 { if (!done) print name "=" value; done = 1; next }
        { print }
        END { if (!done) print name "=" value }' "$1" >"$1.part"
    mv "$1.part" "$1"
}

# A program of PostgreSQL, in its container, as the administrator.
database() { compose exec -T postgres sh -c 'export PGPASSWORD=$POSTGRES_PASSWORD PGHOST=127.0.0.1 PGUSER=postgres; exec "$@"' sh "$@"; }

# Whatever of Airflow there is in this deployment: everything that would write while it must not.
airflow_parts() { compose ps --services 2>/dev/null | grep -E '^(airflow-|sandbox-connect)' | grep -v '^airflow-init$' || true; }

await_healthy() {
    left=60
    until [ "$(compose ps -q airflow-apiserver airflow-scheduler airflow-dag-processor airflow-triggerer |
        xargs docker inspect --format '{{.State.Health.Status}}' | sort -u)" = healthy ]; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || fail "not healthy after five minutes; \`docker-compose ps\` and \`docker-compose logs\` say what is missing"
        sleep 5
    done
}
