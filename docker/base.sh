#!/usr/bin/env bash
# Makes the base image where no image registry can be reached: a minimal Debian 12 from the mirrors that this machine's apt
# uses, as the image `droplet-base`. Needs root, debootstrap and a running Docker engine.
set -euo pipefail

image=${1:-droplet-base}
suite=bookworm
mirror=${MIRROR:-$(apt-get indextargets --format '$(SITE) $(CODENAME)' 'Created-By: Packages' |
    awk -v suite=$suite '$2 == suite { print $1; exit }')}
[ -n "$mirror" ] || { echo "base.sh: apt knows no mirror of $suite: set MIRROR" >&2; exit 1; }

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase "$suite" "$root" "$mirror"
# The build installs more packages, from where this machine does.
cp -R /etc/apt/sources.list* "$root/etc/apt/"
echo 'Acquire::Languages "none";' > "$root/etc/apt/apt.conf.d/90no-languages"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
tar -C "$root" -c . | docker import --change 'CMD ["bash"]' - "$image"
