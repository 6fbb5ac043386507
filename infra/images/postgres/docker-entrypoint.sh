#!/bin/sh
# The part of the official entrypoint that tests use: POSTGRES_USER, _PASSWORD, _DB, _HOST_AUTH_METHOD, and initial *.sql files.
#
# The server starts twice, as in the official image: first on a socket only, to create the databases, with its log on stdout; then
# for use, with its log on stderr. Tests wait for the lines of both starts.
set -eu

case "${1:-}" in
    postgres) shift ;;
    -*) ;;
    *) exec "$@" ;;
esac

user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}
host_auth=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ -z "${POSTGRES_PASSWORD:-}" ] && [ "$host_auth" != trust ]; then
        echo "POSTGRES_PASSWORD must be set" >&2
        exit 1
    fi
    password=$(mktemp)
    printf '%s\n' "${POSTGRES_PASSWORD:-unused}" >"$password"
    initdb -D "$PGDATA" --username="$user" --pwfile="$password" --auth-local=trust --auth-host="$host_auth"
    rm "$password"
    echo "host all all all $host_auth" >>"$PGDATA/pg_hba.conf"

    pg_ctl -D "$PGDATA" -w -o "-c listen_addresses=''" start
    [ "$database" = postgres ] || createdb -U "$user" "$database"
    for file in /docker-entrypoint-initdb.d/*.sql; do
        [ ! -e "$file" ] || psql -v ON_ERROR_STOP=1 --no-psqlrc -U "$user" -d "$database" -f "$file"
    done
    pg_ctl -D "$PGDATA" -w -m fast stop
fi

exec postgres -D "$PGDATA" -c listen_addresses='*' "$@"
