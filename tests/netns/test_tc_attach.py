"""Programs at tc on real interfaces: attached by tcx and by clsact, replaced, taken over from XDP and back, removed."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace

import pytest

from agent.core.model.hooks import TRANSIT, Hook
from agent.core.model.offloads import Sending
from agent.core.plan.actions import AttachTransit, DetachTransit
from agent.core.uplinks.hook_choice import HookSettings
from agent.core.uplinks.program_owners import FILTER_HANDLE
from agent.datapath.attach.tc import TcIngress, TcKind
from agent.datapath.attach.xdp import AttachableProgram
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.links import detach_tcx, tcx_programs
from agent.datapath.kernel import Kernel, KernelConfig
from agent.datapath.net.link_query import LinkQuery
from agent.datapath.net.netlink import Netlink
from agent.datapath.uninstall import remove
from agent.errors import OperatorError
from tests.netns.conftest import Topo, ip_json, run
from tests.netns.foreign import ifindex_of, in_clsact, in_tcx, stranger_on
from tests.netns.programs import TC_UNSPEC, loaded, owning
from tests.netns.tenants import assert_right, endpoint_veth, open_links, wanted

AT_TC = Sending(Hook.TC, gso=True)
KINDS = pytest.mark.parametrize("kind", list(TcKind))


def tc_program(name: str = "ours"):
    return loaded(name, TC_UNSPEC, bpf.ProgramType.SCHED_CLS)


@asynccontextmanager
async def ingress(kind: TcKind, *own: AttachableProgram) -> AsyncIterator[TcIngress]:
    async with Netlink() as netlink:
        with closing(LinkQuery()) as query:
            yield TcIngress(netlink, query, owning(*own), kind)


def at_tc(interface: str) -> list[str]:
    """Return the names of the programs at an interface's tcx ingress hook, or of its filters."""
    found = [run("tc", "filter", "show", "dev", interface, "ingress")]
    names = [line.split("name ")[-1].split()[0] for line in found[0].splitlines() if " name " in line]
    for number in tcx_programs(ifindex_of(interface), "ingress"):
        descriptor = bpf.program_by_id(number)
        names.append(bpf.program_info(descriptor).name)
    return names


@KINDS
async def test_a_program_is_attached_once_and_replaced_in_place(topo: Topo, kind: TcKind) -> None:
    index = topo.ifindex("eth0")
    with tc_program("old") as old, tc_program("new") as new:
        async with ingress(kind, old, new) as hook:
            for _ in range(2):
                await hook.attach(index, old)
                assert hook.programs(index) == [old.program_id]
            await hook.attach(index, new)
            assert hook.programs(index) == hook.own_programs(index) == [new.program_id]
            assert await hook.detach(index)
            assert hook.programs(index) == []
            assert not await hook.detach(index)


@KINDS
async def test_another_owners_program_stays_and_ours_is_in_front_of_it(topo: Topo, kind: TcKind) -> None:
    index = topo.ifindex("eth0")
    with tc_program() as ours, in_tcx("eth0", "stranger") as stranger:
        async with ingress(kind, ours) as hook:
            await hook.attach(index, ours)
            if kind is TcKind.TCX:
                assert hook.programs(index) == [ours.program_id, stranger]
            await hook.detach(index)
            assert tcx_programs(index, "ingress") == [stranger]


async def test_another_owners_filter_stays_beside_ours(topo: Topo, config: KernelConfig) -> None:
    config.bpffs.mkdir()
    run("mount", "-t", "bpf", "bpf", str(config.bpffs))
    index = topo.ifindex("eth0")
    with tc_program() as ours, in_clsact("eth0", "stranger", config.bpffs):
        async with ingress(TcKind.CLSACT, ours) as hook:
            await hook.attach(index, ours)
            assert len(at_tc("eth0")) == 2
            await hook.detach(index)
            assert len(at_tc("eth0")) == 1


async def test_a_filter_of_another_owner_in_our_place_is_named_and_stays(topo: Topo) -> None:
    index = topo.ifindex("eth0")
    with tc_program("theirs") as theirs, tc_program() as ours:
        async with ingress(TcKind.CLSACT, theirs) as hook:
            await hook.attach(index, theirs)
        async with ingress(TcKind.CLSACT, ours) as hook:
            with pytest.raises(OperatorError, match="another owner") as refused:
                await hook.attach(index, ours)
            assert refused.value.errno == errno.EEXIST
            assert hook.programs(index) == [theirs.program_id]
            assert not await hook.detach(index)
    assert f"{FILTER_HANDLE:#x}" in run("tc", "filter", "show", "dev", "eth0", "ingress")


@KINDS
async def test_an_interface_that_is_gone_is_an_error(topo: Topo, kind: TcKind) -> None:
    with tc_program() as ours:
        async with ingress(kind, ours) as hook:
            with pytest.raises(OSError, match="No such device") as refused:
                await hook.attach(99_999, ours)
            assert refused.value.errno == errno.ENODEV


@KINDS
async def test_a_pair_at_tc_sends_gso_packets_and_has_no_xdp_program(topo: Topo, kind: TcKind) -> None:
    veth = replace(wanted(topo.endpoint_namespace()), sending=AT_TC)
    async with open_links(hook=Hook.TC, kind=kind) as links:
        for _ in range(2):
            await links.ensure_veth(veth)
            assert_right(veth)
            assert at_tc(veth.ifname) == ["tc_agent"]


@KINDS
async def test_a_hook_is_taken_over_with_the_offloads_that_it_needs(topo: Topo, kind: TcKind) -> None:
    at_xdp = wanted(topo.endpoint_namespace())
    async with open_links(hook=Hook.TC, kind=kind) as links:
        for veth in (at_xdp, replace(at_xdp, sending=AT_TC), at_xdp, replace(at_xdp, sending=Sending(Hook.TC))):
            links._transit_agent.hook = veth.sending.hook  # as an agent that is started again with other settings
            await links.ensure_veth(veth)
            assert_right(veth)


@asynccontextmanager
async def opened(config: KernelConfig) -> AsyncIterator[Kernel]:
    kernel = await Kernel.open(config)
    try:
        kernel.tend(await kernel.observe({}))
        yield kernel
    finally:
        await kernel.close()


async def test_a_restarted_agent_finds_its_programs_at_tc(topo: Topo, at_tc_config: KernelConfig) -> None:
    index = topo.ifindex("eth0")
    async with opened(at_tc_config) as first:
        assert await first.executor.run([AttachTransit(index)]) == []
        (uplink,) = (await first.observe({})).uplinks
        assert uplink.transit
        assert first.transit_hooks() == {"eth0": "tcx"}
        assert first.transit_modes() == {"eth0": "none"}
        running = tcx_programs(index, "ingress")
    async with opened(at_tc_config) as second:
        assert second.is_transit_attached(index)
        assert await second.executor.run([AttachTransit(index)]) == []
        assert tcx_programs(index, "ingress") == running
        assert await second.executor.run([DetachTransit(index)]) == []
        assert tcx_programs(index, "ingress") == []


async def test_an_uplinks_hook_is_taken_over_in_both_directions(topo: Topo, config: KernelConfig) -> None:
    index = topo.ifindex("eth0")
    for hook, shown in ((Hook.XDP, "xdp"), (Hook.TC, "tcx"), (Hook.XDP, "xdp")):
        async with opened(replace(config, hooks=HookSettings("xdp", hook))) as kernel:
            assert not kernel.is_transit_attached(index)
            assert await kernel.executor.run([AttachTransit(index)]) == []
            assert kernel.is_transit_attached(index)
            assert kernel.transit_hooks() == {"eth0": shown}
            assert bool(tcx_programs(index, "ingress")) is (hook is Hook.TC)
            assert ("xdp" in ip_json("link", "show", "eth0")[0]) is (hook is Hook.XDP)


async def test_a_program_that_was_detached_is_noticed_and_attached_again(
    topo: Topo, at_tc_config: KernelConfig
) -> None:
    index, namespace = topo.ifindex("eth0"), topo.endpoint_namespace()
    async with opened(at_tc_config) as kernel:
        veth = replace(endpoint_veth(at_tc_config.instance, namespace, "web", 5), sending=AT_TC)
        await kernel.executor.run([AttachTransit(index)])
        await kernel.links.ensure_veth(veth)
        seen = await kernel.observe({"web": namespace})
        assert seen.uplinks[0].transit
        assert seen.veths["web"].transit_agent
        assert kernel.agents.seen == {veth.ifindex: "tcx"}
        for place in (index, veth.ifindex):
            (number,) = tcx_programs(place, "ingress")
            detach_tcx(place, bpf.program_by_id(number))
        seen = await kernel.observe({"web": namespace})
        assert not seen.uplinks[0].transit
        assert not seen.veths["web"].transit_agent
        assert kernel.agents.seen == {veth.ifindex: "none"}
        await kernel.executor.run([AttachTransit(index)])
        await kernel.links.ensure_veth(veth)
        assert kernel.agents.seen == {veth.ifindex: "tcx"}
        seen = await kernel.observe({"web": namespace})
        assert seen.uplinks[0].transit
        assert seen.veths["web"].transit_agent


async def test_another_owners_xdp_program_runs_in_front_of_an_uplink_at_tc(
    topo: Topo, at_tc_config: KernelConfig
) -> None:
    """It is no fault there: a filter, for instance. On an endpoint's interface it is."""
    index, namespace = topo.ifindex("eth0"), topo.endpoint_namespace()
    async with opened(at_tc_config) as kernel, AsyncExitStack() as strangers:
        veth = replace(endpoint_veth(at_tc_config.instance, namespace, "web", 5), sending=AT_TC)
        await kernel.executor.run([AttachTransit(index)])
        await kernel.links.ensure_veth(veth)
        for name in ("eth0", veth.ifname):
            await strangers.enter_async_context(stranger_on(kernel, name, "filter", older=False))
        seen = await kernel.observe({"web": namespace})
        kernel.tend(seen)
        assert seen.uplinks[0].transit
        assert set(kernel.foreign) == {veth.ifindex}
        with pytest.raises(OperatorError, match="another owner's XDP program filter"):
            await kernel.links.ensure_veth(veth)


async def test_an_uninstall_detaches_programs_at_tc(topo: Topo, at_tc_config: KernelConfig) -> None:
    index = topo.ifindex("eth0")
    async with opened(at_tc_config) as kernel:
        await kernel.executor.run([AttachTransit(index)])
    lines: list[str] = []
    with in_tcx("eth0", "stranger") as stranger:
        removed = await remove(at_tc_config, lines.append)
        assert removed.transit
        assert tcx_programs(index, "ingress") == [stranger]
    assert not at_tc_config.pins.root.exists()


async def test_lost_pins_of_programs_at_tc_are_found_by_the_interfaces(topo: Topo, at_tc_config: KernelConfig) -> None:
    index = topo.ifindex("eth0")
    async with opened(at_tc_config) as kernel:
        await kernel.executor.run([AttachTransit(index)])
        running = tcx_programs(index, "ingress")
    at_tc_config.pins.remove()
    async with opened(at_tc_config) as kernel:
        assert tcx_programs(index, "ingress") == running
        assert kernel.is_transit_attached(index)
        assert (at_tc_config.pins.programs.glob(f"*/{TRANSIT[Hook.TC]}")).__next__().exists()


async def test_nothing_of_tc_is_left_once_both_hooks_are_xdp(
    topo: Topo, at_tc_config: KernelConfig, config: KernelConfig
) -> None:
    index, namespace = topo.ifindex("eth0"), topo.endpoint_namespace()
    veth = endpoint_veth(config.instance, namespace, "web", 5)
    async with opened(at_tc_config) as kernel:
        await kernel.executor.run([AttachTransit(index)])
        await kernel.links.ensure_veth(replace(veth, sending=AT_TC))
        assert (config.pins.maps / "tc_programs").exists()
    async with opened(replace(config, hooks=HookSettings("xdp", "xdp"))) as kernel:
        assert await kernel.executor.run([AttachTransit(index)]) == []
        kernel.tend(await kernel.observe({"web": namespace}))
        assert (config.pins.maps / "tc_programs").exists(), "the endpoint's program still needs it"
        await kernel.links.ensure_veth(veth)
        kernel.tend(await kernel.observe({"web": namespace}))
        assert {one.name for one in config.pins.maps.iterdir()} == {name.value for name in kernel.maps}
        assert len(list(config.pins.programs.iterdir())) == 1
    assert tcx_programs(index, "ingress") == tcx_programs(veth.ifindex, "ingress") == []
