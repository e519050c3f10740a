"""One neighbour that the kernel refuses holds up no other one. The kernel's edge is a fake.

`tests/netns/test_neighbours.py` and `tests/kernels/inside/test_neighbour_table.py` show the refusals of the real one.
"""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from agent.core.nexthop import next_hop_faults
from agent.core.nexthop.next_hops import Hop
from agent.datapath.nexthop.managed_neighbours import NTF_EXT_MANAGED, ManagedNeighbours

HOPS = tuple(Hop(bytes([10, 0, 0, number]), 7) for number in range(1, 5))
FIRST, SECOND, *REST = HOPS


class FakeNetlink:
    """Takes neighbours but those to be refused, by number and with errno; not `managed` is a kernel before 5.16."""

    def __init__(self, managed: bool = True, **refused: int) -> None:
        self.asked: list[str] = []
        self.released: list[str] = []
        self.refused = {f"10.0.0.{name[-1]}": number for name, number in refused.items()}
        self._managed = managed

    async def request(self, _method: str, verb: str, *, dst: str, flags_ext: int = 0, **_options: Any) -> list[Any]:
        number = self.refused.get(dst, 0)
        if flags_ext == NTF_EXT_MANAGED and not self._managed:
            number = errno.EINVAL
        if number:
            raise OSError(number, os.strerror(number))
        (self.released if verb == "change" else self.asked).append(dst)
        return []


async def keep(managed: ManagedNeighbours, netlink: FakeNetlink, *hops: Hop) -> None:
    await managed.update(netlink, hops, ())  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP])
async def test_a_refused_neighbour_is_remembered_and_the_others_are_kept(number: int) -> None:
    managed, netlink = ManagedNeighbours(), FakeNetlink(n2=number)
    await keep(managed, netlink, *HOPS)
    assert netlink.asked == ["10.0.0.1", "10.0.0.3", "10.0.0.4"]
    assert managed.refused == {SECOND: number}
    assert managed.managed


async def test_a_refused_neighbour_is_tried_again_after_the_next_scan_and_not_before() -> None:
    managed, netlink = ManagedNeighbours(), FakeNetlink(n2=errno.ENOBUFS)
    await keep(managed, netlink, *HOPS)
    netlink.refused.clear()
    await keep(managed, netlink, *HOPS)
    assert "10.0.0.2" not in netlink.asked
    managed.read([])
    await keep(managed, netlink, *HOPS)
    assert "10.0.0.2" in netlink.asked
    assert managed.refused == {}


async def test_a_refused_neighbour_is_tried_again_when_its_interface_changes() -> None:
    managed, netlink = ManagedNeighbours(), FakeNetlink(n2=errno.ENODEV)
    await keep(managed, netlink, *HOPS)
    netlink.refused.clear()
    managed.forget(8)
    await keep(managed, netlink, *HOPS)
    assert "10.0.0.2" not in netlink.asked
    managed.forget(7)
    await keep(managed, netlink, *HOPS)
    assert "10.0.0.2" in netlink.asked


async def test_an_unwanted_neighbour_is_no_longer_reported_as_refused() -> None:
    managed, netlink = ManagedNeighbours(), FakeNetlink(n2=errno.ENOBUFS)
    await keep(managed, netlink, *HOPS)
    await keep(managed, netlink, FIRST)
    assert managed.refused == {}
    assert netlink.released == ["10.0.0.3", "10.0.0.4"]


async def test_a_neighbour_that_cannot_be_released_delays_no_other() -> None:
    managed, netlink = ManagedNeighbours(), FakeNetlink()
    await keep(managed, netlink, *HOPS)
    netlink.refused["10.0.0.1"] = errno.ENOBUFS
    await keep(managed, netlink)
    assert netlink.released == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]


async def test_a_kernel_that_knows_no_managed_neighbours_is_asked_plainly() -> None:
    managed, netlink = ManagedNeighbours(), FakeNetlink(managed=False, n1=errno.ENOBUFS)
    await keep(managed, netlink, *HOPS)
    assert not managed.managed
    assert netlink.asked == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    assert managed.refused == {FIRST: errno.ENOBUFS}


async def test_the_same_refusals_are_the_same_faults() -> None:
    managed, netlink = ManagedNeighbours(), FakeNetlink(n2=errno.ENOBUFS, n3=errno.ENOBUFS)
    found = []
    for _ in range(3):
        managed.read([])
        await keep(managed, netlink, *HOPS)
        found.append(list(next_hop_faults.refused(managed.refused)))
    assert found[0] == found[1] == found[2]
    (fault,) = found[0]
    assert (fault.kind, fault.subject) == ("neighbours_refused", "ENOBUFS")
    assert "10.0.0.2, 10.0.0.3" in fault.detail
    assert "gc_thresh3" in fault.remedy


async def test_a_neighbour_that_cannot_be_released_is_a_fault_until_the_next_scan() -> None:
    managed, netlink = ManagedNeighbours(), FakeNetlink()
    await keep(managed, netlink, *HOPS)
    netlink.refused["10.0.0.1"] = errno.ENOBUFS
    await keep(managed, netlink)
    (fault,) = next_hop_faults.not_released(managed.not_released)
    assert (fault.kind, fault.subject) == ("neighbours_not_released", "ENOBUFS")
    managed.read([])
    assert not list(next_hop_faults.not_released(managed.not_released))
