"""A program that takes long to compile and check holds up its own document only."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from agent_configurations import DROPLETS, ONE_BOUNCER, RED, SENT, changed, endpoint, function, several
from agent_under_test import Agent, Stream, publish
from test_sequences import has_nothing_to_do, in_a_folder

from agent.core.functions.programs import UncheckedProgram, hash_of
from agent.core.functions.stages import Point
from agent.core.model.features import Verdict
from agent.core.plan.actions import Action, EnsureFunction
from agent.loops import Loops
from agent.reconcile.program_verdicts import AT_ONCE
from protocol.acknowledgements import Acknowledgement, State
from protocol.errors import ErrorCode

SLOW = function("slow", "from_endpoint", "slow", vpc="red")
PLACE = (Point.FROM_ENDPOINT, 0)
MORE: Any = {"endpoints": [endpoint("c", "front", "d2", "192.168.1.77")]}


class SlowCompiler:
    """Checks as the fake kernel does, but programs that begin with `slow` only when they are released."""

    def __init__(self, agent: Agent) -> None:
        self._check = agent.kernel.check
        self.begun: list[str] = []
        self.released = asyncio.Event()
        agent.kernel.check = self.check  # type: ignore[method-assign]

    async def check(self, programs: Sequence[UncheckedProgram]) -> Mapping[str, Verdict]:
        for one in programs:
            self.begun.append(one.program.source or one.program.file)
            if self.begun[-1].startswith("slow"):
                await self.released.wait()
        return await self._check(programs)


@asynccontextmanager
async def checking(agent: Agent) -> AsyncIterator[SlowCompiler]:
    """Run the loops that have programs checked, as the daemon does."""
    check_at_once = agent.kernel.check
    compiler = SlowCompiler(agent)
    waiting, check = agent.reconciler.programs.waiting, agent.reconciler.check_program
    loops = [asyncio.create_task(Loops(agent.errors).on_event(waiting, check)) for _ in range(AT_ONCE)]
    await settle()
    try:
        yield compiler
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        agent.kernel.check = check_at_once  # type: ignore[method-assign]


async def settle() -> None:
    """Let the loops do what they can: nothing here waits for a clock or another process."""
    for _ in range(200):
        await asyncio.sleep(0)


async def send(agent: Agent, stream: Stream, configuration: Any) -> None:
    """Deliver in one batch, and do not wait for verdicts."""
    await agent.reconciler.deliver(stream.lead_to(configuration))
    await settle()


def test_other_documents_of_the_batch_and_behind_it_are_applied_meanwhile() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        async with checking(agent) as compiler:
            await send(agent, stream, {"f": (SLOW,), **ONE_BOUNCER})
            await send(agent, stream, {"f": (SLOW,), **changed(ONE_BOUNCER, c=(MORE,))})
            states = {name: state for name, (state, _, _) in agent.statuses().items()}
            assert states == {**dict.fromkeys((*ONE_BOUNCER, "c"), "realized"), "f": "pending"}
            (reason,) = agent.last_acks["f"].errors
            assert (reason.path, reason.code) == ("functions[0].program.source", ErrorCode.UNCHECKED)
            assert "is being compiled and checked" in reason.message
            assert agent.kernel.functions == {}
            compiler.released.set()
            await settle()
        assert agent.last_acks["f"].state is State.REALIZED
        assert agent.kernel.functions[PLACE].id == "slow"
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_programs_of_another_tenant_are_checked_meanwhile() -> None:
    """However many slow ones a document has, and however often it is published."""

    async def scenario(agent: Agent) -> None:
        stream = Stream()
        many = several(*(function(f"s{n}", "to_endpoint", f"slow {n}", vpc="red") for n in range(8)))
        others = several(*(function(f"s{n}", "to_endpoint", f"slow, too {n}", vpc="red") for n in range(8)))
        async with checking(agent) as compiler:
            await send(agent, stream, changed(ONE_BOUNCER, hostile=(many,)))
            await send(agent, stream, changed(ONE_BOUNCER, hostile=(others,)))
            await send(agent, stream, changed(ONE_BOUNCER, hostile=(others,), f=(SENT,)))
            assert agent.statuses()["f"][0] == "realized"
            assert len(compiler.begun) == 2

    in_a_folder(scenario)


def test_a_newer_revision_replaces_one_whose_program_is_being_checked() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        async with checking(agent) as compiler:
            await send(agent, stream, changed(ONE_BOUNCER, f=(SLOW,)))
            await send(agent, stream, changed(ONE_BOUNCER, f=(SENT,)))
            before, acknowledged = agent.kernel.contents(), agent.last_acks["f"]
            assert acknowledged.state is State.PENDING  # a document has one program checked at a time
            compiler.released.set()
            await settle()
            assert agent.statuses()["f"] == ("realized", 6, 6)
            assert [one.id for one in agent.kernel.functions.values()] == ["sent"]
            assert len(agent.reconciler.desired.verdicts) == 1
            assert before != agent.kernel.contents()
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_a_newer_revision_without_a_new_program_does_not_wait() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, changed(ONE_BOUNCER, f=(SENT,)))
        async with checking(agent) as compiler:
            await send(agent, stream, changed(ONE_BOUNCER, f=(SENT, SLOW)))
            assert agent.statuses()["f"] == ("pending", 6, 5)
            assert [one.id for one in agent.kernel.functions.values()] == ["sent"]
            await send(agent, stream, changed(ONE_BOUNCER, f=(several(SENT),)))
            assert agent.statuses()["f"] == ("realized", 7, 7)
            compiler.released.set()
            await settle()
            assert agent.statuses()["f"] == ("realized", 7, 7)
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_a_document_that_is_removed_meanwhile_stays_removed() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        async with checking(agent) as compiler:
            await send(agent, stream, changed(ONE_BOUNCER, f=(SLOW,)))
            await send(agent, stream, ONE_BOUNCER)
            assert (agent.last_acks["f"].state, agent.last_acks["f"].removed) == (State.REALIZED, True)
            compiler.released.set()
            await settle()
            assert "f" not in agent.statuses()
            assert agent.reconciler.desired.verdicts == {}
            assert agent.kernel.functions == {}
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


@pytest.mark.parametrize("noise", [b"\xc1functions", b"\xc1noise"])
def test_a_program_does_not_escape_its_verdict_behind_a_revision_that_is_no_document(noise: bytes) -> None:
    """The revision before is the newest one that may come into force, and is not checked yet."""

    async def scenario(agent: Agent) -> None:
        stream = Stream()
        bad = function("bad", "from_endpoint", "slow and BAD", vpc="red")
        async with checking(agent) as compiler:
            await send(agent, stream, changed(ONE_BOUNCER, other=(SLOW,), f=(bad,)))
            await send(agent, stream, changed(ONE_BOUNCER, other=(SLOW,), f=(noise,)))
            assert agent.statuses()["f"][0] == "rejected"
            assert agent.kernel.functions == {}
            compiler.released.set()
            await settle()
            agent.reconciler.desired.documents.touch_all()
            await send(agent, stream, changed(ONE_BOUNCER, other=(SLOW,), f=(noise,), c=(MORE,)))
            assert agent.statuses()["f"][2] == 0
            assert [one.id for one in agent.kernel.functions.values()] == ["slow"]

    in_a_folder(scenario)


def test_a_file_in_force_stays_while_a_newer_program_is_checked() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        by_file: Any = {"functions": [{"id": "f", "point": "from_endpoint", "vpc": "red", "program": {"file": "f.c"}}]}
        agent.kernel.files["f.c"] = b"first"
        await publish(agent, stream, changed(ONE_BOUNCER, f=(by_file,)))
        agent.kernel.actions.clear()
        async with checking(agent) as compiler:
            await send(agent, stream, changed(ONE_BOUNCER, f=(by_file, SLOW)))
            await agent.resync.repair()
            assert agent.kernel.functions[PLACE].content == hash_of("file", b"first")
            assert agent.kernel.actions == []
            compiler.released.set()
            await settle()
            assert [one.id for one in agent.kernel.functions.values()] == ["slow"]

    in_a_folder(scenario)


def test_a_snapshot_is_complete_meanwhile_and_removes_what_it_should() -> None:
    """The waiting document is listed, its last good revision stays, and objects of removed documents go."""

    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, changed(ONE_BOUNCER, c=(MORE,), f=(SENT,)))
        stream.lead_to(changed(ONE_BOUNCER, f=(SENT, function("sent", "from_endpoint", "slow", vpc="red"))))
        held = agent.kernel.functions[PLACE]
        await agent.start()
        async with checking(agent) as compiler:
            await agent.reconciler.deliver(stream.replay())
            await agent.complete()
            await settle()
            assert agent.reconciler.desired.documents.absent == set()
            assert agent.kernel.functions[PLACE] == held
            assert "c" not in agent.statuses()
            assert agent.acknowledged["c"].removed
            compiler.released.set()
            await settle()
        assert agent.kernel.functions[PLACE].program.source == "slow"
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_an_agent_that_stops_meanwhile_checks_again_when_the_stream_is_read_again() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        async with checking(agent):
            await send(agent, stream, changed(ONE_BOUNCER, f=(SLOW,)))
        await agent.start()
        async with checking(agent) as compiler:
            compiler.released.set()
            await agent.reconciler.deliver(stream.replay())
            await agent.complete()
            await settle()
        assert agent.statuses()["f"] == ("realized", 5, 5)
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_a_stream_that_is_read_again_meanwhile_checks_nothing_twice() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        async with checking(agent) as compiler:
            await send(agent, stream, changed(ONE_BOUNCER, f=(SLOW,)))
            await agent.reconciler.begin_snapshot()
            await agent.reconciler.deliver(stream.replay())
            await agent.complete()
            compiler.released.set()
            await settle()
            assert compiler.begun == ["slow"]
        assert agent.statuses()["f"] == ("realized", 5, 5)
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_each_state_of_a_waiting_document_is_acknowledged_once() -> None:
    async def scenario(agent: Agent) -> None:
        answers: list[Acknowledgement] = []
        agent.reconciler.acknowledgements._send = answers.append
        async with checking(agent) as compiler:
            await send(agent, Stream(), changed(ONE_BOUNCER, f=(SLOW,)))
            await agent.resync.repair()
            compiler.released.set()
            await settle()
            await agent.resync.repair()
        states = [one.state for one in answers if one.document == "f"]
        assert states == [State.PENDING, State.REALIZED]

    in_a_folder(scenario)


def test_a_program_that_cannot_be_checked_at_all_is_left_to_the_kernel() -> None:
    async def scenario(agent: Agent) -> None:
        async def breaks(_programs: object) -> Mapping[str, Verdict]:
            raise RuntimeError("a defect")

        async with checking(agent):
            agent.kernel.check = breaks  # type: ignore[method-assign]
            await send(agent, Stream(), changed(ONE_BOUNCER, f=(SLOW,)))
            assert agent.statuses()["f"][0] == "realized"

    in_a_folder(scenario)


def test_a_step_that_breaks_off_after_a_verdict_is_completed_by_the_next_one() -> None:
    async def scenario(agent: Agent) -> None:
        def break_off(_action: object) -> int:
            raise RuntimeError("a defect")

        stream = Stream()
        await publish(agent, stream, ONE_BOUNCER)
        async with checking(agent) as compiler:
            await send(agent, stream, changed(ONE_BOUNCER, f=(SLOW,)))
            agent.kernel.refuse = break_off
            compiler.released.set()
            await settle()
            assert agent.last_acks["f"].state is State.PENDING
            agent.kernel.refuse = lambda action: 0
            await agent.resync.repair()
            assert agent.last_acks["f"].state is State.REALIZED
            await send(agent, stream, changed(ONE_BOUNCER, f=(SLOW,), g=(function("g", "to_endpoint", vpc="red"),)))
            assert agent.last_acks["g"].state is State.REALIZED
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_a_document_says_first_what_it_refers_to_and_lacks() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        async with checking(agent) as compiler:
            await send(agent, stream, {"underlay": (DROPLETS,), "f": (SLOW,)})
            assert [str(one) for one in agent.last_acks["f"].missing] == ["VPC red"]
            await send(agent, stream, {"underlay": (DROPLETS,), "f": (SLOW,), "red": (RED,)})
            assert agent.last_acks["f"].missing == ()
            assert agent.last_acks["f"].errors[0].code is ErrorCode.UNCHECKED
            compiler.released.set()
            await settle()
            assert agent.last_acks["f"].state is State.REALIZED

    in_a_folder(scenario)


MOVED = function("sent", "from_endpoint", "newer", vpc="red")


@pytest.mark.parametrize("order", [1, -1])
def test_a_function_that_moves_to_a_document_with_a_new_program_stays_where_it_is_until_that_is_checked(
    order: int,
) -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        other = function("other", "to_endpoint", vpc="red")
        await publish(agent, stream, changed(ONE_BOUNCER, f=(several(SENT, other),)))
        await agent.complete()
        before = agent.kernel.contents()
        agent.kernel.begin_watch()
        batch = stream.lead_to(changed(ONE_BOUNCER, f=(other,), g=(MOVED,)))
        await agent.reconciler.deliver(batch[::order])
        assert agent.kernel.contents() == before
        for name in "fg":
            answer = agent.last_acks[name]
            assert (answer.state, [error.code for error in answer.errors]) == (State.PENDING, [ErrorCode.UNCHECKED])
        await agent.deliver([])
        assert agent.kernel.end_watch() == []
        assert agent.kernel.functions[PLACE].program.source == "newer"
        assert all(agent.last_acks[name].state is State.REALIZED for name in "fg")
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_a_function_whose_new_program_is_refused_in_the_other_document_ends_with_the_first_one() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        other = function("other", "to_endpoint", vpc="red")
        await publish(agent, stream, changed(ONE_BOUNCER, f=(several(SENT, other),)))
        await agent.complete()
        bad = function("sent", "from_endpoint", "BAD", vpc="red")
        await agent.deliver(stream.lead_to(changed(ONE_BOUNCER, f=(other,), g=(bad,))))
        assert (agent.last_acks["f"].state, agent.last_acks["g"].state) == (State.REALIZED, State.REJECTED)
        assert PLACE not in agent.kernel.functions
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_a_lost_program_of_a_document_in_force_is_checked_again_outside_of_the_step() -> None:
    """As after a start of the host whose cache of programs is gone."""

    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, changed(ONE_BOUNCER, f=(SENT,)))
        kernel = agent.kernel
        kernel.functions.clear()
        for table in kernel.maps.values():
            table.clear()
        checked = len(kernel.checked)

        def lost(action: Action) -> int:
            return errno.EINPROGRESS if isinstance(action, EnsureFunction) and len(kernel.checked) == checked else 0

        kernel.refuse = lost
        await agent.start()
        await agent.reconciler.deliver(stream.replay())
        await agent.complete()
        answer = agent.last_acks["f"]
        assert (answer.state, answer.in_force, answer.is_preliminary) == (State.PENDING, 5, True)
        assert all(state == "realized" for name, (state, _, _) in agent.statuses().items() if name != "f")
        await agent.reconciler.check_program()
        assert (agent.last_acks["f"].state, len(kernel.checked)) == (State.REALIZED, checked + 1)
        assert agent.reconciler.programs.are_known
        await has_nothing_to_do(agent)

    in_a_folder(scenario)
