# Sourced by checks that need a theater of their own: the built one, on Apache Kafka and free ports. They have $work and
# fail.

readonly open_tries=1200 # of 0.1 s
theater=

# Writes $work/theater.json, which says where its parts are. Further settings of the services are in the environment.
open_theater() {
    [[ -z $theater ]] || return 0
    local program=${CARGO_TARGET_DIR:-target}/debug/theater tries=$open_tries
    [[ -x $program ]] || fail "there is no $program: cargo build"
    mkdir "$work/running"
    # Its runtime file says where it is once all is open.
    XDG_RUNTIME_DIR=$work/running "$program" --kafka native --gateway-port 0 --reservation-port 0 --movie-port 0 \
        --notification-port 0 --reservation-list-port 0 >"$work/theater.log" 2>&1 &
    theater=$!
    until compgen -G "$work/running/theater/*.json" >/dev/null; do
        kill -0 "$theater" 2>/dev/null || fail "the theater did not start"
        ((tries-- > 0)) || fail "the theater did not open"
        sleep 0.1
    done
    cp "$work"/running/theater/*.json "$work/theater.json"
    echo "a theater on Apache Kafka is open at $(where gateway)"
}

# where PART: of the open theater.
where() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$work/theater.json" "$1"; }

# close_theater STATUS: answers it, or 1 if the theater ended badly; shows its last words after a failure.
close_theater() {
    local status=$1
    if [[ -n $theater ]]; then
        kill -INT "$theater" 2>/dev/null
        wait "$theater" || { echo "the theater ended with status $?" >&2; status=1; }
    fi
    ((status == 0)) || [[ ! -e $work/theater.log ]] || { echo "--- the theater's last words" >&2; tail -n 40 "$work/theater.log" >&2; }
    return "$status"
}
