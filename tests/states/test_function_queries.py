"""What an agent knows of functions for queries, and when their counters begin at zero."""

from __future__ import annotations

import time

import pytest
from agent_configurations import WITH_FUNCTIONS, changed, function
from agent_under_test import Agent, Stream
from test_sequences import in_a_folder

from agent.bus.rpc import RpcError
from agent.core.functions.stages import index_of
from agent.report.queries import Queries
from protocol import codec
from protocol.rpc import FunctionLogReply, FunctionLogRequest, FunctionMapsRequest

SENT = index_of(1, 0)
GOOD = function("sent", "from_endpoint", vpc="red")
NEWER = function("sent", "from_endpoint", "newer", vpc="red")
BAD = function("sent", "from_endpoint", "BAD", vpc="red")


class NothingToRead:
    """A kernel whose functions cannot be looked into."""

    function_reader = None


async def ask(agent: Agent, verb: str, question: object) -> bytes:
    queries = Queries(agent.reconciler, agent.resync, NothingToRead(), None, None, None, time.time)  # type: ignore[arg-type]
    return await queries.ask(verb, codec.encode(question))


def test_counters_of_a_slot_begin_at_zero_for_each_function_that_gets_it() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await agent.deliver(stream.lead_to(changed(WITH_FUNCTIONS, f_sent=(GOOD,))))
        await agent.complete()
        assert agent.kernel.cleared_functions == [SENT]
        await agent.deliver(stream.lead_to(changed(WITH_FUNCTIONS, f_sent=(NEWER,))))
        assert agent.kernel.cleared_functions == [SENT], "another program of the same function counts on"
        await agent.deliver(stream.lead_to(WITH_FUNCTIONS))
        await agent.deliver(
            stream.lead_to(changed(WITH_FUNCTIONS, f_sent=(function("b", "from_endpoint", vpc="red"),)))
        )
        assert agent.kernel.cleared_functions == [SENT, SENT]

    in_a_folder(scenario)


def test_counters_survive_a_restart_of_the_agent() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        wanted = changed(WITH_FUNCTIONS, f_sent=(GOOD,))
        await agent.deliver(stream.lead_to(wanted))
        await agent.complete()
        agent.kernel.cleared_functions.clear()
        await agent.start()
        await agent.complete()
        assert agent.kernel.cleared_functions == []

    in_a_folder(scenario)


def test_a_refused_program_is_found_by_its_function_with_the_document() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await agent.deliver(stream.lead_to(changed(WITH_FUNCTIONS, f_sent=(GOOD,))))
        fine = codec.decode(await ask(agent, "function_log", FunctionLogRequest("sent")), FunctionLogReply)
        assert (fine.document, fine.point, fine.refused) == ("f_sent", "from_endpoint", "")
        await agent.deliver(stream.lead_to(changed(WITH_FUNCTIONS, f_sent=(BAD,))))
        found = codec.decode(await ask(agent, "function_log", FunctionLogRequest("sent")), FunctionLogReply)
        assert (found.document, found.refused) == ("f_sent", "line 1: BAD")
        assert found.revision > fine.revision

    in_a_folder(scenario)


@pytest.mark.parametrize("question", [FunctionLogRequest("none"), FunctionMapsRequest("none")])
def test_an_unknown_function_is_not_found(question: object) -> None:
    async def scenario(agent: Agent) -> None:
        verb = "function_log" if isinstance(question, FunctionLogRequest) else "function_maps"
        with pytest.raises(RpcError, match="there is no function 'none' on this host") as caught:
            await ask(agent, verb, question)
        assert caught.value.code == 404

    in_a_folder(scenario)


def test_a_function_that_is_not_in_force_has_no_maps_and_the_error_says_where_to_look() -> None:
    async def scenario(agent: Agent) -> None:
        await agent.deliver(Stream().lead_to(changed(WITH_FUNCTIONS, f_sent=(BAD,))))
        with pytest.raises(RpcError, match="is not in force; its document's acknowledgement says why") as caught:
            await ask(agent, "function_maps", FunctionMapsRequest("sent"))
        assert caught.value.code == 404

    in_a_folder(scenario)
