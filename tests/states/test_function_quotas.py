"""One VPC's functions leave slots, memory and the compiler to others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import agent_under_test
import msgspec
import pytest
from agent_configurations import ONE_BOUNCER, RED, WITH_FUNCTIONS, changed, function, several
from agent_under_test import Agent, Stream, publish
from test_sequences import has_nothing_to_do, in_a_folder

from agent.core.functions.programs import hash_of
from protocol.acknowledgements import State
from protocol.errors import ErrorCode


def limited(scenario: Callable[[Agent], Awaitable[None]], **limits: int) -> None:
    """Play a scenario under limits of functions."""
    before = agent_under_test.SETTINGS
    section = msgspec.structs.replace(before.functions, **limits)
    agent_under_test.SETTINGS = msgspec.structs.replace(before, functions=section)
    try:
        in_a_folder(scenario)
    finally:
        agent_under_test.SETTINGS = before


def of(vpc: str, name: str, text: str = "plain", **more: Any) -> Any:
    return function(name, "from_endpoint", text, vpc=vpc, **more)


def test_a_vpc_takes_as_many_slots_of_a_point_as_the_settings_allow_and_others_find_theirs() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        documents: Any = {f"f{number}": (of("red", f"red{number}"),) for number in range(3)}
        await publish(agent, stream, changed(WITH_FUNCTIONS, **documents))
        states = [agent.last_acks[f"f{number}"].state for number in range(3)]
        assert states == [State.REALIZED, State.REALIZED, State.REJECTED]
        (error,) = agent.last_acks["f2"].errors
        assert (error.path, error.code) == ("functions[0].vpc", ErrorCode.OUT_OF_RANGE)
        assert "2 slots at from_endpoint" in error.message
        assert "functions.vpc_slots" in error.message
        others: Any = {"g": (of("blue", "blue"),), "h": (function("red3", "to_endpoint", vpc="red"),)}
        host: Any = {"f_host": (several(function("a", "from_endpoint"), function("b", "from_endpoint")),)}
        await publish(agent, stream, changed(WITH_FUNCTIONS, **documents, **others, **host))
        assert {agent.last_acks[name].state for name in ("g", "h", "f_host")} == {State.REALIZED}
        del documents["f0"]
        await agent.complete()
        await publish(agent, stream, changed(WITH_FUNCTIONS, **documents, **others, **host))
        assert agent.last_acks["f2"].state is State.REALIZED, "a slot of the VPC is free again"
        await has_nothing_to_do(agent)

    limited(scenario, vpc_slots=2)


def test_a_function_that_changes_its_vpc_counts_in_the_new_one() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        documents: Any = {f"f{number}": (of("blue", f"one{number}"),) for number in range(2)}
        documents["moving"] = (of("red", "moving"),)
        await publish(agent, stream, changed(WITH_FUNCTIONS, **documents))
        await agent.complete()
        documents["moving"] = (of("blue", "moving"),)
        await publish(agent, stream, changed(WITH_FUNCTIONS, **documents))
        answer = agent.last_acks["moving"]
        assert (answer.state, answer.in_force is not None) == (State.REJECTED, True)
        assert "functions.vpc_slots" in answer.errors[0].message
        del documents["f0"]
        await publish(agent, stream, changed(WITH_FUNCTIONS, **documents))
        assert agent.last_acks["moving"].state is State.REALIZED
        await has_nothing_to_do(agent)

    limited(scenario, vpc_slots=2)


@pytest.mark.parametrize(("limit", "whose"), [("vpc_map_bytes", "VPC 'red'"), ("map_bytes", "all VPCs")])
def test_maps_take_as_much_memory_as_the_settings_allow(limit: str, whose: str) -> None:
    async def scenario(agent: Agent) -> None:
        stream, kernel = Stream(), agent.kernel
        kernel.sizes_of_maps = {hash_of("source", text): size for text, size in ((b"small", 400), (b"large", 700))}
        one: Any = {"f": (of("red", "one", "small"),)}
        await publish(agent, stream, changed(WITH_FUNCTIONS, **one, g=(of("red", "two", "large"),)))
        assert agent.last_acks["f"].state is State.REALIZED
        (error,) = agent.last_acks["g"].errors
        assert error.path == "functions[0].program.source"
        for part in (whose, "1,100 bytes", "700 of them", "limit is 1,000", f"functions.{limit}"):
            assert part in error.message
        await publish(agent, stream, changed(WITH_FUNCTIONS, f=(of("red", "one", "small"), of("red", "one", "large"))))
        assert agent.last_acks["f"].state is State.REALIZED, "the newer version takes the place of the older one"
        await agent.start()
        await agent.deliver(stream.replay())
        await agent.complete()
        assert agent.last_acks["f"].state is State.REALIZED
        second = of("red", "two", "small")
        await publish(agent, stream, changed(WITH_FUNCTIONS, f=(of("red", "one", "large"),), g=(second,)))
        assert agent.last_acks["g"].state is State.REJECTED, "what an earlier agent installed counts too"

    limited(scenario, **{limit: 1000})


def test_maps_of_a_file_count_also_while_a_newer_content_of_it_is_refused() -> None:
    async def scenario(agent: Agent) -> None:
        stream, kernel = Stream(), agent.kernel
        kernel.sizes_of_maps = {hash_of("file", b"first"): 700, hash_of("source", b"large"): 700}
        kernel.files["f.c"] = b"first"
        one = of("red", "one", program={"file": "f.c"})
        await publish(agent, stream, changed(WITH_FUNCTIONS, f=(one,)))
        kernel.files["f.c"] = b"BAD"
        refused = of("red", "one", program={"file": "f.c"}, order=1)
        await publish(agent, stream, changed(WITH_FUNCTIONS, f=(one, refused)))
        await publish(agent, stream, changed(WITH_FUNCTIONS, f=(one, refused), g=(of("red", "two", "large"),)))
        assert [agent.last_acks[name].state for name in "fg"] == [State.REJECTED, State.REJECTED]
        assert "1,400 bytes" in agent.last_acks["g"].errors[0].message

    limited(scenario, vpc_map_bytes=1000)


def test_a_limit_that_became_lower_withdraws_nothing_that_is_in_its_slot() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        agent.kernel.sizes_of_maps = {hash_of("source", b"large"): 700}
        await publish(agent, stream, changed(ONE_BOUNCER, f=(of("red", "one", "large"),)))
        kept = agent.kernel.contents()

        before = agent_under_test.SETTINGS
        section = msgspec.structs.replace(before.functions, vpc_map_bytes=10, vpc_slots=1)
        agent_under_test.SETTINGS = msgspec.structs.replace(before, functions=section)
        try:
            await agent.start()
            await agent.deliver(stream.replay())
            await agent.complete()
            assert (agent.last_acks["f"].state, agent.kernel.contents()) == (State.REALIZED, kept)
            await publish(agent, stream, changed(ONE_BOUNCER, f=(of("red", "one", "large"),), red=(RED,)))
            await has_nothing_to_do(agent)
        finally:
            agent_under_test.SETTINGS = before

    in_a_folder(scenario)
