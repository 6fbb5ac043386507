#!/usr/bin/env bash
# docker.sh start|stop: starts and stops a Docker daemon, if none answers.
#
# A daemon that already answers is used, and not stopped. A daemon that is started here publishes ports on 127.0.0.1 only, and
# keeps its data in a folder of its own, so that built images remain. `stop` first removes containers that killed tests have left
# behind: testcontainers has no reaper in Rust.
set -euo pipefail
readonly script_name=docker.sh
# shellcheck source=.ci/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../.ci/lib.sh"

state=${THEATER_DOCKER_DIR:-/var/lib/theater-docker}
exec_root=/run/theater-docker # short, because the paths of sockets are limited
pid_file=$state/pid
log=$state/dockerd.log

start_secs=60
stop_secs=30

answers() { timeout 10 docker info >/dev/null 2>&1; }

# After a restart of the machine, the pid in the file may belong to another program than dockerd.
own_daemon_runs() {
    [[ -s $pid_file && $(cat "/proc/$(<"$pid_file")/comm" 2>/dev/null) == dockerd ]]
}

own_daemon_ended() { ! own_daemon_runs; }

answers_or_ended() { answers || ! kill -0 "$daemon" 2>/dev/null; }

start() {
    command -v docker >/dev/null || fail "there is no docker client: install docker.io (and docker-cli if that is a separate package)"
    if answers; then
        echo "a Docker daemon answers already: $(docker version --format '{{.Server.Version}}')"
        return
    fi
    [[ -z ${DOCKER_HOST:-} ]] || fail "DOCKER_HOST is $DOCKER_HOST, but nothing answers there"
    [[ $EUID == 0 ]] || fail "no Docker daemon answers, and only root can start one"
    command -v dockerd >/dev/null || fail "there is no dockerd: install docker.io"
    mkdir -p "$state"
    # A session of its own, so that Ctrl-C ends only the tests. The group of the user that called sudo may use the socket.
    setsid nohup dockerd --data-root "$state/data" --exec-root "$exec_root" --pidfile "$pid_file" --ip 127.0.0.1 \
        --group "${SUDO_GID:-0}" >"$log" 2>&1 </dev/null &
    daemon=$!
    if wait_until "$start_secs" answers_or_ended && answers; then
        echo "started dockerd $(docker version --format '{{.Server.Version}}'), pid $daemon, data in $state"
        return
    fi
    kill "$daemon" 2>/dev/null || true
    tail -n 20 "$log" >&2
    fail "dockerd did not answer within $start_secs s; the end of its log is above"
}

remove_leftovers() {
    local left
    mapfile -t left < <(timeout 30 docker ps -aq --filter label=org.testcontainers.managed-by=testcontainers)
    ((${#left[@]})) || return 0
    echo "removing ${#left[@]} containers that tests left behind"
    timeout 60 docker rm -fv "${left[@]}" >/dev/null || true
}

stop() {
    if ! own_daemon_runs; then
        echo "no daemon that was started here runs"
        return
    fi
    [[ $EUID == 0 ]] || fail "only root can stop dockerd"
    local pid
    pid=$(<"$pid_file")
    remove_leftovers
    kill "$pid"
    if ! wait_until "$stop_secs" own_daemon_ended; then
        echo "dockerd did not end within $stop_secs s: killed" >&2
        kill -KILL "$pid" || true
    fi
    rm -f "$pid_file"
    umount "$exec_root/netns/default" 2>/dev/null || true
    echo "stopped dockerd"
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    *) fail "usage: docker.sh start|stop" ;;
esac
