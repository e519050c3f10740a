"""A card that takes programs to run by itself. No card here does, so the kernel's answers about it are played.

That the kernel is really asked to load for a card, and says no where there is none, `test_attach_modes.py` shows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from agent.datapath.attach.attach_modes import AttachModes
from agent.datapath.attach.transit_xdp import TransitXdp
from agent.datapath.attach.xdp import NONE_EXPECTED, XDP_FLAGS_HW_MODE, XDP_FLAGS_REPLACE, AttachMode
from agent.datapath.bpf import syscall as bpf
from agent.datapath.check.interfaces import SMALLEST_PROGRAM
from agent.datapath.net.link_query import LinkQuery
from agent.errors import OperatorError
from tests.netns.conftest import Topo
from tests.netns.programs import loaded, owning

INDEX = 4711


class Card:
    """What rtnetlink reports about a card, and its reply to a request to attach a program."""

    def __init__(self) -> None:
        self.program = 0
        self.asked: list[tuple[int, int]] = []
        """The program's id and the flags of each request; what was expected there is checked."""
        self._held: list[int] = []

    def close(self) -> None:
        for descriptor in self._held:
            os.close(descriptor)

    async def link(self, **by: object) -> dict[str, Any]:
        assert by == {"index": INDEX}
        xdp = {"attrs": [("IFLA_XDP_HW_PROG_ID", self.program)] if self.program else []}
        return {"index": INDEX, "attrs": [("IFLA_IFNAME", "card0"), ("IFLA_MTU", 1500), ("IFLA_XDP", xdp)]}

    async def request(self, kind: str, command: str, *, index: int, xdp: dict[str, Any]) -> None:
        assert (kind, command, index) == ("link", "set", INDEX)
        attributes = dict(xdp["attrs"])
        expected = attributes["IFLA_XDP_EXPECTED_FD"]
        assert (0 if expected == NONE_EXPECTED else bpf.program_info(expected).id) == self.program
        self._held.append(os.dup(attributes["IFLA_XDP_FD"]))  # as a card does: the program lives with it
        self.program = bpf.program_info(self._held[-1]).id
        self.asked.append((self.program, attributes["IFLA_XDP_FLAGS"]))


@pytest.fixture
def card() -> Iterator[Card]:
    made = Card()
    yield made
    made.close()


async def test_a_card_runs_a_program_that_was_loaded_for_it(topo: Topo, card: Card) -> None:
    loads: list[int] = []

    def load(ifindex: int) -> int:
        loads.append(ifindex)
        return bpf.load_program(SMALLEST_PROGRAM, name="ours")

    with loaded("ours") as program:
        known: set[int] = set()
        own = owning(program)._replace(owned=lambda number: number in known)
        query = LinkQuery()
        transit = TransitXdp(card, program, own, AttachModes(AttachMode.OFFLOAD), query, load, lambda ifindex: None)  # type: ignore[arg-type]
        try:
            first = await transit._attach_to_card(INDEX)
            known.add(first.program_id)
            assert first.mode is AttachMode.OFFLOAD
            assert first.program_id != program.program_id, "one of its own, not the one that all share"
            second = await transit._attach_to_card(INDEX)
            assert second.program_id != first.program_id
            assert transit.ids == {program.program_id, first.program_id, second.program_id}
            assert card.asked == [
                (attached.program_id, XDP_FLAGS_HW_MODE | XDP_FLAGS_REPLACE) for attached in (first, second)
            ]
            assert loads == [INDEX, INDEX]
        finally:
            query.close()


async def test_another_owners_offloaded_program_stays(topo: Topo, card: Card) -> None:
    with loaded("stranger") as stranger, loaded("ours") as program:
        card.program = stranger.program_id
        query = LinkQuery()
        transit = TransitXdp(
            card,  # type: ignore[arg-type]
            program,
            owning(program),
            AttachModes(AttachMode.OFFLOAD),
            query,
            lambda ifindex: os.dup(program.descriptor),
            lambda ifindex: None,
        )
        try:
            with pytest.raises(OperatorError, match="another owner"):
                await transit._attach_to_card(INDEX)
            assert card.program == stranger.program_id
        finally:
            query.close()
