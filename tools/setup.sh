#!/usr/bin/env bash
# Makes this checkout runnable on a fresh Debian 12: system packages, a locked virtualenv, bcc made visible in it, and
# what the tests in JavaScript need: Node from the virtualenv, its packages locked too.
# Does nothing twice: a stamp in the virtualenv holds the lock files' hash.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(python3-bpfcc libc6-dev linux-libc-dev iproute2 ethtool nftables iputils-ping procps python3-venv)
venv=.venv
stamp=$venv/.setup
javascript=tests/javascript
want=$({
    sed '/^\[tool.ruff\]/,$d' pyproject.toml
    cat requirements.lock tools/setup.sh "$javascript"/{package.json,package-lock.json,.npmrc}
} | sha256sum | cut -d' ' -f1)

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || { echo "setup: root is needed to install: ${missing[*]}" >&2; exit 1; }
    echo "setup: installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && [ -d "$javascript/node_modules" ]; then
    exit 0
fi
echo "setup: building $venv from requirements.lock"
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/pip" install -qq --disable-pip-version-check --require-hashes -r requirements.lock
"$venv/bin/pip" install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .

# bcc is not on PyPI: show the virtualenv the distribution's package, and that one alone.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$venv/distribution"
ln -sfn /usr/lib/python3/dist-packages/bcc "$venv/distribution/bcc"
echo "$PWD/$venv/distribution" > "$site/distribution.pth"

PATH="$PWD/$venv/bin:$PATH" npm --prefix "$javascript" ci --no-progress --loglevel=error >/dev/null
echo "$want" > "$stamp"
