"""Every sequence of configurations ends in the same kernel state as its last one alone."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from agent_configurations import (
    CONFIGURATIONS,
    FUNCTION_CONFIGURATIONS,
    LAYOUT_CONFIGURATIONS,
    Configuration,
    changed,
    on,
)
from agent_under_test import Agent, Stream, one_by_one
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.config.delivery import Delivery
from agent.core.kinds.functions import FUNCTIONS
from agent.core.plan.planner import plan_all

COMPETING = {"nine functions at a point"}
"""Configurations with documents that compete for the last slot: it stays with the one that the kernel took first."""
PLAIN = {
    name: configuration
    for name, configuration in CONFIGURATIONS.items()
    if all(len(contents) == 1 for contents in configuration.values()) and name not in COMPETING
}
"""Configurations whose documents have no history: the order among documents does not matter to them."""

names = st.sampled_from(sorted(CONFIGURATIONS))
plain_names = st.sampled_from(sorted(PLAIN))
few = settings(max_examples=60, deadline=None)


async def directly(configuration: Configuration) -> Agent:
    """Return an agent that knew nothing before."""
    with tempfile.TemporaryDirectory() as folder:
        agent = Agent(Path(folder))
        await agent.start()
        for batch in one_by_one(Stream().lead_to(configuration)):
            await agent.deliver(batch)
        await agent.complete()
        agent.stop()
        return agent


def states_of(agent: Agent) -> dict[str, tuple[bool, bool]]:
    """Return what is realized and what is in force. Why a document waits may depend on what was good before."""
    return {name: (state == "realized", bool(in_force)) for name, (state, _, in_force) in agent.statuses().items()}


async def ends_like(agent: Agent, name: str) -> None:
    """Check that an agent in sync has the kernel and the statuses of one that came directly, and no more to do."""
    if name not in _reached:
        other = await directly(CONFIGURATIONS[name])
        _reached[name] = other.kernel.portrait(), states_of(other)
    assert (agent.kernel.portrait(), states_of(agent)) == _reached[name]
    await has_nothing_to_do(agent)


_reached: dict[str, Any] = {}
"""The kernel state of each configuration when it is applied alone."""


async def has_nothing_to_do(agent: Agent) -> None:
    desired = agent.reconciler.desired
    wanted = [desired.desired_entries(held) for _, held in desired.in_force()]
    assert plan_all(wanted, await agent.kernel.observe({})) == []
    acknowledged = {
        v.name: (v.state.value, v.revision, v.in_force) for v in agent.acknowledged.values() if not v.removed
    }
    assert acknowledged == agent.statuses()


async def deliver_whole(agent: Agent, batch: list[Delivery]) -> None:
    """Deliver, and check that nothing was missing in between that is there before and after."""
    agent.kernel.begin_watch()
    checked, owners = len(agent.kernel.checked), function_owners(agent)
    await agent.deliver(batch)
    now = function_owners(agent)
    waited = {repr(id_) for id_ in owners.keys() & now.keys() if owners[id_] != now[id_]}
    if len(agent.kernel.checked) == checked:
        waited.clear()
    assert [one for one in agent.kernel.end_watch() if waited.isdisjoint(re.findall("'[^']*'", one))] == []


def function_owners(agent: Agent) -> dict[str, str | None]:
    """Return the document of each function in force.

    One whose document is removed is missing until the program of another document that lists it is checked: a removal
    does not wait.
    """
    desired = agent.reconciler.desired
    return {id_: desired.documents.owner(FUNCTIONS, id_) for id_ in desired.resolved.functions}


def in_a_folder(scenario, *arguments) -> None:
    """Play a scenario with an agent that is in sync with an empty stream."""

    async def play() -> None:
        with tempfile.TemporaryDirectory() as folder:
            agent = Agent(Path(folder))
            await agent.start()
            await agent.complete()
            try:
                await scenario(agent, *arguments)
            finally:
                agent.stop()

    asyncio.run(play())


async def walk(agent: Agent, way: list[str], *, one_batch: bool = False) -> Stream:
    stream = Stream()
    for name in way:
        deliveries = stream.lead_to(CONFIGURATIONS[name])
        for batch in [deliveries] if one_batch else one_by_one(deliveries):
            await deliver_whole(agent, batch)
        await ends_like(agent, name)
    return stream


def _group(name: str) -> tuple[bool, bool]:
    return name in LAYOUT_CONFIGURATIONS, name in FUNCTION_CONFIGURATIONS


PAIRS = [
    (start, end)
    for start in CONFIGURATIONS
    for end in CONFIGURATIONS
    if _group(start) == _group(end) or {start, end} & {"nothing", "one bouncer", "bouncer here"}
]
"""Steps from one state to another. Those between what the second layout or functions brought and the rest are left to
chance."""


@pytest.mark.parametrize(("start", "end"), PAIRS)
def test_every_state_can_follow_every_other(start: str, end: str) -> None:
    in_a_folder(walk, [start, end])


@pytest.mark.parametrize(("start", "end"), [pair for pair in PAIRS if set(pair) <= PLAIN.keys()])
def test_every_change_can_come_in_one_batch(start: str, end: str) -> None:
    async def scenario(agent: Agent) -> None:
        await walk(agent, [start, end], one_batch=True)

    in_a_folder(scenario)


@few
@given(st.lists(names, min_size=3, max_size=8))
def test_long_sequences_end_in_the_state_of_their_last_step(way: list[str]) -> None:
    in_a_folder(walk, way)


@few
@given(plain_names, plain_names, st.randoms(use_true_random=False))
def test_the_order_among_documents_does_not_matter(start: str, end: str, chance: random.Random) -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        for batch in one_by_one(stream.lead_to(CONFIGURATIONS[start])):
            await agent.deliver(batch)
        for batch in split(shuffled(stream.lead_to(CONFIGURATIONS[end]), chance), chance):
            await agent.deliver(batch)
        await ends_like(agent, end)

    in_a_folder(scenario)


@few
@given(st.lists(names, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_a_message_that_comes_again_changes_nothing(way: list[str], chance: random.Random) -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        for name in way:
            for delivery in stream.lead_to(CONFIGURATIONS[name]):
                await agent.deliver([delivery])
                await agent.deliver([delivery, delivery] if chance.random() < 0.3 else [delivery])
        before = agent.kernel.contents()
        agent.kernel.actions.clear()
        await agent.deliver(stream.replay())
        assert agent.kernel.actions == []
        assert agent.kernel.contents() == before
        await ends_like(agent, way[-1])

    in_a_folder(scenario)


@few
@given(st.lists(names, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_a_restart_changes_nothing_in_the_kernel(way: list[str], chance: random.Random) -> None:
    async def scenario(agent: Agent) -> None:
        stream = await walk(agent, way)
        before, statuses = agent.kernel.contents(), agent.statuses()
        agent.kernel.actions.clear()
        await agent.start()
        assert agent.kernel.actions == []
        for batch in split(stream.replay(), chance):
            await agent.deliver(batch)
        await agent.complete()
        assert agent.kernel.actions == []
        assert agent.kernel.contents() == before
        assert agent.statuses() == statuses
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


@few
@given(plain_names, plain_names, st.randoms(use_true_random=False))
def test_what_changed_while_the_agent_was_away_is_made_up_for(start: str, end: str, chance: random.Random) -> None:
    async def scenario(agent: Agent) -> None:
        stream = await walk(agent, [start])
        stream.lead_to(CONFIGURATIONS[end])
        agent.kernel.begin_watch()
        await agent.start()
        for batch in split(stream.replay(), chance):
            await agent.deliver(batch)
        await agent.complete()
        assert agent.kernel.end_watch(of_one_step=False) == []
        await ends_like(agent, end)

    in_a_folder(scenario)


@few
@given(plain_names, plain_names)
def test_a_host_that_lost_its_disk_keeps_its_traffic(start: str, end: str) -> None:
    """Without last good documents what the stream does not explain stays until it is swept."""

    async def scenario(agent: Agent) -> None:
        stream = await walk(agent, [start])
        before = agent.kernel.contents().keys()
        with tempfile.TemporaryDirectory() as folder:
            reborn = Agent(Path(folder), agent.kernel)
            await reborn.start()
            stream.lead_to(CONFIGURATIONS[end])
            for batch in one_by_one(stream.replay()):
                await reborn.deliver(batch)
                assert before <= reborn.kernel.contents().keys()
            await reborn.complete()
            assert before <= reborn.kernel.contents().keys()
            assert await reborn.reconciler.sweep([], objects=True) == []
            await ends_like(reborn, end)
            reborn.stop()

    in_a_folder(scenario)


def shuffled(deliveries: list[Delivery], chance: random.Random) -> list[Delivery]:
    """Return another order in which each document's revisions keep theirs."""
    waiting: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        waiting.setdefault(delivery.document, []).append(delivery)
    turns = [delivery.document for delivery in deliveries]
    chance.shuffle(turns)
    return [waiting[name].pop(0) for name in turns]


def split(deliveries: list[Delivery], chance: random.Random) -> list[list[Delivery]]:
    """Return the same messages in batches of any size."""
    batches: list[list[Delivery]] = [[]]
    for delivery in deliveries:
        if batches[-1] and chance.random() < 0.5:
            batches.append([])
        batches[-1].append(delivery)
    return batches


PLACES = {
    "exchanged": ({"c": "x", "d": "y"}, {"c": "y", "d": "x"}),
    "rotated": ({"c": "x", "d": "y", "e": "z"}, {"c": "y", "d": "z", "e": "x"}),
    "moved on": ({"c": "x", "d": "y"}, {"c": "y", "d": "z"}),
    "taken over": ({"c": "x"}, {"d": "x"}),
    "taken over by one that was elsewhere": ({"c": "x", "d": "y"}, {"d": "x"}),
}
"""In which namespaces endpoints are at first, and in the end."""


def placed(places: Mapping[str, str]) -> Configuration:
    """Return a configuration with endpoints in namespaces; each is a document of its own."""
    numbers = {"c": 40, "d": 41, "e": 42}
    documents = {
        id_: on("d1", id_, f"192.168.1.{numbers[id_]}", attachment={"namespace": place})
        for id_, place in places.items()
    }
    return changed(CONFIGURATIONS["one bouncer"], **documents)


async def deliver_in_order(agent: Agent, batches: list[list[Delivery]]) -> None:
    for batch in batches:
        await agent.deliver(batch)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("how", PLACES)
def test_interfaces_that_change_places_end_alike_in_every_order(how: str, batched: bool, restarts: bool) -> None:
    """A name in a namespace is free only when the interface that had it is gone."""
    before, after = PLACES[how]

    async def scenario(agent: Agent, order: tuple[int, ...]) -> None:
        stream = Stream()
        await agent.deliver(stream.lead_to(placed(before)))
        deliveries = stream.lead_to(placed(after))
        if restarts:
            await agent.start()
            deliveries = [*deliveries, *(one for one in stream.replay() if one not in deliveries)]
            order = (*order, *range(len(order), len(deliveries)))
        ordered = [deliveries[index] for index in order]
        await deliver_in_order(agent, [ordered] if batched else one_by_one(ordered))
        if restarts:
            await agent.complete()
        found = {id_: veth.namespace for id_, veth in agent.kernel.veths.items() if id_ != "a"}
        assert found == after
        await has_nothing_to_do(agent)

    for order in itertools.permutations(range(len(before.keys() | after.keys()))):
        in_a_folder(scenario, order)


def test_an_endpoint_passes_from_one_document_to_another_without_a_gap() -> None:
    """The document that takes it over waits until the other one lets go."""

    async def scenario(agent: Agent) -> None:
        stream = await walk(agent, ["one bouncer"])
        taken = changed(CONFIGURATIONS["one bouncer"], b=CONFIGURATIONS["endpoint in another document"]["b"])
        await deliver_whole(agent, stream.lead_to(taken))
        assert agent.statuses()["b"][0] == "rejected"
        await deliver_whole(agent, stream.lead_to(CONFIGURATIONS["endpoint in another document"]))
        assert agent.statuses()["b"][0] == "realized"

    in_a_folder(scenario)
