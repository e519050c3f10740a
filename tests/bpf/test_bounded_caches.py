"""What the programs remember by themselves stays within its places, whatever comes, and costs no packet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import bpf_packets as p
import pytest
from bpf_dut import D2, MAC, SIZES, XDP_ONLY, A, Dut, R, key
from bpf_tunnels import frame_to, tunnelled

from agent.core.model import map_layout
from agent.core.model.map_layout import MapName
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import CompiledObject
from agent.datapath.bpf.outcomes import Outcome

PLACES = 64
TIMES = 4

pytestmark = XDP_ONLY


@pytest.fixture(scope="module")
def made(interfaces: None, compiled: CompiledObject) -> Iterator[Dut]:
    with closing(Dut(compiled, {**SIZES, MapName.DIRECT: PLACES, MapName.FRAGMENTS: PLACES})) as dut:
        yield dut


@pytest.fixture
def small(made: Dut) -> Dut:
    made.fill()
    return made


def test_more_senders_than_places_are_heard_and_the_last_one_is_known(small: Dut) -> None:
    senders = [f"10.0.{n // 200}.{n % 200 + 20}" for n in range(TIMES * PLACES)]
    for sender in senders:
        assert small.from_underlay(tunnelled(frame_to(A, sender))).outcome is Outcome.DELIVERED
        assert (small.direct(sender) or ("",))[0] == D2
    found = small.entries(MapName.DIRECT)
    assert 0 < len(found) <= bpf.map_info(small.fds[MapName.DIRECT]).max_entries
    assert found.keys() <= {key(sender) for sender in senders}


def part(identity: int, *, later: bool) -> bytes:
    """Return a fragment of A to R, whose flow is its identity's."""
    data = b"later" if later else p.udp(1000 + identity)
    return p.ethernet(
        MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, data, identity=identity, fragment=100 if later else p.MF)
    )  # fmt: skip


def test_more_fragmented_packets_than_places_are_sent_and_the_last_one_goes_together(small: Dut) -> None:
    for identity in range(TIMES * PLACES):
        first, later = (small.from_endpoint(part(identity, later=later)) for later in (False, True))
        assert (first.outcome, later.outcome) == (Outcome.SENT_DIRECT, Outcome.SENT_DIRECT)
        assert first.frame[34:36] == later.frame[34:36]
    found = small.entries(MapName.FRAGMENTS)
    assert 0 < len(found) <= bpf.map_info(small.fds[MapName.FRAGMENTS]).max_entries
    assert {map_layout.FRAGMENT_KEY.unpack(one)[0] for one in found} == {1}
    assert small.from_endpoint(part(0, later=True)).outcome is Outcome.SENT_DIRECT, "though its first is forgotten"
