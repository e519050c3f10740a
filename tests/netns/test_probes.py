"""Probes and ICMP errors over real links: two hosts, a router that says what does not fit, both families."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
import structlog
from lab.frames import checksum
from lab.waiting import PATIENCE
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from agent.core.faults.tracker import ReportFaults
from agent.core.model.local_droplets import IngressAddress
from agent.core.model.map_layout import mapped
from agent.core.model.resolved_state import HostState, ResolvedState
from agent.core.model.uplinks import Uplink
from agent.core.nexthop.next_hops import PathFindings, Peer, Senders
from agent.core.nexthop.peers import Droplets
from agent.core.probe.icmp_errors import Problem, TunnelError
from agent.core.probe.paths import Path, PathRecord, Rules
from agent.core.probe.probe_packet import UDP_HEADER, headers, smallest
from agent.core.probe.send_errors import SendResult
from agent.datapath.net.namespaces import in_namespace, opened_namespace
from agent.probe.icmp_listener import IcmpErrors
from agent.probe.path_events import PathEvents
from agent.probe.path_memory import PathMemory
from agent.probe.probe_socket import ProbeSocket
from agent.probe.prober import Prober
from agent.report.queries import Queries
from agent.telemetry.fault_reporter import FaultReporter
from agent.telemetry.loop_errors import LoopErrors
from protocol import codec
from protocol.documents import Droplet
from protocol.rpc import PeersReply, PeersRequest
from protocol.status import NarrowPath

from .conftest import _libc, enter, ip, run
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
        async with asyncio.timeout(PATIENCE):
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
async def test_a_probe_longer_than_the_interface_takes_is_refused_here(net: Routed, family: Addresses) -> None:
    path = path_of(family)
    prober = ProbeSocket(path.source, "eth0", PORT, Heard().take)
    try:
        assert prober.send(path.peer, 1501, NONCE) is SendResult.TOO_LONG
    finally:
        prober.close()


@both
async def test_what_another_socket_was_told_of_the_path_does_not_cut_probes(net: Routed, family: Addresses) -> None:
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
async def test_without_a_way_a_probe_is_impossible(net: Routed, family: Addresses) -> None:
    path = path_of(family)
    prober = ProbeSocket(path.source, "eth0", PORT, Heard().take)
    ip("link", "set", "eth0", "down")
    try:
        assert prober.send(path.peer, 100, NONCE) is SendResult.IMPOSSIBLE
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
        assert prober.send(path.peer, 1500, NONCE) is SendResult.SENT
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
        assert prober.send(path.peer, 200, NONCE) is SendResult.SENT
        await heard.come()
        assert heard == [(TunnelError(path, Problem.UNREACHABLE, None, NONCE),)]
    finally:
        prober.close()
        errors.close()


def forge(net: Routed, family: Addresses, mtu: int) -> None:
    """Send an error from the router, as somebody who was never on the way would: it quotes a made-up tunnel packet."""
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


# The whole prober


def errors(report: ReportFaults = lambda _source, _faults: None) -> LoopErrors:
    return LoopErrors(report, structlog.get_logger())


def prober(
    rules: Rules,
    ports: tuple[int, ...],
    set_peers: Callable[[str, tuple[str, ...]], None] = lambda _kind, _lines: None,
    report: ReportFaults = lambda _source, _faults: None,
    memory: PathMemory | None = None,
) -> Prober:
    events = PathEvents(set_peers, structlog.get_logger())
    return Prober(rules, ports, frozenset, memory or PathMemory(), events, errors(report), report)


class ProbeSetup:
    """A prober with all that it hands on: peers for the neighbour watch, events for the bus."""

    def __init__(self, net: Routed, family: Addresses, rules: Rules) -> None:
        near, far = family.packed(family.near), family.packed(family.far)
        index = socket.if_nametoindex("eth0")
        self.uplink = Uplink("eth0", index, bytes(6), 1500, (near,), (index,), index, index)
        self.family = family
        self.far = far
        self.peers: dict[bytes, Peer] = {}
        self.senders: dict[tuple[int, int], int] = {}
        self.events: list[tuple[str, tuple[str, ...]]] = []
        self.faults = FaultReporter(lambda _kind, _lines: None, structlog.get_logger())
        self.prober = prober(rules, (PORT, 4789), self._tell, self.faults.report)
        self.prober.peers.subscribe("watch", lambda found: self.watch(*found), errors(self.faults.report))
        self.task = asyncio.create_task(self.prober.run())
        self.follow()

    def follow(self, **others: Droplet) -> None:
        droplets = {
            "near": Droplet("near", "h1", self.family.near),
            "far": Droplet("far", "h2", self.family.far),
            **others,
        }
        own = {"near": droplets["near"]}
        places = {IngressAddress(mapped(self.uplink.addresses[0]), self.uplink.ifindex): 2}
        topo = ResolvedState(
            HostState("h1", "h1", (self.uplink,)), {"droplets": droplets}, own=own, numbers={"droplets": places}
        )
        peers = {self.family.packed(one.address): Peer() for one in droplets.values() if one.host != "h1"}
        self.prober.follow(Droplets(topo, peers))

    def watch(self, peers: Mapping[bytes, Peer], senders: Senders) -> None:
        self.peers, self.senders = dict(peers), dict(senders)

    def _tell(self, kind: str, lines: tuple[str, ...]) -> None:
        self.events.append((kind, lines))

    @property
    def found(self) -> PathFindings:
        return self.peers[self.far].by.get(self.uplink.ifindex, PathFindings())

    def state(self) -> tuple[str, int]:
        view = next(view for _, _, view in self.prober.views())
        return view.liveness.value, view.usable

    def standing(self) -> list[tuple[str, str]]:
        return [(fault.kind, fault.subject) for fault in self.faults.standing()]

    async def more_probes(self, number: int = 10) -> None:
        """Wait until so many more have been tried than it takes to lose a peer."""
        before = self.prober.counts.sent
        await self.until(lambda: self.prober.counts.sent > before + number)

    async def until(self, wanted: Callable[[], bool], seconds: float = PATIENCE) -> None:
        async with asyncio.timeout(seconds):
            while not wanted():  # noqa: ASYNC110 -- another task's state changes at no known moment
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
def seldom_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no path checked again for longer than any test waits: what is found is found for another reason."""
    monkeypatch.setattr("agent.core.probe.path_mtu.MIN_CHECK_PERIOD", 600.0)


QUICK = Rules(interval=0.1, deadline=0.2, check_every=1.0, narrow_every=0.5)


@both
async def test_a_peer_that_falls_silent_is_told_as_down_and_comes_back(net: Routed, family: Addresses) -> None:
    reflector, setup = Reflector(net, net.far, family, family.far), ProbeSetup(net, family, QUICK)
    try:
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
    finally:
        await setup.close()
        reflector.close()


@both
async def test_a_local_firewall_is_named_and_no_peer_is_blamed_for_it(net: Routed, family: Addresses) -> None:
    reflector, setup = Reflector(net, net.far, family, family.far), ProbeSetup(net, family, QUICK)
    try:
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
    finally:
        await setup.close()
        reflector.close()


async def test_an_address_that_went_away_is_told_as_the_cause(net: Routed) -> None:
    """The path does not work for tunnel packets either: the peer is down by it, and the cause is this host's."""
    reflector, setup = Reflector(net, net.far, V4, V4.far), ProbeSetup(net, V4, QUICK)
    try:
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
    finally:
        await setup.close()
        reflector.close()


async def test_a_route_that_went_away_is_told_as_the_cause(net: Routed) -> None:
    """Over IPv6: without a route, IPv4 takes every address for on-link when an interface is given (route.c)."""
    reflector, setup = Reflector(net, net.far, V6, V6.far), ProbeSetup(net, V6, QUICK)
    try:
        await setup.until(lambda: setup.state() == ("up", 1500))
        ip("-6", "route", "del", V6.any)
        await setup.until(lambda: setup.found.down)
        await setup.until(lambda: len(setup.events) >= 1)
        line = f"far ({V6.far}) from {V6.near}: cannot be sent to: {SendResult.IMPOSSIBLE.value}"
        assert setup.events[0] == ("droplet_down", (line,))
        assert setup.standing() == [], "unresolved next hops tell it"
    finally:
        await setup.close()
        reflector.close()


@both
async def test_an_interface_that_is_down_is_told_as_the_cause(net: Routed, family: Addresses) -> None:
    reflector, setup = Reflector(net, net.far, family, family.far), ProbeSetup(net, family, QUICK)
    try:
        await setup.until(lambda: setup.state() == ("up", 1500))
        ip("link", "set", "eth0", "down")
        await setup.until(lambda: setup.found.down)
        await setup.until(lambda: len(setup.events) >= 1)
        assert "cannot be sent to: " in setup.events[0][1][0]
    finally:
        await setup.close()
        reflector.close()


@both
async def test_a_narrow_link_behind_a_router_is_found_by_what_the_router_says(net: Routed, family: Addresses) -> None:
    net.narrow(1400)
    reflector, setup = Reflector(net, net.far, family, family.far), ProbeSetup(net, family, QUICK)
    try:
        await setup.until(lambda: setup.found.mtu == 1400)
        await setup.until(lambda: len(setup.prober.narrow_paths()) == 1)
        assert setup.prober.narrow_paths() == (NarrowPath("far", family.far, 1500, 1400, "near"),)
        assert setup.prober.counts.refused >= 2
        net.narrow(1500)
        await setup.until(lambda: setup.state() == ("up", 1500))
        await setup.until(lambda: len(setup.events) >= 2)
        assert [kind for kind, _ in setup.events] == ["narrow_path", "path_restored"]
        assert setup.events[0][1][0].endswith("carries 1400 of 1500 bytes")
    finally:
        await setup.close()
        reflector.close()


@both
async def test_a_link_that_is_too_narrow_for_endpoints_of_ipv6_is_told_so(net: Routed, family: Addresses) -> None:
    net.narrow(1300)
    reflector, setup = Reflector(net, net.far, family, family.far), ProbeSetup(net, family, QUICK)
    try:
        await setup.until(lambda: len(setup.events) >= 1)
        needed = 1342 if family is V4 else 1374
        assert setup.events[0][1][0].endswith(f"carries 1300 of 1500 bytes; endpoints' IPv6 needs {needed}")
    finally:
        await setup.close()
        reflector.close()


@both
async def test_a_link_that_swallows_what_is_too_long_is_found_too(net: Routed, family: Addresses) -> None:
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
    reflector, setup = Reflector(net, net.far, family, family.far), ProbeSetup(net, family, rules)
    try:
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
    finally:
        await setup.close()
        reflector.close()


async def test_an_address_that_comes_later_is_probed_from_then_on(net: Routed) -> None:
    ip("addr", "del", f"{V4.near}/24", "dev", "eth0")
    reflector, setup = Reflector(net, net.far, V4, V4.far), ProbeSetup(net, V4, QUICK)
    try:
        await setup.more_probes(2)
        assert setup.state() == ("unknown", 1500)
        ip("addr", "add", f"{V4.near}/24", "dev", "eth0")
        ip("route", "replace", "default", "via", V4.near_router)
        await setup.until(lambda: setup.state() == ("up", 1500))
    finally:
        await setup.close()
        reflector.close()


async def test_what_is_known_of_the_paths_is_told_page_by_page(net: Routed) -> None:
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


async def test_what_was_known_of_droplets_that_no_document_names_is_forgotten(net: Routed) -> None:
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
