#!/bin/sh
# Makes Docker's wires fit for XDP: `wires.sh BRIDGE`, in the engine's own network namespace.
#
# A frame that XDP redirects to a container's eth0 comes out of that interface's other side, at the bridge, only where
# that side receives by NAPI. GRO turns it on. Every start of a container makes a new pair, so this goes on watching.
set -eu
bridge=$1

fit() {
    for port in "/sys/class/net/$bridge/brif"/*; do
        [ -e "$port" ] || continue
        name=${port##*/}
        ethtool -k "$name" 2>/dev/null | grep -q '^generic-receive-offload: off' || continue
        ethtool -K "$name" gro on && echo "$name: GRO on"
    done
}

trap 'exit 0' TERM INT
while :; do
    fit
    sleep 1 &
    wait $!
done
