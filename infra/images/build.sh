#!/usr/bin/env bash
# Builds stand-ins for the official images, under their names, from Debian's and Maven's packages: for
# machines that can pull no image. A tag that exists, pulled or built, is left as it is. See README.md.
#
# Where packages come from is the machine's own affair: the mirror and its settings are read from its apt, the
# jars come from its Maven. Nothing of that is written down here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

base=debian:trixie-slim # as under the official images: it has PostgreSQL 17, a JRE 21 and HAProxy 3.0
postgres=postgres:17-alpine
kafka=apache/kafka:4.3.1
haproxy=haproxy:3.0
certificates=/etc/ssl/certs/ca-certificates.crt

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

as_root() {
    if [[ $EUID == 0 ]]; then "$@"; else sudo -n "$@"; fi
}

exists() { docker image inspect "$1" >/dev/null 2>&1; }

work=$(mktemp -d "${TMPDIR:-/tmp}/theater-images.XXXXXX")
trap 'as_root rm -rf "$work"' EXIT

# quietly NAME COMMAND…: its output only if it fails.
quietly() {
    local log=$work/$1.log
    shift
    "$@" >"$log" 2>&1 || {
        tail -n 40 "$log" >&2
        fail "failed: $*; the end of its output is above"
    }
}

# The address of one of the machine's Debian repositories, by its codename. awk reads all: apt-get must not
# write into a closed pipe.
repository() {
    # shellcheck disable=SC2016 # $(..) is apt's own notation
    apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v codename="$1" \
            '$1 == "Debian" && $2 == codename && $3 == "main" && $4 ~ /^https?:/ && !found++ { print $4 }'
}

# The machine's proxies, leniencies and certificates, in apt's own words.
apt_settings() {
    apt-config dump --format '%F "%v";%n' | grep -E '^Acquire::(https?::(Proxy|Verify)|Check-|Retries|ForceIP)' || true
    [[ ! -r $certificates ]] || echo "Acquire::https::CAInfo \"$certificates\";"
}

# One of apt's settings, or nothing.
apt_setting() {
    local value=
    eval "$(apt-config shell value "$1")"
    echo "$value"
}

build_base() {
    command -v debootstrap >/dev/null || fail "no debootstrap: install it by apt-get"
    local codename archive security root=$work/root
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    if [[ -z $(repository "$codename") ]]; then
        quietly apt-update as_root apt-get update # the lists may never have been fetched
    fi
    archive=$(repository "$codename")
    security=$(repository "$codename-security")
    [[ -n $archive ]] || fail "the machine's apt names no Debian mirror to make $base from"

    # debootstrap fetches with wget, which knows proxies by the environment only.
    quietly debootstrap as_root env "http_proxy=${http_proxy:-$(apt_setting Acquire::http::Proxy)}" \
        "https_proxy=${https_proxy:-$(apt_setting Acquire::https::Proxy)}" \
        debootstrap --variant=minbase trixie "$root" "$archive"
    {
        echo "deb $archive trixie main"
        [[ -z $security ]] || echo "deb $security trixie-security main"
    } | as_root tee "$root/etc/apt/sources.list" >/dev/null
    apt_settings | as_root tee "$root/etc/apt/apt.conf.d/90machine" >/dev/null
    [[ ! -r $certificates ]] || as_root install -D -m 644 "$certificates" "$root$certificates"
    as_root tar -C "$root" --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' --exclude='./var/log/*' \
        --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' -c . |
        docker import -c 'CMD ["bash"]' - "$base" >/dev/null
}

# build_image TAG FOLDER. The host's network: the way to the mirror may be a proxy on loopback. The classic
# builder: every Docker has it, buildx is a package apart.
build_image() {
    local options=() name
    for name in http_proxy https_proxy no_proxy; do
        [[ -z ${!name:-} ]] || options+=(--build-arg "$name")
    done
    quietly "docker-build" env DOCKER_BUILDKIT=0 docker build "${options[@]}" --network host -t "$1" "$2"
}

build_postgres() { build_image "$postgres" postgres; }

build_kafka() {
    command -v mvn >/dev/null || fail "no mvn: the jars of $kafka come by Maven"
    cp -r kafka "$work/kafka"
    quietly maven mvn -q -B -f ../kafka/pom.xml dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$work/kafka/libs"
    build_image "$kafka" "$work/kafka"
}

build_haproxy() { build_image "$haproxy" haproxy; }

# build TAG FUNCTION
build() {
    if exists "$1"; then
        echo "$1 is there"
        return
    fi
    local begin=$SECONDS
    "$2"
    echo "$1 built in $((SECONDS - begin)) s, $(($(docker image inspect -f '{{.Size}}' "$1") / 1000000)) MB"
}

docker info >/dev/null 2>&1 || fail "no Docker daemon answers: infra/images/docker.sh start"
# The base is also under the services' own images.
build "$base" build_base
build "$postgres" build_postgres
build "$kafka" build_kafka
build "$haproxy" build_haproxy
