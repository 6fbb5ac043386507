# What the scripts in .ci and infra/images have in common. A script sets script_name and then sources this file.
# shellcheck shell=bash
# shellcheck disable=SC2034 # not every script uses every list

readonly saga_services=(reservation movie notification reservation-list)
readonly services=("${saga_services[@]}" gateway)
readonly programs=("${services[@]}" theater) # each has an image

# --- errors and clean-up ---

fail() {
    echo "$script_name: $*" >&2
    exit 1
}

# fail_with FILE MESSAGE…: shows the output in FILE first.
fail_with() {
    cat "$1" >&2
    fail "${@:2}"
}

# Creates the temporary folder $work. When the script ends, also by a signal, clean_up runs and the folder is removed.
make_work_folder() {
    work=$(mktemp -d "${TMPDIR:-/tmp}/theater-$script_name.XXXXXX")
    trap finish EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

finish() {
    exit_status=$?
    trap - EXIT
    set +e
    clean_up
    rm -rf "$work"
    exit "$exit_status"
}

# For a script to redefine. It runs without `set -e`, and may change exit_status.
clean_up() { :; }

# --- running commands ---

as_root() {
    if [[ $EUID == 0 ]]; then "$@"; else sudo -n "$@"; fi
}

# wait_until SECONDS COMMAND…: repeats a command, hiding its output, until it succeeds. Fails after SECONDS.
wait_until() {
    local deadline=$((SECONDS + $1))
    until "${@:2}" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || return 1
        sleep 0.2
    done
}

# run_checks [CHECK…]: runs the named functions, or all of $checks.
run_checks() {
    local check chosen=("${@:-${checks[@]}}")
    for check in "${chosen[@]}"; do
        [[ " ${checks[*]} " == *" $check "* ]] || fail "no check is called $check; there are: ${checks[*]}"
    done
    for check in "${chosen[@]}"; do
        echo "--- $check"
        "$check"
    done
}

# --- tools ---

workspace_version() { sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml; }

# docker_inspect OBJECT FORMAT
docker_inspect() { docker inspect -f "$2" "$1"; }

# install_python FOLDER REQUIREMENTS: a virtual environment with these packages.
install_python() {
    python3 -m venv "$1"
    "$1/bin/pip" install --quiet --disable-pip-version-check -r "$2"
}

# unpack_debian FOLDER PACKAGE…: unpacks Debian packages into FOLDER. Installing them would also start their services.
unpack_debian() {
    local folder=$1 package
    mkdir -p "$folder"
    # The package lists may never have been fetched.
    download_debian "$@" || { as_root apt-get update -qq; download_debian "$@"; } || fail "can't download ${*:2}"
    for package in "$folder"/*.deb; do
        dpkg-deb -x "$package" "$folder"
    done
}

download_debian() { (cd "$1" && apt-get download -qq -o APT::Sandbox::User=root "${@:2}"); }
