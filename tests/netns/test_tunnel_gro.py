"""Devices by which the kernel merges tunnel packets: made for uplinks at tc with single packets, and removed."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import pytest
from lab.waiting import until
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from agent.core.model.features import Features
from agent.core.uplinks.hook_choice import HookSettings
from agent.datapath.attach.tunnel_gro import TunnelGro, kinds
from agent.datapath.kernel import KernelConfig
from agent.datapath.net.netlink import Netlink
from agent.datapath.uninstall import remove
from controller_sim.lab.namespaces import call_in
from tests.netns.conftest import Topo, ip, ip_json
from tests.netns.test_tc_attach import opened

NAMES = {"dpgro6081", "dpgro4789"}


def devices() -> dict[str, dict[str, object]]:
    return {link["ifname"]: link for link in ip_json("-d", "link", "show") if link["ifname"].startswith("dpgro")}


@asynccontextmanager
async def gro(features: Features = Features()) -> AsyncIterator[TunnelGro]:  # noqa: B008 -- it is frozen
    async with Netlink() as netlink:
        yield TunnelGro(netlink, "here", features)


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("", port))
        opened.settimeout(10)
        yield opened


def received(name: str) -> int:
    """Return how many packets a device has received, those included that it dropped afterwards."""
    return int(ip_json("-s", "link", "show", name)[0]["stats64"]["rx"]["packets"])


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


@pytest.mark.parametrize("left", ["made", "detached"])
async def test_what_a_sender_puts_into_a_tunnel_does_not_reach_the_hosts_stack(topo: Topo, left: str) -> None:
    """A broadcast frame in a tunnel packet to an address of the host that no program serves."""
    inner = Ether(dst="ff:ff:ff:ff:ff:ff") / IP(src="198.51.100.9", dst=topo.address) / UDP(dport=7777) / b"injected"
    injected = bytes.fromhex("0800000000000500") + bytes(inner)  # RFC 7348, VNI 5
    sender = call_in(topo.underlay, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    async with gro() as one:
        await one.ensure(True)
        if left == "detached":
            ip("link", "set", "dpgro4789", "xdpgeneric", "off")
            await one.ensure(True)
        with listening(7777) as receiver, sender:
            for port in (4789, 6081):
                sender.sendto(injected, (topo.address, port))
                until(lambda port=port: received(f"dpgro{port}"), "the tunnel packet")
            sender.sendto(b"plain", (topo.address, 7777))
            assert receiver.recv(100) == b"plain"
