"""Programs of users that work on the agent's pinned maps: never replaced, detached or counted as the agent's."""

from __future__ import annotations

import errno
import os
import re
import sys
from dataclasses import replace

import pytest

from agent.core.model.hooks import TRANSIT, Hook
from agent.core.plan.actions import AttachTransit
from agent.datapath.attach.attach_modes import read_devices
from agent.datapath.attach.xdp import XDP_FLAGS_SKB_MODE, AttachMode, attach
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.links import link_of
from agent.datapath.check.host import check_host
from agent.datapath.kernel import Kernel, KernelConfig
from agent.datapath.net.link_query import LinkQuery
from agent.datapath.net.netlink import Netlink
from agent.datapath.uninstall import remove
from tests.netns.conftest import Topo, run, uplinks_now
from tests.netns.foreign import BPF_XDP, create_link, stranger_on
from tests.netns.programs import loaded, owning
from tests.netns.tenants import endpoint_actions, endpoint_veth
from tests.netns.test_lost_pins import attached_ids, opened, put_in_place


@pytest.mark.parametrize(("name", "older"), [("theirs", False), (TRANSIT[Hook.XDP], False), (TRANSIT[Hook.XDP], True)])
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
                await kernel.follow_modes(await kernel.uplinks())
                kernel.tend(await kernel.observe({}))
                assert attached_ids()["eth0"] == stranger
                (fault,) = kernel.foreign.values()
                assert fault.detail == f"another owner's XDP program {name} (id {stranger}) is attached to eth0"
            check = {one.name: one for one in await check_host(config)}["xdp"]
            assert not check.ok
            assert check.detail == f"another owner's XDP program {name} (id {stranger}) is attached to eth0"
            assert not (await remove(config, print)).transit
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
            await kernel.follow_modes(await kernel.uplinks())
            assert attached_ids()[interface] == stranger
            check = {one.name: one for one in await check_host(config)}["endpoints"]
            assert (check.ok, check.warning) == (True, True)
            found = f"another owner's XDP program {name} (id {stranger}) is attached to {interface} of endpoint e"
            assert check.detail.startswith(found)
            assert check.remedy.startswith(f"detach it (ip link set dev {interface} xdpdrv off): until then")


@pytest.mark.parametrize("mode", [AttachMode.NATIVE, AttachMode.GENERIC])
async def test_the_command_that_a_refusal_names_detaches_the_program(
    kernel: Kernel, topo: Topo, mode: AttachMode
) -> None:
    """Plain `xdp off` would leave a generic program of a driver with native XDP in place, without an error."""
    with loaded("theirs") as stranger:
        async with Netlink() as netlink:
            await attach(netlink, topo.ifindex("eth0"), stranger, owning(), mode)
        (failure,) = await kernel.executor.run([AttachTransit(topo.ifindex("eth0"))])
        command = re.search(r"detach it \((ip link [^)]*)\)", failure.message)
        assert command, failure.message
        run(*command[1].split())
        assert attached_ids() == {}
    assert await kernel.executor.run([AttachTransit(topo.ifindex("eth0"))]) == []


async def test_a_program_that_a_link_attaches_is_to_be_detached_by_the_link(kernel: Kernel, topo: Topo) -> None:
    """`ip link set ... off` fails for it: the kernel answers EBUSY. A pinned link has no process that holds it."""
    with loaded("theirs") as stranger:
        link = create_link(stranger.descriptor, "eth0", BPF_XDP, XDP_FLAGS_SKB_MODE)
        try:
            number = link_of(stranger.program_id, topo.ifindex("eth0"))
            assert number == int.from_bytes(bpf.link_info(link, 8)[4:], sys.byteorder)
            (failure,) = await kernel.executor.run([AttachTransit(topo.ifindex("eth0"))])
            assert f"XDP program theirs (id {stranger.program_id}) is attached to eth0" in failure.message
            assert f"bpftool link detach id {number}" in failure.message
            assert attached_ids() == {"eth0": stranger.program_id}
        finally:
            os.close(link)
        assert link_of(stranger.program_id, topo.ifindex("eth0")) == 0


@pytest.mark.parametrize(("ours", "runs"), [(False, "none"), (True, "generic")])
async def test_the_mode_of_anothers_program_says_nothing_about_how_ours_can_run(
    topo: Topo, ours: bool, runs: str
) -> None:
    query = LinkQuery()
    try:
        with loaded("some") as program:
            async with Netlink() as netlink:
                await attach(netlink, topo.ifindex("eth0"), program, owning(), AttachMode.GENERIC)
                (device,) = await read_devices(netlink, await uplinks_now("eth0"), query, lambda _: ours)
    finally:
        query.close()
    assert device.runs == runs


async def test_an_index_that_another_instances_endpoint_has_is_not_to_be_freed(
    config: KernelConfig, topo: Topo
) -> None:
    """Two instances in one network namespace want the same indexes for their endpoints."""
    async with opened(config) as first:
        await put_in_place(first, topo)
        running = attached_ids()
        async with opened(replace(config, instance="second")) as second:
            veth = endpoint_veth("second", topo.endpoint_namespace(), "mine", 10)
            (failure,) = await second.executor.run(endpoint_actions(veth)[:1])
            assert f"endpoint e0 of the droplet instance {config.instance}: leave it alone" in failure.message
            assert "remove that interface" not in failure.message
            second.tend(await second.observe({}))
            told: list[str] = []
            assert (await remove(second.config, told.append)).interfaces == 0
            assert [one for one in told if "eth0" in one] == told
        assert attached_ids() == running


def test_links_of_others_that_come_or_go_meanwhile_are_passed_over(monkeypatch: pytest.MonkeyPatch, topo: Topo) -> None:
    open_link = bpf.link_by_id

    def coming_and_going(number: int) -> int:
        if number < 0:
            raise OSError(-number, os.strerror(-number))
        return open_link(number)

    with loaded("linked") as program:
        link = create_link(program.descriptor, "eth0", BPF_XDP, XDP_FLAGS_SKB_MODE)
        found = list(bpf.all_ids(bpf.Command.LINK_GET_NEXT_ID))
        monkeypatch.setattr(bpf, "all_ids", lambda _: [-errno.EAGAIN, -errno.ENOENT, *found])
        monkeypatch.setattr(bpf, "link_by_id", coming_and_going)
        assert link_of(program.program_id, topo.ifindex("eth0")) in found
        os.close(link)
