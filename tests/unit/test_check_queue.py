"""The order in which programs of functions are checked."""

from __future__ import annotations

from agent.core.functions.check_queue import CheckQueue
from agent.core.functions.programs import UncheckedProgram
from agent.core.functions.stages import Point
from protocol.documents import FunctionProgram


def program(vpc: str, number: int) -> UncheckedProgram:
    return UncheckedProgram(f"{vpc}{number}", Point.PASSED, FunctionProgram(source=f"{vpc}{number}"), b"", vpc)


def test_vpcs_take_turns_also_if_one_has_many_documents_that_came_first() -> None:
    queue = CheckQueue()
    for number in range(4):
        queue.put(f"many{number}", 1 + number, [f"many{number}"], [program("many", number)])
    first = [queue.begin_next(), queue.begin_next()]
    assert [one.key for one in first if one is not None] == ["many0", "many1"]
    for number, vpc in enumerate(("few", "few", "one")):
        queue.put(f"{vpc}{number}", 9 + number, [f"{vpc}{number}"], [program(vpc, number)])
    begun = []
    running = [one.key for one in first if one is not None]
    while running:
        queue.end(running.pop(0))
        if (found := queue.begin_next()) is not None:
            running.append(found.key)
            begun.append(found.key)
    assert begun == ["few0", "one2", "many2", "few1", "many3"]
