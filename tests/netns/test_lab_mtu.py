"""What fits: endpoints' MTUs, the ICMP errors of both families, paths that carry less than they say, and fragments."""

from __future__ import annotations

import re
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.frames import checksum
from lab.peers import peers
from lab.traffic import (
    exchange_all,
    exchange_tcp,
    exchange_udp,
    learnt_mtu,
    mtu_of,
    ping,
    ping_whole,
    raw_socket,
    udp_socket,
)
from lab.underlays import over
from lab.waiting import until

from controller_sim.lab.controller import read_status
from controller_sim.talk.reachability import check_all
from controller_sim.topology.model import gateway_of

OVER_IPV4, OVER_IPV6 = 62, 94
NARROW = 1400
FOUND = 60.0
"""Seconds in which the agents must have found out what a path carries."""
OFTEN = """\
#!{python}
import functools
from agent import daemon
from agent.__main__ import main
daemon.Rules = functools.partial(daemon.Rules, narrow_every=2.0)
main()
"""
"""An agent that checks narrow paths every other second, not once a minute."""
SWALLOWED = "what is too long for the path is gone until that is found out"
PORT = 7113
ICMP_ERRORS_PER_SECOND = 50
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PROBE = 10, 23, 3
HEEDLESS = {"of the interface's size": 4, "or fragmented to it": 5}
"""IP_PMTUDISC_INTERFACE and IP_PMTUDISC_OMIT (ip(7)): without DF, and whatever ICMP says."""


def forget_mtus(lab: SystemLab, endpoint: str) -> None:
    lab.ip(lab.inside(endpoint), "route", "flush", "cache")
    lab.ip(lab.inside(endpoint), "-6", "route", "flush", "cache")


@pytest.mark.parametrize(
    ("name", "mtu", "taken"),
    [
        ("moving", 1500, OVER_IPV4),
        ("ipv6_underlay", 1500, OVER_IPV6),
        ("moving", 9000, OVER_IPV4),
        ("ipv6_underlay", 9000, OVER_IPV6),
    ],
    ids=["over IPv4", "over IPv6", "over IPv4 with large frames", "over IPv6 with large frames"],
)
def test_endpoints_get_what_the_underlay_leaves_and_packets_of_that_size_arrive(lab_cache, name, mtu, taken):
    text = topology_text(name)
    text = text.replace("mtu: 1500", f"mtu: {mtu}") if "mtu: 1500" in text else f"underlay: {{mtu: {mtu}}}\n{text}"
    with running_lab("mtu", text) as lab:
        assert {mtu_of(lab, endpoint) for endpoint in lab.endpoints} == {mtu - taken}
        for family in (4, 6):
            assert "1 received" in ping_whole(lab, "web-1", lab.address("web-2", family), mtu - taken)
            exchange_all(lab, "web-1", "web-2", family)


def fitting(lab: SystemLab) -> int:
    """Return the MTU that endpoints have on a narrow path."""
    return NARROW - (OVER_IPV6 if ":" in lab.topology.droplets["h1"].address else OVER_IPV4)


@pytest.fixture(scope="module", params=["ipv4", "ipv6"])
def lab(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    """The router's port to web-2's host has an MTU of 1400 bytes, the interfaces of 1500."""
    with running_lab("narrow", over(request.param, topology_text("narrow_path")), lossy=SWALLOWED) as lab:
        yield lab


def test_all_that_endpoints_send_arrives_also_right_after_the_start_while_paths_are_measured(lab: SystemLab) -> None:
    """What is lost meanwhile is sent again, as an application would: 1,390 bytes are more than the path carries."""
    assert check_all(lab.lab).lines == []


@pytest.fixture(scope="module")
def found(lab: SystemLab) -> SystemLab:
    """The same, once every agent has found out."""
    narrow = {"h1": {"h2"}, "h2": {"h1", "h3"}, "h3": {"h2"}}
    for host, ends in narrow.items():
        until(lambda host=host, ends=ends: narrow_paths(lab, host).keys() >= ends, f"{host} to find out", FOUND)
    for endpoint in lab.endpoints:
        forget_mtus(lab, endpoint)
    return lab


def narrow_paths(lab: SystemLab, host: str) -> dict[str, int]:
    """Return what the paths to other droplets carry, where that is less than configured."""
    return {path.droplet: path.carries for path in lab.status(host).narrow_paths}


def leave_unanswered(lab: SystemLab) -> None:
    """Have the router drop what h2 answers to h1's probes: a datagram to the port that asked, which no tunnel's is."""
    one, other = (lab.topology.droplets[name].address for name in ("h1", "h2"))
    rule = ["from", other, "to", one, "ipproto", "udp", "dport", "32768-60999", "blackhole", "priority", "100"]
    lab.ip(lab.names.router, "-6" if ":" in one else "-4", "rule", "add", *rule)


@pytest.mark.parametrize("underlay", ["ipv4", "ipv6"])
def test_an_icmp_error_from_the_underlay_is_acted_on(lab_cache, underlay):
    """By itself: h1's probes of h2 are never answered, so that nothing else can tell what the path carries.

    The first long packet is lost at the router, which says so to the host; the next one is answered with the size.
    """
    text = over(underlay, topology_text("narrow_path"))
    with running_lab("errors", text, lossy=SWALLOWED, wires=leave_unanswered) as lab:
        exchange_udp(lab, "web-1", "web-2", [100, 100], 4)
        assert lab.path("web-1", "web-2", 4).route == "direct"
        before, counted = lab.probes("h1").icmp_errors, lab.all_counters()  # a host without programs refuses probes so
        assert narrow_paths(lab, "h1") == {}
        address = lab.address("web-2", 4)

        ping_whole(lab, "web-1", address, mtu_of(lab, "web-1"))
        until(lambda: lab.probes("h1").icmp_errors > before, "the router's error")
        ping_whole(lab, "web-1", address, mtu_of(lab, "web-1"))
        assert learnt_mtu(lab, "web-1", address) == fitting(lab)
        assert lab.probes("h1").icmp_errors > before
        after = lab.all_counters()
        assert after["h1"]["icmp_too_big_sent"] > counted["h1"]["icmp_too_big_sent"]
        assert after["h3"]["icmp_too_big_sent_remote"] == counted["h3"]["icmp_too_big_sent_remote"], (
            "not by the bouncer"
        )
        assert narrow_paths(lab, "h1") == {"h2": NARROW}
        assert {peer.droplet: peer.state for peer in peers(lab, "h1")}["h2"] == "unknown", "all that while"
        exchange_tcp(lab, "web-1", "web-2", 1 << 20, 4)


def test_a_pair_whose_path_carries_less_than_configured_is_in_the_status_of_both_ends(found):
    """From the south nothing answers: frames that are too long for the router's port vanish, and only probes tell."""
    assert narrow_paths(found, "h1") == {"h2": NARROW}
    assert narrow_paths(found, "h3") == {"h2": NARROW}
    assert narrow_paths(found, "h2") == {"h1": NARROW, "h3": NARROW}


@pytest.fixture
def checks_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = tmp_path / "agent"
    agent.write_text(OFTEN.format(python=sys.executable))
    agent.chmod(0o755)
    monkeypatch.setenv("DROPLET_LAB_AGENT", str(agent))


@pytest.mark.usefixtures("checks_often")
def test_a_path_whose_mtu_shrinks_and_grows_again_is_published_as_events(lab_cache):
    text = topology_text("narrow_path").replace(", router_mtu: 1400", "")
    with running_lab("narrows", text, lossy=SWALLOWED) as lab:
        for host in lab.hosts:
            assert narrow_paths(lab, host) == {}
        exchange_udp(lab, "web-1", "web-2", [100, 100], 4)  # the long one is to go direct
        with lab.events("h1", "narrow_path") as events:
            lab.ip(lab.names.router, "link", "set", "eth1", "mtu", str(NARROW))
            for _ in range(3):
                ping_whole(lab, "web-1", lab.address("web-2", 4), mtu_of(lab, "web-1"))
            until(events, "the event", FOUND)
        assert any("h2" in line and str(NARROW) in line for line in events()[0].detail)
        with lab.events("h1", "path_restored") as events:
            lab.ip(lab.names.router, "link", "set", "eth1", "mtu", "1500")
            until(events, "the path's recovery", FOUND)
        assert any("h2" in line for line in events()[0].detail)
        assert narrow_paths(lab, "h1") == {}


def test_a_link_that_silently_drops_long_frames_is_found_by_probes_and_named_by_the_lab(lab_cache):
    """One subnet, so that no router answers; the endpoints' own packets then fit."""
    text = topology_text("moving").replace(
        "h2: {address: 172.18.0.12/24", f"h2: {{address: 172.18.0.12/24, link_mtu: {NARROW}"
    )
    with running_lab("silentmtu", text, lossy=SWALLOWED) as lab:
        until(lambda: narrow_paths(lab, "h1").get("h2") == NARROW, "h1 to find out", FOUND)
        until(lambda: narrow_paths(lab, "h2").get("h1") == NARROW, "h2 to find out", FOUND)
        named = re.compile(rf"h1\b.* to h2 carr(ies|y) {NARROW} of 1500")
        until(lambda: any(map(named.fullmatch, read_status(lab.lab).reasons)), "the lab to name it")
        assert "h3" not in narrow_paths(lab, "h1")
        for family in (4, 6):
            exchange_tcp(lab, "web-1", "web-2", 4 << 20, family)
            exchange_tcp(lab, "web-2", "web-1", 4 << 20, family)


@pytest.mark.parametrize("family", [4, 6])
def test_packets_that_exceed_the_mtu_get_an_icmp_error_with_size_source_and_quote(found, family):
    """ICMP fragmentation needed (RFC 1191) and ICMPv6 packet too big (RFC 4443, 3.2), from the network's gateway."""
    lab = found
    address = lab.address("web-2", family)
    gateway = gateway_of(next(c for c in lab.topology.networks["web"].cidrs if (":" in c) == (family == 6)))
    until(lambda: lab.path("web-1", "web-2", family).route != "none", "a route")
    forget_mtus(lab, "web-1")
    with raw_socket(lab.inside("web-1")) as tap:
        said = ping_whole(lab, "web-1", address, mtu_of(lab, "web-1"))
        error = until(lambda: next(filter(None, [icmp_error(tap.recv(1 << 16), family)]), None), "the error")
    source, destination, mtu, quote = error
    assert (source, destination) == (gateway, lab.address("web-1", family))
    assert mtu == fitting(lab)
    assert addresses_in_quote(quote, family) == (lab.address("web-1", family), address)
    assert len(quote) >= (28 if family == 4 else 48), "with the first eight bytes of what was in the packet"
    assert str(fitting(lab)) in said
    assert learnt_mtu(lab, "web-1", address) == fitting(lab)


def icmp_error(frame: bytes, family: int) -> tuple[str, str, int, bytes] | None:
    """Return source, destination, MTU and quote of a frame that is such an error with a right checksum, else None."""
    ethertype = struct.unpack_from("!H", frame, 12)[0]
    if family == 4 and ethertype == 0x0800 and frame[23] == 1 and frame[34:36] == b"\x03\x04":
        length = struct.unpack_from("!H", frame, 16)[0]
        body = frame[34 : 14 + length]
        assert checksum(body + b"\0" * (len(body) % 2)) == 0
        assert checksum(frame[14:34]) == 0
        ends = [socket.inet_ntop(socket.AF_INET, frame[at : at + 4]) for at in (26, 30)]
        return ends[0], ends[1], struct.unpack_from("!H", body, 6)[0], body[8:]
    if family == 6 and ethertype == 0x86DD and frame[20] == 58 and frame[54] == 2:
        length = struct.unpack_from("!H", frame, 18)[0]
        body = frame[54 : 54 + length]
        pseudo = frame[22:54] + struct.pack("!IHBB", length, 0, 0, 58)
        assert checksum(pseudo + body + b"\0" * (len(body) % 2)) == 0
        ends = [socket.inet_ntop(socket.AF_INET6, frame[at : at + 16]) for at in (22, 38)]
        return ends[0], ends[1], struct.unpack_from("!I", body, 4)[0], body[8:]
    return None


def addresses_in_quote(quote: bytes, family: int) -> tuple[str, str]:
    """Return source and destination of the packet that an ICMP error quotes."""
    kind, size, at = (socket.AF_INET, 4, 12) if family == 4 else (socket.AF_INET6, 16, 8)
    return (
        socket.inet_ntop(kind, quote[at : at + size]),
        socket.inet_ntop(kind, quote[at + size : at + 2 * size]),
    )


@pytest.mark.parametrize("family", [4, 6])
def test_everything_gets_through_a_narrow_path_once_it_is_known(found, family):
    for one, other in (("web-1", "web-2"), ("web-2", "web-3"), ("web-1", "web-3")):
        exchange_tcp(found, one, other, 4 << 20, family)
        for size in (1000, 4000):
            until(lambda one=one, other=other, size=size: udp_arrives(found, one, other, size, family), "a datagram")
            until(lambda one=one, other=other, size=size: udp_arrives(found, other, one, size, family), "a datagram")
        exchange_udp(found, one, other, [100, 1000, 4000, 9000], family)


def udp_arrives(lab: SystemLab, source: str, destination: str, size: int, family: int) -> bool:
    """Send one datagram that may be fragmented; the first ones may be lost while the endpoint learns the path's MTU."""
    with (
        udp_socket(lab.inside(destination), lab.address(destination, family), PORT) as receiver,
        udp_socket(lab.inside(source), lab.address(source, family)) as sender,
    ):
        receiver.settimeout(0.5)
        sender.sendto(bytes(size), (lab.address(destination, family), PORT))
        try:
            return len(receiver.recv(1 << 16)) == size
        except TimeoutError:
            return False


@pytest.mark.parametrize("family", [4, 6])
def test_icmp_errors_are_rate_limited_and_unanswered_packets_are_counted(found, family):
    lab, count = found, 1000
    level, option = (socket.IPPROTO_IP, IP_MTU_DISCOVER) if family == 4 else (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER)
    data = bytes(mtu_of(lab, "web-1") - (28 if family == 4 else 48))
    exchange_udp(lab, "web-1", "web-2", [100, 100], family)  # what goes by the bouncer, the bouncer tells of
    before = lab.counters("h1")

    def grew(name: str) -> int:
        return lab.counters("h1")[name] - before[name]

    with udp_socket(lab.inside("web-1"), lab.address("web-1", family)) as sender:
        sender.setsockopt(level, option, PROBE)  # whole, whatever was learnt
        began = time.monotonic()
        for _ in range(count):
            sender.sendto(data, (lab.address("web-2", family), PORT))
        until(lambda: grew("icmp_too_big_sent") + grew("too_big") >= count, "all of them counted")
        seconds = time.monotonic() - began
    icmp_sent, silent = grew("icmp_too_big_sent"), grew("too_big")
    assert icmp_sent + silent == count
    assert 0 < icmp_sent <= ICMP_ERRORS_PER_SECOND * (seconds + 2)


@pytest.mark.parametrize("discovery", HEEDLESS.values(), ids=HEEDLESS)
def test_an_ipv4_packet_without_df_that_exceeds_the_mtu_is_answered_and_counted_and_never_fragmented(found, discovery):
    """ADR 20: its sender goes on, so each of them is a drop; what fits goes on arriving."""
    lab, address, sent = found, found.address("web-2", 4), 0
    data = bytes(mtu_of(lab, "web-1") - 28)
    with (
        udp_socket(lab.inside("web-1"), lab.address("web-1", 4)) as sender,
        udp_socket(lab.inside("web-2"), address, PORT) as receiver,
        raw_socket(lab.inside("web-1")) as tap,
    ):
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, discovery)
        exchange_udp(lab, "web-1", "web-2", [100, 100], 4)  # what goes by the bouncer, the bouncer tells of
        before = lab.counters("h1")

        def unfit(*names: str) -> int:
            after = lab.counters("h1")
            return sum(after[name] - before[name] for name in names)

        def icmp_sent() -> bool:  # other errors of this second may have used up its limit
            nonlocal sent
            sender.sendto(data, (address, PORT))
            sent += 1
            return unfit("icmp_too_big_sent") > 0

        until(icmp_sent, "an error")
        source, destination, mtu, quote = until(lambda: icmp_error(tap.recv(1 << 16), 4), "it to arrive")
        assert (source, destination) == (gateway_of("10.0.1.0/24"), lab.address("web-1", 4))
        assert mtu == fitting(lab)
        assert not quote[6] & 0x40, "it is about a packet without DF"
        for _ in range(10):
            sender.sendto(data, (address, PORT))
            sent += 1
        until(lambda: unfit("icmp_too_big_sent", "too_big") == sent, "all of them counted")
        sender.sendto(b"fits", (address, PORT))
        assert receiver.recv(1 << 16) == b"fits", "nothing of the others has arrived"


def test_pings_that_fit_go_on_all_the_time(found):
    assert ping(found, "web-1", found.address("web-2"), count=50) == 50
