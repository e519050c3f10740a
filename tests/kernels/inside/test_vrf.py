"""The only uplink is a member of a VRF: routes come from the VRF's table, and the agent's sockets work within it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.nexthop.next_hops import Peer
from agent.core.probe.icmp_errors import Problem, TunnelError
from agent.core.probe.paths import Path as ProbedPath
from agent.core.probe.send_errors import SendResult
from agent.datapath.attach.uplinks import read_uplinks
from agent.datapath.bpf.maps import Map
from agent.datapath.net.netlink import Netlink
from agent.datapath.nexthop.neighbours import NeighbourWatch
from agent.probe.icmp_listener import IcmpErrors
from agent.probe.probe_socket import ProbeSocket
from tests.kernels.inside.host import Host, running_host
from tests.kernels.inside.talk import until
from tests.kernels.inside.tenants import MANY, Tenant, documents, grown
from tests.kernels.inside.wires import ip, namespaces, run, wire

PORT = 6081
PATIENCE = 240
THERE = "vrf-there"
FAMILIES = {4: ("172.20.0.1", "172.20.0.2", "172.21.0.1", 24), 6: ("fd20::1", "fd20::2", "fd21::1", 64)}
"""Of each family: the droplet here, the router, a droplet behind the router, and the length of the prefix."""

AGENT_HERE, AGENT_THERE = "vrf-agent", "vrf-peer"
TENANT = Tenant("blue", 31, "here", "there", AGENT_THERE, bouncer="here")


def enslave(interface: str, namespace: str | None = None) -> None:
    """Make a VRF with a table of its own, and an interface its member."""
    for line in (
        "link add name blue type vrf table 1010",
        "link set blue up",
        f"link set {interface} master blue",
        f"link set {interface} up",
    ):
        run("ip", *line.split(), namespace=namespace)


@pytest.fixture
def in_vrf() -> Iterator[None]:
    """An interface of this namespace in a VRF, whose table has the only route to the droplets behind a router."""
    with namespaces(THERE):
        run("ip", "link", "add", "name", "vrf0", "type", "veth", "peer", "name", "vrf1", "netns", THERE)
        try:
            enslave("vrf0")
            run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", namespace=THERE)
            for here, router, far, bits in FAMILIES.values():
                run("ip", "address", "add", f"{here}/{bits}", "dev", "vrf0", *(["nodad"] if ":" in here else []))
                for address, length, device in ((router, bits, "vrf1"), (far, 128 if ":" in far else 32, "lo")):
                    ip(THERE, f"address add {address}/{length} dev {device} {'nodad' if ':' in address else ''}")
            ip(THERE, "link set vrf1 up")
            for _, router, far, _ in FAMILIES.values():
                run("ip", "route", "add", far, "via", router, "vrf", "blue")
            yield
        finally:
            run("ip", "link", "delete", "vrf0")
            run("ip", "link", "delete", "blue")


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


async def test_droplets_behind_a_router_of_the_vrf_are_reached(in_vrf: None, table: Map) -> None:
    """In both families, on-link ones too: the main table knows none of them."""
    async with Netlink() as netlink:
        uplinks = await read_uplinks(netlink, ["vrf0"])
    watch = NeighbourWatch(uplinks, table)
    droplets = {packed(one): Peer() for _, router, far, _ in FAMILIES.values() for one in (router, far)}
    await watch.start()
    try:
        watch.set_peers(droplets, {(uplinks[0].ifindex, length): 0 for length in (4, 16)})
        for _ in range(PATIENCE * 10):
            if len(table.dump()) == len(droplets):
                break
            await asyncio.sleep(0.1)
        assert watch.unresolved() == []
    finally:
        await watch.close()


@pytest.mark.parametrize("family", FAMILIES)
async def test_probes_leave_by_the_vrf_and_errors_about_them_are_heard(in_vrf: None, family: int) -> None:
    here, _, far, _ = FAMILIES[family]
    path = ProbedPath(packed(here), packed(far))
    heard: list[TunnelError] = []
    errors = IcmpErrors({path}, (PORT,), heard.append)
    prober = ProbeSocket(path.source, "vrf0", PORT, lambda *_: None)
    try:
        for _ in range(PATIENCE * 10):
            assert prober.send(path.peer, 200, b"8 bytes!") is SendResult.SENT
            if heard:
                break
            await asyncio.sleep(0.1)
        assert heard[0] == TunnelError(path, Problem.UNREACHABLE, None, b"8 bytes!"), "no socket listens on that port"
    finally:
        prober.close()
        errors.close()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Host]:
    with namespaces(AGENT_HERE, AGENT_THERE, TENANT.inside):
        wire(AGENT_THERE, AGENT_HERE, "eth0", "eth0")
        enslave("eth0", AGENT_HERE)
        ip(AGENT_HERE, "address add 172.18.31.1/24 dev eth0")
        ip(AGENT_THERE, "address add 172.18.31.2/24 dev eth0")
        TENANT.add_device("172.18.31.1")
        with running_host(AGENT_HERE, ("eth0",), ("ipv4",), tmp_path_factory.mktemp("host"), cache) as host:
            host.publish(documents({TENANT.here: "172.18.31.1"}, {TENANT.there: "172.18.31.2"}, [TENANT]))
            yield host


def test_endpoints_converse_by_an_uplink_in_a_vrf(host: Host) -> None:
    TENANT.know_device(TENANT.others)
    before = host.counters()
    TENANT.talk()
    found = grown(before, host.counters())
    assert found["delivered"] > MANY
    assert host.status().unresolved_next_hops == ()
    until(host.is_balanced, "the balance")
