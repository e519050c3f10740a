"""The host's interfaces in the underlay on the real kernel: read, served together, left behind clean."""

from __future__ import annotations

import errno
import ipaddress
from dataclasses import replace

import pytest
from lab.offloaded import exchange_segments, sent_by

from agent.core.nexthop.next_hops import Peer
from agent.core.plan.actions import AttachTransit, DetachTransit
from agent.datapath.attach.xdp import AttachMode
from agent.datapath.kernel import Kernel, KernelConfig
from agent.datapath.uninstall import remove
from tests.netns.conftest import Topo, ip, ip_json, run, uplinks_now
from tests.netns.hops import set_peers


@pytest.fixture
def two(topo: Topo, config: KernelConfig) -> KernelConfig:
    """The settings of a host with two interfaces, the second one with addresses of both families."""
    ip("link", "add", "eth1", "type", "veth", "peer", "name", "sub1", "netns", topo.underlay)
    ip("addr", "add", "10.78.0.1/24", "dev", "eth1")
    ip("addr", "add", "2001:db8:78::1/64", "dev", "eth1", "nodad")
    ip("link", "set", "eth1", "mtu", "1400", "up")
    ip("link", "set", "sub1", "up", namespace=topo.underlay)
    run("ip", "netns", "exec", topo.underlay, "ethtool", "-K", "sub1", "gro", "on")
    return replace(config, interfaces=("eth0", "eth1"))


async def test_interfaces_are_read_in_the_order_of_the_settings(topo: Topo, two: KernelConfig) -> None:
    second, first = await uplinks_now("eth1", "eth0")
    assert [first.name, second.name] == ["eth0", "eth1"]
    assert (first.ifindex, first.mtu, first.vlan) == (topo.ifindex("eth0"), 1500, 0)
    assert second.mtu == 1400
    assert {str(ipaddress.ip_address(one)) for one in second.addresses} == {"10.78.0.1", "2001:db8:78::1"}
    assert (second.ingress, second.egress, second.carrier) == ((second.ifindex,), second.ifindex, second.ifindex)
    assert second.mac.hex(":") == ip_json("link", "show", "eth1")[0]["address"]


async def test_one_that_is_missing_is_named(topo: Topo) -> None:
    with pytest.raises(OSError, match="no such interface") as refused:
        await uplinks_now("eth0", "eth7")
    assert (refused.value.errno, refused.value.filename) == (errno.ENODEV, "eth7")


async def test_a_members_master_that_is_no_bond_changes_nothing(topo: Topo) -> None:
    ip("link", "add", "name", "br0", "type", "bridge")
    ip("link", "set", "eth0", "master", "br0")
    found = await uplinks_now("eth0", "br0")
    assert [one.ingress for one in found] == [(one.ifindex,) for one in found]


async def test_the_program_runs_on_each_interface_and_leaves_each(topo: Topo, two: KernelConfig) -> None:
    kernel = await Kernel.open(two)
    try:
        first, second = (one.carrier for one in await kernel.uplinks())
        assert await kernel.executor.run([AttachTransit(first), AttachTransit(second)]) == []
        assert [one.transit for one in (await kernel.observe({})).uplinks] == [True, True]
        assert kernel.transit_modes() == {"eth0": "native", "eth1": "native"}
        assert await kernel.executor.run([DetachTransit(first)]) == []
        assert [one.transit for one in await kernel.uplinks()] == [False, True]
        assert kernel.transit_modes() == {"eth0": "none", "eth1": "native"}
        await kernel.neighbours.start()
        set_peers(kernel.neighbours, {bytes([10, 77, 0, 2]): Peer(), bytes([10, 78, 0, 2]): Peer()})
        await kernel.neighbours.caught_up()
    finally:
        await kernel.close()
    assert (await remove(two, print)).transit
    assert all("xdp" not in link for link in ip_json("link", "show"))
    assert "managed" not in ip("neigh", "show")


async def test_an_interface_without_xdp_is_a_failure_of_its_own(topo: Topo, two: KernelConfig) -> None:
    ip("link", "set", "sub1", "mtu", "9000", namespace=topo.underlay)
    kernel = await Kernel.open(replace(two, attach_mode=AttachMode.NATIVE))
    try:
        first, second = (one.carrier for one in await kernel.uplinks())
        (failure,) = await kernel.executor.run([AttachTransit(second), AttachTransit(first)])
        assert failure.action == AttachTransit(second)
        assert failure.message.startswith("eth1: driver veth refuses native XDP: ")
        assert "Peer MTU is too large to set XDP" in failure.message
        assert kernel.transit_modes() == {"eth0": "native", "eth1": "none"}
    finally:
        await kernel.close()


async def test_a_refused_offloaded_program_has_a_remedy(topo: Topo, config: KernelConfig) -> None:
    kernel = await Kernel.open(replace(config, attach_mode=AttachMode.OFFLOAD))
    try:
        (failure,) = await kernel.executor.run([AttachTransit(topo.ifindex("eth0"))])
        assert failure.message.startswith("eth0: driver veth refuses offload XDP: ")
        assert failure.message.endswith("(EINVAL). Set attach_mode to native or auto")
        assert kernel.transit_modes() == {"eth0": "none"}
    finally:
        await kernel.close()


@pytest.mark.parametrize("kind", ["veth", "bridge", "macvlan"])
async def test_devices_for_which_tc_is_chosen_do_hand_over_gso_packets(topo: Topo, kind: str) -> None:
    """The first segment of a datagram that the sender left to the device is as long as all of them."""
    name = "eth0" if kind == "veth" else "upper0"
    if kind == "bridge":
        ip("link", "add", "name", name, "type", kind)
        ip("link", "set", "eth0", "master", name)
    elif kind == "macvlan":
        ip("link", "add", "link", "eth0", "name", name, "type", kind, "mode", "bridge")
    if kind != "veth":
        ip("addr", "flush", "dev", "eth0")
        ip("addr", "add", f"{topo.address}/24", "dev", name)
        ip("link", "set", name, "up")
    mac = ip_json("link", "show", name)[0]["address"]  # eth0 would answer for a macvlan's address too
    ip("neigh", "replace", topo.address, "lladdr", mac, "dev", "sub0", namespace=topo.underlay)
    with sent_by(topo.droplet, name, received=True) as received:
        exchange_segments((topo.underlay, topo.neighbour), (topo.droplet, topo.address), 1000, 10)
        assert [one for one in received.frames() if one.gso_type and len(one.data) > 10_000]
    (found,) = await uplinks_now(name)
    assert kind in found.gso


async def test_devices_that_stand_for_no_other_sender_hand_over_none(topo: Topo) -> None:
    ip("link", "add", "name", "ifb7", "type", "ifb")
    run("ip", "tuntap", "add", "dev", "tap7", "mode", "tap")
    none, tap = await uplinks_now("ifb7", "tap7")
    assert none.gso == ""
    assert "tun" in tap.gso
