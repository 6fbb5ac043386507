#!/bin/sh
# Like the official entrypoint: HAProxy runs in the foreground, with a master process that receives the signals.
set -eu

case "${1:-}" in
    -*) set -- haproxy "$@" ;;
esac
if [ "${1:-}" = haproxy ]; then
    shift
    set -- haproxy -W -db "$@"
fi
exec "$@"
