"""Every subscriber eventually gets the newest value, whatever other subscribers do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from agent import subscription
from agent.subscription import Observable
from agent.telemetry.fault_reporter import FaultReporter
from agent.telemetry.loop_errors import LoopErrors


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "RETRY_SECONDS", 0.01)


@pytest.fixture
def faults() -> FaultReporter:
    return FaultReporter(lambda _kind, _lines: None)


@pytest.fixture
def errors(faults: FaultReporter) -> LoopErrors:
    return LoopErrors(faults.report)


async def until(wanted: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not wanted():  # noqa: ASYNC110 -- another task's state changes at no known moment
            await asyncio.sleep(0.001)


def test_every_subscriber_has_the_value_when_publish_returns(errors: LoopErrors) -> None:
    number, first, second = Observable[int](), list[int](), list[int]()
    number.subscribe("first", first.append, errors)
    number.publish(1)
    number.subscribe("second", second.append, errors)
    number.publish(2)
    assert (first, second, number.value) == ([1, 2], [1, 2], 2)


async def test_a_subscriber_that_raises_does_not_affect_others_and_gets_the_newest_value_later(
    errors: LoopErrors, faults: FaultReporter
) -> None:
    number, other, taken = Observable[int](), list[int](), list[int]()
    broken = True

    def take(value: int) -> None:
        if broken:
            raise ValueError("not now")
        taken.append(value)

    number.subscribe("broken", take, errors)
    number.subscribe("other", other.append, errors)
    number.publish(1)
    number.publish(2)
    assert other == [1, 2]
    assert [fault.subject for fault in faults.standing()] == ["broken"]
    broken = False
    await until(lambda: bool(taken))
    assert taken == [2], "what was replaced meanwhile is not handed over any more"
    assert faults.standing() == ()
    number.publish(3)
    assert taken == [2, 3]


async def test_a_subscriber_that_raises_gets_an_unchanged_value_again_until_it_succeeds(errors: LoopErrors) -> None:
    number, tries = Observable[int](), list[int]()

    def take(value: int) -> None:
        tries.append(value)
        if len(tries) < 4:
            raise ValueError("not now")

    number.publish(7)
    number.subscribe("late", take, errors)
    await until(lambda: len(tries) == 4)
    assert tries == [7, 7, 7, 7]


async def test_a_slow_follower_skips_to_the_newest_value_and_misses_no_last_one(errors: LoopErrors) -> None:
    number, begun, go_on = Observable[int](), list[int](), asyncio.Event()

    async def act(value: int) -> None:
        begun.append(value)
        await go_on.wait()

    task = asyncio.create_task(number.follow("slow", act, errors))
    try:
        await asyncio.sleep(0)
        number.publish(1)
        await until(lambda: begun == [1])
        for value in (2, 3, 4):
            number.publish(value)
        go_on.set()
        await until(lambda: begun == [1, 4])
    finally:
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    number.publish(5)
    assert begun == [1, 4], "who is cancelled follows no more"


async def test_a_follower_that_raises_acts_again_on_the_newest_value(errors: LoopErrors, faults: FaultReporter) -> None:
    number, acted = Observable[int](), list[int]()
    broken = True

    async def act(value: int) -> None:
        if broken:
            raise OSError("away")
        acted.append(value)

    number.publish(1)
    task = asyncio.create_task(number.follow("follower", act, errors))
    try:
        await until(lambda: bool(faults.standing()))
        number.publish(2)
        broken = False
        await until(lambda: acted == [2])
        await until(lambda: faults.standing() == ())
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
