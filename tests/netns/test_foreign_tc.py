"""Programs of other owners at tc: in the agent's place, in front of the agent's, and beside it."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from lab.waiting import until

from agent.core.model.hooks import Hook
from agent.core.model.offloads import Sending
from agent.core.plan.actions import AttachTransit, DetachTransit
from agent.core.uplinks.hook_choice import HookSettings
from agent.core.uplinks.program_owners import FILTER_PRIORITY, TCX, Place, advice
from agent.datapath.attach.tc import CLSACT_INGRESS, ETH_P_ALL, Stranger, TcKind
from agent.datapath.attach.xdp import AttachableProgram
from agent.datapath.attached_programs import owner_of
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.links import TCX_HOOKS, attach_tcx, detach_tcx, tcx_programs
from agent.datapath.bpf.uapi import BPF_F_BEFORE
from agent.datapath.kernel import KernelConfig
from agent.datapath.net.netlink import Netlink
from agent.datapath.uninstall import remove
from agent.errors import OperatorError
from controller_sim.lab.namespaces import call_in
from tests.netns.conftest import Topo, ip, ip_json, run
from tests.netns.foreign import create_link, ifindex_of, in_tcx
from tests.netns.programs import loaded
from tests.netns.tenants import endpoint_veth
from tests.netns.test_tc_attach import ingress, opened, tc_program
from tests.netns.test_tunnel_gro import listening

ETH_P_IP = 0x0800
TC_ACT_OK, TC_ACT_SHOT = 0, 2
SCHED_CLS = bpf.ProgramType.SCHED_CLS


def dropped(interface: str) -> int:
    """Return how many frames the filters of an interface have dropped."""
    found = json.loads(run("tc", "-s", "-j", "qdisc", "show", "dev", interface))
    return sum(int(one["drops"]) for one in found if one["kind"] == "clsact")


def mac_of(interface: str) -> str:
    return str(ip_json("link", "show", interface)[0]["address"])


async def test_the_command_that_a_refusal_names_removes_the_filter_in_our_place(topo: Topo) -> None:
    index = topo.ifindex("eth0")
    with tc_program("theirs") as theirs, tc_program("ours") as ours:
        async with ingress(TcKind.CLSACT, theirs) as hook:
            await hook.attach(index, theirs)
        async with ingress(TcKind.CLSACT, ours) as hook:
            assert hook.strangers(index) == [Stranger(theirs.program_id, TcKind.CLSACT, in_front=False)]
            with pytest.raises(OperatorError) as refused:
                await hook.attach(index, ours)
            said = str(refused.value)
            assert f"(id {theirs.program_id}) is attached to eth0" in said
            assert "tc filter with program" in said
            assert "XDP" not in said
            command = re.search(r"\((tc filter del [^)]*)\)", said)
            assert command, said
            run(*command[1].split())
            await hook.attach(index, ours)
            assert hook.programs(index) == [ours.program_id]
            assert hook.strangers(index) == []


async def test_filters_that_keep_the_priority_to_themselves_are_named(topo: Topo) -> None:
    """The kernel holds all filters of a priority to one protocol."""
    index = topo.ifindex("eth0")
    with tc_program("theirs") as theirs, tc_program("ours") as ours:
        async with ingress(TcKind.CLSACT, ours) as hook, Netlink() as netlink:
            await netlink.request("tc", "add", "clsact", index)
            await netlink.request(
                *("tc", "add-filter", "bpf", index, 1),
                fd=theirs.descriptor,
                name="theirs",
                parent=CLSACT_INGRESS,
                prio=FILTER_PRIORITY,
                protocol=ETH_P_IP,
                direct_action=True,
            )
            with pytest.raises(OperatorError, match="eth0 has tc filters with priority 1 that are of another"):
                await hook.attach(index, ours)
            run("tc", "filter", "del", "dev", "eth0", "ingress", "prio", "1")
            await hook.attach(index, ours)


@asynccontextmanager
async def filter_at(interface: str, handle: int, program: AttachableProgram, priority: int) -> AsyncIterator[None]:
    """Have a filter of another owner for all protocols, as its owner would add it."""
    index = ifindex_of(interface)
    async with Netlink() as netlink:
        await netlink.request(
            *("tc", "add-filter", "bpf", index, handle),
            fd=program.descriptor,
            name=program.name,
            parent=CLSACT_INGRESS,
            prio=priority,
            protocol=ETH_P_ALL,
            direct_action=True,
        )
        yield
        run("tc", "filter", "del", "dev", interface, "ingress", "prio", str(priority), "handle", hex(handle), "bpf")


async def test_only_filters_in_front_of_ours_are_in_its_way(topo: Topo) -> None:
    """The kernel asks the newest filter of a priority first: Cilium's has priority 1 and handle 1."""
    index = topo.ifindex("eth0")
    run("tc", "qdisc", "add", "dev", "eth0", "clsact")
    with tc_program("ours") as ours, tc_program("older") as older, tc_program("newer") as newer:
        async with ingress(TcKind.CLSACT, ours) as hook, filter_at("eth0", 1, older, FILTER_PRIORITY):
            assert hook.strangers(index) == [], "ours will be attached in front"
            await hook.attach(index, ours)
            async with filter_at("eth0", 3, newer, FILTER_PRIORITY + 1):
                assert hook.strangers(index) == [], "both are behind"
            async with filter_at("eth0", 2, newer, FILTER_PRIORITY):
                (found,) = hook.strangers(index)
                assert found == Stranger(newer.program_id, TcKind.CLSACT, in_front=True, handle=2)
                await hook.attach(index, ours)
                assert hook.strangers(index) == [found], "nobody is pushed off"
            assert hook.strangers(index) == []


async def test_a_filter_in_front_of_ours_keeps_frames_from_it(topo: Topo) -> None:
    """So it is a fault. Ours drops every frame here, and theirs lets all pass."""
    index = topo.ifindex("eth0")
    run("tc", "qdisc", "add", "dev", "eth0", "clsact")
    with loaded("ours", TC_ACT_SHOT, SCHED_CLS) as ours, loaded("theirs", TC_ACT_OK, SCHED_CLS) as theirs:
        async with ingress(TcKind.CLSACT, ours) as hook:
            ip("neigh", "replace", topo.address, "lladdr", mac_of("eth0"), "dev", "sub0", namespace=topo.underlay)
            with listening(7777) as receiver:
                sender = call_in(topo.underlay, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                with sender:
                    await hook.attach(index, ours)
                    sender.sendto(b"before", (topo.address, 7777))
                    until(lambda: dropped("eth0"), "the drop by ours")
                    async with filter_at("eth0", 2, theirs, FILTER_PRIORITY):
                        assert [one.program_id for one in hook.strangers(index)] == [theirs.program_id]
                        sender.sendto(b"past ours", (topo.address, 7777))
                        assert receiver.recv(100) == b"past ours"


async def test_only_programs_in_front_of_ours_are_in_its_way(topo: Topo) -> None:
    index = topo.ifindex("eth0")
    with tc_program("ours") as ours, tc_program("front") as front, in_tcx("eth0", "behind") as behind:
        async with ingress(TcKind.TCX, ours) as hook:
            assert hook.strangers(index) == [], "ours will be attached in front"
            await hook.attach(index, ours)
            assert hook.strangers(index) == []
            attach_tcx(index, front.descriptor)
            assert hook.programs(index) == [front.program_id, ours.program_id, behind]
            assert hook.strangers(index) == [Stranger(front.program_id, TcKind.TCX, in_front=True)]
            await hook.attach(index, ours)
            assert hook.programs(index) == [front.program_id, ours.program_id, behind], "nobody is pushed off"
            detach_tcx(index, front.descriptor)


async def test_a_link_in_front_of_ours_is_what_has_to_be_detached(topo: Topo, config: KernelConfig) -> None:
    """The kernel refuses to detach a link's program by the hook (EBUSY)."""
    index = topo.ifindex("eth0")
    with tc_program("ours") as ours, tc_program("theirs") as theirs:
        async with ingress(TcKind.TCX, ours) as hook:
            await hook.attach(index, ours)
            assert owner_of(ours.program_id, index, config.pins).link == 0
            link = create_link(theirs.descriptor, "eth0", TCX_HOOKS["ingress"], BPF_F_BEFORE)
            try:
                assert hook.strangers(index) == [Stranger(theirs.program_id, TcKind.TCX, in_front=True)]
                owner = owner_of(theirs.program_id, index, config.pins)
                assert owner.link == int.from_bytes(bpf.link_info(link, 8)[4:], sys.byteorder)
                place = Place("eth0", TCX, in_front=True)
                assert f"detach it (bpftool link detach id {owner.link})" in advice(owner._replace(holder=None), place)
                with pytest.raises(OSError, match="busy"):
                    detach_tcx(index, theirs.descriptor)
            finally:
                os.close(link)


async def test_a_program_in_front_of_ours_is_a_fault_on_uplinks_and_endpoints(
    topo: Topo, at_tc_config: KernelConfig
) -> None:
    index, namespace = topo.ifindex("eth0"), topo.endpoint_namespace()
    async with opened(at_tc_config) as kernel:
        veth = replace(endpoint_veth(at_tc_config.instance, namespace, "web", 5), sending=Sending(Hook.TC, gso=True))
        await kernel.executor.run([AttachTransit(index)])
        await kernel.links.ensure_veth(veth)
        kernel.tend(await kernel.observe({"web": namespace}))
        assert kernel.foreign == {}
        with tc_program("front") as front:
            for place in (index, veth.ifindex):
                attach_tcx(place, front.descriptor)
            seen = await kernel.observe({"web": namespace})
            kernel.tend(seen)
            assert seen.uplinks[0].transit
            assert seen.veths["web"].transit_agent, "ours runs there"
            assert set(kernel.foreign) == {index, veth.ifindex}
            fault = kernel.foreign[index]
            assert fault.detail.startswith(f"another owner's tcx program front (id {front.program_id}) is attached to")
            assert "in front of the agent's" in fault.detail
            assert "behind the agent's" in fault.remedy
            for place in (index, veth.ifindex):
                detach_tcx(place, front.descriptor)
        kernel.tend(await kernel.observe({"web": namespace}))
        assert kernel.foreign == {}


@pytest.mark.parametrize("second", ["tc", "xdp"])
@pytest.mark.parametrize("first", ["tc", "xdp"])
async def test_an_uplink_of_another_instance_is_left_alone_at_both_hooks(
    topo: Topo, config: KernelConfig, first: str, second: str
) -> None:
    index = topo.ifindex("eth0")
    here = replace(config, hooks=HookSettings("tc", first))
    other = replace(config, instance="second", hooks=HookSettings("tc", second))
    async with opened(here) as kernel, opened(other) as late:
        assert await kernel.executor.run([AttachTransit(index)]) == []
        (refused,) = await late.executor.run([AttachTransit(index)])
        assert f"the droplet instance {config.instance}'s" in refused.message
        assert kernel.is_transit_attached(index)
        assert late.transit_hooks() == {"eth0": "none"}
        late.tend(await late.observe({}))
        assert late.foreign[index].kind == "foreign_program"
        assert "in front of" not in late.foreign[index].detail, "the late one's does not run"
        kernel.tend(await kernel.observe({}))
        assert kernel.foreign == {}
        assert await kernel.executor.run([DetachTransit(index)]) == []
        assert await late.executor.run([AttachTransit(index)]) == []


async def test_an_interface_that_is_no_uplink_any_more_keeps_its_hook(topo: Topo, at_tc_config: KernelConfig) -> None:
    """Another one has its name and no address yet: until it has, documents need the program on the old one."""
    index = topo.ifindex("eth0")
    async with opened(at_tc_config) as kernel:
        await kernel.executor.run([AttachTransit(index)])
        ip("link", "set", "eth0", "name", "old0")
        ip("link", "add", "eth0", "type", "veth", "peer", "name", "new1")
        await kernel.follow_modes(await kernel.uplinks())
        assert kernel.is_transit_attached(index), "where it is, it is right"
        await kernel.executor.run([AttachTransit(index)])
        assert len(tcx_programs(index, "ingress")) == 1
        assert "xdp" not in ip_json("link", "show", "old0")[0]


async def test_an_uninstall_names_other_owners_programs_at_tc_of_uplinks(
    topo: Topo, at_tc_config: KernelConfig
) -> None:
    index = topo.ifindex("eth0")
    async with opened(at_tc_config) as kernel:
        await kernel.executor.run([AttachTransit(index)])
    told: list[str] = []
    with tc_program("theirs") as theirs, in_tcx("eth0", "beside") as beside:
        async with ingress(TcKind.CLSACT, theirs) as hook:
            await hook.attach(index, theirs)
        assert (await remove(at_tc_config, told.append)).transit
        assert tcx_programs(index, "ingress") == [beside]
    assert told == [
        f"another owner's tcx program beside (id {beside}) is attached to eth0: it is left alone",
        f"another owner's tc filter with program theirs (id {theirs.program_id}) is attached to eth0: it is left alone",
    ]
