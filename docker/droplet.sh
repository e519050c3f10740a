#!/bin/sh
# A container as a host: its network namespace is the droplet, and the namespaces named as arguments are its tenants'.
# Starts the agent again when it dies, as a host's service manager would; traffic flows meanwhile.
set -eu

rm -rf /run/netns  # of a run before: namespaces end with their container, their files do not
for tenant in "$@"; do
    ip netns add "$tenant"
    ip -n "$tenant" link set lo up
done

trap 'kill "$agent"; wait "$agent"; exit 0' TERM INT
while :; do
    droplet-agent &
    agent=$!
    echo "$agent" > /run/droplet-agent.pid
    status=0
    wait "$agent" || status=$?
    [ "$status" -ne 2 ] || exit 2  # wrong settings: no start mends them
    sleep 1
done
