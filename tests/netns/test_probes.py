"""Probes and ICMP errors over real links: two hosts, a router that says what does not fit, both families."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from agent.core.paths import Path
from agent.core.probe_packet import smallest
from agent.core.tunnel_errors import Problem, TunnelError
from agent.datapath.icmp_errors import IcmpErrors
from agent.datapath.probe_socket import ProbeSocket, Sending

from .conftest import _libc, enter, ip
from .routed import PORT, V4, V6, Addresses, Reflector, Routed, routed

NONCE = b"8 bytes!"


@pytest.fixture
def net() -> Iterator[Routed]:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        with routed() as made:
            enter(made.near)
            yield made
            _libc.setns(home, 0x40000000)
    finally:
        _libc.setns(home, 0x40000000)
        os.close(home)


class Heard(list[object]):
    """What a callback was called with, and a way to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._more = asyncio.Event()

    def take(self, *what: object) -> None:
        self.append(what)
        self._more.set()

    async def come(self, number: int = 1) -> None:
        async with asyncio.timeout(2):
            while len(self) < number:
                self._more.clear()
                await self._more.wait()


def path_of(family: Addresses) -> Path:
    return Path(family.packed(family.near), family.packed(family.far))


both = pytest.mark.parametrize("family", [V4, V6], ids=["ipv4", "ipv6"])


@both
async def test_a_probe_of_every_size_comes_back(net: Routed, family: Addresses) -> None:
    path, replies = path_of(family), Heard()
    reflector = Reflector(net, net.far, family, family.far)
    prober = ProbeSocket(path.source, "eth0", PORT, replies.take)
    try:
        for number, size in enumerate((smallest(path.peer), 1280, 1499, 1500), 1):
            assert prober.send(path.peer, size, NONCE) is Sending.SENT
            await replies.come(number)
        assert replies == [(path, NONCE)] * 4
        assert [size for size, _ in reflector.requests][-1] == 1500 - (28 if family is V4 else 48)
    finally:
        prober.close()
        reflector.close()


@both
async def test_a_probe_longer_than_the_interface_takes_is_refused_here(net: Routed, family: Addresses) -> None:
    path = path_of(family)
    prober = ProbeSocket(path.source, "eth0", PORT, Heard().take)
    try:
        assert prober.send(path.peer, 1501, NONCE) is Sending.TOO_LONG
    finally:
        prober.close()


@both
async def test_what_another_socket_was_told_of_the_path_does_not_cut_probes(net: Routed, family: Addresses) -> None:
    path, replies = path_of(family), Heard()
    reflector = Reflector(net, net.far, family, family.far)
    prober = ProbeSocket(path.source, "eth0", PORT, replies.take)
    ip("route", "add", family.far, "via", family.near_router, "mtu", "1300")
    try:
        assert prober.send(path.peer, 1500, NONCE) is Sending.SENT
        await replies.come()
    finally:
        prober.close()
        reflector.close()


async def test_without_a_route_a_probe_is_impossible(net: Routed) -> None:
    path = path_of(V4)
    prober = ProbeSocket(path.source, "eth0", PORT, Heard().take)
    ip("route", "del", "default")
    ip("route", "add", "unreachable", "default")
    try:
        assert prober.send(path.peer, 100, NONCE) is Sending.IMPOSSIBLE
    finally:
        prober.close()


async def test_an_address_that_is_not_there_yet_is_told(net: Routed) -> None:
    with pytest.raises(OSError, match="Cannot assign requested address"):
        ProbeSocket(V4.packed("10.78.1.77"), "eth0", PORT, Heard().take)


@both
async def test_a_router_that_cannot_send_it_on_tells_size_and_nonce(net: Routed, family: Addresses) -> None:
    net.narrow(1400)
    path = path_of(family)
    heard = Heard()
    errors = IcmpErrors({path}, (PORT, 4789), heard.take)
    prober = ProbeSocket(path.source, "eth0", PORT, Heard().take)
    try:
        assert prober.send(path.peer, 1500, NONCE) is Sending.SENT
        await heard.come()
        assert heard == [(TunnelError(path, Problem.TOO_LARGE, 1400, NONCE),)]
    finally:
        prober.close()
        errors.close()


@both
async def test_a_port_that_nobody_listens_on_is_told(net: Routed, family: Addresses) -> None:
    path = path_of(family)
    heard = Heard()
    errors = IcmpErrors({path}, (PORT,), heard.take)
    prober = ProbeSocket(path.source, "eth0", PORT, Heard().take)
    try:
        assert prober.send(path.peer, 200, NONCE) is Sending.SENT
        await heard.come()
        assert heard == [(TunnelError(path, Problem.UNREACHABLE, None, NONCE),)]
    finally:
        prober.close()
        errors.close()
