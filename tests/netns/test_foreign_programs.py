"""Programs of users that work on the agent's pinned maps: never replaced, detached or counted as the agent's."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from agent.core.model.map_layout import MapName
from agent.core.plan.actions import AttachTransit
from agent.datapath import host_check
from agent.datapath.attach.xdp import AttachableProgram, AttachMode, attach
from agent.datapath.bpf import programs
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import compile_programs
from agent.datapath.bpf.maps import Map, close_maps
from agent.datapath.bpf.marks import is_like_ours
from agent.datapath.kernel import TRANSIT_XDP, Kernel, KernelConfig
from agent.datapath.net.netlink import Netlink
from agent.datapath.uninstall import remove
from tests.netns.conftest import Topo, ip, ip_json
from tests.netns.programs import owning, stand_ins
from tests.netns.tenants import endpoint_actions, endpoint_veth
from tests.netns.test_lost_pins import attached_ids, opened, put_in_place


@asynccontextmanager
async def stranger_on(kernel: Kernel, interface: str, name: str, older: bool) -> AsyncIterator[int]:
    """Attach an unmarked, unpinned program that works on the kernel's pinned maps in place of what runs there.

    `older`: all its maps have names and keys that programs from before there were marks had.
    """
    config = kernel.config
    compiled = await compile_programs(config.cache, features=kernel.features)
    descriptors = {one.value: found.descriptor for one, found in kernel.maps.items()}
    stand_in: dict[MapName, Map] = {}
    if older:
        stand_in, newer = stand_ins(config.bpffs / "foreign", compiled)
        descriptors |= {"detours": descriptors["direct"], **newer}
    code = msgspec.structs.replace(compiled.program(TRANSIT_XDP), name=name)
    program = programs.load(code, descriptors)
    try:
        info = bpf.program_info(program.fd)
        assert set(info.map_ids) & {one.info.id for one in kernel.maps.values()}
        assert is_like_ours(info) is older
        ip("link", "set", "dev", interface, "xdp", "off")
        async with Netlink() as netlink:
            foreign = AttachableProgram(program.fd, program.id, program.name)
            await attach(netlink, ifindex_of(interface), foreign, owning(), AttachMode.AUTO)
        yield program.id
    finally:
        os.close(program.fd)
        close_maps(stand_in)


def ifindex_of(interface: str) -> int:
    return next(int(link["ifindex"]) for link in ip_json("link", "show") if link["ifname"] == interface)


@pytest.mark.parametrize(("name", "older"), [("theirs", False), (TRANSIT_XDP, False), (TRANSIT_XDP, True)])
async def test_a_strangers_program_on_the_agents_maps_survives(
    config: KernelConfig, topo: Topo, name: str, older: bool
) -> None:
    eth0 = topo.ifindex("eth0")
    async with opened(config) as first:
        await put_in_place(first, topo)
        async with stranger_on(first, "eth0", name, older) as stranger:
            async with opened(config) as kernel:
                assert not kernel.is_transit_attached(eth0)
                assert not kernel.transit.is_outdated(eth0)
                assert not any(one.transit for one in (await kernel.observe({})).uplinks)
                (failure,) = await kernel.executor.run([AttachTransit(eth0)])
                assert f"another owner's XDP program {name} (id {stranger})" in failure.message
                await kernel.follow_modes()
                kernel.tend(await kernel.observe({}))
                assert attached_ids()["eth0"] == stranger
            check = {one.name: one for one in await host_check.check_host(config)}["xdp"]
            assert not check.ok
            assert not (await remove(config)).transit
            assert attached_ids()["eth0"] == stranger


@pytest.mark.parametrize(("name", "older"), [("theirs", False), ("transit_xdp", True)])
async def test_a_strangers_program_on_an_endpoints_interface_survives(
    config: KernelConfig, topo: Topo, name: str, older: bool
) -> None:
    spaces = {f"e{number}": namespace for number, namespace in enumerate(topo.endpoints)}
    async with opened(config) as first:
        await put_in_place(first, topo)
        interface = next(one for one in attached_ids() if one != "eth0")
        async with stranger_on(first, interface, name, older) as stranger, opened(config) as kernel:
            kernel.tend(await kernel.observe(spaces))
            assert sorted(veth.transit_agent for veth in (await kernel.observe(spaces)).veths.values()) == [False, True]
            messages = []
            for number, namespace in enumerate(topo.endpoints):
                veth = endpoint_veth(config.instance, namespace, f"e{number}", 10 + number)
                messages += [one.message for one in await kernel.executor.run(endpoint_actions(veth))]
            assert any(f"another owner's XDP program {name} (id {stranger})" in one for one in messages)
            await kernel.follow_modes()
            assert attached_ids()[interface] == stranger
