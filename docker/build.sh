#!/usr/bin/env bash
# Builds the images `droplet` and `droplet-lab`. Further arguments go to `docker build`, as in `build.sh --network host`.
#
# BASE             the base image, Debian 12 (default debian:bookworm-slim; `base.sh` makes one without a registry)
# PIP_CONFIG_FILE  a pip.conf for the build alone: a mirror, a proxy
# PIP_CERT         a PEM bundle of the authorities that pip trusts, for the build alone
set -euo pipefail
cd "$(dirname "$0")/.."

arguments=(--file docker/Dockerfile --build-arg "BASE=${BASE:-debian:bookworm-slim}" "$@")
[ -n "${PIP_CONFIG_FILE:-}" ] && arguments+=(--secret "id=pip,src=$PIP_CONFIG_FILE")
[ -n "${PIP_CERT:-}" ] && arguments+=(--secret "id=certificates,src=$PIP_CERT")
export DOCKER_BUILDKIT=1
docker build "${arguments[@]}" --target droplet --tag droplet .
docker build "${arguments[@]}" --target lab --tag droplet-lab .
