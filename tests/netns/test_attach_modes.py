"""How XDP is attached, and what is said when it cannot be as asked, on the real kernel."""

from __future__ import annotations

import errno
from contextlib import closing

import pytest

from agent.core.uplinks.xdp_mode import Decision
from agent.datapath.attach.attach_modes import AttachModes
from agent.datapath.attach.transit_xdp import TransitXdp
from agent.datapath.attach.xdp import AttachMode, attach, attached_program
from agent.datapath.bpf import syscall as bpf
from agent.datapath.check.interfaces import SMALLEST_PROGRAM
from agent.datapath.net.link_query import LinkQuery
from agent.datapath.net.netlink import Netlink
from agent.errors import OperatorError
from tests.netns.conftest import Topo, ip, run
from tests.netns.programs import loaded, owning


async def modes(interface: str) -> AttachMode | None:
    async with Netlink() as netlink:
        link = await netlink.link(ifname=interface)
        found = attached_program(link) if link else None
        return found.mode if found else None


@pytest.mark.parametrize(
    ("asked", "runs"),
    [
        (AttachMode.NATIVE, AttachMode.NATIVE),
        (AttachMode.GENERIC, AttachMode.GENERIC),
        (AttachMode.AUTO, AttachMode.NATIVE),
    ],
)
async def test_a_driver_that_can_does_as_asked(topo: Topo, asked: AttachMode, runs: AttachMode) -> None:
    with loaded("ours") as program:
        async with Netlink() as netlink:
            attached = await attach(netlink, topo.ifindex("eth0"), program, owning(program), asked)
        assert attached == (program.program_id, runs)
        assert await modes("eth0") is runs


async def test_a_driver_that_has_no_xdp_is_named_and_auto_takes_the_stack(topo: Topo) -> None:
    ip("link", "add", "name", "br0", "type", "bridge")
    with loaded("ours") as program:
        async with Netlink() as netlink:
            index, own = topo.ifindex("br0"), owning(program)
            with pytest.raises(OSError, match="br0: driver bridge refuses native XDP") as refused:
                await attach(netlink, index, program, own, AttachMode.NATIVE)
            assert refused.value.errno == errno.EOPNOTSUPP
            assert "Set attach_mode to auto" in str(refused.value)
            assert (await attach(netlink, index, program, own, AttachMode.AUTO)).mode is AttachMode.GENERIC


async def test_an_mtu_that_is_too_large_is_named_with_its_limit(topo: Topo) -> None:
    ip("link", "set", "eth0", "mtu", "9000")
    ip("link", "set", "sub0", "mtu", "9000", namespace=topo.underlay)
    with loaded("ours") as program:
        async with Netlink() as netlink:
            index, own = topo.ifindex("eth0"), owning(program)
            with pytest.raises(OSError, match="MTU is 9000, and a frame must fit into a page") as refused:
                await attach(netlink, index, program, own, AttachMode.NATIVE)
            assert refused.value.errno == errno.ERANGE
            assert "Peer MTU is too large to set XDP" in str(refused.value), "the driver's own words"
            assert (await attach(netlink, index, program, own, AttachMode.AUTO)).mode is AttachMode.GENERIC


async def test_several_receive_queues_are_served_and_too_few_are_named(topo: Topo) -> None:
    for name, queues in (("many", "4"), ("few", "1")):
        peer = ["peer", "name", f"{name}0", "numtxqueues", "4"]
        ip("link", "add", name, "numrxqueues", queues, "type", "veth", *peer)
        run("ethtool", "-L", name, "rx", queues)
        run("ethtool", "-L", f"{name}0", "tx", "4")
    with loaded("ours") as program:
        own = owning(program)
        async with Netlink() as netlink:
            many, few = topo.ifindex("many"), topo.ifindex("few")
            assert (await attach(netlink, many, program, own, AttachMode.NATIVE)).native
            with pytest.raises(OperatorError, match="number of rx queues") as refused:
                await attach(netlink, few, program, own, AttachMode.NATIVE)
            assert refused.value.errno == errno.ENOSPC
            assert (await attach(netlink, few, program, own, AttachMode.AUTO)).mode is AttachMode.GENERIC


async def test_a_mode_that_is_refused_leaves_what_ran_before(topo: Topo) -> None:
    with loaded("ours") as old, loaded("ours") as new:
        own = owning(old, new)
        async with Netlink() as netlink:
            index = topo.ifindex("eth0")
            await attach(netlink, index, old, own, AttachMode.NATIVE)
            with pytest.raises(OSError, match="refuses offload XDP"):
                await attach(netlink, index, new, own, AttachMode.OFFLOAD)
            link = await netlink.link(index=index)
            assert link is not None
            assert attached_program(link) == (old.program_id, AttachMode.NATIVE)


async def test_a_nic_without_offload_support_is_an_error(topo: Topo) -> None:
    def load(ifindex: int) -> int:
        return bpf.load_program(SMALLEST_PROGRAM, name="ours", device=ifindex)

    with loaded("ours") as program:
        async with Netlink() as netlink:
            own = owning(program)
            query = LinkQuery()
            offload = AttachModes(AttachMode.OFFLOAD)
            transit = TransitXdp(netlink, program, own, offload, query, load, lambda ifindex: None)
            try:
                with pytest.raises(OSError, match="eth0: driver veth refuses offload XDP: ") as refused:
                    await transit.attach(topo.ifindex("eth0"))
                assert "takes no programs to run on the card (EINVAL). Set attach_mode to native or auto" in str(
                    refused.value
                )
                assert transit.mode(topo.ifindex("eth0")) == "none"
            finally:
                query.close()


async def test_a_program_whose_mode_is_refused_once_it_runs_is_detached(topo: Topo) -> None:
    with loaded("ours") as program:
        async with Netlink() as netlink:
            index, own, chosen = topo.ifindex("eth0"), owning(program), AttachModes(AttachMode.NATIVE)
            with closing(LinkQuery()) as query:
                transit = TransitXdp(netlink, program, own, chosen, query, lambda _: -1, lambda _: None)
                await attach(netlink, index, program, own, AttachMode.NATIVE)
                await transit.detach_refused(index)
                assert await modes("eth0") is AttachMode.NATIVE, "it is not refused"
                chosen.decision = Decision(refused="eth0 accepts no redirects")
                with pytest.raises(OperatorError, match="eth0 accepts no redirects") as refused:
                    await transit.detach_refused(index)
                assert refused.value.errno == errno.EOPNOTSUPP
                assert await modes("eth0") is None


async def test_a_program_for_another_owner_is_no_reason_to_fall_back(topo: Topo) -> None:
    with loaded("stranger") as stranger, loaded("ours") as program:
        async with Netlink() as netlink:
            index = topo.ifindex("eth0")
            await attach(netlink, index, stranger, owning(stranger), AttachMode.NATIVE)
            with pytest.raises(OperatorError, match="another owner"):
                await attach(netlink, index, program, owning(program), AttachMode.AUTO)
