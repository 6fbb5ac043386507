#!/bin/sh
# As the official entrypoint: HAProxy gets a master that takes the signals, and stays in the foreground.
set -eu

case "${1:-}" in
    -*) set -- haproxy "$@" ;;
esac
if [ "${1:-}" = haproxy ]; then
    shift
    set -- haproxy -W -db "$@"
fi
exec "$@"
