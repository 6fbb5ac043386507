#!/bin/sh
# As the official image: the first start makes the cluster, the database, and runs the SQL it was given.
set -eu

user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  : "${POSTGRES_PASSWORD:?must be set}"
  printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password
  initdb --username="$user" --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 >/dev/null
  rm /tmp/password
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
  # Logs to standard output, the server below to standard error: testcontainers waits for both to be ready.
  pg_ctl -w start -o "-c listen_addresses=''"
  [ "$database" = postgres ] || createdb --username="$user" "$database"
  for script in /docker-entrypoint-initdb.d/*.sql; do
    [ ! -f "$script" ] || psql -v ON_ERROR_STOP=1 --username="$user" --dbname="$database" -f "$script"
  done
  pg_ctl -m fast -w stop
fi

[ "${1:-}" != postgres ] || shift
exec postgres -c listen_addresses='*' "$@"
