"""What the kernel refused of one document is tried again by that document's own backoff."""

from __future__ import annotations

import errno
from collections.abc import MutableMapping
from typing import Any

from agent_configurations import ONE_BOUNCER, Configuration, changed, on
from agent_under_test import FIRST_RETRY, Agent, Stream, logged
from test_sequences import has_nothing_to_do, in_a_folder

from agent.core.model.map_layout import MapName
from agent.core.plan.actions import EnsureVeth
from agent.core.plan.diff import Suspects
from agent.core.plan.observed import ObservationError
from agent.errors import OperatorError
from agent.reconcile.retry import LONGEST

GONE: Configuration = changed(ONE_BOUNCER, gone=on("d1", "gone", "192.168.1.50"))
LATE: Configuration = changed(GONE, late=on("d1", "late", "192.168.1.51"))
LONG = FIRST_RETRY * LONGEST


def tried(agent: Agent) -> set[str]:
    """Return the endpoints whose interfaces were tried since the actions were cleared."""
    return {action.veth.endpoint for action in agent.kernel.actions if isinstance(action, EnsureVeth)}


async def failing_for_good(agent: Agent, stream: Stream) -> None:
    """Have a document fail for so long that it is tried as seldom as can be."""
    agent.kernel.namespaces = {"a"}
    await agent.deliver(stream.lead_to(GONE))
    for _ in range(10):
        await agent.retry(LONG)
    assert agent.acknowledged["gone"].state.value == "failed"


def test_a_document_that_fails_for_good_slows_no_retry_of_one_that_would_succeed() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await failing_for_good(agent, stream)
        await agent.deliver(stream.lead_to(LATE))
        assert agent.acknowledged["late"].state.value == "failed"
        agent.kernel.namespaces = {"a", "late"}
        agent.kernel.actions.clear()
        await agent.retry(FIRST_RETRY)
        assert agent.acknowledged["late"].state.value == "realized"
        assert tried(agent) == {"late"}
        agent.kernel.namespaces = None
        await agent.retry(LONG)
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_a_newer_revision_of_a_document_that_failed_for_good_begins_with_the_first_pause() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await failing_for_good(agent, stream)
        moved = on("d1", "gone", "192.168.1.52")
        await agent.deliver(stream.lead_to(changed(GONE, gone=moved)))
        assert agent.acknowledged["gone"].state.value == "failed"
        agent.kernel.namespaces = None
        await agent.retry(FIRST_RETRY)
        assert agent.acknowledged["gone"].state.value == "realized"

    in_a_folder(scenario)


def test_one_that_was_in_force_and_fails_is_put_again_though_the_whole_kernel_cannot_be_read() -> None:
    """Only what the document asks for is looked at: the rest of a large host costs its retry nothing."""

    async def scenario(agent: Agent) -> None:
        stream, kernel = Stream(), agent.kernel
        await agent.deliver(stream.lead_to(GONE))
        del kernel.veths["a"]
        kernel.namespaces = {"gone"}
        await agent.resync.repair()
        assert agent.acknowledged["a"].state.value == "failed"
        kernel.namespaces = None

        observe, observe_some = kernel.observe, kernel.observe_some
        looked_at: list[Suspects] = []

        async def blind(_: object) -> None:
            raise ObservationError("EAGAIN")

        async def look(suspects, namespaces):
            looked_at.append(suspects)
            kernel.observe = observe  # type: ignore[method-assign]
            return await observe_some(suspects, namespaces)

        kernel.observe, kernel.observe_some = blind, look  # type: ignore[assignment,method-assign]
        kernel.actions.clear()
        await agent.retry(FIRST_RETRY)
        assert agent.acknowledged["a"].state.value == "realized"
        assert tried(agent) == {"a"}
        assert [set(one.endpoints) for one in looked_at] == [{"a"}]
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_a_kernel_that_cannot_be_looked_at_leaves_what_failed_for_the_next_turn() -> None:
    async def scenario(agent: Agent) -> None:
        stream, kernel = Stream(), agent.kernel
        await agent.deliver(stream.lead_to(GONE))
        del kernel.veths["a"]
        kernel.namespaces = {"gone"}
        await agent.resync.repair()
        kernel.namespaces = None

        async def blind(*_: object) -> None:
            raise ObservationError("EAGAIN")

        observe_some, kernel.observe_some = kernel.observe_some, blind  # type: ignore[assignment,method-assign]
        await agent.retry(FIRST_RETRY)
        assert agent.acknowledged["a"].state.value == "failed"
        assert [fault.kind for fault in agent.faults.standing()] == ["kernel_unreadable"]
        kernel.observe_some = observe_some  # type: ignore[method-assign]
        await agent.retry(2 * FIRST_RETRY)
        assert agent.acknowledged["a"].state.value == "realized"
        await agent.resync.repair()
        assert agent.faults.standing() == ()

    in_a_folder(scenario)


def test_a_namespace_that_appears_while_the_kernel_cannot_be_read_is_a_fault_and_the_resync_does_the_rest() -> None:
    async def scenario(agent: Agent) -> None:
        stream, kernel = Stream(), agent.kernel
        await agent.deliver(stream.lead_to(LATE))
        del kernel.veths["late"]

        async def blind(*_: object) -> None:
            raise ObservationError("EAGAIN")

        observe_some, kernel.observe_some = kernel.observe_some, blind  # type: ignore[assignment,method-assign]
        await agent.resync.namespaces_appeared({"late"})
        assert [fault.kind for fault in agent.faults.standing()] == ["kernel_unreadable"]
        assert agent.resync.unreadable == "EAGAIN"
        assert "late" not in kernel.veths
        kernel.observe_some = observe_some  # type: ignore[method-assign]
        await agent.resync.repair()
        assert "late" in kernel.veths
        assert agent.faults.standing() == ()

    in_a_folder(scenario)


def test_what_failed_and_is_removed_waits_for_no_retry() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await failing_for_good(agent, stream)
        assert len(agent.retries) == 1
        await agent.deliver(stream.lead_to(ONE_BOUNCER))
        assert len(agent.retries) == 0
        assert agent.kernel.maps[MapName.ENDPOINTS]

    in_a_folder(scenario)


def test_the_acknowledgement_contains_when_its_document_is_retried() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await failing_for_good(agent, stream)
        await agent.deliver(stream.lead_to(LATE))
        late = agent.last_acks["late"]
        assert late.retry_at == late.at + FIRST_RETRY

    in_a_folder(scenario)


def recovered(lines: list[MutableMapping[str, Any]]) -> list[tuple[str, int]]:
    """Return the documents that were realized at a later attempt, with the number of attempts, as logged."""
    return [(line["document"], line["attempts"]) for line in lines if line["event"] == "document_recovered"]


def test_a_document_that_a_retry_realizes_is_logged_once_with_the_number_of_attempts() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        agent.kernel.namespaces = {"a"}
        with logged() as lines:
            await agent.deliver(stream.lead_to(GONE))
            await agent.retry()
            await agent.retry()
            assert recovered(lines) == []
            agent.kernel.namespaces = None
            await agent.retry()
            await agent.retry()
        assert recovered(lines) == [("gone", 4)]

    in_a_folder(scenario)


def test_a_document_that_succeeds_outside_of_its_turn_is_logged_too() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        agent.kernel.namespaces = {"a"}
        await agent.deliver(stream.lead_to(GONE))
        agent.kernel.namespaces = None
        with logged() as lines:
            await agent.resync.namespaces_appeared({"gone"})
        assert recovered(lines) == [("gone", 2)]

    in_a_folder(scenario)


def test_neither_a_newer_revision_nor_a_removal_is_a_recovery() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        agent.kernel.namespaces = {"a"}
        await agent.deliver(stream.lead_to(LATE))
        agent.kernel.namespaces = {"a", "gone"}
        with logged() as lines:
            await agent.deliver(stream.lead_to(changed(LATE, gone=on("d1", "gone", "192.168.1.52"), late=None)))
        assert agent.acknowledged["gone"].state.value == "realized"
        assert recovered(lines) == []

    in_a_folder(scenario)


def test_pins_that_cannot_be_maintained_are_a_fault_and_do_not_stop_repairs() -> None:
    async def scenario(agent: Agent) -> None:
        stream, kernel = Stream(), agent.kernel
        await agent.deliver(stream.lead_to(LATE))
        del kernel.veths["late"]

        def read_only(_: object) -> None:
            raise OperatorError(errno.EROFS, "the file system is read-only")

        tend, kernel.tend = kernel.tend, read_only  # type: ignore[method-assign]
        await agent.resync.repair()
        assert "late" in kernel.veths
        (fault,) = agent.faults.standing()
        assert (fault.kind, fault.detail) == ("pins_not_maintained", "the file system is read-only")
        assert agent.resync.unreadable == ""
        kernel.tend = tend  # type: ignore[method-assign]
        await agent.resync.repair()
        assert agent.faults.standing() == ()

    in_a_folder(scenario)
