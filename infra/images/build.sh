#!/usr/bin/env bash
# Builds stand-ins for the official images, under the same names, from Debian's and Maven's packages. They are for machines that
# can't pull images. An existing tag, pulled or built, is not touched. See README.md.
#
# Packages come from where this machine gets them: apt's configuration names the mirror and its settings, and Maven fetches the
# jars. So no such address is written here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
readonly script_name=images
. .ci/lib.sh
cd infra/images

base=debian:trixie-slim # has PostgreSQL 17, a JRE 21 and HAProxy 3.0
postgres=postgres:17-alpine
kafka=apache/kafka:4.3.1
haproxy=haproxy:3.0
certificates=/etc/ssl/certs/ca-certificates.crt

# The folder that debootstrap fills belongs to root.
clean_up() { as_root rm -rf "$work"; }

exists() { docker image inspect "$1" >/dev/null 2>&1; }

# quietly NAME COMMAND…: shows the output only if the command fails.
quietly() {
    local log=$work/$1.log
    shift
    "$@" >"$log" 2>&1 || {
        tail -n 40 "$log" >&2
        fail "failed: $*; the end of its output is above"
    }
}

# repository CODENAME: its address, from the machine's apt. awk reads all of the input, because apt-get fails on a closed pipe.
repository() {
    # shellcheck disable=SC2016 # $(…) is apt's notation
    apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v codename="$1" \
            '$1 == "Debian" && $2 == codename && $3 == "main" && $4 ~ /^https?:/ && !found++ { print $4 }'
}

# The machine's proxies, relaxed checks and certificates, as lines of apt's configuration.
apt_settings() {
    apt-config dump --format '%F "%v";%n' | grep -E '^Acquire::(https?::(Proxy|Verify)|Check-|Retries|ForceIP)' || true
    [[ ! -r $certificates ]] || echo "Acquire::https::CAInfo \"$certificates\";"
}

# apt_setting NAME: its value, or nothing.
apt_setting() {
    local value=
    eval "$(apt-config shell value "$1")"
    echo "$value"
}

build_base() {
    command -v debootstrap >/dev/null || fail "there is no debootstrap: install it with apt-get"
    local codename archive security root=$work/root
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    if [[ -z $(repository "$codename") ]]; then
        quietly apt-update as_root apt-get update # the package lists may never have been fetched
    fi
    archive=$(repository "$codename")
    security=$(repository "$codename-security")
    [[ -n $archive ]] || fail "apt's configuration names no Debian mirror to build $base from"

    # debootstrap downloads with wget, which takes proxies only from the environment.
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

# build_image TAG FOLDER. Uses the host's network, because the mirror may be behind a proxy on loopback. Uses the classic builder,
# which every Docker has; buildx is a separate package.
build_image() {
    local options=() name
    for name in http_proxy https_proxy no_proxy; do
        [[ -z ${!name:-} ]] || options+=(--build-arg "$name")
    done
    quietly "docker-build" env DOCKER_BUILDKIT=0 docker build "${options[@]}" --network host -t "$1" "$2"
}

build_postgres() { build_image "$postgres" postgres; }

build_kafka() {
    command -v mvn >/dev/null || fail "there is no mvn: Maven downloads the jars of $kafka"
    cp -r kafka "$work/kafka"
    quietly maven mvn -q -B -f ../kafka/pom.xml dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$work/kafka/libs"
    build_image "$kafka" "$work/kafka"
}

build_haproxy() { build_image "$haproxy" haproxy; }

# build TAG FUNCTION
build() {
    if exists "$1"; then
        echo "$1 exists"
        return
    fi
    local start=$SECONDS
    "$2"
    echo "$1 built in $((SECONDS - start)) s, $(($(docker image inspect -f '{{.Size}}' "$1") / 1000000)) MB"
}

make_work_folder
docker info >/dev/null 2>&1 || fail "no Docker daemon answers: infra/images/docker.sh start"
# The services' images have the same base.
build "$base" build_base
build "$postgres" build_postgres
build "$kafka" build_kafka
build "$haproxy" build_haproxy
