"""A resync while documents are applied: it undoes none of their changes, and repairs foreign ones."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Awaitable, Callable

import pytest
from agent_configurations import (
    CONFIGURATIONS,
    DROPLETS,
    LOCAL,
    ONE_BOUNCER,
    REMOTE,
    changed,
    endpoint,
    red,
)
from agent_under_test import Agent, Stream, one_by_one, publish
from hypothesis import given
from hypothesis import strategies as st
from test_sequences import ends_like, few, has_nothing_to_do, in_a_folder, names

from agent.core.model.map_layout import OVERLAY_KEY, MapName, mapped
from agent.core.plan.actions import AttachTransit, DeleteEntries, DeleteVeth, PutEntries
from agent.reconcile import kernel_diff
from protocol.addresses import parse_address

STRANGE = b"\x63\0\0\0"
"""A VNI that no configuration has."""


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others go on after every part of a document."""
    monkeypatch.setattr(kernel_diff, "SLICE", 1)
    monkeypatch.setattr("agent.core.plan.render.PIECE", 7)


def once_the_kernel_was_read(agent: Agent, act: Callable[[], Awaitable[None]]) -> None:
    """Have something happen between the next look at the whole kernel and its comparison."""
    observe = agent.kernel.observe

    async def and_then(namespaces):
        agent.kernel.observe = observe  # type: ignore[method-assign]
        seen = await observe(namespaces)
        async with asyncio.timeout(5):  # if documents were blocked, this would wait forever
            await act()
        return seen

    agent.kernel.observe = and_then  # type: ignore[method-assign]


def once_diffed(agent: Agent, document: str, act: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    """Have something happen when a document has been compared and the one after it has not."""
    desired, seen = agent.reconciler.desired, asyncio.Event()
    parts = desired.parts

    def watched(name: str):
        yield from parts(name)
        if name == document:
            seen.set()

    async def wait() -> None:
        await seen.wait()
        desired.parts = parts  # type: ignore[method-assign]
        await act()

    desired.parts = watched  # type: ignore[method-assign]
    return asyncio.create_task(wait())


def key_of(address: str) -> bytes:
    return OVERLAY_KEY.pack(7, mapped(parse_address(address)))


@few
@given(names, names)
def test_changes_by_documents_during_a_resync_are_not_taken_for_foreign_changes(start: str, end: str) -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, CONFIGURATIONS[start])
        once_the_kernel_was_read(agent, lambda: publish(agent, stream, CONFIGURATIONS[end]))
        await agent.resync.repair()
        assert agent.repaired == []
        await ends_like(agent, end)

    in_a_folder(scenario)


@few
@given(names, names, st.randoms(use_true_random=False))
def test_documents_may_arrive_at_any_moment_of_a_resync(start: str, end: str, chance: random.Random) -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, CONFIGURATIONS[start])

        async def now_and_then() -> None:
            for batch in one_by_one(stream.lead_to(CONFIGURATIONS[end])):
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                await agent.deliver(batch)

        await asyncio.gather(agent.resync.repair(), now_and_then())
        assert agent.repaired == []
        await ends_like(agent, end)

    in_a_folder(scenario)


@few
@given(names, names)
def test_foreign_changes_are_repaired_while_documents_arrive(start: str, end: str) -> None:
    """What it did to the documents that came meanwhile is for the next look at the latest."""

    async def scenario(agent: Agent) -> None:
        stream, kernel = Stream(), agent.kernel
        await publish(agent, stream, CONFIGURATIONS[start])
        kernel.maps[MapName.ENDPOINTS].clear()
        kernel.maps[MapName.VPCS][STRANGE] = bytes(264)
        kernel.veths.clear()
        kernel.transit.clear()
        once_the_kernel_was_read(agent, lambda: publish(agent, stream, CONFIGURATIONS[end]))
        await agent.resync.repair()
        assert STRANGE not in kernel.maps[MapName.VPCS]
        await agent.resync.repair()
        await ends_like(agent, end)

    in_a_folder(scenario)


def test_only_unchanged_documents_are_repaired_and_reported() -> None:
    async def scenario(agent: Agent) -> None:
        stream, entries = Stream(), agent.kernel.maps[MapName.ENDPOINTS]
        await publish(agent, stream, ONE_BOUNCER)
        del entries[key_of("192.168.1.11")]
        moved = changed(ONE_BOUNCER, a=({"endpoints": [endpoint("a", "front", "d1", "192.168.1.12")]},))
        once_the_kernel_was_read(agent, lambda: publish(agent, stream, moved))
        await agent.resync.repair()
        assert agent.repaired == ["write 1 entry of map endpoints"]
        assert entries.keys() == {key_of("192.168.1.11"), key_of("192.168.1.12")}
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_an_object_that_moves_to_a_compared_document_is_not_unowned() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, ONE_BOUNCER)
        agent.kernel.actions.clear()
        both = {"endpoints": [*LOCAL["endpoints"], *REMOTE["endpoints"]]}  # type: ignore[index]
        passed = once_diffed(agent, "a", lambda: agent.deliver(stream.lead_to(changed(ONE_BOUNCER, a=(both,), b=None))))
        await agent.resync.repair()
        await passed
        assert agent.repaired == []
        assert key_of("192.168.1.11") in agent.kernel.maps[MapName.ENDPOINTS]
        assert not [one for one in agent.kernel.actions if isinstance(one, DeleteEntries | DeleteVeth)]
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_what_a_document_gave_up_after_it_was_compared_is_not_put_back() -> None:
    async def scenario(agent: Agent) -> None:
        stream, entries = Stream(), agent.kernel.maps[MapName.ENDPOINTS]
        await publish(agent, stream, ONE_BOUNCER)
        del entries[key_of("192.168.1.11")]
        other = ({"endpoints": [endpoint("b", "front", "d2", "192.168.1.12")]},)
        moved = once_diffed(agent, "b", lambda: publish(agent, stream, changed(ONE_BOUNCER, b=other)))
        await agent.resync.repair()
        await moved
        assert agent.repaired == []
        assert entries.keys() == {key_of("192.168.1.10"), key_of("192.168.1.12")}
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_what_was_wrong_when_the_kernel_was_read_and_is_not_any_more_is_no_repair() -> None:
    async def scenario(agent: Agent) -> None:
        await publish(agent, Stream(), ONE_BOUNCER)
        entries = agent.kernel.maps[MapName.ENDPOINTS]
        whole = dict(entries)
        entries.clear()

        async def put_back() -> None:
            entries.update(whole)

        once_the_kernel_was_read(agent, put_back)
        agent.kernel.actions.clear()
        await agent.resync.repair()
        assert (agent.repaired, agent.kernel.actions) == ([], [])

    in_a_folder(scenario)


def test_a_document_that_fails_during_a_resync_is_not_acknowledged_as_realized() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, ONE_BOUNCER)
        kernel = agent.kernel
        kernel.refuse = lambda action: (
            errno.ENOMEM if isinstance(action, PutEntries) and action.map is MapName.ENDPOINTS else 0
        )
        moved = ({"endpoints": [endpoint("a", "front", "d1", "192.168.1.12")]},)
        once_the_kernel_was_read(agent, lambda: publish(agent, stream, changed(ONE_BOUNCER, a=moved)))
        await agent.resync.repair()
        assert agent.acknowledged["a"].state.value == "failed"
        kernel.refuse = lambda action: 0
        await agent.retry()
        await ends_like(agent, "endpoint with another address")

    in_a_folder(scenario)


def test_an_old_failure_stays_if_its_document_is_resolved_during_a_resync() -> None:
    """The comparison left the document out, so that nothing in it says that the kernel holds it now."""

    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, ONE_BOUNCER)
        del agent.kernel.veths["a"]
        agent.kernel.namespaces = set()
        await agent.resync.repair()
        assert agent.acknowledged["a"].state.value == "failed"
        once_the_kernel_was_read(agent, lambda: publish(agent, stream, changed(ONE_BOUNCER, red=(red("d3"),))))
        await agent.resync.repair()
        assert agent.acknowledged["a"].state.value == "failed"
        agent.kernel.namespaces.add("a")
        await agent.resync.repair()
        assert agent.acknowledged["a"].state.value == "realized"
        await ends_like(agent, "bouncer replaced")

    in_a_folder(scenario)


def test_a_removal_that_is_refused_during_a_resync_is_not_acknowledged() -> None:
    async def scenario(agent: Agent) -> None:
        stream, kernel = Stream(), agent.kernel
        await publish(agent, stream, ONE_BOUNCER)
        kernel.refuse = lambda action: errno.EPERM if isinstance(action, DeleteVeth) else 0
        last = once_diffed(agent, "b", lambda: publish(agent, stream, changed(ONE_BOUNCER, a=None)))
        kernel.maps[MapName.VPCS][STRANGE] = bytes(264)
        await agent.resync.repair()
        await last
        assert (agent.acknowledged["a"].removed, agent.acknowledged["a"].state.value) == (True, "failed")
        await agent.resync.repair()
        assert agent.acknowledged["a"].state.value == "failed"
        kernel.refuse = lambda action: 0
        await agent.resync.repair()
        assert agent.acknowledged["a"].state.value == "realized"
        await ends_like(agent, "an endpoint's document removed")

    in_a_folder(scenario)


def test_transit_xdp_that_a_document_needs_meanwhile_stays() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        others = ({"droplets": DROPLETS["droplets"][1:]},)  # type: ignore[index]
        await publish(agent, stream, changed(ONE_BOUNCER, underlay=others))
        once_the_kernel_was_read(agent, lambda: publish(agent, stream, ONE_BOUNCER))
        await agent.resync.repair()
        assert agent.repaired == []
        assert [one for one in agent.kernel.actions if isinstance(one, AttachTransit)] == [AttachTransit(2)]
        await ends_like(agent, "one bouncer")

    in_a_folder(scenario)


def test_two_concurrent_resyncs_find_the_same_and_repair_it_once() -> None:
    async def scenario(agent: Agent) -> None:
        await publish(agent, Stream(), ONE_BOUNCER)
        agent.kernel.maps[MapName.ENDPOINTS].clear()
        plan, *_ = await asyncio.gather(agent.resync.plan(), agent.resync.repair(), agent.resync.repair())
        assert plan == agent.repaired == ["write 2 entries of map endpoints"]

    in_a_folder(scenario)


def test_other_work_continues_during_a_resync() -> None:
    async def scenario(agent: Agent) -> None:
        await publish(agent, Stream(), CONFIGURATIONS["bouncer here"])
        turns = 0

        async def heartbeat() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(heartbeat())
        await agent.resync.repair()
        task.cancel()
        assert turns >= len(CONFIGURATIONS["bouncer here"]) + 40 // 7

    in_a_folder(scenario)


def test_a_plan_tends_nothing_and_a_repair_does() -> None:
    async def scenario(agent: Agent) -> None:
        before = agent.kernel.tended
        await agent.resync.plan()
        assert agent.kernel.tended == before == 1
        await agent.resync.repair()
        assert agent.kernel.tended == before + 1

    in_a_folder(scenario)


def test_a_resync_that_begins_during_a_step_finds_no_difference_of_its_documents() -> None:
    async def scenario(agent: Agent) -> None:
        kernel, begun, go_on = agent.kernel, asyncio.Event(), asyncio.Event()
        run = kernel.run

        async def hold(actions):
            begun.set()
            await go_on.wait()
            return await run(actions)

        kernel.run = hold  # type: ignore[method-assign]
        applying = asyncio.create_task(publish(agent, Stream(), ONE_BOUNCER))
        await begun.wait()
        planning = asyncio.create_task(agent.resync.plan())
        for _ in range(50):
            await asyncio.sleep(0)
        with agent.reconciler.applied_meanwhile() as names:
            assert names == {"underlay"}
        go_on.set()
        assert await planning == []
        await applying
        await ends_like(agent, "one bouncer")

    in_a_folder(scenario)
