"""An upgrade to another layout of the maps: traffic goes on by new maps, and nothing of the older layout is left."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import pytest
from lab.echoes import answered, unbroken
from lab.waiting import until

from agent.core.layout import LAYOUT_VERSION, MapName
from agent.datapath import bpf_syscall as bpf
from agent.datapath import marks, ownership, pins
from agent.datapath.kernel import Kernel, KernelConfig
from tests.netns.conftest import World
from tests.netns.tenants import endpoint_actions, endpoint_veth, host_actions
from tests.netns.test_lost_pins import attached_ids, gone, opened, put_in_place

OLDER = LAYOUT_VERSION - 1


def is_there(open_by_id: Callable[[int], int], number: int) -> bool:
    try:
        os.close(open_by_id(number))
    except FileNotFoundError:
        return False
    return True


@pytest.mark.parametrize("pinned", [True, False], ids=["with its pins", "without its pins"])
async def test_an_agent_with_a_newer_layout_makes_maps_anew_and_removes_all_of_the_older_one(
    config: KernelConfig, world: World, monkeypatch: pytest.MonkeyPatch, pinned: bool
) -> None:
    """Also what a path taught: its entry may mean something else now. Until the new programs run, the old ones do."""
    with monkeypatch.context() as older:
        for module in (marks, ownership, pins):
            older.setattr(module, "LAYOUT_VERSION", OLDER)
        async with opened(config) as first:
            await put_in_place(first, world)
            maps = [one.info.id for one in first.maps.values()]
        assert [path.name for path in config.pins.root.iterdir()] == [f"v{OLDER}"]
    running = attached_ids()
    if not pinned:
        gone("maps", "programs")(config)
    async with opened(config) as second:
        # Without an agent and without its pin, the kernel has emptied the older table of the tail call.
        with unbroken(world.endpoints[0], "10.1.0.11") if pinned else contextlib.nullcontext():
            second.tend(await second.observe({}))
            assert attached_ids() == running
            assert not second.is_transit_attached(world.ifindex("eth0"))
        assert not {one.info.id for one in second.maps.values()} & set(maps)
        assert second.maps[MapName.DIRECT].dump() == {}
        await renew(second, world)
        assert answered(world.endpoints[0], "10.1.0.11", 2, 5) == 2
        second.tend(await second.observe({}))
        assert [path.name for path in config.pins.root.iterdir()] == [f"v{LAYOUT_VERSION}"]
        assert not set(attached_ids().values()) & set(running.values())
        for open_by_id, numbers in ((bpf.map_by_id, maps), (bpf.program_by_id, running.values())):
            for number in numbers:
                until(lambda open_=open_by_id, n=number: not is_there(open_, n), f"the end of {open_by_id} {number}")
    assert answered(world.endpoints[0], "10.1.0.11", 2, 5) == 2


async def renew(kernel: Kernel, world: World) -> None:
    """Do as a whole agent does for the two endpoints that put_in_place() made."""
    actions = host_actions((await kernel.uplinks())[0])
    for number, namespace in enumerate(world.endpoints):
        actions += endpoint_actions(endpoint_veth(kernel.config.instance, namespace, f"e{number}", 10 + number))
    assert await kernel.executor.run(actions) == []
