"""What is read back from the real kernel, and what an agent finds when it starts again."""

from __future__ import annotations

import os

import pytest

from agent.core.actions import AttachTransit
from agent.core.layout import MapName
from agent.datapath.kernel import Kernel, KernelConfig, remove
from agent.datapath.netlink import Netlink
from agent.datapath.observe import ObservationError
from agent.datapath.xdp import AttachMode, attach
from tests.netns.conftest import World, ip, ip_json, run
from tests.netns.programs import loaded, owning
from tests.netns.tenants import GATEWAY, HERE, VNI, endpoint_actions, endpoint_veth, host_actions


async def realized(kernel: Kernel, world: World, endpoint: str = "e0", slot: int = 10):
    veth = endpoint_veth(kernel.config.instance, world.endpoint_namespace(), endpoint, slot)
    actions = [*host_actions(await kernel.interface()), *endpoint_actions(veth)]
    assert await kernel.executor.run(actions) == []
    return veth


async def test_all_that_was_made_is_seen(kernel: Kernel, world: World) -> None:
    veth = await realized(kernel, world)
    observed = await kernel.observe({"e0": veth.namespace})
    assert observed.interface.name == "eth0"
    assert observed.interface.addresses == (bytes([10, 77, 0, 1]),)
    assert observed.interface.transit
    seen = observed.veths["e0"]
    assert (seen.ifname, seen.ifindex, seen.mtu) == (veth.ifname, veth.ifindex, veth.mtu)
    assert (seen.complete, seen.up, seen.transit_agent) == (True, True, True)
    assert seen.peer is not None
    assert (seen.peer.name, seen.peer.mac, seen.peer.mtu, seen.peer.up) == ("eth0", veth.peer_mac, veth.mtu, True)
    assert (seen.peer.addresses, seen.peer.gateways) == (veth.addresses, veth.gateways)
    assert {name: len(entries) for name, entries in observed.maps.items()} == {
        MapName.LOCAL_DROPLET: 1,
        MapName.DROPLETS: 1,
        MapName.VPCS: 1,
        MapName.NETWORKS: 1,
        MapName.ENDPOINTS: 1,
        MapName.INTERFACES: 1,
    }


async def test_an_unfinished_pair_is_seen_as_such(kernel: Kernel, world: World) -> None:
    veth = endpoint_veth(kernel.config.instance, world.endpoint_namespace(), "e0", 10)
    pair = ["add", veth.ifname, "index", str(veth.ifindex), "type", "veth", "peer", "name", "eth0"]
    ip("link", *pair, "netns", veth.namespace)
    known = (await kernel.observe({"e0": veth.namespace})).veths["e0"]
    assert (known.complete, known.up, known.transit_agent) == (False, False, False)
    assert known.peer is not None
    unknown = (await kernel.observe({})).veths
    assert list(unknown) == [veth.ifname]


async def test_interfaces_of_others_are_not_seen(kernel: Kernel) -> None:
    ip("link", "add", "theirs", "type", "veth", "peer", "name", "dp0123")
    ip("link", "add", "theirs2", "type", "veth", "peer", "name", "theirs3")
    ip("link", "set", "theirs2", "alias", "droplet/another/e0")
    assert (await kernel.observe({})).veths == {}


async def test_a_peer_is_looked_for_where_it_belongs(kernel: Kernel, world: World) -> None:
    veth = await realized(kernel, world)
    other = world.endpoint_namespace()
    for namespaces in ({}, {"e0": other}, {"e0": "no-such-namespace"}):
        seen = (await kernel.observe(namespaces)).veths["e0"]
        assert (seen.complete, seen.peer) == (True, None)
    ip("link", "set", "eth0", "netns", other, namespace=veth.namespace)
    assert (await kernel.observe({"e0": veth.namespace})).veths["e0"].peer is None
    moved = (await kernel.observe({"e0": other})).veths["e0"].peer
    assert moved is not None
    assert not moved.up


async def test_a_detached_or_foreign_program_is_not_ours(kernel: Kernel, world: World) -> None:
    veth = await realized(kernel, world)
    ip("link", "set", veth.ifname, "xdp", "off")
    ip("link", "set", "eth0", "xdp", "off")
    observed = await kernel.observe({})
    assert not observed.interface.transit
    assert not observed.veths["e0"].transit_agent
    with loaded("stranger") as stranger:
        async with Netlink() as netlink:
            await attach(netlink, world.ifindex("eth0"), stranger, owning(stranger), AttachMode.NATIVE)
        assert not (await kernel.observe({})).interface.transit


async def test_a_missing_interface_is_an_error_and_not_a_smaller_answer(kernel: Kernel) -> None:
    ip("link", "del", "eth0")
    with pytest.raises(ObservationError, match="no such interface"):
        await kernel.observe({})


async def test_a_map_that_cannot_be_read_is_an_error(kernel: Kernel) -> None:
    one = kernel.maps[MapName.NETWORKS]
    good, one.descriptor = one.descriptor, os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(ObservationError):
            await kernel.observe({})
    finally:
        os.close(one.descriptor)
        one.descriptor = good


async def test_an_agent_that_starts_again_finds_everything_and_changes_nothing(
    config: KernelConfig, world: World
) -> None:
    first = await Kernel.open(config)
    veth = await realized(first, world)
    before = await first.observe({"e0": veth.namespace})
    links = ip_json("link", "show", veth.ifname), ip_json("link", "show", "eth0")
    await first.close()
    second = await Kernel.open(config)
    try:
        assert await second.observe({"e0": veth.namespace}) == before
        assert (ip_json("link", "show", veth.ifname), ip_json("link", "show", "eth0")) == links
    finally:
        await second.close()


async def test_pins_that_somebody_removed_are_restored(config: KernelConfig, kernel: Kernel, world: World) -> None:
    veth = await realized(kernel, world)
    before = await kernel.observe({"e0": veth.namespace})
    config.pins.remove()
    await kernel.observe({})
    again = await Kernel.open(config)
    try:
        assert await again.observe({"e0": veth.namespace}) == before
    finally:
        await again.close()


async def test_an_agent_without_its_pins_says_that_the_interface_is_anothers(
    config: KernelConfig, world: World
) -> None:
    """The program that is attached works on maps which no path leads to any more: it is not taken for ours."""
    first = await Kernel.open(config)
    assert await first.executor.run([AttachTransit(world.ifindex("eth0"))]) == []
    await first.close()
    config.pins.remove()
    second = await Kernel.open(config)
    try:
        (failure,) = await second.executor.run([AttachTransit(world.ifindex("eth0"))])
        assert "another owner" in failure.message
    finally:
        await second.close()


async def test_lookups_answer_for_one_path(kernel: Kernel, world: World) -> None:
    veth = await realized(kernel, world)
    address = bytes([10, 1, 0, 10])
    found = kernel.lookup_endpoint(VNI, address)
    assert found is not None
    assert (found.host, found.ifindex, found.mac) == (HERE, veth.ifindex, veth.peer_mac)
    network = kernel.lookup_network(VNI, address)
    assert network is not None
    assert (network.gateway, network.bouncers.members) == (GATEWAY, (HERE,))
    assert kernel.lookup_vpc(VNI) == (0, ())
    assert kernel.lookup_direct(VNI, address) is None
    assert kernel.lookup_endpoint(VNI + 1, address) is None
    assert kernel.lookup_network(VNI, bytes([10, 2, 0, 1])) is None
    assert kernel.lookup_vpc(VNI + 1) is None


async def test_removing_leaves_nothing_of_ours_and_all_of_others(config: KernelConfig, world: World) -> None:
    kernel = await Kernel.open(config)
    await realized(kernel, world)
    await kernel.neighbours.start()
    kernel.neighbours.set_droplets([bytes([10, 77, 0, 2])])
    await kernel.neighbours.settled()
    await kernel.close()
    ip("link", "add", "theirs", "type", "veth", "peer", "name", "theirs2")
    await remove(config)
    await remove(config)
    shown = {link["ifname"]: link for link in ip_json("link", "show")}
    assert set(shown) == {"lo", "eth0", "theirs", "theirs2"}
    assert "xdp" not in shown["eth0"]
    assert "managed" not in ip("neigh", "show")
    assert "droplet" not in run("ls", str(config.bpffs)).split()
