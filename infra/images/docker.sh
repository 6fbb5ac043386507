#!/usr/bin/env bash
# Starts a Docker daemon where none answers, and stops what it started: for machines without a service manager.
#
#   infra/images/docker.sh start    needs root
#   infra/images/docker.sh stop     also removes what interrupted tests left behind
#
# A daemon that answers already is somebody's own: it is used as it is, and left alone. Ours keeps its images in
# the cache folder, so that the next start has them.
set -euo pipefail

readonly START_SECS=60 STOP_SECS=30

# The launcher's cache, see infra/src/cache.rs.
case $(id -u) in
0) cache=${XDG_CACHE_HOME:-/var/cache}/theater ;;
*) cache=${XDG_CACHE_HOME:-$HOME/.cache}/theater ;;
esac
readonly state=$cache/docker
readonly run=/run/theater-docker # short: its sockets' names have a limit
readonly pidfile=$run/pid

# ours: whether the daemon that we started is running.
ours() {
  [[ -s $pidfile && $(cat "/proc/$(<"$pidfile")/comm" 2>/dev/null) == dockerd ]]
}

answers() {
  timeout 10 docker version >/dev/null 2>&1
}

start() {
  if answers; then
    echo "docker: a daemon answers already: $(docker version --format '{{.Server.Version}}')"
    return
  fi
  if ((EUID != 0)); then
    echo "docker: no daemon answers, and only root can start one" >&2
    return 1
  fi
  mkdir -p "$state" "$run"
  # Published ports are for this machine only.
  nohup dockerd --ip 127.0.0.1 --data-root "$state/data" --exec-root "$run/exec" --pidfile "$pidfile" \
    >"$state/log" 2>&1 </dev/null &
  local daemon=$! deadline=$((SECONDS + START_SECS))
  until answers; do
    if ! kill -0 "$daemon" 2>/dev/null || ((SECONDS > deadline)); then
      echo "docker: the daemon did not answer within $START_SECS s; its last words:" >&2
      tail -n 20 "$state/log" >&2
      kill "$daemon" 2>/dev/null || true
      return 1
    fi
    sleep 0.2
  done
  echo "docker: started $(docker version --format '{{.Server.Version}}')"
}

stop() {
  if ! ours; then
    echo "docker: nothing to stop"
    return
  fi
  local pid deadline=$((SECONDS + STOP_SECS))
  pid=$(<"$pidfile")
  local leftovers
  leftovers=$(timeout "$STOP_SECS" docker ps -aq --filter label=org.testcontainers.managed-by=testcontainers || true)
  if [[ -n $leftovers ]]; then
    echo "docker: removing $(wc -w <<<"$leftovers") containers that tests left behind"
    # shellcheck disable=SC2086 # several words
    timeout "$STOP_SECS" docker rm -fv $leftovers >/dev/null || true
  fi
  kill "$pid" 2>/dev/null || true
  while ours; do
    if ((SECONDS > deadline)); then
      kill -KILL "$pid"
      break
    fi
    sleep 0.2
  done
  umount "$run/exec/netns/default" 2>/dev/null || true
  rm -rf "$run"
  echo "docker: stopped"
}

case ${1:-} in
start) start ;;
stop) stop ;;
*)
  echo "usage: $0 start|stop" >&2
  exit 2
  ;;
esac
