"""A change of the attach mode moves the agent's programs, and none of another owner's, wherever they are attached."""

from __future__ import annotations

from contextlib import AsyncExitStack

from agent.datapath.bpf.links import tcx_programs
from agent.datapath.foreign_programs import foreign_programs
from agent.datapath.kernel import KernelConfig
from agent.datapath.net.netlink import Netlink
from tests.netns.conftest import Topo, ip, ip_json, run
from tests.netns.foreign import ifindex_of, in_clsact, in_tcx, stranger_on
from tests.netns.test_lost_pins import attached_ids, opened, put_in_place

NATIVE, GENERIC = 1, 2
"""XDP_ATTACHED_DRV and _SKB, as ip(8) shows them."""


def modes() -> dict[str, int]:
    return {link["ifname"]: link["xdp"]["mode"] for link in ip_json("link", "show") if "xdp" in link}


async def found_on(config: KernelConfig, *interfaces: str) -> dict[str, tuple[list[str], list[int]]]:
    """Return what is found of other owners' programs on interfaces, and what their tcx hooks hold."""
    found = {}
    async with Netlink() as netlink:
        for name in interfaces:
            link = await netlink.link(ifname=name)
            assert link is not None
            found[name] = await foreign_programs(netlink, link, config.pins), tcx_programs(ifindex_of(name), "ingress")
    return found


async def test_native_and_generic_change_under_strangers_in_every_hook(config: KernelConfig, topo: Topo) -> None:
    ip("link", "add", "theirs0", "type", "veth", "peer", "name", "theirs1")
    async with opened(config) as kernel, AsyncExitStack() as strangers:
        await put_in_place(kernel, topo)
        ours = attached_ids()
        mine, taken = sorted(ours.keys() - {"eth0"})
        own = await strangers.enter_async_context(stranger_on(kernel, "theirs0", "theirs", older=False))
        blocking = await strangers.enter_async_context(stranger_on(kernel, taken, "theirs", older=False))
        for interface in ("eth0", mine):
            strangers.enter_context(in_clsact(interface, f"filter_{interface}"[:15], config.bpffs))
            strangers.enter_context(in_tcx(interface, "tcx_in"))
            strangers.enter_context(in_tcx(interface, "tcx_out", "egress"))
        expected = {**ours, "theirs0": own, taken: blocking}
        before = await found_on(config, "eth0", mine, taken)
        assert [len(found) for found, _ in before.values()] == [3, 3, 1]
        for gro, mode in (("off", GENERIC), ("on", NATIVE)):
            run("ip", "netns", "exec", topo.underlay, "ethtool", "-K", "sub0", "gro", gro)
            attached = modes()
            uplinks = await kernel.uplinks()
            assert modes() == attached, "reading the uplinks changes no program"
            await kernel.follow_modes(uplinks)
            assert modes() == {"eth0": mode, mine: mode, "theirs0": NATIVE, taken: NATIVE}
            assert attached_ids() == expected
            assert await found_on(config, "eth0", mine, taken) == before
