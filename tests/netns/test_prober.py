"""The prober over real links: two hosts, a router that says what does not fit, both families."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Mapping

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.packet import Raw

from agent.core.model.resolved_state import HostState, ResolvedState
from agent.core.nexthop.next_hops import PathFindings, Peer, Senders
from agent.core.nexthop.peers import Droplets
from agent.core.probe.paths import Path, PathRecord, Rules
from agent.core.probe.send_errors import SendResult
from agent.datapath.net.namespaces import in_namespace, opened_namespace
from agent.probe.path_memory import PathMemory
from agent.report.queries import Queries
from protocol import codec
from protocol.documents import Droplet
from protocol.rpc import PeersReply, PeersRequest
from protocol.status import NarrowPath

from .conftest import ip, run
from .prober_setup import QUICK, ProbeSetup, both, errors, in_near_host, prober, probing
from .routed import PORT, V4, V6, Addresses, Reflector, Routed


@pytest.fixture
def net() -> Iterator[Routed]:
    with in_near_host() as made:
        yield made


def forge(net: Routed, family: Addresses, mtu: int) -> None:
    """Send a forged error from the router, as an attacker off the path would: it quotes an invented tunnel packet."""
    if family is V4:
        quote = bytes(IP(src=V4.near, dst=V4.far, flags="DF", len=1500) / UDP(sport=50000, dport=PORT, len=1480))
        message = bytes(ICMP(type=3, code=4, nexthopmtu=mtu) / Raw(quote))
    else:
        quote = bytes(IPv6(src=V6.near, dst=V6.far, plen=1460) / UDP(sport=50000, dport=PORT, len=1460))
        packet = IPv6(src=V6.near_router, dst=V6.near) / ICMPv6PacketTooBig(mtu=mtu) / Raw(quote)
        message = bytes(packet)[40:]
    protocol = socket.IPPROTO_ICMP if family is V4 else socket.IPPROTO_ICMPV6
    with opened_namespace(net.router) as descriptor:
        sender = in_namespace(descriptor, lambda: socket.socket(family.family, socket.SOCK_RAW, protocol))
    with sender:
        sender.sendto(message, (family.near, 0))


@pytest.fixture
def seldom_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no path checked again for longer than any test waits: what is found is found for another reason."""
    monkeypatch.setattr("agent.core.probe.path_mtu.MIN_CHECK_PERIOD", 600.0)


@both
async def test_a_peer_that_falls_silent_is_reported_down_and_up_again(net: Routed, family: Addresses) -> None:
    async with probing(net, family) as (reflector, setup):
        await setup.until(lambda: setup.state() == ("up", 1500))
        assert setup.peers == {setup.far: Peer()}
        assert setup.senders == {(setup.uplink.ifindex, len(setup.far)): 2}
        reflector.silent = True
        await setup.until(lambda: setup.found.down)
        assert setup.prober.down_droplets() == ("far",)
        assert setup.prober.down.value == {"far"}
        reflector.silent = False
        await setup.until(lambda: not setup.found.down)
        await setup.until(lambda: len(setup.events) >= 2)
        line = f"far ({family.far}) from {family.near}: "
        assert setup.events == [
            ("droplet_down", (line + "answers no probes",)),
            ("droplet_up", (line + "answers again",)),
        ]


@both
async def test_a_local_firewall_is_named_and_marks_no_peer_down(net: Routed, family: Addresses) -> None:
    async with probing(net, family) as (reflector, setup):
        await setup.until(lambda: setup.state() == ("up", 1500))
        run("nft", "add table inet host; add chain inet host out { type filter hook output priority 0; policy drop; }")
        await setup.until(lambda: setup.standing() == [("local_firewall", f"eth0 {family.near}")])
        (fault,) = setup.faults.standing()
        assert f"leave eth0 to UDP port {PORT}" in fault.detail
        assert f"let UDP to port {PORT} out of eth0" in fault.remedy
        await setup.more_probes()
        assert setup.state() == ("up", 1500)
        assert not setup.found.down
        assert setup.prober.down_droplets() == ()
        run("nft", "delete table inet host")
        await setup.until(lambda: setup.standing() == [])
        reflector.silent = True
        await setup.until(lambda: setup.found.down)


async def test_a_removed_address_is_reported_as_the_cause(net: Routed) -> None:
    """The path does not work for tunnel packets either: the peer is down by it, and the cause is this host's."""
    async with probing(net, V4) as (_, setup):
        await setup.until(lambda: setup.state() == ("up", 1500))
        ip("addr", "add", "10.78.1.3/24", "dev", "eth0")
        run("sysctl", "-qw", "net.ipv4.conf.eth0.promote_secondaries=1")
        ip("addr", "del", f"{V4.near}/24", "dev", "eth0")
        ip("route", "replace", "default", "via", V4.near_router)
        await setup.until(lambda: setup.found.down)
        await setup.until(lambda: len(setup.events) >= 1)
        line = f"far ({V4.far}) from {V4.near}: cannot be sent to: {SendResult.IMPOSSIBLE.value}"
        assert setup.events[0] == ("droplet_down", (line,))
        ip("addr", "add", f"{V4.near}/24", "dev", "eth0")
        await setup.until(lambda: not setup.found.down)


async def test_a_removed_route_is_reported_as_the_cause(net: Routed) -> None:
    """Over IPv6: without a route, IPv4 takes every address for on-link when an interface is given (route.c)."""
    async with probing(net, V6) as (_, setup):
        await setup.until(lambda: setup.state() == ("up", 1500))
        ip("-6", "route", "del", V6.any)
        await setup.until(lambda: setup.found.down)
        await setup.until(lambda: len(setup.events) >= 1)
        line = f"far ({V6.far}) from {V6.near}: cannot be sent to: {SendResult.IMPOSSIBLE.value}"
        assert setup.events[0] == ("droplet_down", (line,))
        assert setup.standing() == [], "unresolved next hops tell it"


@both
async def test_an_interface_that_is_down_is_reported_as_the_cause(net: Routed, family: Addresses) -> None:
    async with probing(net, family) as (_, setup):
        await setup.until(lambda: setup.state() == ("up", 1500))
        ip("link", "set", "eth0", "down")
        await setup.until(lambda: setup.found.down)
        await setup.until(lambda: len(setup.events) >= 1)
        assert "cannot be sent to: " in setup.events[0][1][0]


@both
async def test_a_narrow_link_behind_a_router_is_found_by_its_icmp_error(net: Routed, family: Addresses) -> None:
    net.narrow(1400)
    async with probing(net, family) as (_, setup):
        await setup.until(lambda: setup.found.mtu == 1400)
        await setup.until(lambda: len(setup.prober.narrow_paths()) == 1)
        assert setup.prober.narrow_paths() == (NarrowPath("far", family.far, 1500, 1400, "near"),)
        assert setup.prober.counts.refused >= 2
        net.narrow(1500)
        await setup.until(lambda: setup.state() == ("up", 1500))
        await setup.until(lambda: len(setup.events) >= 2)
        assert [kind for kind, _ in setup.events] == ["narrow_path", "path_restored"]
        assert setup.events[0][1][0].endswith("carries 1400 of 1500 bytes")


@both
async def test_a_link_too_narrow_for_ipv6_endpoints_is_reported(net: Routed, family: Addresses) -> None:
    net.narrow(1300)
    async with probing(net, family) as (_, setup):
        await setup.until(lambda: len(setup.events) >= 1)
        needed = 1342 if family is V4 else 1374
        assert setup.events[0][1][0].endswith(f"carries 1300 of 1500 bytes; endpoints' IPv6 needs {needed}")


@both
async def test_a_link_that_silently_drops_long_packets_is_found_too(net: Routed, family: Addresses) -> None:
    """No router says anything: a black hole, as behind a careless firewall."""
    reflector, setup = Reflector(net, net.far, family, family.far), ProbeSetup(net, family, QUICK)
    reflector.most = 1400 - (28 if family is V4 else 48)
    try:
        await setup.until(lambda: setup.found.mtu == 1400)
        assert setup.prober.counts.refused == 0
    finally:
        await setup.close()
        reflector.close()


@both
async def test_an_error_about_a_tunnel_packet_is_acted_on_before_the_next_check(
    net: Routed, family: Addresses, seldom_checked: None
) -> None:
    rules = Rules(interval=0.1, deadline=0.2, check_every=600)
    reflector, setup = Reflector(net, net.far, family, family.far), ProbeSetup(net, family, rules)
    tunnel = socket.socket(family.family, socket.SOCK_DGRAM)
    try:
        await setup.until(lambda: setup.state() == ("up", 1500))
        net.narrow(1400)
        discover = (socket.IPPROTO_IP, 10) if family is V4 else (socket.IPPROTO_IPV6, 23)
        tunnel.setsockopt(*discover, 3)  # IP_PMTUDISC_PROBE
        tunnel.sendto(bytes(1500 - (28 if family is V4 else 48)), (family.far, PORT))
        await setup.until(lambda: setup.found.mtu == 1400)
        await setup.until(lambda: len(setup.prober.narrow_paths()) == 1)
    finally:
        tunnel.close()
        await setup.close()
        reflector.close()


@both
async def test_a_forged_error_is_healed_by_probes(net: Routed, family: Addresses, seldom_checked: None) -> None:
    rules = Rules(interval=0.1, deadline=0.2, check_every=600)
    async with probing(net, family, rules) as (_, setup):
        await setup.until(lambda: setup.state() == ("up", 1500))
        seen: list[int | None] = []
        watch = setup.watch

        def watching(peers: Mapping[bytes, Peer], senders: Senders) -> None:
            seen.append(peers[setup.far].by.get(setup.uplink.ifindex, PathFindings()).mtu)
            watch(peers, senders)

        setup.watch = watching  # type: ignore[method-assign]
        forge(net, family, 1300)
        await setup.until(lambda: setup.prober.counts.icmp_errors == 1)
        await setup.until(lambda: setup.state() == ("up", 1500))
        forge(net, family, 1290)
        await setup.until(lambda: setup.prober.counts.icmp_errors == 2)
        await setup.more_probes()
        assert 1290 not in seen
        assert seen.count(1300) <= 1, "believed once at the most"
        assert "narrow_path" not in [kind for kind, _ in setup.events]


async def test_an_address_that_comes_later_is_probed_from_then_on(net: Routed) -> None:
    ip("addr", "del", f"{V4.near}/24", "dev", "eth0")
    async with probing(net, V4) as (_, setup):
        await setup.more_probes(2)
        assert setup.state() == ("unknown", 1500)
        ip("addr", "add", f"{V4.near}/24", "dev", "eth0")
        ip("route", "replace", "default", "via", V4.near_router)
        await setup.until(lambda: setup.state() == ("up", 1500))


async def test_the_state_of_the_paths_is_listed_page_by_page(net: Routed) -> None:
    began = time.time()
    reflector, setup = Reflector(net, net.far, V4, V4.far), ProbeSetup(net, V4, QUICK)
    silent = {f"silent-{n}": Droplet(f"silent-{n}", f"h{n}", f"10.78.2.{n}") for n in (8, 9)}
    try:
        setup.follow(**silent)
        await setup.until(
            lambda: ("up", 1500) in [(view.liveness.value, view.usable) for _, _, view in setup.prober.views()]
        )
        answers = Queries(None, None, None, setup.prober, None, None, time.time)  # type: ignore[arg-type]
        after, found = "", []
        while True:
            page = codec.decode(await answers.ask("peers", codec.encode(PeersRequest(after, 2))), PeersReply)
            assert len(page.peers) <= 2
            found += page.peers
            if not (after := page.next):
                break
        assert [(path.droplet, path.by, path.state) for path in found] == [
            ("far", "near", "up"),
            ("silent-8", "near", "unknown"),
            ("silent-9", "near", "unknown"),
        ]
        assert (found[0].address, found[0].configured, found[0].carries) == (V4.far, 1500, 1500)
        assert began <= found[0].since <= time.time()
        assert found[0].round_trip is not None
    finally:
        await setup.close()
        reflector.close()


async def test_probes_that_do_not_run_hand_the_peers_on(net: Routed) -> None:
    peers_by_address: list[tuple[Mapping[bytes, Peer], Senders]] = []
    made = prober(QUICK, (PORT, 0))
    made.peers.subscribe("told", lambda found: peers_by_address.append(tuple(found)), errors())  # type: ignore[arg-type]
    peer = V4.packed(V4.far)
    made.follow(Droplets(ResolvedState(HostState("h1", "h1", ())), {peer: Peer(zero_checksum=True)}))
    assert peers_by_address == [({peer: Peer(zero_checksum=True)}, {})]


async def test_path_state_of_droplets_outside_the_documents_is_deleted(net: Routed) -> None:
    """The own droplet has another address than the agent before had: only what may come back is kept."""
    near, far, before = (V4.packed(address) for address in (V4.near, V4.far, "10.78.1.77"))
    kept: dict[Path, PathRecord | None] = {}
    memory = PathMemory(
        {Path(near, far): PathRecord(), Path(before, far): PathRecord(down=True), Path(near, before): PathRecord()},
        lambda changes: not kept.update(changes),
    )
    made = prober(QUICK, (PORT, 0), memory=memory)
    droplets = {"near": Droplet("near", "h1", V4.near), "far": Droplet("far", "h2", V4.far)}
    made.follow(Droplets(ResolvedState(HostState("h1", "h1", ()), {"droplets": droplets}), {far: Peer()}))
    running = asyncio.create_task(made.run())
    try:
        async with asyncio.timeout(20):
            while not kept:  # noqa: ASYNC110 -- another task's state changes at no known moment
                await asyncio.sleep(0.01)
        assert kept == {Path(before, far): None, Path(near, before): None}
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
