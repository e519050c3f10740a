"""A host that no agent was ever on."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from lab.waiting import until


@contextlib.contextmanager
def bare_host(name: str, address: str) -> Iterator[str]:
    """Make a namespace whose only interface is `eth0` with an address (with its prefix length), for a block."""
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for command in (
            "link add name eth0 type veth peer name wire",
            f"address add {address} dev eth0",
            "link set eth0 up",
            "link set wire up",
        ):
            subprocess.run(["ip", "-n", name, *command.split()], check=True)
        until(lambda: _shown(name).count("state UP") == 2, "the kernel to show both ends as up, which it does later")
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def _shown(name: str) -> str:
    return subprocess.run(["ip", "-n", name, "link", "show"], check=True, capture_output=True, text=True).stdout
