"""The map of a kind that is added from one module, in the real kernel: filled, read back, repaired, emptied."""

from __future__ import annotations

import msgspec
import pytest
from lab.toy_kind import BEACON, BeaconMap, beacons

from agent.core.config.desired_state import Desired
from agent.core.model.map_layout import U32
from agent.core.model.resolved_state import HostState
from agent.core.plan.planner import describe, plan_all, plan_change
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.maps import Map
from agent.datapath.kernel import Kernel
from tests.netns.conftest import Topo

__all__ = ["beacons"]

NAME = BeaconMap.BEACONS


def document(topo: Topo) -> bytes:
    return msgspec.msgpack.encode(
        {
            "droplets": [{"id": "d1", "host": "here", "address": topo.address}],
            "vpcs": [{"id": "red", "vni": 7, "cidrs": ["10.1.0.0/16"]}],
            "networks": [{"id": "front", "vpc": "red", "cidrs": ["10.1.0.0/24"]}],
            "beacons": [
                {"id": f"b{number}", "network": "front", "number": number, "address": f"10.1.0.{number}"}
                for number in (1, 2)
            ],
        }
    )


@pytest.fixture
def desired(request: pytest.FixtureRequest, kernel: Kernel, topo: Topo) -> Desired:
    """A document's desired state, and the map: the C code and the loader would make it for a real kind."""
    descriptor = bpf.create_map(bpf.MapType.HASH, U32.size, BEACON.size, 16, 0, NAME.value)
    kernel.maps[NAME] = Map(NAME, descriptor)
    request.getfixturevalue("beacons")
    return Desired(HostState("here", kernel.config.instance, kernel._uplinks))


async def test_a_new_kind_fills_a_map_that_is_read_back_repaired_and_emptied(
    kernel: Kernel, desired: Desired, topo: Topo
) -> None:
    desired.documents.put("lights", 1, document(topo))
    change = desired.resolve()
    assert desired.documents.status("lights").errors == ()
    assert await kernel.executor.run(plan_change(change.before, change.after)) == []
    wanted = {U32.pack(number): BEACON.pack(7, bytes([*bytes(12), 10, 1, 0, number])) for number in (1, 2)}
    assert (await kernel.observe({})).maps[NAME] == wanted

    kernel.maps[NAME].delete([U32.pack(1)])
    kernel.maps[NAME].put([(U32.pack(9), bytes(BEACON.size))])
    actions = plan_all(desired.parts("lights"), await kernel.observe({}))
    assert [describe(one) for one in actions] == ["write 1 entry of map beacons", "delete 1 entry of map beacons"]
    assert await kernel.executor.run(actions) == []
    assert (await kernel.observe({})).maps[NAME] == wanted

    desired.documents.remove("lights", 2)
    change = desired.resolve(removing=True)
    assert await kernel.executor.run(plan_change(change.before, change.after)) == []
    assert (await kernel.observe({})).maps[NAME] == {}
