"""An uninstall removes what is the agent's, and names each program of another owner that it meets."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace

from agent.datapath.bpf.links import tcx_programs
from agent.datapath.kernel import KernelConfig
from agent.datapath.uninstall import remove
from tests.netns.conftest import Topo, ip, ip_json, run
from tests.netns.foreign import ifindex_of, in_clsact, in_tcx, stranger_on
from tests.netns.test_lost_pins import attached_ids, opened, put_in_place


async def test_strangers_stay_on_an_uplink_and_are_named_before_an_endpoints_interface_goes(
    config: KernelConfig, topo: Topo
) -> None:
    async with opened(config) as kernel, AsyncExitStack() as strangers:
        await put_in_place(kernel, topo)
        plain, taken = sorted(attached_ids().keys() - {"eth0"})
        on_uplink = await strangers.enter_async_context(stranger_on(kernel, "eth0", "count", older=False))
        on_endpoint = await strangers.enter_async_context(stranger_on(kernel, taken, "filter", older=False))
        beside = strangers.enter_context(in_tcx("eth0", "tcx_uplink"))
        tcx = strangers.enter_context(in_tcx(plain, "tcx_own", "egress"))
        strangers.enter_context(in_clsact(plain, "cls", config.bpffs))
        interfaces: dict[str, bool] = {}
        told: list[str] = []

        def tell(line: str) -> None:
            told.append(line)
            for name in (plain, taken):
                if f" {name}" in line:
                    interfaces[name] = name in {link["ifname"] for link in ip_json("link", "show")}

        removed = await remove(config, tell)
        assert (removed.interfaces, removed.transit) == (2, False)
        assert interfaces == {plain: True, taken: True}, "they are told while they are still there"
        gone = "it is detached now, because the interface is removed"
        assert len(told) == 5
        assert f"another owner's tcx program tcx_uplink (id {beside}) is attached to eth0: it is left alone" in told
        assert f"another owner's XDP program count (id {on_uplink}) is attached to eth0: it is left alone" in told
        assert f"another owner's tcx program tcx_own (id {tcx}) is attached to {plain}: {gone}" in told
        assert f"another owner's tc filter with program cls:[*fsobj] is attached to {plain}: {gone}" in told
        (xdp,) = [one for one in told if f"XDP program filter (id {on_endpoint}) is attached to {taken} of end" in one]
        assert xdp.endswith(gone)
        assert attached_ids() == {"eth0": on_uplink}
        assert tcx_programs(ifindex_of("eth0"), "ingress") == [beside]
        assert not config.pins.root.exists()


async def test_our_program_is_detached_from_an_interface_that_is_no_uplink_any_more(
    config: KernelConfig, topo: Topo
) -> None:
    """Its settings name other interfaces now; with the pins gone, nothing else would find the program."""
    ip("link", "add", "eth1", "type", "veth", "peer", "name", "wire1")
    run("ip", "address", "add", "10.78.0.1/24", "dev", "eth1")
    async with opened(config) as kernel:
        await put_in_place(kernel, topo)
    told: list[str] = []
    removed = await remove(replace(config, interfaces=("eth1",)), told.append)
    assert removed.transit
    assert attached_ids() == {}
    assert told == []
