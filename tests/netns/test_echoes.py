"""The tests' own echo requests: an answer counts however late it comes."""

from __future__ import annotations

import socket
import threading

import pytest
from lab import echoes
from lab.frames import checksum
from lab.waiting import until

from controller_sim.lab.namespaces import call_in, run_in

from .conftest import Topo, ip

V6 = "2001:db8:77::2"


@pytest.fixture
def far(topo: Topo) -> Topo:
    """A neighbour of both families, whose kernel answers no echo requests."""
    ip("addr", "add", "2001:db8:77::1/64", "dev", "eth0", "nodad")
    ip("addr", "add", f"{V6}/64", "dev", "sub0", "nodad", namespace=topo.underlay)
    quiet = ["net.ipv4.icmp_echo_ignore_all=1", "net.ipv6.icmp.echo_ignore_all=1"]
    assert run_in(topo.underlay, ["sysctl", "-qw", *quiet]).returncode == 0
    return topo


def answer(opened: socket.socket, late: int, go_on: threading.Event) -> None:
    """Answer echo requests one by one, from the `late`-th on only once the event is set."""
    request, reply = echoes.ECHO[socket.AddressFamily(opened.family)]
    seen = 0
    while seen < 3:
        message, sender = opened.recvfrom(2048)
        if opened.family == socket.AF_INET:
            message = message[20:]
        if message[0] != request:
            continue
        seen += 1
        if seen >= late:
            assert go_on.wait(60)
        body = bytes([reply, 0, 0, 0]) + message[4:]
        if opened.family == socket.AF_INET:
            body = body[:2] + checksum(body).to_bytes(2, "big") + body[4:]
        opened.sendto(body, (sender[0], 0))


@pytest.mark.parametrize("address", ["10.77.0.2", V6], ids=["ipv4", "ipv6"])
def test_an_answer_that_comes_long_after_the_others_counts(far: Topo, address: str) -> None:
    """Later than twice the longest round trip, after which ping(8) reports it as lost."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if ":" in address else socket.IPPROTO_ICMP
    go_on, found = threading.Event(), list[int]()
    with call_in(far.underlay, lambda: socket.socket(family, socket.SOCK_RAW, protocol)) as opened:
        opened.settimeout(60)
        answering = threading.Thread(target=answer, args=(opened, 3, go_on))
        asking = threading.Thread(target=lambda: found.append(echoes.answered(far.droplet, address, 3, 60)))
        answering.start()
        asking.start()
        assert not go_on.wait(0.5), "many round trips later"
        assert found == [], "it still waits"
        go_on.set()
        until(lambda: found, "its end")
        asking.join()
        answering.join()
    assert found == [3]


def test_unanswered_and_unsendable_echoes_count_as_unanswered(far: Topo) -> None:
    assert echoes.answered(far.droplet, "10.77.0.2", 3, 0.1) == 0
    assert echoes.answered(far.droplet, "203.0.113.1", 3, 0.1) == 0
    assert echoes.answered(far.droplet, "10.77.0.1", 3, 5) == 3, "its own"
