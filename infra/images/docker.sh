#!/usr/bin/env bash
# docker.sh start|stop: a Docker daemon for the time of a run, where none answers.
#
# A daemon that already answers is used and left as it is. One that is started here publishes ports on
# 127.0.0.1 only, keeps its data in a folder of its own, so that images built once stay, and is stopped here.
# `stop` first removes the containers that tests killed half-way left behind: testcontainers has no reaper in Rust.
set -euo pipefail

state=${THEATER_DOCKER_DIR:-/var/lib/theater-docker}
exec_root=/run/theater-docker # short: the names of its sockets have a limit
pid_file=$state/pid
log=$state/dockerd.log

start_secs=60
stop_secs=30

fail() {
    echo "docker.sh: $*" >&2
    exit 1
}

answers() { timeout 10 docker info >/dev/null 2>&1; }

# Whether the process of the pid file is a dockerd: after a restart of the machine the number may be another's.
ours_runs() {
    [[ -s $pid_file && $(cat "/proc/$(<"$pid_file")/comm" 2>/dev/null) == dockerd ]]
}

gone() { ! ours_runs; }

# within SECONDS COMMAND…: whether it succeeds in time.
within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.2
    done
}

answers_or_ended() { answers || ! kill -0 "$daemon" 2>/dev/null; }

start() {
    command -v docker >/dev/null || fail "no docker client: install docker.io (and docker-cli where it is apart)"
    if answers; then
        echo "a Docker daemon answers already: $(docker version --format '{{.Server.Version}}')"
        return
    fi
    [[ -z ${DOCKER_HOST:-} ]] || fail "DOCKER_HOST is $DOCKER_HOST, and nothing answers there"
    [[ $EUID == 0 ]] || fail "no Docker daemon answers, and to start one takes root"
    command -v dockerd >/dev/null || fail "no dockerd: install docker.io"
    mkdir -p "$state"
    # A session of its own: Ctrl-C is for who waits for the tests. The socket is for whoever called sudo.
    setsid nohup dockerd --data-root "$state/data" --exec-root "$exec_root" --pidfile "$pid_file" --ip 127.0.0.1 \
        --group "${SUDO_GID:-0}" >"$log" 2>&1 </dev/null &
    daemon=$!
    if within "$start_secs" answers_or_ended && answers; then
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
    if ! ours_runs; then
        echo "no daemon of ours runs"
        return
    fi
    [[ $EUID == 0 ]] || fail "to stop dockerd takes root"
    local pid
    pid=$(<"$pid_file")
    remove_leftovers
    kill "$pid"
    if ! within "$stop_secs" gone; then
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
