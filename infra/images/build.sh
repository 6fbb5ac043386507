#!/usr/bin/env bash
# Builds stand-ins for the official images that the tests use, where those can't be pulled: from Debian's and
# Maven's packages as this machine is set up to get them. An image that is there, official or not, is left alone.
#
#   infra/images/build.sh           needs root (debootstrap), debootstrap, mvn and a Docker daemon
#
# DEBIAN_MIRROR names the mirror of Debian, where this machine's own apt sources don't.
set -euo pipefail
cd "$(dirname "$0")"

readonly BASE=debian:trixie-slim # as the official images: it has PostgreSQL 17 and a JRE 21
readonly POSTGRES=postgres:17-alpine
readonly KAFKA=apache/kafka:4.3.1
readonly SUITE=trixie
export DOCKER_BUILDKIT=0 # the classic builder is part of Debian's docker.io, buildx is not

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

missing() {
  ! docker image inspect "$1" >/dev/null 2>&1
}

# apt_target REGEX: the first repository of this machine whose release matches.
apt_target() {
  # $(..) is apt's own notation. All is read, so that apt-get never writes into a closed pipe.
  # shellcheck disable=SC2016
  apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk -v release="$1" '$2 ~ release && $3 == "main" && !found { print $1; found = 1 }'
}

# apt_setting NAME: one of this machine's settings of apt, or nothing.
apt_setting() {
  local value=
  eval "$(apt-config shell value "$1")"
  echo "$value"
}

# Writes what apt needs inside the image to reach what it reaches here: mirrors, proxies, leniencies, roots of trust.
configure_apt() {
  local root=$1 mirror=$2 security=$3 name value
  {
    echo "deb $mirror $SUITE main"
    [[ -z $security ]] || echo "deb $security $SUITE-security main"
  } >"$root/etc/apt/sources.list"
  for name in Acquire::http::Proxy Acquire::https::Proxy Acquire::Check-Valid-Until Acquire::Check-Date; do
    value=$(apt_setting "$name")
    [[ -z $value ]] || echo "$name \"$value\";"
  done >"$root/etc/apt/apt.conf.d/80host"
  if [[ $mirror == https:* ]]; then
    install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  fi
}

base() {
  local codename mirror security root=$work/base options=()
  # shellcheck source=/dev/null
  codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
  mirror=${DEBIAN_MIRROR:-$(apt_target "^$codename\$")}
  security=$(apt_target "^$codename-security\$")
  if [[ -z $mirror ]]; then
    echo "images: this machine's apt sources name no mirror of Debian: set DEBIAN_MIRROR" >&2
    return 1
  fi
  [[ $mirror != https:* ]] || options+=(--include=ca-certificates)
  http_proxy=${http_proxy:-$(apt_setting Acquire::http::Proxy)} \
    https_proxy=${https_proxy:-$(apt_setting Acquire::https::Proxy)} \
    debootstrap --variant=minbase "${options[@]}" "$SUITE" "$root" "$mirror" >"$work/debootstrap.log" 2>&1 || {
    tail -n 20 "$work/debootstrap.log" "$root/debootstrap/debootstrap.log" >&2
    return 1
  }
  configure_apt "$root" "$mirror" "$security"
  tar -C "$root" --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' --exclude='./var/log/*' \
    --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' -c . |
    docker import -c 'CMD ["bash"]' -c 'LABEL theater.stand-in=true' - "$BASE" >/dev/null
  rm -rf "$root"
}

# build TAG FOLDER
build() {
  local options=() name
  for name in http_proxy https_proxy no_proxy; do
    [[ -z ${!name:-} ]] || options+=(--build-arg "$name")
  done
  docker build "${options[@]}" --network host -t "$1" "$2" >"$work/build.log" 2>&1 || {
    tail -n 40 "$work/build.log" >&2
    return 1
  }
}

postgres() {
  build "$POSTGRES" postgres
}

kafka() {
  cp -r kafka "$work/kafka"
  mvn -q -B -f ../kafka/pom.xml dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$work/kafka/libs"
  build "$KAFKA" "$work/kafka"
}

# step IMAGE FUNCTION: builds the image unless it is there, and says how long that took.
step() {
  if ! missing "$1"; then
    echo "images: $1 is there"
    return
  fi
  local began=$SECONDS
  "$2"
  echo "images: $1 built in $((SECONDS - began)) s"
}

if missing "$POSTGRES" || missing "$KAFKA"; then
  step "$BASE" base
fi
step "$POSTGRES" postgres
step "$KAFKA" kafka
