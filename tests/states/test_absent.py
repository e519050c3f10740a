"""A document that the stream does not list stays until it is removed by name."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import msgspec
import pytest
from agent_configurations import LOCAL, MANY, ONE_BOUNCER, Configuration, body, changed
from agent_under_test import Agent, Stream, one_by_one
from test_sequences import deliver_whole, ends_like, in_a_folder, walk

from agent.bus.rpc import RpcError
from agent.core.config.delivery import Delivery
from agent.core.model.map_layout import MapName
from agent.core.plan.actions import DeleteVeth
from agent.core.plan.observed import ObservationError
from agent.intake import Intake
from agent.report.queries import Queries


async def snapshot(agent: Agent, stream: Stream, lost: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Replay a stream that lost the messages of some documents."""
    await agent.reconciler.begin_snapshot()
    agent.acknowledged.clear()
    for delivery in stream.replay():
        if delivery.document not in lost:
            await agent.deliver([delivery])
    await agent.complete()


def absent(agent: Agent) -> set[str]:
    return set(agent.reconciler.desired.documents.absent)


@pytest.mark.parametrize("lost", [{"a"}, {"b", "red"}, set(ONE_BOUNCER)], ids=["one", "some", "all"])
def test_documents_that_a_snapshot_does_not_list_stay_and_are_reported_as_absent(lost: set[str]) -> None:
    async def scenario(agent: Agent) -> None:
        stream = await walk(agent, ["one bouncer"])
        before, statuses = agent.kernel.contents(), agent.statuses()
        agent.kernel.actions.clear()
        await snapshot(agent, stream, lost)
        assert agent.kernel.actions == []
        assert agent.kernel.contents() == before
        assert agent.statuses() == statuses
        assert absent(agent) == lost
        assert {name for name, status in agent.acknowledged.items() if status.absent} == lost
        assert agent.acknowledged.keys() == statuses.keys(), "every document is acknowledged again"

    in_a_folder(scenario)


def test_an_absent_document_outlives_a_restart_and_is_absent_again(tmp_path: Path) -> None:
    async def scenario(_: Agent) -> None:
        agent = Agent(tmp_path)
        await agent.start()
        await agent.complete()
        stream = await walk(agent, ["one bouncer"])
        before = agent.kernel.contents()
        for _turn in range(2):
            await snapshot(agent, stream, {"a"})
            await agent.start()
        await snapshot(agent, stream, {"a"})
        assert agent.kernel.contents() == before
        assert absent(agent) == {"a"}
        agent.stop()

    in_a_folder(scenario)


def test_a_removal_message_removes_an_absent_document_whatever_its_revision() -> None:
    """A recreated stream counts from 1."""

    async def scenario(agent: Agent) -> None:
        stream = await walk(agent, ["one bouncer"])
        await snapshot(agent, stream, {"a"})
        await agent.deliver([Delivery("a", 1, None)])
        assert absent(agent) == set()
        assert agent.acknowledged["a"].removed
        assert "a" not in agent.kernel.veths
        assert "a" not in agent.reconciler.desired.documents.names()

    in_a_folder(scenario)


def test_an_absent_document_that_is_published_again_is_no_longer_absent_and_nothing_is_recreated() -> None:
    async def scenario(agent: Agent) -> None:
        stream = await walk(agent, ["one bouncer"])
        before = agent.kernel.contents()
        await snapshot(agent, stream, {"a"})
        agent.kernel.actions.clear()
        await deliver_whole(agent, [Delivery("a", 1, body(LOCAL))])
        assert agent.kernel.actions == []
        assert agent.kernel.contents() == before
        assert absent(agent) == set()
        assert (agent.acknowledged["a"].revision, agent.acknowledged["a"].absent) == (1, False)
        await ends_like(agent, "one bouncer")

    in_a_folder(scenario)


def test_a_sweep_removes_the_absent_documents_that_it_names_and_no_others() -> None:
    async def scenario(agent: Agent) -> None:
        stream = await walk(agent, ["one bouncer"])
        assert await agent.reconciler.sweep(["a"]) == ["a"], "it is not absent"
        await snapshot(agent, stream, {"a", "b"})
        before = agent.kernel.contents()
        assert await agent.reconciler.sweep(["a", "red"]) == ["red"]
        assert agent.kernel.contents() == before, "all or none"
        assert await agent.reconciler.sweep(["a"]) == []
        assert absent(agent) == {"b"}
        assert agent.acknowledged["a"].removed
        assert "a" not in agent.kernel.veths
        await agent.reconciler.begin_snapshot()
        assert await agent.reconciler.sweep(["b"]) is None, "not before the snapshot is complete"
        assert await agent.reconciler.sweep([], objects=True) is None

    in_a_folder(scenario)


def test_a_swept_document_that_is_published_again_comes_back() -> None:
    async def scenario(agent: Agent) -> None:
        stream = await walk(agent, ["one bouncer"])
        await snapshot(agent, stream, {"a"})
        await agent.reconciler.sweep(["a"])
        await agent.deliver([Delivery("a", stream.sequence + 1, body(LOCAL))])
        await ends_like(agent, "one bouncer")

    in_a_folder(scenario)


def test_a_swept_document_whose_removal_failed_can_be_published_at_any_revision() -> None:
    """A recreated stream counts from 1, and a sweep is no message in it."""

    async def scenario(agent: Agent) -> None:
        stream = await walk(agent, ["one bouncer"])
        await snapshot(agent, stream, {"a"})
        agent.kernel.refuse = lambda action: errno.EBUSY if isinstance(action, DeleteVeth) else 0
        await agent.reconciler.sweep(["a"])
        assert agent.acknowledged["a"].failures
        agent.kernel.refuse = lambda action: 0
        await deliver_whole(agent, [Delivery("a", 1, body(LOCAL))])
        assert (agent.acknowledged["a"].revision, agent.acknowledged["a"].removed) == (1, False)
        await ends_like(agent, "one bouncer")

    in_a_folder(scenario)


def test_a_snapshot_that_is_void_and_begins_again_lists_only_what_came_since(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        stream = await walk(agent, ["one bouncer"])
        await agent.reconciler.begin_snapshot()
        for delivery in stream.replay():
            await agent.deliver([delivery])
        await snapshot(agent, stream, {"a"})
        assert absent(agent) == {"a"}

    in_a_folder(scenario)


async def reborn_without_disk(agent: Agent, folder: Path, configuration: Configuration) -> Agent:
    """Return an agent without saved documents: it finds kernel objects, and this configuration in the stream."""
    reborn, stream = Agent(folder, agent.kernel), Stream()
    await reborn.start()
    for batch in one_by_one(stream.lead_to(configuration)):
        await reborn.deliver(batch)
    await reborn.complete()
    return reborn


def test_unexplained_objects_stay_without_any_saved_or_published_document(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        await walk(agent, ["one bouncer"])
        before = agent.kernel.contents()
        reborn = await reborn_without_disk(agent, tmp_path, {})
        await reborn.resync.repair()
        assert reborn.kernel.contents() == before
        assert reborn.reconciler.removals.unexplained > 0
        assert await reborn.reconciler.sweep([], objects=True) == []
        assert reborn.reconciler.removals.unexplained == 0
        assert reborn.kernel.veths == {}
        reborn.stop()

    in_a_folder(scenario)


def test_objects_outside_the_snapshot_stay_if_the_disk_was_lost(tmp_path: Path) -> None:
    """The stream may have been restored in part; what its documents explain is taken over as it is."""

    async def scenario(agent: Agent) -> None:
        await walk(agent, ["one bouncer"])
        reborn = await reborn_without_disk(agent, tmp_path, changed(ONE_BOUNCER, a=None))
        assert reborn.reconciler.removals.unexplained > 0
        assert "a" in reborn.kernel.veths
        assert await reborn.reconciler.sweep([], objects=True) == []
        assert reborn.reconciler.removals.unexplained == 0
        assert "a" not in reborn.kernel.veths
        reborn.stop()

    in_a_folder(scenario)


def test_a_sweep_that_cannot_read_the_kernel_says_what_it_removed_and_the_resync_removes_the_rest(
    tmp_path: Path,
) -> None:
    async def scenario(agent: Agent) -> None:
        await walk(agent, ["one bouncer"])
        known, stream = changed(ONE_BOUNCER, a=None), Stream()
        reborn = await reborn_without_disk(agent, tmp_path, known)
        stream.lead_to(known)
        await snapshot(reborn, stream, {"b"})
        queries = Queries(reborn.reconciler, reborn.resync, None, None, None, None, time.time)  # type: ignore[arg-type]
        intake = Intake("h1", None, reborn.reconciler, None, queries, reborn.faults.report)  # type: ignore[arg-type]
        await intake.ask("documents", b"")
        assert {fault.kind for fault in reborn.faults.standing()} == {"documents_missing", "objects_unexplained"}

        async def blind(_: object) -> None:
            raise ObservationError("the kernel could not be read: EAGAIN")

        observe, reborn.kernel.observe = reborn.kernel.observe, blind  # type: ignore[assignment,method-assign]
        with pytest.raises(RpcError) as caught:
            await intake.ask("plan", b"")
        assert (caught.value.code, caught.value.text) == (500, "the kernel could not be read: EAGAIN")
        with pytest.raises(RpcError) as caught:
            await intake.ask("sweep", msgspec.msgpack.encode({"documents": ["b"], "objects": True}))
        assert (caught.value.code, caught.value.text) == (
            500,
            "documents removed: b; the kernel could not be read: EAGAIN; the next resync removes the rest",
        )
        assert "b" not in reborn.reconciler.desired.documents.names()
        assert {fault.kind for fault in reborn.faults.standing()} == {"objects_unexplained"}
        assert "a" in reborn.kernel.veths
        reborn.kernel.observe = observe  # type: ignore[method-assign]
        await reborn.resync.repair()
        assert "a" not in reborn.kernel.veths
        assert reborn.reconciler.removals.unexplained == 0
        reborn.stop()

    in_a_folder(scenario)


def test_objects_of_the_snapshot_are_no_fault_if_the_disk_was_lost(tmp_path: Path) -> None:
    """From then on, what others add is removed as always."""

    async def scenario(agent: Agent) -> None:
        await walk(agent, ["one bouncer"])
        reborn = await reborn_without_disk(agent, tmp_path, ONE_BOUNCER)
        assert reborn.reconciler.removals.unexplained == 0
        before = reborn.kernel.contents()
        reborn.kernel.maps[MapName.DROPLETS][bytes(16)] = bytes(8)
        await reborn.resync.repair()
        assert reborn.kernel.contents() == before
        reborn.stop()

    in_a_folder(scenario)


def test_a_new_stream_counts_from_1_and_what_it_publishes_is_younger_than_what_is_kept() -> None:
    """Otherwise one endpoint that is published under another document's name would take all its neighbours along."""

    async def scenario(agent: Agent) -> None:
        stream = Stream()
        for batch in one_by_one(stream.lead_to(changed(ONE_BOUNCER, many=(MANY,)))):
            await agent.deliver(batch)
        before = agent.kernel.contents()
        await snapshot(agent, Stream())
        thief = {"endpoints": [MANY["endpoints"][0]]}  # type: ignore[index]
        await agent.deliver([Delivery("thief", 1, body(thief))])
        assert agent.acknowledged["thief"].state.value == "rejected"
        assert "many" in agent.acknowledged["thief"].errors[0].message
        assert agent.kernel.contents() == before
        await agent.deliver([Delivery("many", 2, None)])
        assert agent.acknowledged["thief"].state.value == "realized"

    in_a_folder(scenario)
