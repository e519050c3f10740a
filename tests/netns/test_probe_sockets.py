"""Probes and ICMP errors over real links: two hosts, a router that says what does not fit, both families."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator

import pytest
from lab.frames import checksum
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether

from agent.core.probe.icmp_errors import Problem, TunnelError
from agent.core.probe.probe_packet import UDP_HEADER, headers, smallest
from agent.core.probe.send_errors import SendResult
from agent.datapath.net.namespaces import in_namespace, opened_namespace
from agent.probe.icmp_listener import IcmpErrors
from agent.probe.probe_socket import ProbeSocket

from .conftest import ip
from .prober_setup import NONCE, Heard, both, in_near_host, path_of
from .routed import PORT, V4, Addresses, Reflector, Routed


@pytest.fixture
def net() -> Iterator[Routed]:
    with in_near_host() as made:
        yield made


@both
async def test_a_probe_of_every_size_comes_back(net: Routed, family: Addresses) -> None:
    path, replies = path_of(family), Heard()
    reflector = Reflector(net, net.far, family, family.far)
    prober = ProbeSocket(path.source, "eth0", PORT, replies.take)
    try:
        for number, size in enumerate((smallest(path.peer), 1280, 1499, 1500), 1):
            assert prober.send(path.peer, size, NONCE) is SendResult.SENT
            await replies.come(number)
        assert replies == [(path, NONCE)] * 4
        assert [size for size, _ in reflector.requests][-1] == 1500 - (28 if family is V4 else 48)
    finally:
        prober.close()
        reflector.close()


@both
async def test_a_probe_leaves_with_a_right_udp_checksum_though_the_interface_offers_to_add_it(
    net: Routed, family: Addresses
) -> None:
    with opened_namespace(net.far) as descriptor:
        wire = in_namespace(descriptor, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
    wire.bind(("eth0", 3))
    wire.settimeout(20)
    path = path_of(family)
    prober = ProbeSocket(path.source, "eth0", PORT, Heard().take)
    try:
        for size in (smallest(path.peer), 1500):
            assert prober.send(path.peer, size, NONCE) is SendResult.SENT
            while (UDP not in (frame := Ether(await asyncio.to_thread(wire.recv, 2000)))) or frame[UDP].dport != PORT:
                pass
            assert len(frame) == size + 14
            datagram = bytes(frame)[-(size - headers(path.peer) + UDP_HEADER) :]
            pseudo = path.source + path.peer + struct.pack("!II", len(datagram), socket.IPPROTO_UDP)
            assert checksum(pseudo + datagram) == 0, "the sum of what is right is zero (RFC 768, RFC 8200 section 8.1)"
    finally:
        prober.close()
        wire.close()


@both
async def test_a_probe_longer_than_the_interfaces_mtu_is_refused_locally(net: Routed, family: Addresses) -> None:
    path = path_of(family)
    prober = ProbeSocket(path.source, "eth0", PORT, Heard().take)
    try:
        assert prober.send(path.peer, 1501, NONCE) is SendResult.TOO_LONG
    finally:
        prober.close()


@both
async def test_the_path_mtu_of_another_socket_does_not_limit_probes(net: Routed, family: Addresses) -> None:
    path, replies = path_of(family), Heard()
    reflector = Reflector(net, net.far, family, family.far)
    prober = ProbeSocket(path.source, "eth0", PORT, replies.take)
    ip("route", "add", family.far, "via", family.near_router, "mtu", "1300")
    try:
        assert prober.send(path.peer, 1500, NONCE) is SendResult.SENT
        await replies.come()
    finally:
        prober.close()
        reflector.close()


@both
async def test_without_a_route_a_probe_cannot_be_sent(net: Routed, family: Addresses) -> None:
    path = path_of(family)
    prober = ProbeSocket(path.source, "eth0", PORT, Heard().take)
    ip("link", "set", "eth0", "down")
    try:
        assert prober.send(path.peer, 100, NONCE) is SendResult.IMPOSSIBLE
    finally:
        prober.close()


async def test_an_address_that_does_not_exist_yet_is_reported(net: Routed) -> None:
    with pytest.raises(OSError, match="Cannot assign requested address"):
        ProbeSocket(V4.packed("10.78.1.77"), "eth0", PORT, Heard().take)


@both
async def test_the_icmp_error_of_a_router_contains_size_and_nonce(net: Routed, family: Addresses) -> None:
    net.narrow(1400)
    path = path_of(family)
    heard = Heard()
    errors = IcmpErrors({path}, (PORT, 4789), heard.take)
    prober = ProbeSocket(path.source, "eth0", PORT, Heard().take)
    try:
        assert prober.send(path.peer, 1500, NONCE) is SendResult.SENT
        await heard.come()
        assert heard == [(TunnelError(path, Problem.TOO_LARGE, 1400, NONCE),)]
    finally:
        prober.close()
        errors.close()


@both
async def test_a_closed_port_is_reported(net: Routed, family: Addresses) -> None:
    path = path_of(family)
    heard = Heard()
    errors = IcmpErrors({path}, (PORT,), heard.take)
    prober = ProbeSocket(path.source, "eth0", PORT, Heard().take)
    try:
        assert prober.send(path.peer, 200, NONCE) is SendResult.SENT
        await heard.come()
        assert heard == [(TunnelError(path, Problem.UNREACHABLE, None, NONCE),)]
    finally:
        prober.close()
        errors.close()
