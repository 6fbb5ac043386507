# Sourced after lib.sh by checks that need a running theater: the built program, on Apache Kafka and free ports. They have
# called make_work_folder.
# shellcheck shell=bash

readonly theater_start_secs=120
theater_pid=

# Starts a theater, once. $work/theater.json then holds the addresses of its parts. Further settings of the services come
# from the environment.
start_theater() {
    [[ -z $theater_pid ]] || return 0
    local program=${CARGO_TARGET_DIR:-target}/debug/theater
    [[ -x $program ]] || fail "there is no $program: cargo build"
    mkdir "$work/running"
    XDG_RUNTIME_DIR=$work/running "$program" --kafka native --gateway-port 0 --reservation-port 0 --movie-port 0 \
        --notification-port 0 --reservation-list-port 0 >"$work/theater.log" 2>&1 &
    theater_pid=$!
    wait_until "$theater_start_secs" theater_started_or_ended || fail "the theater did not start within $theater_start_secs s"
    theater_started || fail "the theater ended while it started"
    cp "$work"/running/theater/*.json "$work/theater.json"
    echo "a theater on Apache Kafka runs at $(theater_address gateway)"
}

# The launcher writes its runtime file when everything has started.
theater_started() { compgen -G "$work/running/theater/*.json" >/dev/null; }

theater_started_or_ended() { theater_started || ! kill -0 "$theater_pid"; }

# theater_address PART
theater_address() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$work/theater.json" "$1"; }

# The check fails if the theater doesn't stop cleanly. After a failure the end of its log is shown.
clean_up() {
    if [[ -n $theater_pid ]]; then
        kill -INT "$theater_pid" 2>/dev/null
        wait "$theater_pid" || { echo "the theater ended with status $?" >&2; exit_status=1; }
    fi
    ((exit_status == 0)) || [[ ! -e $work/theater.log ]] || { echo "--- the end of the theater's log" >&2; tail -n 40 "$work/theater.log" >&2; }
}
