"""Endpoints' pairs of interfaces on the real kernel: made, mended, refused, removed."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from agent.core.model.desired_entries import Veth
from agent.core.model.offloads import wrong_offloads
from agent.datapath.attach.attach_modes import AttachModes
from agent.datapath.attach.xdp import AttachMode, ProgramOwnership, attach, detach
from agent.datapath.net.ethtool import read_offloads
from agent.datapath.net.namespaces import in_namespace, open_control_socket, opened_namespace
from agent.datapath.net.netlink import Netlink
from agent.datapath.veth.pairs import Links, TransitAgent
from tests.netns.conftest import Topo, ip, ip_json, run
from tests.netns.hops import until
from tests.netns.programs import loaded, owning
from tests.netns.tenants import endpoint_veth

INSTANCE = "knlinks"
EXPERIMENTAL = 0x88B5
"""An EtherType for local experiments (IEEE 802)."""


@asynccontextmanager
async def open_links(mode: AttachMode = AttachMode.NATIVE) -> AsyncIterator[Links]:
    with loaded("transit_agent") as program:
        async with Netlink() as netlink:
            links = Links(netlink, INSTANCE, TransitAgent(program, owning(program), AttachModes(mode)))
            yield links
            links.name_watch.close()


def packets() -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EXPERIMENTAL))
    made.settimeout(5)
    return made


def wanted(namespace: str, endpoint: str = "web", slot: int = 5) -> Veth:
    return endpoint_veth(INSTANCE, namespace, endpoint, slot)


def host_side(veth: Veth) -> dict:
    return ip_json("link", "show", veth.ifname)[0]


def peer_side(veth: Veth) -> dict:
    return ip_json("link", "show", veth.peer_name, namespace=veth.namespace)[0]


def addresses(veth: Veth) -> set[str]:
    (shown,) = ip_json("addr", "show", veth.peer_name, namespace=veth.namespace)
    return {f"{one['local']}/{one['prefixlen']}" for one in shown["addr_info"] if one["scope"] != "link"}


def defaults(veth: Veth) -> set[str]:
    return {one["gateway"] for one in ip_json("route", "show", "default", namespace=veth.namespace)}


def assert_right(veth: Veth) -> None:
    host, peer = host_side(veth), peer_side(veth)
    assert host["ifindex"] == veth.ifindex
    assert peer["mtu"] == veth.mtu
    assert host["mtu"] == peer["max_mtu"]
    assert host["ifalias"] == f"droplet/{INSTANCE}/{veth.endpoint}"
    assert host["xdp"]["prog"]["name"] == "transit_agent"
    assert host["inet6_addr_gen_mode"] == "none"
    assert "UP" in host["flags"]
    assert "UP" in peer["flags"]
    assert peer["address"] == veth.peer_mac.hex(":")
    assert addresses(veth) >= set(veth.addresses)
    assert defaults(veth) == set(veth.gateways)
    assert "UP" in ip_json("link", "show", "lo", namespace=veth.namespace)[0]["flags"]
    with opened_namespace(veth.namespace) as namespace, in_namespace(namespace, open_control_socket) as control:
        found = read_offloads(control, veth.peer_name)
    assert found.keys() >= {"rx-gro", "tx-checksum-ip-generic", "tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"}
    assert wrong_offloads(found) == {}


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
async def test_a_pair_is_mended_when(topo: Topo, damage: str) -> None:
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


async def test_a_pair_whose_making_was_cut_short_is_finished(topo: Topo) -> None:
    """Killed right after the kernel made the pair: no mark, nothing set."""
    veth = wanted(topo.endpoint_namespace())
    make_unfinished(veth, veth.namespace)
    async with open_links() as links:
        await links.ensure_veth(veth)
        assert_right(veth)


async def test_an_unfinished_pair_in_another_namespace_is_made_anew(topo: Topo) -> None:
    veth, elsewhere = wanted(topo.endpoint_namespace()), topo.endpoint_namespace()
    make_unfinished(veth, elsewhere)
    async with open_links() as links:
        await links.ensure_veth(veth)
        assert_right(veth)
        assert [link["ifname"] for link in ip_json("link", "show", namespace=elsewhere)] == ["lo"]


class Killed(BaseException):
    """Not an Exception, so that no code under test catches it."""


async def test_a_pair_is_finished_wherever_its_making_was_cut_short(topo: Topo, monkeypatch) -> None:
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


async def test_an_endpoint_that_moves_takes_its_pair_along(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    async with open_links() as links:
        await links.ensure_veth(veth)
        moved = replace(veth, namespace=topo.endpoint_namespace())
        await links.ensure_veth(moved)
        assert_right(moved)
        assert [link["ifname"] for link in ip_json("link", "show", namespace=veth.namespace)] == ["lo"]


async def test_a_pair_of_ours_with_another_ifindex_makes_way(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    async with open_links() as links:
        await links.ensure_veth(veth)
        renumbered = replace(veth, ifindex=veth.ifindex + 9)
        await links.ensure_veth(renumbered)
        assert_right(renumbered)


async def test_a_missing_namespace_is_refused(topo: Topo) -> None:
    async with open_links() as links:
        with pytest.raises(OSError) as caught:
            await links.ensure_veth(wanted("no-such-namespace"))
        assert caught.value.errno == errno.ENOENT


async def test_a_file_that_is_no_namespace_is_refused(topo: Topo, tmp_path) -> None:
    path = tmp_path / "file"
    path.touch()
    async with open_links() as links:
        with pytest.raises(OSError) as caught:
            await links.ensure_veth(wanted(str(path)))
        assert caught.value.errno == errno.EINVAL


async def test_a_name_that_is_taken_inside_is_refused_and_left_alone(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1", namespace=veth.namespace)
    before = peer_side(veth)
    async with open_links() as links:
        with pytest.raises(OSError, match="already has an interface eth0") as caught:
            await links.ensure_veth(veth)
    assert caught.value.errno == errno.EEXIST
    assert peer_side(veth) == before
    assert ip_json("link", "show", "type", "veth", "group", "default")[0]["ifname"] == "eth0"


@pytest.mark.parametrize("how", ["deleted", "renamed", "moved", "its pair deleted"])
async def test_a_name_that_becomes_free_is_noticed_at_once(topo: Topo, how: str) -> None:
    veth, other = wanted(topo.endpoint_namespace()), topo.endpoint_namespace()
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1", namespace=veth.namespace)
    async with open_links() as links:
        for _ in range(2):  # a retry does not watch twice
            with pytest.raises(OSError, match="already has an interface eth0"):
                await links.ensure_veth(veth)
        assert len(links.name_watch) == 1
        ip("link", "set", "eth0", "mtu", "1400", namespace=veth.namespace)
        ip("link", "add", "other", "type", "veth", "peer", "name", "other2", namespace=veth.namespace)
        ip("link", "del", "other", namespace=veth.namespace)
        await asyncio.sleep(0)
        assert not links.name_watch.freed.is_set()
        match how:
            case "deleted":
                ip("link", "del", "eth0", namespace=veth.namespace)
            case "renamed":
                ip("link", "set", "eth0", "name", "eth9", namespace=veth.namespace)
            case "moved":
                ip("link", "set", "eth0", "netns", other, namespace=veth.namespace)
            case _:
                ip("link", "del", "eth1", namespace=veth.namespace)
        await asyncio.wait_for(links.name_watch.freed.wait(), 20)
        assert len(links.name_watch) == 0
        await links.ensure_veth(veth)
    assert_right(veth)


async def test_watches_of_taken_names_are_bounded_and_end(topo: Topo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.datapath.veth.name_watch.MOST", 1)
    monkeypatch.setattr("agent.datapath.veth.name_watch.EXPIRES", 0.01)
    async with open_links() as links:
        for veth in (wanted(topo.endpoint_namespace()), wanted(topo.endpoint_namespace(), "db", 6)):
            ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1", namespace=veth.namespace)
            with pytest.raises(OSError, match="already has an interface eth0"):
                await links.ensure_veth(veth)
            assert len(links.name_watch) <= 1
        await until(lambda: len(links.name_watch) == 0)


async def test_an_ifindex_that_is_taken_is_refused_with_its_holder(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    ip("link", "add", "theirs", "index", str(veth.ifindex), "type", "veth", "peer", "name", "theirs2")
    async with open_links() as links:
        with pytest.raises(OSError, match="held by theirs") as caught:
            await links.ensure_veth(veth)
    assert caught.value.errno == errno.EEXIST
    assert ip_json("link", "show", "theirs")


async def test_a_host_side_name_that_is_anothers_is_refused(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    ip("link", "add", veth.ifname, "type", "veth", "peer", "name", "theirs2")
    ip("link", "set", veth.ifname, "alias", "theirs")
    async with open_links() as links:
        with pytest.raises(OSError, match="does not carry our mark") as caught:
            await links.ensure_veth(veth)
    assert caught.value.errno == errno.EEXIST


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


async def test_deleting_removes_both_sides_and_tolerates_absence(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    async with open_links() as links:
        await links.ensure_veth(veth)
        await links.delete_veth(veth.endpoint, veth.ifindex)
        await links.delete_veth(veth.endpoint, veth.ifindex)
    assert [link["ifname"] for link in ip_json("link", "show", namespace=veth.namespace)] == ["lo"]


async def test_an_unfinished_pair_is_deleted_by_its_endpoints_name_alone(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    ip("link", "add", veth.ifname, "index", str(veth.ifindex), "type", "veth", "peer", "name", "x")
    async with open_links() as links:
        for another in ("other", veth.ifname):
            with pytest.raises(OSError, match="does not carry the mark"):
                await links.delete_veth(another, veth.ifindex)
        await links.delete_veth(veth.endpoint, veth.ifindex)
    assert veth.ifname not in ip("link", "show")


async def test_an_interface_without_our_mark_is_never_deleted(topo: Topo) -> None:
    ip("link", "add", "theirs", "index", "1073741999", "type", "veth", "peer", "name", "theirs2")
    async with open_links() as links:
        with pytest.raises(OSError, match="does not carry the mark") as caught:
            await links.delete_veth("web", 1073741999)
        with pytest.raises(OSError, match="does not carry the mark"):
            await links.delete_veth("theirs", 1073741999)
    assert caught.value.errno == errno.EPERM
    assert "theirs" in ip("link", "show")


async def test_another_endpoints_pair_is_never_deleted(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    async with open_links() as links:
        await links.ensure_veth(veth)
        with pytest.raises(OSError):
            await links.delete_veth("other", veth.ifindex)
        assert_right(veth)


async def test_a_strangers_program_is_neither_replaced_nor_detached(topo: Topo) -> None:
    with loaded("stranger") as stranger, loaded("ours") as ours:
        async with Netlink() as netlink:
            index = topo.ifindex("eth0")
            await attach(netlink, index, stranger, owning(stranger), AttachMode.NATIVE)
            with pytest.raises(OSError, match="another owner's XDP program") as caught:
                await attach(netlink, index, ours, owning(ours), AttachMode.AUTO)
            assert caught.value.errno == errno.EEXIST
            with pytest.raises(OSError, match="another owner's"):
                await detach(netlink, index, owning(ours))
            assert ip_json("link", "show", "eth0")[0]["xdp"]["prog"]["name"] == "stranger"


async def test_the_kernel_itself_refuses_when_the_owner_changes_in_between(topo: Topo) -> None:
    """Two owners race: the one that looked before the other attached must not win."""
    with loaded("ours") as old, loaded("stranger") as stranger, loaded("ours") as new:
        async with Netlink() as netlink:
            index = topo.ifindex("eth0")
            await attach(netlink, index, old, owning(old), AttachMode.NATIVE)
            wrong = ProgramOwnership(lambda _: True, lambda _: os.dup(stranger.descriptor))
            with pytest.raises(OSError) as caught:
                await attach(netlink, index, new, wrong, AttachMode.NATIVE)
            assert caught.value.errno == errno.EEXIST


@pytest.mark.parametrize("mode", [AttachMode.NATIVE, AttachMode.GENERIC])
async def test_an_older_program_of_ours_is_replaced_in_either_mode(topo: Topo, mode: AttachMode) -> None:
    with loaded("ours") as old, loaded("ours") as new:
        own = owning(old, new)
        async with Netlink() as netlink:
            index = topo.ifindex("eth0")
            assert (await attach(netlink, index, old, own, mode)).native == (mode is AttachMode.NATIVE)
            attached = await attach(netlink, index, new, own, mode)
            assert attached == (new.program_id, mode)
            assert await detach(netlink, index, own)
            assert not await detach(netlink, index, own)
            assert "xdp" not in ip_json("link", "show", "eth0")[0]


async def test_a_generic_program_of_ours_becomes_native_when_that_is_asked(topo: Topo) -> None:
    with loaded("ours") as program:
        async with Netlink() as netlink:
            index = topo.ifindex("eth0")
            await attach(netlink, index, program, owning(program), AttachMode.GENERIC)
            attached = await attach(netlink, index, program, owning(program), AttachMode.NATIVE)
            assert attached.native


async def test_automatic_attachment_falls_back_to_generic_where_the_driver_cannot(topo: Topo) -> None:
    """The loopback interface has no XDP of its own."""
    with loaded("ours") as program:
        async with Netlink() as netlink:
            attached = await attach(netlink, 1, program, owning(program), AttachMode.AUTO)
            assert not attached.native
            await detach(netlink, 1, owning(program))
            with pytest.raises(OSError):
                await attach(netlink, 1, program, owning(program), AttachMode.NATIVE)
