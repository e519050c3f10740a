"""Functions come into force when the kernel took their programs, and say why where it does not."""

from __future__ import annotations

import errno
from typing import Any

import agent_under_test
import msgspec
from agent_configurations import ONE_BOUNCER, RED, SENT, changed, endpoint, function, several
from agent_under_test import Agent, Stream, publish
from fake_kernel import chains_in
from test_sequences import has_nothing_to_do, in_a_folder

from agent.core.functions.programs import hash_of
from agent.core.functions.stages import Point
from agent.core.model.map_layout import MapName
from agent.core.plan.actions import Action, EnsureFunction
from protocol.acknowledgements import State

BAD = function("sent", "from_endpoint", "BAD", vpc="red")
BY_FILE: Any = {"functions": [{"id": "sent", "point": "from_endpoint", "vpc": "red", "program": {"file": "f.c"}}]}
PLACE = (Point.FROM_ENDPOINT, 0)


def with_function(*contents: Any) -> Any:
    return changed(ONE_BOUNCER, f=contents)


def refuses_functions(action: Action) -> int:
    return errno.ENOMEM if isinstance(action, EnsureFunction) else 0


def test_a_program_that_cannot_run_is_rejected_with_the_reason_and_the_older_one_stays() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, with_function(SENT))
        before = agent.kernel.contents()
        await publish(agent, stream, with_function(SENT, BAD))
        answer = agent.last_acks["f"]
        assert (answer.state, answer.in_force) == (State.REJECTED, 5)
        (error,) = answer.errors
        assert (error.path, error.message) == ("functions[0].program.source", "line 1: BAD")
        assert agent.kernel.contents() == before
        assert not any(
            isinstance(one, EnsureFunction) and one.function.program.source == "BAD" for one in agent.kernel.actions
        )

    in_a_folder(scenario)


def test_only_the_document_of_a_program_that_cannot_run_is_rejected() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await agent.deliver(stream.lead_to(with_function(BAD)))
        states = {name: state for name, (state, _, _) in agent.statuses().items()}
        assert states == {"underlay": "realized", "red": "realized", "a": "realized", "b": "realized", "f": "rejected"}

    in_a_folder(scenario)


def test_a_program_is_checked_once_and_not_again_after_a_restart() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, with_function(SENT))
        newer = function("sent", "from_endpoint", vpc="red", configuration=b"port 80")
        await publish(agent, stream, with_function(newer))
        await publish(agent, stream, with_function(several(newer, function("two", "from_endpoint", vpc="red"))))
        assert len(agent.kernel.checked) == 1
        await agent.start()
        await agent.deliver(stream.replay())
        await agent.complete()
        assert len(agent.kernel.checked) == 1
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_programs_in_a_form_that_is_not_accepted_are_not_even_compiled() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        program = {"object": b"\x7fELF"}
        content: Any = {"functions": [{"id": "f", "point": "from_endpoint", "vpc": "red", "program": program}]}
        await publish(agent, stream, with_function(content))
        assert agent.last_acks["f"].state is State.REJECTED
        assert agent.last_acks["f"].errors[0].path == "functions[0].program.object"
        assert agent.kernel.checked == []

    in_a_folder(scenario)


def test_a_kernel_that_does_not_take_a_program_fails_its_document_and_a_retry_recovers_it() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, ONE_BOUNCER)
        before = agent.kernel.contents()
        agent.kernel.refuse = refuses_functions
        await publish(agent, stream, with_function(SENT))
        answer = agent.last_acks["f"]
        assert (answer.state, answer.in_force) == (State.FAILED, 0)
        assert [failure.name for failure in answer.failures] == ["ENOMEM"]
        assert agent.kernel.contents() == before
        assert all(state == "realized" for name, (state, _, _) in agent.statuses().items() if name != "f")
        agent.kernel.refuse = lambda action: 0
        await agent.retry()
        assert agent.last_acks["f"].state is State.REALIZED
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_a_newer_program_that_the_kernel_does_not_take_leaves_the_older_one_in_its_slot() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, with_function(SENT))
        before = agent.kernel.contents()
        agent.kernel.refuse = lambda action: refuses_functions(action) if _is_newer(action) else 0
        agent.kernel.begin_watch()
        await publish(agent, stream, with_function(SENT, function("sent", "from_endpoint", "newer", vpc="red")))
        assert agent.kernel.end_watch() == []
        assert agent.statuses()["f"] == ("failed", 6, 5)
        assert agent.kernel.contents() == before

    in_a_folder(scenario)


def _is_newer(action: Action) -> bool:
    return isinstance(action, EnsureFunction) and action.function.program.source == "newer"


def test_the_rest_of_a_document_is_applied_where_the_kernel_took_its_function_before() -> None:
    """As after a reboot, when a program that was in force cannot be loaded any more."""

    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, changed(ONE_BOUNCER, red=({**RED, **SENT},)))  # type: ignore[dict-item]
        kernel = agent.kernel
        kernel.functions.clear()
        for table in kernel.maps.values():
            table.clear()
        kernel.refuse = refuses_functions
        await agent.start()
        await agent.deliver(stream.replay())
        await agent.complete()
        assert agent.statuses()["red"][0] == "failed"
        assert kernel.maps[MapName.VPCS]
        assert kernel.maps[MapName.NETWORKS]
        assert kernel.functions == {}
        kernel.refuse = lambda action: 0
        await agent.retry()
        await agent.resync.repair()
        assert agent.statuses()["red"][0] == "realized"
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_a_function_that_fails_closed_and_cannot_be_installed_again_fails_its_document() -> None:
    """Its packets are dropped at the slot that the chains name: at the start, and later."""

    async def scenario(agent: Agent) -> None:
        stream = Stream()
        closed = function("sent", "from_endpoint", vpc="red", on_fault="closed")
        await publish(agent, stream, with_function(closed))
        kernel = agent.kernel
        kernel.functions.clear()
        for table in kernel.maps.values():
            table.clear()
        kernel.refuse = refuses_functions
        await agent.start()
        assert_failed(agent)
        await agent.deliver(stream.replay())
        await agent.complete()
        await agent.resync.repair()
        assert_failed(agent)
        assert all(state == "realized" for name, (state, _, _) in agent.statuses().items() if name != "f")
        kernel.refuse = lambda action: 0
        await agent.retry()
        await agent.resync.repair()
        assert agent.last_acks["f"].state is State.REALIZED
        await has_nothing_to_do(agent)

    def assert_failed(agent: Agent) -> None:
        answer = agent.last_acks["f"]
        assert (answer.state, answer.in_force) == (State.FAILED, 5)
        assert [failure.name for failure in answer.failures] == ["ENOMEM"]
        assert answer.retry_at is not None
        (chain,) = {value for value in agent.kernel.maps[MapName.ENDPOINT_STAGES].values() if any(value)}
        assert chains_in(MapName.ENDPOINT_STAGES, chain)[Point.FROM_ENDPOINT] == (0,)
        assert not any(agent.kernel.maps[MapName.HOST_STAGES].values()), "it is not open"

    in_a_folder(scenario)


def test_a_function_that_cannot_be_installed_holds_up_no_object_of_other_documents_in_its_batch() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        newer = function("sent", "from_endpoint", "newer", vpc="red")
        await publish(agent, stream, with_function(SENT))
        chains = dict(agent.kernel.maps[MapName.ENDPOINT_STAGES])
        agent.kernel.refuse = lambda action: refuses_functions(action) if _is_newer(action) else 0
        more: Any = {"endpoints": [endpoint("c", "front", "d2", "192.168.1.77")]}
        await agent.deliver(stream.lead_to(changed(with_function(SENT, newer), c=(more,))))
        assert agent.statuses()["c"][0] == "realized"
        assert agent.statuses()["f"] == ("failed", 7, 5)
        assert agent.kernel.functions[PLACE].program.source == "plain"
        assert agent.kernel.maps[MapName.ENDPOINT_STAGES] == chains

    in_a_folder(scenario)


def test_a_file_is_read_again_with_each_revision_and_keeps_running_where_the_new_one_cannot() -> None:
    async def scenario(agent: Agent) -> None:
        stream, kernel = Stream(), agent.kernel
        kernel.files["f.c"] = b"first"
        await publish(agent, stream, with_function(BY_FILE))
        assert kernel.functions[PLACE].content == hash_of("file", b"first")
        kernel.files["f.c"] = b"BAD"
        await publish(agent, stream, with_function(BY_FILE, {"functions": [{**BY_FILE["functions"][0], "order": 1}]}))
        assert agent.last_acks["f"].errors[0].path == "functions[0].program.file"
        assert kernel.functions[PLACE].content == hash_of("file", b"first")
        await has_nothing_to_do(agent)
        kernel.files["f.c"] = b"second"
        await publish(agent, stream, with_function({"functions": [{**BY_FILE["functions"][0], "order": 2}]}))
        assert kernel.functions[PLACE].content == hash_of("file", b"second")
        kernel.actions.clear()
        await agent.start()
        await agent.deliver(stream.replay())
        await agent.complete()
        assert kernel.actions == []

    in_a_folder(scenario)


def test_verdicts_of_programs_that_no_document_lists_are_forgotten() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        for text in ("one", "two", "three"):
            await publish(agent, stream, with_function(function("sent", "from_endpoint", text, vpc="red")))
        assert len(agent.reconciler.desired.verdicts) == 1
        await publish(agent, stream, ONE_BOUNCER)
        assert agent.reconciler.desired.verdicts == {}

    in_a_folder(scenario)


def test_a_foreign_change_of_a_slot_is_repaired() -> None:
    async def scenario(agent: Agent) -> None:
        await publish(agent, Stream(), with_function(SENT))
        wanted = agent.kernel.functions.pop(PLACE)
        await agent.resync.repair()
        assert agent.kernel.functions[PLACE] == wanted
        assert any("function sent" in line for line in agent.repaired)

    in_a_folder(scenario)


async def start_with(agent: Agent, *accept: str) -> None:
    """Start the agent again with other settings of what it accepts."""
    before = agent_under_test.SETTINGS
    section = msgspec.structs.replace(before.functions, accept=accept)
    agent_under_test.SETTINGS = msgspec.structs.replace(before, functions=section)
    try:
        await agent.start()
    finally:
        agent_under_test.SETTINGS = before


def test_closed_functions_that_are_not_accepted_any_more_are_a_fault_of_the_host() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        closed = function("sent", "from_endpoint", vpc="red", on_fault="closed")
        await publish(agent, stream, changed(ONE_BOUNCER, f=(closed,), g=(function("g", "to_endpoint", vpc="red"),)))
        await start_with(agent, "file")
        await agent.deliver(stream.replay())
        await agent.complete()
        assert {agent.last_acks[name].state for name in "fg"} == {State.REJECTED}
        (fault,) = [one for one in agent.faults.standing() if one.kind == "functions_not_accepted"]
        assert (fault.subject, "functions sent" in fault.detail) == ("document f", True)
        await agent.start()
        await agent.deliver(stream.replay())
        await agent.complete()
        assert agent.last_acks["f"].state is State.REALIZED
        assert not any(one.kind == "functions_not_accepted" for one in agent.faults.standing())

    in_a_folder(scenario)
