"""Two hosts in namespaces of their own with a router between them, whose far link may be narrower; a reflector."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from agent.core.probe.probe_packet import Kind, build, parse
from agent.datapath.net.namespaces import in_namespace, opened_namespace

from .conftest import ip, run

PORT = 6081
QUIET = (
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv6.conf.all.keep_addr_on_down=1",
    "net.ipv4.icmp_ratelimit=0",
    "net.ipv6.icmp.ratelimit=0",
)


@dataclass(frozen=True)
class Addresses:
    """One family's addresses: the near host, the router on its side, the far host, the router there."""

    near: str
    near_router: str
    far: str
    far_router: str
    bits: int
    any: str

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.near else socket.AF_INET

    def packed(self, text: str) -> bytes:
        return socket.inet_pton(self.family, text)


V4 = Addresses("10.78.1.1", "10.78.1.254", "10.78.2.1", "10.78.2.254", 24, "0.0.0.0/0")
V6 = Addresses("fd78:1::1", "fd78:1::fe", "fd78:2::1", "fd78:2::fe", 64, "::/0")


@dataclass
class Routed:
    """Names of the three namespaces; interfaces are `eth0` at the hosts, `near` and `far` at the router."""

    near: str
    router: str
    far: str
    prefix: str
    families: tuple[Addresses, ...] = (V4, V6)
    opened: list[socket.socket] = field(default_factory=list)

    def narrow(self, mtu: int) -> None:
        """Let the router's far link carry no more than this; the far host still sends as it likes."""
        ip("link", "set", "far", "mtu", str(mtu), namespace=self.router)


@contextmanager
def routed() -> Iterator[Routed]:
    prefix = f"probes{os.getpid()}"
    made = Routed(f"{prefix}a", f"{prefix}r", f"{prefix}b", prefix)
    try:
        for name in (made.near, made.router, made.far):
            ip("netns", "add", name)
            run("ip", "netns", "exec", name, "sysctl", "-qw", *QUIET)
        for host, side in ((made.near, "near"), (made.far, "far")):
            peer = ("peer", "name", side, "netns", made.router)
            ip("link", "add", "eth0", "netns", host, "mtu", "1500", "type", "veth", *peer)
        for name, interface in ((made.near, "eth0"), (made.far, "eth0"), (made.router, "near"), (made.router, "far")):
            ip("link", "set", "lo", "up", namespace=name)
            ip("link", "set", interface, "up", namespace=name)
        for family in made.families:
            _address(made, family)
        for option in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            run("ip", "netns", "exec", made.router, "sysctl", "-qw", f"{option}=1")
        yield made
    finally:
        for opened in made.opened:
            opened.close()
        for name in (made.near, made.router, made.far):
            ip("netns", "del", name, check=False)


def _address(made: Routed, family: Addresses) -> None:
    for name, interface, address in (
        (made.near, "eth0", family.near),
        (made.router, "near", family.near_router),
        (made.far, "eth0", family.far),
        (made.router, "far", family.far_router),
    ):
        ip("addr", "add", f"{address}/{family.bits}", "dev", interface, "nodad", namespace=name)
    ip("route", "add", family.any, "via", family.near_router, namespace=made.near)
    ip("route", "add", family.any, "via", family.far_router, namespace=made.far)


class Reflector:
    """Answers probes in a namespace as the other host's transit XDP does: whole, with ports exchanged."""

    def __init__(self, made: Routed, namespace: str, family: Addresses, address: str) -> None:
        self.requests: list[tuple[int, str]] = []
        self.silent = False
        self.most: int | None = None
        """What is longer is swallowed without a word, counted as UDP's payload."""
        with opened_namespace(namespace) as descriptor:
            self._socket = in_namespace(descriptor, lambda: socket.socket(family.family, socket.SOCK_DGRAM))
        made.opened.append(self._socket)
        self._socket.setblocking(False)
        self._socket.bind((address, PORT))
        asyncio.get_running_loop().add_reader(self._socket, self._reflect)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)

    def _reflect(self) -> None:
        data, sender = self._socket.recvfrom(65535)
        found = parse(data)
        assert found is not None
        assert found.kind is Kind.REQUEST
        self.requests.append((len(data), sender[0]))
        swallowed = self.most is not None and len(data) > self.most
        if not self.silent and not swallowed:
            self._socket.sendto(build(Kind.REPLY, found.nonce, len(data)), sender)
