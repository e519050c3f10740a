"""Devices by which the kernel merges tunnel packets: made for uplinks at tc with single packets, and removed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from agent.core.model.features import Features
from agent.core.uplinks.hook_choice import HookSettings
from agent.datapath.attach.tunnel_gro import TunnelGro, kinds
from agent.datapath.kernel import KernelConfig
from agent.datapath.net.netlink import Netlink
from agent.datapath.uninstall import remove
from tests.netns.conftest import Topo, ip, ip_json
from tests.netns.test_tc_attach import opened

NAMES = {"dpgro6081", "dpgro4789"}


def devices() -> dict[str, dict[str, object]]:
    return {link["ifname"]: link for link in ip_json("-d", "link", "show") if link["ifname"].startswith("dpgro")}


@asynccontextmanager
async def gro(features: Features = Features()) -> AsyncIterator[TunnelGro]:  # noqa: B008 -- it is frozen
    async with Netlink() as netlink:
        yield TunnelGro(netlink, "here", features)


def test_each_port_has_kinds_of_devices_that_merge_its_packets() -> None:
    assert kinds(Features()) == {6081: ("geneve", "vxlan"), 4789: ("vxlan",)}
    assert kinds(Features(geneve_port=7081, vxlan_port=0)) == {7081: ("geneve", "vxlan")}


async def test_devices_are_made_once_repaired_and_removed(topo: Topo) -> None:
    async with gro() as one:
        await one.ensure(False)
        assert devices() == {}
        await one.ensure(True)
        before = devices()
        assert before.keys() == NAMES
        assert all("UP" in link["flags"] and link["ifalias"] == "droplet-gro/here" for link in before.values())
        await one.ensure(True)
        assert {name: link["ifindex"] for name, link in devices().items()} == {
            name: link["ifindex"] for name, link in before.items()
        }
        ip("link", "set", "dpgro6081", "down")
        await one.ensure(True)
        assert "UP" in devices()["dpgro6081"]["flags"]
        await one.ensure(False)
        assert devices() == {}


async def test_another_owners_device_on_the_port_merges_for_us(topo: Topo) -> None:
    ip("link", "add", "theirs", "type", "vxlan", "external", "dstport", "6081", "nolearning")
    ip("link", "set", "theirs", "up")
    async with gro() as one:
        await one.ensure(True)
        assert devices().keys() == {"dpgro4789"}
        await one.ensure(False)
        assert "theirs" in {link["ifname"] for link in ip_json("link", "show")}
        await one.ensure(True)
        ip("link", "del", "theirs")
        await one.ensure(True)
        assert devices().keys() == NAMES, "the port is free again"


async def test_a_port_that_is_taken_is_tried_once(topo: Topo) -> None:
    """A device of another kind has it, as Calico's: ours can be made there, but not set up."""
    ip("link", "add", "theirs", "type", "vxlan", "id", "7", "dstport", "4789", "local", topo.address)
    ip("link", "set", "theirs", "up")
    async with gro() as one:
        for _ in range(2):
            await one.ensure(True)
            assert "dpgro6081" in devices()
        last = max(int(link["ifindex"]) for link in ip_json("link", "show"))
        await one.ensure(True)
        assert max(int(link["ifindex"]) for link in ip_json("link", "show")) == last
        assert "dpgro4789" not in devices() or "UP" in devices()["dpgro4789"]["flags"]


async def test_another_owners_interface_with_our_name_stays(topo: Topo) -> None:
    ip("link", "add", "name", "dpgro6081", "type", "bridge")
    async with gro() as one:
        for wanted in (True, False):
            await one.ensure(wanted)
            assert devices()["dpgro6081"]["linkinfo"]["info_kind"] == "bridge"


@pytest.mark.parametrize("hook", ["tc", "auto", "xdp"])
async def test_uplinks_at_tc_by_choice_have_devices_that_an_uninstall_removes(
    topo: Topo, config: KernelConfig, hook: str
) -> None:
    config = replace(config, hooks=HookSettings(hook, hook))
    async with opened(config) as kernel:
        await kernel.follow_modes(await kernel.uplinks())
        assert devices().keys() == (NAMES if hook == "tc" else set())
    await remove(config, lambda _: None)
    assert devices() == {}


async def test_devices_of_former_settings_are_removed(topo: Topo, config: KernelConfig) -> None:
    async with opened(replace(config, hooks=HookSettings("tc", "tc"))) as kernel:
        await kernel.follow_modes(await kernel.uplinks())
    assert devices().keys() == NAMES
    async with opened(config) as kernel:
        await kernel.follow_modes(await kernel.uplinks())
        assert devices() == {}


async def test_devices_of_ports_of_former_settings_are_removed(topo: Topo, config: KernelConfig) -> None:
    async with gro(Features(geneve_port=7081)) as former, Netlink() as netlink:
        await former.ensure(True)
        await TunnelGro(netlink, "another", Features(geneve_port=8081, vxlan_port=0)).ensure(True)
    assert devices().keys() == {"dpgro7081", "dpgro4789", "dpgro8081"}
    async with opened(replace(config, instance="here", hooks=HookSettings("tc", "tc"))) as kernel:
        await kernel.start()
        assert devices().keys() == NAMES | {"dpgro8081"}, "another instance's stays"
    async with opened(replace(config, instance="here")) as kernel:
        await kernel.start()
        assert devices().keys() == {"dpgro8081"}
