"""Bouncers and dividers that are down: left out while others are left, whatever comes first."""

from __future__ import annotations

import itertools
from dataclasses import replace

from agent_configurations import DROPLETS, LOCAL, Configuration, red
from agent_under_test import Agent, Stream
from test_sequences import has_nothing_to_do, in_a_folder

from agent.core.model.map_layout import NETWORK, VPC, MapName, split_set
from agent.core.probe.paths import Path, PathRecord

TWO_OF_EACH: Configuration = {"underlay": (DROPLETS,), "red": (red("d2", "d3", dividers=("d3", "d4")),), "a": (LOCAL,)}


def members(agent: Agent) -> tuple[set[int], set[int]]:
    """Return the last bytes of the bouncers' and the dividers' addresses, as the kernel has them."""
    (network,) = (NETWORK.unpack(value) for value in agent.kernel.maps[MapName.NETWORKS].values())
    (vpc,) = (VPC.unpack(value) for value in agent.kernel.maps[MapName.VPCS].values())
    return {one[-1] for one in split_set(network[4], network[2])}, {one[-1] for one in split_set(vpc[2], vpc[1])}


def test_down_droplets_are_left_out_and_used_again_later() -> None:
    async def scenario(agent: Agent) -> None:
        await agent.deliver(Stream().lead_to(TWO_OF_EACH))
        await agent.complete()
        assert members(agent) == ({2, 3}, {3, 4})
        before = dict(agent.acknowledged)
        await agent.reconciler.exclude_down(frozenset({"d3"}))
        assert members(agent) == ({2}, {4})
        await has_nothing_to_do(agent)
        await agent.resync.repair()
        assert agent.repaired == [], "a comparison wants the same"
        await agent.reconciler.exclude_down(frozenset())
        assert members(agent) == ({2, 3}, {3, 4})
        assert agent.acknowledged == before, "documents are no less realized for it"

    in_a_folder(scenario)


def test_when_all_are_down_all_stay() -> None:
    async def scenario(agent: Agent) -> None:
        await agent.deliver(Stream().lead_to(TWO_OF_EACH))
        await agent.complete()
        await agent.reconciler.exclude_down(frozenset({"d2", "d3"}))
        assert members(agent) == ({2, 3}, {4})

    in_a_folder(scenario)


def test_the_end_does_not_depend_on_what_came_first() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        for down in itertools.product((frozenset(), frozenset({"d3"}), frozenset({"d4", "unheard-of"})), repeat=2):
            await agent.reconciler.exclude_down(down[0])
            await agent.deliver(stream.lead_to(TWO_OF_EACH))
            await agent.reconciler.exclude_down(down[1])
            await agent.complete()
            gone = {int(one[1]) for one in down[1] if one[1:].isdigit()}
            assert members(agent) == ({2, 3} - gone, {3, 4} - gone)
            await agent.deliver(stream.lead_to({}))

    in_a_folder(scenario)


def test_a_change_of_an_interface_marks_no_droplet_as_up() -> None:
    async def scenario(agent: Agent) -> None:
        await agent.deliver(Stream().lead_to(TWO_OF_EACH))
        await agent.complete()
        await agent.reconciler.exclude_down(frozenset({"d3"}))
        eth0, *others = agent.kernel.interfaces
        agent.kernel.interfaces = (replace(eth0, mtu=9000), *others)
        await agent.resync.repair()
        assert members(agent) == ({2}, {4})

    in_a_folder(scenario)


def test_a_starting_agent_sends_nothing_to_droplets_that_were_down() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await agent.deliver(stream.lead_to(TWO_OF_EACH))
        await agent.complete()
        await agent.reconciler.exclude_down(frozenset({"d3"}))
        before = agent.kernel.contents()
        agent.known = {Path(bytes([10, 0, 0, 1]), bytes([10, 0, 0, 3])): PathRecord(down=True)}
        agent.kernel.actions.clear()
        await agent.start()
        assert agent.kernel.actions == []
        await agent.deliver(stream.replay())
        await agent.complete()
        assert agent.kernel.contents() == before
        await agent.reconciler.exclude_down(frozenset())
        assert members(agent) == ({2, 3}, {3, 4})

    in_a_folder(scenario)
