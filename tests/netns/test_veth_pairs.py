"""Endpoints' pairs of interfaces on the real kernel: made, configured and repaired."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from agent.core.model.desired_entries import Veth
from agent.datapath.attach.xdp import AttachMode
from agent.datapath.net.namespaces import in_namespace, opened_namespace
from agent.datapath.net.netlink import Netlink
from tests.netns.conftest import Topo, ip, ip_json, run
from tests.netns.tenants import addresses, assert_right, host_side, open_links, peer_side, wanted

EXPERIMENTAL = 0x88B5
"""An EtherType for local experiments (IEEE 802)."""


def packets() -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EXPERIMENTAL))
    made.settimeout(5)
    return made


async def test_a_pair_is_made_as_wanted(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    async with open_links() as links:
        await links.ensure_veth(veth)
        assert_right(veth)


async def test_making_a_pair_twice_changes_nothing(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    async with open_links() as links:
        await links.ensure_veth(veth)
        before = host_side(veth), peer_side(veth)
        await links.ensure_veth(veth)
        assert (host_side(veth), peer_side(veth)) == before


@pytest.mark.parametrize("mode", [AttachMode.NATIVE, AttachMode.GENERIC])
async def test_the_longest_frame_that_a_tenant_can_send_reaches_the_program(topo: Topo, mode: AttachMode) -> None:
    """The program lets it pass, to a socket behind it. Without room there, the kernel drops it without a word."""
    veth = wanted(topo.endpoint_namespace())
    async with open_links(mode) as links:
        await links.ensure_veth(veth)
        longest = min(int(peer_side(veth)["max_mtu"]), 9000)
        assert longest > veth.mtu
        ip("link", "set", "eth0", "mtu", str(longest), namespace=veth.namespace)
        with opened_namespace(veth.namespace) as namespace, packets() as behind:
            behind.bind((veth.ifname, EXPERIMENTAL))
            with in_namespace(namespace, packets) as inside:
                inside.bind(("eth0", EXPERIMENTAL))
                for size in (veth.mtu + 1, longest):
                    frame = b"\xff" * 6 + veth.peer_mac + EXPERIMENTAL.to_bytes(2, "big") + bytes(size)
                    inside.send(frame)
                    assert behind.recv(1 << 16) == frame


async def test_the_host_side_grows_with_what_the_tenant_may_set(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    async with open_links() as links:
        await links.ensure_veth(veth)
        assert veth.mtu < host_side(veth)["mtu"] < 4096, "native XDP wants a frame to fit into a page"


async def test_a_gateway_outside_the_prefix_is_reached_on_link(topo: Topo) -> None:
    veth = replace(wanted(topo.endpoint_namespace()), addresses=("10.1.0.5/32",), gateways=("169.254.1.1",))
    async with open_links() as links:
        await links.ensure_veth(veth)
        assert_right(veth)


async def test_an_endpoint_may_have_both_families(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    veth = replace(veth, addresses=(*veth.addresses, "fd00::5/64"), gateways=("10.1.0.1", "fd00::1"))
    async with open_links() as links:
        await links.ensure_veth(veth)
        assert addresses(veth) == set(veth.addresses)
        assert "fd00::1" in ip("-6", "route", "show", "default", namespace=veth.namespace)


def make_unfinished(veth: Veth, namespace: str) -> None:
    pair = ["add", veth.ifname, "index", str(veth.ifindex), "type", "veth", "peer", "name", "eth0"]
    ip("link", *pair, "netns", namespace)


def offload(name: str, state: str):
    return lambda v: run("nsenter", f"--net=/run/netns/{v.namespace}", "ethtool", "-K", "eth0", name, state)


DAMAGE = {
    "its GRO was turned off": offload("gro", "off"),
    "its transmit checksums were turned on": offload("tx", "on"),
    "its VLAN offload was turned on": offload("txvlan", "on"),
    "its service VLAN offload was turned on": offload("tx-vlan-stag-hw-insert", "on"),
    "its MTU was changed on the host": lambda v: ip("link", "set", v.ifname, "mtu", "1400"),
    "its MTU was changed inside": lambda v: ip("link", "set", "eth0", "mtu", "1300", namespace=v.namespace),
    "its address was flushed": lambda v: ip("addr", "flush", "dev", "eth0", namespace=v.namespace),
    "its route was removed": lambda v: ip("route", "del", "default", namespace=v.namespace),
    "its MAC was changed": lambda v: ip("link", "set", "eth0", "address", "02:00:00:00:00:99", namespace=v.namespace),
    "it was set down on the host": lambda v: ip("link", "set", v.ifname, "down"),
    "it was set down inside": lambda v: ip("link", "set", "eth0", "down", namespace=v.namespace),
    "it was renamed inside": lambda v: ip("link", "set", "eth0", "down", "name", "other", namespace=v.namespace),
    "it was renamed on the host": lambda v: ip("link", "set", v.ifname, "down", "name", "other"),
    "its mark was removed": lambda v: ip("link", "set", v.ifname, "alias", ""),
    "its program was detached": lambda v: ip("link", "set", v.ifname, "xdp", "off"),
    "it was deleted": lambda v: ip("link", "del", v.ifname),
    "it was deleted inside": lambda v: ip("link", "del", "eth0", namespace=v.namespace),
    "its loopback was set down": lambda v: ip("link", "set", "lo", "down", namespace=v.namespace),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_pair_is_repaired_when(topo: Topo, damage: str) -> None:
    veth = wanted(topo.endpoint_namespace())
    async with open_links() as links:
        await links.ensure_veth(veth)
        DAMAGE[damage](veth)
        await links.ensure_veth(veth)
        assert_right(veth)


async def test_a_changed_address_and_gateway_replace_the_old_ones(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    async with open_links() as links:
        await links.ensure_veth(veth)
        moved = replace(veth, addresses=("10.2.0.9/24",), gateways=("10.2.0.1",))
        await links.ensure_veth(moved)
        assert addresses(moved) == {"10.2.0.9/24"}
        assert_right(moved)


async def test_an_address_is_replaced_by_another_one_of_its_subnet(topo: Topo) -> None:
    """The kernel drops the others of a subnet with its first IPv4 address."""
    veth = wanted(topo.endpoint_namespace())
    async with open_links() as links:
        await links.ensure_veth(replace(veth, addresses=("10.1.0.5/24", "fd00::5/64")))
        moved = replace(veth, addresses=("10.1.0.6/24", "fd00::6/64"))
        await links.ensure_veth(moved)
        assert addresses(moved) == {"10.1.0.6/24", "fd00::6/64"}
        assert_right(moved)


async def test_what_the_tenant_added_stays_while_nothing_of_ours_is_missing(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    async with open_links() as links:
        await links.ensure_veth(veth)
        ip("addr", "add", "10.1.0.200/24", "dev", "eth0", namespace=veth.namespace)
        ip("link", "set", "eth0", "mtu", "1300", namespace=veth.namespace)
        await links.ensure_veth(veth)
        assert addresses(veth) == {*veth.addresses, "10.1.0.200/24"}


async def test_an_interrupted_creation_is_completed(topo: Topo) -> None:
    """Killed right after the kernel made the pair: no mark, nothing set."""
    veth = wanted(topo.endpoint_namespace())
    make_unfinished(veth, veth.namespace)
    async with open_links() as links:
        await links.ensure_veth(veth)
        assert_right(veth)


async def test_an_unfinished_pair_in_another_namespace_is_recreated(topo: Topo) -> None:
    veth, elsewhere = wanted(topo.endpoint_namespace()), topo.endpoint_namespace()
    make_unfinished(veth, elsewhere)
    async with open_links() as links:
        await links.ensure_veth(veth)
        assert_right(veth)
        assert [link["ifname"] for link in ip_json("link", "show", namespace=elsewhere)] == ["lo"]


class Killed(BaseException):
    """Not an Exception, so that no code under test catches it."""


async def test_a_creation_interrupted_at_any_step_is_completed(topo: Topo, monkeypatch) -> None:
    """Killed before each request to the kernel in turn, and started again."""
    request, left = Netlink.request, 0

    async def request_or_die(self: Netlink, *arguments: object, **options: object) -> list:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return await request(self, *arguments, **options)

    monkeypatch.setattr(Netlink, "request", request_or_die)
    killed = 0
    for slot in range(40):
        veth = wanted(topo.endpoint_namespace(), endpoint=f"e{slot}", slot=slot + 5)
        async with open_links() as links:
            left = slot
            try:
                await links.ensure_veth(veth)
            except Killed:
                killed += 1
            left = 1000
            await links.ensure_veth(veth)
            assert_right(veth)
    assert 10 < killed < 40


async def test_a_moved_endpoint_keeps_its_pair(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    async with open_links() as links:
        await links.ensure_veth(veth)
        moved = replace(veth, namespace=topo.endpoint_namespace())
        await links.ensure_veth(moved)
        assert_right(moved)
        assert [link["ifname"] for link in ip_json("link", "show", namespace=veth.namespace)] == ["lo"]


async def test_a_pair_of_ours_with_another_ifindex_is_replaced(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    async with open_links() as links:
        await links.ensure_veth(veth)
        renumbered = replace(veth, ifindex=veth.ifindex + 9)
        await links.ensure_veth(renumbered)
        assert_right(renumbered)


async def test_a_default_route_of_another_interface_is_not_displaced(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    ip("link", "add", "mgmt", "type", "veth", "peer", "name", "mgmt2", namespace=veth.namespace)
    ip("addr", "add", "192.0.2.2/24", "dev", "mgmt", namespace=veth.namespace)
    ip("link", "set", "mgmt", "up", namespace=veth.namespace)
    ip("route", "add", "default", "via", "192.0.2.1", namespace=veth.namespace)
    async with open_links() as links:
        await links.ensure_veth(veth)
        await links.ensure_veth(veth)
    routes = ip_json("route", "show", "default", namespace=veth.namespace)
    assert [(route["gateway"], route.get("metric", 0) > 0) for route in routes] == [
        ("192.0.2.1", False),
        ("10.1.0.1", True),
    ]


@pytest.fixture
def sleeper(topo: Topo) -> Iterator[tuple[str, int]]:
    """A process that lives in an endpoint's namespace: the namespace's name, and the pid."""
    name = topo.endpoint_namespace()
    with opened_namespace(name) as namespace:
        process = in_namespace(namespace, lambda: subprocess.Popen(["sleep", "60"]))
    yield name, process.pid
    process.kill()
    process.wait()


async def test_a_namespace_may_be_named_by_pid_or_path(sleeper: tuple[str, int]) -> None:
    name, pid = sleeper
    async with open_links() as links:
        for spelling in (str(pid), f"/run/netns/{name}", name):
            veth = wanted(spelling)
            await links.ensure_veth(veth)
            assert_right(replace(veth, namespace=name))
