"""An upgrade to another layout of the maps: traffic goes on by new maps, and nothing of the older layout is left."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import pytest
from lab.echoes import answered, unbroken
from lab.waiting import until

from agent.core.model.map_layout import LAYOUT_VERSION, MapName
from agent.datapath import attached_programs
from agent.datapath.bpf import marks, pins
from agent.datapath.bpf import syscall as bpf
from agent.datapath.kernel import Kernel, KernelConfig
from tests.netns.conftest import Topo
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
async def test_an_agent_with_a_newer_layout_creates_new_maps_and_removes_the_old_ones(
    config: KernelConfig, topo: Topo, monkeypatch: pytest.MonkeyPatch, pinned: bool
) -> None:
    """Also what a path taught: its entry may mean something else now. Until the new programs run, the old ones do."""
    with monkeypatch.context() as older:
        for module in (marks, attached_programs, pins):
            older.setattr(module, "LAYOUT_VERSION", OLDER)
        async with opened(config) as first:
            await put_in_place(first, topo)
            maps = [one.info.id for name, one in first.maps.items() if name is not MapName.PROGRAMS]
            # Not the program array. One that loses its last user twice in turn may stay, empty and held by nothing:
            # prog_array_map_clear() (kernel/bpf/arraymap.c) takes a reference for work that is scheduled already.
        assert [path.name for path in config.pins.root.iterdir()] == [f"v{OLDER}"]
    running = attached_ids()
    if not pinned:
        gone("maps", "programs")(config)
    async with opened(config) as second:
        # Without an agent and without its pin, the kernel has emptied the older table of the tail call.
        with unbroken(topo.endpoints[0], "10.1.0.11") if pinned else contextlib.nullcontext():
            second.tend(await second.observe({}))
            assert attached_ids() == running
            assert not second.is_transit_attached(topo.ifindex("eth0"))
        assert not {one.info.id for one in second.maps.values()} & set(maps)
        assert second.maps[MapName.DIRECT].dump() == {}
        await renew(second, topo)
        assert answered(topo.endpoints[0], "10.1.0.11", 2, 5) == 2
        second.tend(await second.observe({}))
        assert [path.name for path in config.pins.root.iterdir()] == [f"v{LAYOUT_VERSION}"]
        assert not set(attached_ids().values()) & set(running.values())
        for open_by_id, numbers in ((bpf.map_by_id, maps), (bpf.program_by_id, running.values())):
            for number in numbers:
                until(lambda open_=open_by_id, n=number: not is_there(open_, n), f"the end of {open_by_id} {number}")
    assert answered(topo.endpoints[0], "10.1.0.11", 2, 5) == 2


async def renew(kernel: Kernel, topo: Topo) -> None:
    """Do as a whole agent does for the two endpoints that put_in_place() made."""
    actions = host_actions((await kernel.uplinks())[0])
    for number, namespace in enumerate(topo.endpoints):
        actions += endpoint_actions(endpoint_veth(kernel.config.instance, namespace, f"e{number}", 10 + number))
    assert await kernel.executor.run(actions) == []
