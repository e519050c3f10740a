"""A new version of a function that fails soon after it went live gives way to the one before; its document tells so."""

from __future__ import annotations

from typing import Any

from agent_configurations import ONE_BOUNCER, SENT, changed, function
from agent_under_test import Agent, Stream, publish
from test_sequences import has_nothing_to_do, in_a_folder

from agent.core.functions.stages import Point
from agent.core.functions.versions import MOST_FAULTS, WATCH_SECONDS
from protocol.acknowledgements import State

NEWER = function("sent", "from_endpoint", "newer", vpc="red")
NEWEST = function("sent", "from_endpoint", "newest", vpc="red")
PLACE = (Point.FROM_ENDPOINT, 0)
INDEX = 0


def with_function(*contents: Any) -> Any:
    return changed(ONE_BOUNCER, f=contents)


def running(agent: Agent) -> str:
    """Return the source of the program in the function's slot."""
    return agent.kernel.functions[PLACE].program.source


async def fail(agent: Agent, packets: int, after: float = 2.0) -> None:
    """Have the function fail for so many packets, and the agent look at it."""
    agent.now += after
    agent.kernel.faults[INDEX] = agent.kernel.faults.get(INDEX, 0) + packets
    await agent.reconciler.watch_versions()


async def newer_that_fails(agent: Agent, stream: Stream) -> None:
    await publish(agent, stream, with_function(SENT))
    await publish(agent, stream, with_function(SENT, NEWER))
    assert running(agent) == "newer"
    await fail(agent, MOST_FAULTS + 1)


def test_a_new_version_that_fails_is_replaced_by_the_one_before_and_its_document_is_failed() -> None:
    async def scenario(agent: Agent) -> None:
        await newer_that_fails(agent, Stream())
        assert running(agent) == "plain"
        answer = agent.last_acks["f"]
        assert (answer.state, answer.revision, answer.in_force, answer.retry_at) == (State.FAILED, 6, 6, None)
        (failure,) = answer.failures
        assert (failure.name, failure.object) == ("ECANCELED", "function sent at from_endpoint")
        for part in ("revision 6", f"{MOST_FAULTS + 1} packets within 2 s", "publish its document again"):
            assert part in failure.message
        (fault,) = [one for one in agent.faults.standing() if one.kind == "function_rolled_back"]
        assert fault.subject == "sent (from_endpoint)"
        await has_nothing_to_do(agent)
        await agent.retry()
        assert running(agent) != "newer"

    in_a_folder(scenario)


def test_the_version_before_stays_loaded_until_the_new_one_has_proved_itself() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, with_function(SENT))
        before = agent.kernel.functions[PLACE]
        assert before.retained is None
        await publish(agent, stream, with_function(SENT, NEWER))
        assert agent.kernel.functions[PLACE].retained == before.build
        await has_nothing_to_do(agent)
        await fail(agent, MOST_FAULTS, WATCH_SECONDS)
        assert agent.kernel.functions[PLACE].retained is None
        await fail(agent, 1000)
        assert (running(agent), agent.last_acks["f"].state) == ("newer", State.REALIZED)
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_a_version_that_was_rolled_back_stays_so_after_a_restart() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await newer_that_fails(agent, stream)
        kept = agent.kernel.contents()
        await agent.start()
        await agent.deliver(stream.replay())
        await agent.complete()
        assert agent.kernel.contents() == kept
        assert agent.last_acks["f"].state is State.FAILED
        assert any(one.kind == "function_rolled_back" for one in agent.faults.standing())
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_a_newer_revision_is_tried_again_also_with_the_same_program() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await newer_that_fails(agent, stream)
        await publish(agent, stream, with_function(SENT, NEWER, SENT, NEWER))
        assert (running(agent), agent.last_acks["f"].state) == ("newer", State.REALIZED)
        assert not any(one.kind == "function_rolled_back" for one in agent.faults.standing())
        await publish(agent, stream, with_function(SENT, NEWER, SENT, NEWER, NEWEST))
        await fail(agent, MOST_FAULTS + 1)
        assert running(agent) == "plain", "nor is NEWER known to work"
        await publish(agent, stream, with_function(NEWEST))
        assert (running(agent), agent.last_acks["f"].state) == ("newest", State.REALIZED)

    in_a_folder(scenario)


def test_a_new_configuration_that_makes_a_program_fail_is_rolled_back_too() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, with_function(function("sent", "from_endpoint", vpc="red", configuration=b"1")))
        await publish(agent, stream, with_function(function("sent", "from_endpoint", vpc="red", configuration=b"2")))
        assert agent.kernel.functions[PLACE].configuration == b"2"
        await fail(agent, MOST_FAULTS + 1)
        assert agent.kernel.functions[PLACE].configuration == b"1"
        assert agent.last_acks["f"].state is State.FAILED

    in_a_folder(scenario)


def test_a_first_version_stays_and_a_version_that_failed_is_nothing_to_go_back_to() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, with_function(SENT))
        await fail(agent, MOST_FAULTS + 1)
        assert agent.last_acks["f"].state is State.REALIZED
        await publish(agent, stream, with_function(SENT, NEWER))
        await fail(agent, MOST_FAULTS + 1)
        assert (running(agent), agent.last_acks["f"].state) == ("newer", State.REALIZED)
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_a_restart_while_a_version_is_watched_watches_it_anew() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, with_function(SENT))
        await publish(agent, stream, with_function(SENT, NEWER))
        await agent.start()
        await agent.deliver(stream.replay())
        await agent.complete()
        assert running(agent) == "newer"
        await fail(agent, MOST_FAULTS + 1)
        assert (running(agent), agent.last_acks["f"].state) == ("plain", State.FAILED)

    in_a_folder(scenario)


def test_the_function_that_is_gone_takes_its_history_with_it() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await newer_that_fails(agent, stream)
        await agent.complete()
        await publish(agent, stream, ONE_BOUNCER)
        assert agent.store.load_histories() == {}
        assert not any(one.kind == "function_rolled_back" for one in agent.faults.standing())
        await publish(agent, stream, with_function(NEWER))
        assert (running(agent), agent.last_acks["f"].state) == ("newer", State.REALIZED)

    in_a_folder(scenario)
