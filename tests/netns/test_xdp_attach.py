"""XDP programs on the real kernel: attached, replaced, refused and detached."""

from __future__ import annotations

import errno
import os

import pytest

from agent.datapath.attach.xdp import AttachMode, ProgramOwnership, attach, detach
from agent.datapath.net.netlink import Netlink
from tests.netns.conftest import Topo, ip_json
from tests.netns.programs import loaded, owning


async def test_another_owners_program_is_neither_replaced_nor_detached(topo: Topo) -> None:
    with loaded("stranger") as stranger, loaded("ours") as ours:
        async with Netlink() as netlink:
            index = topo.ifindex("eth0")
            await attach(netlink, index, stranger, owning(stranger), AttachMode.NATIVE)
            with pytest.raises(OSError, match="another owner's XDP program") as caught:
                await attach(netlink, index, ours, owning(ours), AttachMode.AUTO)
            assert caught.value.errno == errno.EEXIST
            with pytest.raises(OSError, match="another owner's"):
                await detach(netlink, index, owning(ours))
            assert ip_json("link", "show", "eth0")[0]["xdp"]["prog"]["name"] == "stranger"


async def test_the_kernel_itself_refuses_when_the_owner_changes_in_between(topo: Topo) -> None:
    """Two owners race: the one that looked before the other attached must not win."""
    with loaded("ours") as old, loaded("stranger") as stranger, loaded("ours") as new:
        async with Netlink() as netlink:
            index = topo.ifindex("eth0")
            await attach(netlink, index, old, owning(old), AttachMode.NATIVE)
            wrong = ProgramOwnership(lambda _: True, lambda _: os.dup(stranger.descriptor))
            with pytest.raises(OSError) as caught:
                await attach(netlink, index, new, wrong, AttachMode.NATIVE)
            assert caught.value.errno == errno.EEXIST


@pytest.mark.parametrize("mode", [AttachMode.NATIVE, AttachMode.GENERIC])
async def test_an_older_program_of_ours_is_replaced_in_either_mode(topo: Topo, mode: AttachMode) -> None:
    with loaded("ours") as old, loaded("ours") as new:
        own = owning(old, new)
        async with Netlink() as netlink:
            index = topo.ifindex("eth0")
            assert (await attach(netlink, index, old, own, mode)).native == (mode is AttachMode.NATIVE)
            attached = await attach(netlink, index, new, own, mode)
            assert attached == (new.program_id, mode)
            assert await detach(netlink, index, own)
            assert not await detach(netlink, index, own)
            assert "xdp" not in ip_json("link", "show", "eth0")[0]


async def test_a_generic_program_of_ours_becomes_native_if_configured(topo: Topo) -> None:
    with loaded("ours") as program:
        async with Netlink() as netlink:
            index = topo.ifindex("eth0")
            await attach(netlink, index, program, owning(program), AttachMode.GENERIC)
            attached = await attach(netlink, index, program, owning(program), AttachMode.NATIVE)
            assert attached.native


async def test_automatic_attachment_falls_back_to_generic_where_the_driver_cannot(topo: Topo) -> None:
    """The loopback interface has no XDP of its own."""
    with loaded("ours") as program:
        async with Netlink() as netlink:
            attached = await attach(netlink, 1, program, owning(program), AttachMode.AUTO)
            assert not attached.native
            await detach(netlink, 1, owning(program))
            with pytest.raises(OSError):
                await attach(netlink, 1, program, owning(program), AttachMode.NATIVE)
