"""A droplet in a network namespace of its own, its neighbour on the underlay, and namespaces for endpoints.

The test's own thread enters the droplet's namespace, as an agent would live there; everything is removed afterwards.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from agent.core.model.map_layout import NEXT_HOP, NEXT_HOP_KEY, MapName
from agent.core.model.uplinks import Uplink
from agent.core.uplinks.hook_choice import HookSettings
from agent.datapath.attach.uplinks import read_uplinks
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.maps import Map, MapSizes
from agent.datapath.kernel import Kernel, KernelConfig
from agent.datapath.net.netlink import Netlink
from agent.datapath.nexthop.neighbours import NeighbourWatch

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def enter(namespace: str | Path) -> None:
    path = Path(namespace) if str(namespace).startswith("/") else Path("/run/netns", namespace)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if _libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns", str(path))
    finally:
        os.close(descriptor)


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def ip(*arguments: str, namespace: str | None = None, check: bool = True) -> str:
    inside = ["-n", namespace] if namespace else []
    return run("ip", *inside, *arguments, check=check)


def ip_json(*arguments: str, namespace: str | None = None) -> list[dict[str, Any]]:
    return json.loads(ip("-j", "-d", *arguments, namespace=namespace) or "[]")


@dataclass
class Topo:
    """A droplet and its underlay: names of namespaces, addresses as text."""

    droplet: str
    underlay: str
    prefix: str
    interface: str = "eth0"
    address: str = "10.77.0.1"
    neighbour: str = "10.77.0.2"
    endpoints: list[str] = field(default_factory=list)

    def endpoint_namespace(self) -> str:
        name = f"{self.prefix}e{len(self.endpoints)}"
        self.endpoints.append(name)
        ip("netns", "add", name)
        return name

    def remake(self, name: str) -> None:
        """Delete an endpoint's namespace and make another one under its name."""
        ip("netns", "del", name)
        ip("netns", "add", name)

    def ifindex(self, name: str) -> int:
        return int(ip_json("link", "show", name)[0]["ifindex"])


@pytest.fixture
def topo() -> Iterator[Topo]:
    prefix = f"kn{os.getpid()}"
    made = Topo(droplet=f"{prefix}d", underlay=f"{prefix}s", prefix=prefix)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        for name in (made.droplet, made.underlay):
            ip("netns", "add", name)
        ip(
            "link",
            "add",
            "eth0",
            "netns",
            made.droplet,
            "type",
            "veth",
            "peer",
            "name",
            "sub0",
            "netns",
            made.underlay,
        )
        ip("addr", "add", f"{made.address}/24", "dev", "eth0", namespace=made.droplet)
        ip("addr", "add", f"{made.neighbour}/24", "dev", "sub0", namespace=made.underlay)
        for namespace, interface in ((made.droplet, "eth0"), (made.underlay, "sub0")):
            ip("link", "set", "lo", "up", namespace=namespace)
            ip("link", "set", interface, "up", namespace=namespace)
        # Without it eth0 would take no redirected frames: see test_lab_redirects.py.
        run("ip", "netns", "exec", made.underlay, "ethtool", "-K", "sub0", "gro", "on")
        enter(made.droplet)
        yield made
    finally:
        _libc.setns(home, CLONE_NEWNET)
        os.close(home)
        for name in (*made.endpoints, made.droplet, made.underlay):
            ip("netns", "del", name, check=False)


@pytest.fixture
def config(topo: Topo, tmp_path: Path, lab_cache: Path) -> Iterator[KernelConfig]:
    """An agent's settings with small maps and a bpf file system of its own."""
    bpffs = tmp_path / "bpf"
    hooks = HookSettings("xdp", "xdp")
    yield KernelConfig(
        *("here", f"{topo.prefix}i", ("eth0",), lab_cache, bpffs), hooks=hooks, sizes=MapSizes(endpoints=1000)
    )
    run("umount", str(bpffs), check=False)


@pytest.fixture
def at_tc_config(config: KernelConfig) -> KernelConfig:
    """The same with the programs of endpoints and uplinks at tc."""
    return replace(config, hooks=HookSettings("tc", "tc"))


@pytest.fixture
async def kernel(config: KernelConfig) -> AsyncIterator[Kernel]:
    opened = await Kernel.open(config)
    opened.tend(await opened.observe({}))
    yield opened
    await opened.close()


async def uplinks_now(*interfaces: str) -> tuple[Uplink, ...]:
    async with Netlink() as netlink:
        return await read_uplinks(netlink, interfaces)


@pytest.fixture
async def uplinks(topo: Topo) -> tuple[Uplink, ...]:
    return await uplinks_now(topo.interface)


@pytest.fixture
def table() -> Iterator[Map]:
    """A map of next hops of its own."""
    descriptor = bpf.create_map(bpf.MapType.HASH, NEXT_HOP_KEY.size, NEXT_HOP.size, 128, bpf.BPF_F_NO_PREALLOC)
    yield Map(MapName.NEXT_HOPS, descriptor)
    os.close(descriptor)


@pytest.fixture
async def watch(uplinks: tuple[Uplink, ...], table: Map) -> AsyncIterator[NeighbourWatch]:
    made = NeighbourWatch(uplinks, table)
    await made.start()
    yield made
    await made.close()
