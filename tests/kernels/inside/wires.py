"""Network namespaces and the interfaces between them, gone when a block ends."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from controller_sim.lab.namespaces import entered


def run(*command: str, namespace: str | None = None) -> str:
    """Run a command, in a namespace if one is named; it must succeed. Return its output."""
    line = list(command) if namespace is None else entered(namespace, list(command))
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}"
    return done.stdout


def ip(namespace: str, *lines: str) -> str:
    """Run lines of ip(8) in a namespace, one after the other."""
    return "".join(run("ip", "-n", namespace, *line.split()) for line in lines)


@contextlib.contextmanager
def namespaces(*names: str) -> Iterator[None]:
    """Have namespaces, with their loopback up, for the time of a block."""
    made = []
    try:
        for name in names:
            run("ip", "netns", "add", name)
            made.append(name)
            ip(name, "link set lo up")
        yield
    finally:
        for name in made:
            run("ip", "netns", "delete", name)


def wire(left: str, right: str, left_name: str, right_name: str) -> None:
    """Join two namespaces by a pair of interfaces, both up, that behave as network cards on a cable do.

    Checksums and VLAN tags are written into the frames, and each takes what a program redirects to the other (which
    needs GRO where no program runs).
    """
    ip(left, f"link add name {left_name} type veth peer name {right_name} netns {right}", f"link set {left_name} up")
    ip(right, f"link set {right_name} up")
    for namespace, name in ((left, left_name), (right, right_name)):
        run("ethtool", "-K", name, "tx", "off", "txvlan", "off", "gro", "on", namespace=namespace)
